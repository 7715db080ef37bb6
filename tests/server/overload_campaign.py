"""Five times the calls that a worker can serve: ``make overload``.

A worker whose every call takes 5 ms of CPU (a layer burns it) shows what it can serve to four clients, then is asked
``--times`` as much by clients that do not wait for each other, then a third of it. Exit status 1 unless the calls served per
second stay over 80 % of the most, whoever is not served is told so, with ``Retry-After``, within 2 s, and nobody is refused
five seconds after the storm.

``--max-lag null`` is the control: nothing is refused, and most clients give up.
"""

import argparse
import asyncio
import multiprocessing
import sys
import time
from functools import partial

import orjson
import uvloop

from gwcore import log
from gwcore.catalog import Catalog
from gwcore.gateway import Gateway
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore.server import EdgeLimits, serve
from gwcore.testing.upstream import Answer, FakeUpstream

BURN = 0.005
PATIENCE = 2.0  # seconds that a client waits for its answer
BODY = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
ANSWER = orjson.dumps(
    {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}]}
)


class Burn(Plugin):
    """Work: 5 ms of CPU before each call."""

    name = "burn"

    def call_layer(self, inner):
        async def burn(call):
            end = time.thread_time() + BURN
            while time.thread_time() < end:
                pass
            return await inner(call)

        return burn


class Burning:
    """What a distribution with that plugin would register."""

    @hookimpl
    def gwcore_plugins(self):
        return [Burn]


def gateway(url, port, max_lag):
    text = f"""
gwcore: 1
upstreams: {{u: {{provider: openai-compatible, base_url: "{url}/v1"}}}}
models: {{m: u/m}}
stack: [burn]
server: {{max_lag: {max_lag}}}
"""
    log.setup()
    serve(lambda: Gateway(text, catalog=Catalog(Burning())), host="127.0.0.1", port=port, limits=EdgeLimits())


class Clients:
    """Ask at a rate, over connections that are kept; each call waits for nobody but its own answer."""

    def __init__(self, port):
        self.port = port
        self.idle = []

    async def ask(self, seen):
        began = time.perf_counter()
        reader = writer = None
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(REQUEST)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            if writer is not None:
                writer.transport.abort()
            seen.append((0, time.perf_counter() - began))
            return
        status = int(head[9:12])
        if status == 503:
            assert b"retry-after: 1" in head, head
        seen.append((status, time.perf_counter() - began))
        self.idle.append((reader, writer))

    async def steady(self, count, seconds):
        seen, end = [], time.perf_counter() + seconds

        async def one():
            while time.perf_counter() < end:
                await self.ask(seen)

        await asyncio.gather(*(one() for _ in range(count)))
        return seen, len(seen)

    async def storm(self, rate, seconds):
        seen, tasks, begun = [], set(), time.perf_counter()
        sent = 0
        while (now := time.perf_counter() - begun) < seconds:
            while sent < now * rate:
                sent += 1
                task = asyncio.create_task(self.ask(seen))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.002)
        await asyncio.gather(*tasks)
        return seen, sent


def told(name, seen, sent, seconds):
    """A line of figures; calls served per second, and how many were not."""
    served = sorted(took for status, took in seen if status == 200)
    refused = sorted(took for status, took in seen if status == 503)
    rest = len(seen) - len(served) - len(refused)

    def at(times, share):
        return f"{times[int(share * (len(times) - 1))] * 1000:.0f} ms" if times else "-"

    print(
        f"{name}: {sent / seconds:.0f} calls/s; served {len(served) / seconds:.0f}/s, p50 {at(served, 0.5)}, "
        f"p99 {at(served, 0.99)}; refused {len(refused)}, p50 {at(refused, 0.5)}, p99 {at(refused, 0.99)}; neither {rest}"
    )
    return len(served) / seconds, len(refused), rest


async def main(seconds, times, max_lag, port):
    async with FakeUpstream() as up:
        up.default = Answer(body=ANSWER)
        worker = multiprocessing.get_context("spawn").Process(target=gateway, args=(up.url, port, max_lag))
        worker.start()
        try:
            clients = Clients(port)
            seen = []
            while not seen or seen[-1][0] != 200:
                await asyncio.sleep(0.2)
                await clients.ask(seen)
            run = partial(told, seconds=seconds)
            most, *_ = run("four clients", *await clients.steady(4, seconds))
            served, _, untold = run(f"{times:g} times", *await clients.storm(times * most, seconds))
            await asyncio.sleep(5)
            _, *lost = run("after", *await clients.storm(most / 3, seconds))
        finally:
            worker.terminate()
            worker.join()
    print(f"served {served / most:.0%} of the most")
    return 0 if served >= 0.8 * most and not untold and not any(lost) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--times", type=float, default=5)
    parser.add_argument("--max-lag", default="100ms")
    parser.add_argument("--port", type=int, default=4871)
    given = parser.parse_args()
    sys.exit(uvloop.run(main(given.seconds, given.times, given.max_lag, given.port)))
