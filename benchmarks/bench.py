"""``make bench``: the gateway beside its peers, in one run, as a table of ratios. It never asserts a time.

One worker pinned to core 0; mock upstream and load on core 1. CPU is the process's own (user + system) from /proc. nginx is
measured where it is installed; gwcore with other stacks by ``--stack NAME=FILE``; other gateways where a command to start them is given: ``--peer NAME=COMMAND``, in which
``{port}`` and ``{upstream}`` are replaced. Every request carries the headers by which Portkey finds its upstream.
"""

import argparse
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def rss(pid):
    return (
        next(
            int(line.split()[1])
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )
        / 1024
    )


def load(url, connections, seconds, mode):
    command = ["taskset", "-c", "1", sys.executable, str(HERE / "load.py"), url, str(connections), str(seconds), mode]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(name, command, port, seconds, *, folder):
    process = start(0, command, cwd=folder)
    try:
        wait_port(port, process)
        row = {"name": name, "start_cpu": cpu(process.pid), "rss": rss(process.pid)}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        load(url, 16, 1, "json")  # warm-up
        for label, connections, mode in (("json", 64, "json"), ("one", 1, "json"), ("sse", 16, "sse")):
            before = cpu(process.pid)
            got = load(url, connections, seconds, mode)
            time.sleep(1)  # what is written behind belongs to it
            spent = cpu(process.pid) - before
            row[label] = got | {"cpu_us": spent / max(1, got["requests"]) * 1e6}
        return row
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def gwcore(folder, name, stack, upstream):
    port, file = free_port(), folder / f"{name.replace(' ', '-')}.yaml"
    file.write_text(stack.replace("{upstream}", str(upstream)).replace("{folder}", str(folder)))
    command = [str(Path(sys.executable).with_name("gwcore")), "run", str(file), "--port", str(port)]
    return name, command, port


def targets(folder, upstream, peers, stacks):
    port = free_port()
    if nginx := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"):
        (folder / "nginx.conf").write_text(NGINX.format(dir=folder, upstream=upstream, port=port))
        yield "nginx proxy_pass", [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")], port
    yield gwcore(folder, "gwcore, empty stack", STACK.format(upstream="{upstream}"), upstream)
    for stack in stacks:
        name, _, file = stack.partition("=")
        yield gwcore(folder, name, Path(file).read_text(), upstream)
    for peer in peers:
        name, _, command = peer.partition("=")
        port = free_port()
        yield name, shlex.split(command.format(port=port, upstream=upstream)), port


def show(rows):
    direct, base = rows[0], rows[1]
    print(
        f"\n{'':22} {'µs CPU/req':>11} {'× nginx':>8} {'req/s':>8} {'added p50 ms':>13} {'µs/SSE chunk':>13} {'start CPU s':>12} {'RSS MB':>7} errors"
    )
    for row in rows[1:]:
        print(
            f"{row['name']:22} {row['json']['cpu_us']:11.0f} {row['json']['cpu_us'] / base['json']['cpu_us']:8.1f} "
            f"{row['json']['requests'] / row['json']['seconds']:8.0f} {row['one']['p50'] - direct['one']['p50']:13.3f} "
            f"{row['sse']['cpu_us'] / 100:13.2f} {row['start_cpu']:12.2f} {row['rss']:7.0f} {row['json']['errors'] + row['one']['errors']}"
        )
    print(
        f"\nmock upstream alone: {direct['json']['requests'] / direct['json']['seconds']:.0f} req/s; the first row is what × refers to"
    )


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=5)
    arguments.add_argument("--peer", action="append", default=[])
    arguments.add_argument(
        "--stack",
        action="append",
        default=[],
        help="NAME=FILE: gwcore with that stack, {upstream} (a port) and {folder} replaced",
    )
    options = arguments.parse_args()
    os.environ |= {"GWCORE_ADMIN_KEY": secrets.token_hex(32), "BENCH_KEY": f"sk-{secrets.token_hex(20)}"}
    upstream = free_port()
    mock = start(1, [sys.executable, str(HERE / "mock.py"), str(upstream)])
    try:
        wait_port(upstream, mock)
        os.environ["LOAD_HEADERS"] = PORTKEY.format(upstream=upstream)
        url = f"http://127.0.0.1:{upstream}/v1/chat/completions"
        rows = [
            {
                "name": "mock",
                "json": load(url, 64, options.seconds, "json"),
                "one": load(url, 1, options.seconds, "json"),
            }
        ]
        with tempfile.TemporaryDirectory() as folder:
            for name, command, port in targets(Path(folder), upstream, options.peer, options.stack):
                print(f"measuring {name} …", flush=True)
                rows.append(measure(name, command, port, options.seconds, folder=folder))
        show(rows)
    finally:
        mock.terminate()
        mock.wait()


if __name__ == "__main__":
    main()
