"""``make bench``: compares the gateway with its peers, in one run, as a table of ratios. It never asserts a time.

One worker pinned to core 0; mock upstream and load on core 1. CPU is the process's own (user + system, all threads)
from /proc. Everything is measured in short turns, one after the other, round after round, so that a noisy neighbour
affects all of them; ratios and differences are taken within a round. Results are the median of the rounds, in brackets
the best fifth.

nginx is measured if it is installed; gwcore with an empty stack and with every file of ``stacks/`` (``--stack FILE``
for others); other gateways if a command to start them is given: ``--peer NAME=COMMAND``, in which ``{port}`` and
``{upstream}`` are replaced. Every request has the headers that tell Portkey its upstream.

Writing to a process on a sleeping core costs the writer the wake-up, 10 µs and more on a virtual machine, and the
slower a gateway, the more its peers sleep. With ``--awake``, a process of the lowest priority keeps core 1 busy, so
that the costs added by stacks can be compared.

State the interpreter with the figures. One built without ``--enable-optimizations``, which is pyenv's default, takes a
quarter to a half more CPU for everything here than a distribution's.
"""

import argparse
import json
import os
import platform
import secrets
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from gwcore.testing.server import rss
from gwcore.testing.servers import postgres, redis

HERE = Path(__file__).parent
TICK = os.sysconf("SC_CLK_TCK")
NGINX = """
daemon off; worker_processes 1; master_process off; pid {dir}/nginx.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir}; uwsgi_temp_path {dir};
  scgi_temp_path {dir}; keepalive_requests 10000000; client_body_buffer_size 1m;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 10000000; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_buffering off; }} }} }}
"""
STACK = """gwcore: 1
upstreams:
  up: {{provider: openai-compatible, base_url: "http://127.0.0.1:{upstream}/v1", api_key: sk-upstream-bench}}
stack: []
"""

EMPTY = "gwcore, empty"
PORTKEY = "x-portkey-provider: openai\r\nx-portkey-custom-host: http://127.0.0.1:{upstream}/v1\r\n"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(core, command, **kw):
    return subprocess.Popen(["taskset", "-c", str(core), *command], stdout=subprocess.DEVNULL, **kw)


def wait_port(port, process):
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"{process.args}: exited with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{process.args}: not listening after 60 s")


