"""``make bench-added``: cost added to a call by the watch list, and by keys, limits and money, in µs of CPU on and off
the request path. It never asserts a time.

Two gateways in this process, one with an empty stack and one with ``stacks/watch.yaml`` or another, take the same calls
alternately, round by round; the result is the lowest of the rounds, which is the least disturbed. The upstream, which
is also the sinks' collector, is a separate process.

*On the path* is the CPU time of the call's own task until the last byte of its answer is passed to ``send``: taps,
requesting and parsing usage, price and cost, added headers. *Off the path* is all other CPU time of this process,
including threads, until every sink has accepted every record and the ledger is written: the rest of the task, which
runs ``call_ended`` and makes the record, then encoding, disk, sending. It includes the clients, which cancel out in the
difference.
"""

import argparse
import asyncio
import os
import secrets
import sys
import tempfile
import time
import types
from contextlib import chdir
from pathlib import Path

import orjson
import uvloop
from bench import HERE, STACK, free_port, start, wait_port
from load import PROMPT

from gwcore.gateway import Gateway
from gwcore.server.protocol import DISCONNECT
from gwcore.server.run import quiet_collector

WIDTH = 16
"""Concurrent calls."""


class Client:
    """One call, and the CPU time of its task until the last byte was sent."""

    def __init__(self, body):
        self.body = body
        self.on_path = 0.0
        self.began = 0.0
        self.answered = False

    async def receive(self):
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def send(self, message):
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message
        elif not message.get("more_body"):
            self.on_path += time.thread_time() - self.began
            self.answered = True

    @types.coroutine
    def timed(self, call):
        """Run ``call`` in this task, and measure the time of its steps."""
        while True:
            self.began = time.thread_time()
            try:
                waits_for = call.send(None)
            except StopIteration:
                return
            if not self.answered:
                self.on_path += time.thread_time() - self.began
            yield waits_for


def scope(body):
    return {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"user-agent", b"bench/1"),
            (b"authorization", b"Bearer " + os.environ["BENCH_KEY"].encode()),
        ],
        "client": ("127.0.0.1", 1),
        "extensions": {DISCONNECT: lambda _left: None},
    }


async def measured(gateway, body, count):
    """µs per call, on the path and off it."""
    outboxes = [p.plugin.outbox for p in gateway.stack.placed if hasattr(p.plugin, "outbox")]
    before, spent = time.process_time(), 0.0

    async def client():
        nonlocal spent
        for _ in range(count // WIDTH):
            one = Client(body)
            await one.timed(gateway(scope(body), one.receive, one.send))
            assert one.answered
            spent += one.on_path

    await asyncio.gather(*(client() for _ in range(WIDTH)))
    await asyncio.sleep(0.2)  # the ledger writes in the background
    while any(outbox.waiting for outbox in outboxes):
        await asyncio.sleep(0.05)
    assert not any(outbox.dropped + outbox.rejected + outbox.failed for outbox in outboxes)
    whole = time.process_time() - before
    return spent / count * 1e6, (whole - spent) / count * 1e6


async def compared(stacks, body, count, rounds):
    gateways = [Gateway(stack) for stack in stacks]
    for gateway in gateways:
        await gateway.startup()
    quiet_collector()  # as in the server
    try:
        for gateway in gateways:
            await measured(gateway, body, count)
        return [[await measured(gateway, body, count) for gateway in gateways] for _ in range(rounds)]
    finally:
        for gateway in gateways:
            await gateway.shutdown()


def show(name, mode, rounds):
    print(f"{name + ', ' + mode:34} {'on the path':>12} {'off it':>9}")
    # by gateway, then by round
    empty, other = ([min(column) for column in zip(*seen, strict=True)] for seen in zip(*rounds, strict=True))
    added = [theirs - own for own, theirs in zip(empty, other, strict=True)]
    for what, (on_path, off_path) in (("empty stack", empty), (name, other), ("added", added)):
        print(f"  {what:32} {on_path:12.1f} {off_path:9.1f}")
    print()


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--calls", type=int, default=800, help="per round")
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--stack", type=Path, action="append", help="in place of watch.yaml and money.yaml")
    options = arguments.parse_args()
    os.environ |= {"GWCORE_ADMIN_KEY": secrets.token_hex(32), "BENCH_KEY": f"sk-{secrets.token_hex(20)}"}
    upstream = free_port()
    mock = start(1, [sys.executable, str(HERE / "mock.py"), str(upstream)])
    try:
        wait_port(upstream, mock)
        os.sched_setaffinity(0, {0})
        print("µs of CPU per call")
        for file in options.stack or [HERE / "stacks" / name for name in ("watch.yaml", "money.yaml")]:
            for mode in ("json", "sse"):
                with tempfile.TemporaryDirectory() as folder, chdir(folder):
                    stacks = [
                        text.replace("{upstream}", str(upstream)).replace("{folder}", folder)
                        for text in (STACK.format(upstream="{upstream}"), file.read_text())
                    ]
                    stream = {"stream": True} if mode == "sse" else {}
                    body = orjson.dumps({"model": "up/m", "messages": [{"role": "user", "content": PROMPT}], **stream})
                    show(file.stem, mode, uvloop.run(compared(stacks, body, options.calls, options.rounds)))
    finally:
        mock.terminate()
        mock.wait()


if __name__ == "__main__":
    main()
