"""10,000 clients that never finish their heads (fewer where few files may be open), and one that asks: ``make slow``.

``gwcore run`` with the quickstart stack, a byte of each head every two seconds. Exit status 1 unless every call of the one is
answered meanwhile, the slow are all closed at the head's deadline (10 s) with nothing read from them but a 408, and the gateway's
memory does not grow from the third such wave to the fourth.
"""

import argparse
import asyncio
import resource
import subprocess
import sys
import time
from pathlib import Path

import orjson
import uvloop

from gwcore.server.protocol import EdgeLimits
from gwcore.server.run import fitting
from gwcore.testing.server import rss

ROOT = Path(__file__).resolve().parents[2]
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-slow: "
BODY = orjson.dumps({"model": "demo", "messages": [{"role": "user", "content": "hello"}]})
CALL = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


class Slow(asyncio.Protocol):
    """A client that sends a byte now and then, until it is thrown out."""

    def __init__(self):
        self.closed = asyncio.get_running_loop().create_future()
        self.said = b""

    def connection_made(self, transport):
        self.transport = transport
        transport.write(HEAD)

    def data_received(self, data):
        self.said += data

    def connection_lost(self, _exc):
        self.closed.set_result(time.perf_counter())


async def asks(port, took):
    while True:
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CALL)
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200"), answer[:100]
        took.append(time.perf_counter() - began)
        await asyncio.sleep(0.1)


async def wave(port, count):
    """Longest life of a slow connection in seconds, and how many heard a 408."""
    loop = asyncio.get_running_loop()
    made, began = [], {}
    for n in range(count):
        _, slow = await loop.create_connection(Slow, "127.0.0.1", port)
        made.append(slow)
        began[slow] = time.perf_counter()
        if not n % 500:
            await asyncio.sleep(0)
    while not all(slow.closed.done() for slow in made):
        for slow in made:
            if not slow.closed.done():
                slow.transport.write(b"x")
        await asyncio.sleep(2)
        if time.perf_counter() - began[made[-1]] > 60:
            break
    ended = [slow for slow in made if slow.closed.done()]
    longest = max((slow.closed.result() - began[slow] for slow in ended), default=0.0)
    return longest, len(ended), sum(slow.said.startswith(b"HTTP/1.1 408") for slow in made)


async def main(count):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    count = min(count, fitting(EdgeLimits(), most).max_connections - 1)  # and the one that asks
    command = [Path(sys.executable).with_name("gwcore"), "run", ROOT / "examples/quickstart/stack.yaml", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        await asyncio.sleep(1)
        took, sizes, good = [], [rss(process.pid)], True
        asking = asyncio.create_task(asks(port, took))
        for n in range(4):
            longest, ended, told = await wave(port, count)
            sizes.append(rss(process.pid))
            print(
                f"{n + 1}: {ended} of {count} closed, {told} with a 408, the last after {longest:.1f} s; {sizes[-1]:.1f} MiB"
            )
            good &= ended == count and told == count
        asking.cancel()
        good &= sizes[-1] - sizes[-2] < 10 and not (asking.done() and asking.exception())
        print(
            f"{sizes[0]:.1f} MiB before; {len(took)} calls answered meanwhile, the slowest in {max(took) * 1000:.0f} ms"
        )
        return 0 if good else 1
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    sys.exit(uvloop.run(main(parser.parse_args().connections)))