def cpu(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def load(url, connections, seconds, mode):
    command = ["taskset", "-c", "1", sys.executable, str(HERE / "load.py"), url, str(connections), str(seconds), mode]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


LOADS = (("json", 64, "json"), ("one", 1, "json"), ("sse", 16, "sse"))
"""Name, connections, kind of answer."""


class Served:
    """A running gateway, and the results of its rounds: a list per figure."""

    def __init__(self, name, command, port, folder):
        self.name = name
        self.url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self.process = start(0, command, cwd=folder)
        wait_port(port, self.process)
        self.start_cpu, self.rss = cpu(self.process.pid), rss(self.process.pid)
        self.errors = 0
        self.seen = defaultdict(list)
        load(self.url, 16, 1, "json")  # warm-up
        self.process.send_signal(signal.SIGSTOP)  # gateways do nothing outside their turns

    def turn(self, seconds, direct, mock):
        self.process.send_signal(signal.SIGCONT)
        for label, connections, mode in LOADS:
            before, upstream = cpu(self.process.pid), cpu(mock.pid)
            got = load(self.url, connections, seconds, mode)
            time.sleep(0.5)  # include writes in the background
            count = max(1, got["requests"])
            self.errors += got["errors"]
            self.seen[label].append((cpu(self.process.pid) - before) / count * 1e6)
            if label == "json":
                self.seen["rate"].append(got["requests"] / got["seconds"])
                self.seen["upstream"].append((cpu(mock.pid) - upstream) / count * 1e6)
            elif label == "one":
                self.seen["p50"].append(got["p50"] - direct["p50"])
        self.process.send_signal(signal.SIGSTOP)

    def stop(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def told(values, form="{:.0f}"):
    """Median and best fifth."""
    best = sorted(values)[: max(1, len(values) // 5)]
    return f"{form.format(statistics.median(values))} ({form.format(statistics.mean(best))})"


def gwcore(folder, name, stack, upstream, after=None):
    """Name, command to serve a stack, and port; ``{redis}`` and ``{postgres}`` start servers that ``after`` stops."""
    port, file = free_port(), folder / f"{name.replace(' ', '-')}.yaml"
    places = {"{upstream}": lambda: str(upstream), "{folder}": lambda: str(folder)}
    places |= {f"{{{kind.__name__}}}": lambda kind=kind: after.enter_context(kind()) for kind in (redis, postgres)}
    for place, given in places.items():
        if place in stack:
            stack = stack.replace(place, given())
    file.write_text(stack)
    command = [str(Path(sys.executable).with_name("gwcore")), "run", str(file), "--port", str(port)]
    return name, command, port


def targets(folder, upstream, peers, stacks, after):
    port = free_port()
    if nginx := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"):
        (folder / "nginx.conf").write_text(NGINX.format(dir=folder, upstream=upstream, port=port))
        yield "nginx proxy_pass", [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")], port
    yield gwcore(folder, EMPTY, STACK.format(upstream="{upstream}"), upstream)
    for file in stacks:
        yield gwcore(folder, f"gwcore, {file.stem}", file.read_text(), upstream, after)
    for peer in peers:
        name, _, command = peer.partition("=")
        port = free_port()
        yield name, shlex.split(command.format(port=port, upstream=upstream)), port


def show(served):
    base, empty = served[0].seen["json"], next(s for s in served if s.name == EMPTY).seen["json"]
    titles = (
        "µs CPU/request",
        f"× {served[0].name.split()[0]}",
        "added to empty",
        "req/s",
        "added p50 ms",
        "µs/SSE chunk",
    )
    print(
        f"\n{'':22}"
        + "".join(f"{title:>17}" for title in (*titles, "µs of upstream"))
        + "  start CPU s, RSS MB, errors"
    )
    for one in served:
        seen = one.seen
        ratios = [mine / other for mine, other in zip(seen["json"], base, strict=True)]
        added = [mine - other for mine, other in zip(seen["json"], empty, strict=True)]
        figures = (
            told(seen["json"]),
            told(ratios, "{:.1f}"),
            f"{statistics.median(added):.0f}" if one.name.startswith("gwcore") and one.name != EMPTY else "",
            f"{statistics.median(seen['rate']):.0f}",
            told(seen["p50"], "{:.3f}"),
            told([micros / 100 for micros in seen["sse"]], "{:.2f}"),
            f"{statistics.median(seen['upstream']):.0f}",
        )
        row = "".join(f"{figure:>17}" for figure in figures)
        print(f"{one.name:22}{row}  {one.start_cpu:.2f}, {one.rss:.0f}, {one.errors}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=1, help="of each load of each round")
    arguments.add_argument("--peer", action="append", default=[])
    arguments.add_argument(
        "--stack",
        action="append",
        type=Path,
        help="a file in place of those in stacks/, - for none; {upstream} (a port), {folder}, {redis}, {postgres} are replaced",
    )
    arguments.add_argument("--awake", action="store_true", help="let core 1 never sleep (Linux)")
    options = arguments.parse_args()
    stacks = sorted((HERE / "stacks").glob("*.yaml")) if options.stack is None else options.stack
    keys = {"GWCORE_ADMIN_KEY": secrets.token_hex(32), "BENCH_KEY": f"sk-{secrets.token_hex(20)}"}
    os.environ |= keys | {"GWCORE_LOG_LEVEL": "error"}
    os.sched_setaffinity(0, {1})  # inherited by all processes started here, except the gateways
    upstream = free_port()
    os.environ["LOAD_HEADERS"] = PORTKEY.format(upstream=upstream)
    with ExitStack() as after:
        mock = start(1, [sys.executable, str(HERE / "mock.py"), str(upstream)])
        after.callback(mock.wait)
        after.callback(mock.terminate)
        wait_port(upstream, mock)
        if options.awake:
            spinning = start(1, [sys.executable, "-c", "while True: pass"])
            os.sched_setscheduler(spinning.pid, os.SCHED_IDLE, os.sched_param(0))
            after.callback(spinning.kill)
        folder = Path(after.enter_context(tempfile.TemporaryDirectory()))
        served = []
        for name, command, port in targets(folder, upstream, options.peer, [f for f in stacks if str(f) != "-"], after):
            print(f"starting {name} …", flush=True)
            served.append(Served(name, command, port, folder))
            after.callback(served[-1].stop)
        print(f"{platform.python_implementation()} {sys.version}")
        for at in range(options.rounds):
            print(f"round {at + 1} of {options.rounds} …", flush=True)
            direct = load(f"http://127.0.0.1:{upstream}/v1/chat/completions", 1, options.seconds, "json")
            for one in served:
                one.turn(options.seconds, direct, mock)
        show(served)


if __name__ == "__main__":
    main()
