"""The drill: ``python drill.py [--seconds 60] [--rate 100]``.

Starts two upstreams and the gateway, sends calls at a steady rate, half of them streams, and kills the first upstream with
SIGKILL. Every answer must be whole: thirty numbers, none missing, none twice. Prints what was seen; exits with 1 if a call
failed or the dead upstream was asked more than 12 times.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

HERE = Path(__file__).parent
EXPECTED = "".join(f"{n} " for n in range(30))
WARM = 0.25  # share of the time before the kill
ALLOWED = 12


@dataclass
class Seen:
    """What the clients saw."""

    failed: list = field(default_factory=list)
    served: Counter = field(default_factory=Counter)
    calls_to_the_dead: int = 0
    continued: int = 0
    before: list = field(default_factory=list)
    after: list = field(default_factory=list)

    @property
    def passed(self):
        """Whether nobody noticed, and the dead upstream was left alone."""
        return not self.failed and self.calls_to_the_dead <= ALLOWED and self.served["second"] > 0

    def __str__(self):
        lines = [
            f"requests                  {len(self.before) + len(self.after) + len(self.failed)}",
            f"failed                    {len(self.failed)}",
            f"served                    {dict(self.served)}",
            f"streams continued         {self.continued}",
            f"calls to the dead one     {self.calls_to_the_dead} (at most {ALLOWED})",
        ]
        for name, times in (("before the kill", self.before), ("after it", self.after)):
            ordered = sorted(times) or [0.0]
            p50, p99 = (ordered[int(len(ordered) * q)] * 1000 for q in (0.5, 0.99))
            lines.append(f"{name:25} p50 {p50:.0f} ms, p99 {p99:.0f} ms")
        return "\n".join([*lines, *map(str, self.failed[:5])])


def text_of(response):
    """The answer that a client reads; raises for anything but a whole one."""
    response.raise_for_status()
    if "event-stream" not in response.headers["content-type"]:
        return response.json()["choices"][0]["message"]["content"]
    frames = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    if frames.pop() != "[DONE]":
        raise ValueError(response.text[-300:])
    return "".join(json.loads(frame)["choices"][0]["delta"].get("content", "") for frame in frames)


async def call(client, url, number, seen, times):
    """One request; every second one is a stream."""
    body = {"model": "chat", "stream": number % 2 == 0, "messages": [{"role": "user", "content": f"recite, {number}"}]}
    began = time.perf_counter()
    try:
        response = await client.post(url + "/v1/chat/completions", json=body)
        said = text_of(response)
        if said != EXPECTED:
            raise ValueError(said)
    except Exception as error:
        seen.failed.append(error)
        return
    times.append(time.perf_counter() - began)
    seen.served[response.headers["x-gwcore-upstream"]] += 1
    if times is seen.after:
        seen.calls_to_the_dead += response.headers.get("x-gwcore-failed", "").count("first/")
    seen.continued += "gwcore-continued" in response.text


async def load(url, seconds, rate, kill):
    """So many calls a second, whatever the answers take; the kill comes after a quarter of them."""
    seen, running = Seen(), set()
    limits = httpx2.Limits(max_connections=rate * 4, max_keepalive_connections=rate)
    total, warm = int(seconds * rate), int(seconds * rate * WARM)
    async with httpx2.AsyncClient(timeout=30, limits=limits) as client:
        began = time.monotonic()
        for number in range(total):
            if number == warm:
                kill()
            times = seen.before if number < warm else seen.after
            running.add(asyncio.create_task(call(client, url, number, seen, times)))
            await asyncio.sleep(max(0, began + (number + 1) / rate - time.monotonic()))
        await asyncio.wait(running)
    return seen


def free_port():
    """One that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


async def reachable(port):
    """Wait for a server."""
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return


async def drill(seconds, rate):
    """The whole of it; returns what was seen."""
    ports = {name: free_port() for name in ("FIRST_PORT", "SECOND_PORT", "PORT")}
    env = {**os.environ, **{name: str(port) for name, port in ports.items()}}
    first, second = (
        subprocess.Popen([sys.executable, HERE / "upstream.py", str(ports[name])])
        for name in ("FIRST_PORT", "SECOND_PORT")
    )
    command = [Path(sys.executable).with_name("gwcore"), "run", HERE / "stack.yaml", "--port", str(ports["PORT"])]
    gateway = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    try:
        for port in ports.values():
            await reachable(port)
        url = f"http://127.0.0.1:{ports['PORT']}"
        return await load(url, seconds, rate, lambda: os.kill(first.pid, signal.SIGKILL))
    finally:
        for process in (gateway, second, first):
            process.terminate()
        for process in (gateway, second, first):
            process.wait(30)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=80, help="a quarter of it before the kill")
    parser.add_argument("--rate", type=int, default=100, help="requests per second")
    options = parser.parse_args()
    seen = asyncio.run(drill(options.seconds, options.rate))
    print(seen)
    return 0 if seen.passed else 1


if __name__ == "__main__":
    sys.exit(main())
