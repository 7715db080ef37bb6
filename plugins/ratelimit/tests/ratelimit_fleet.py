"""Several worker processes at once, and what their answers mean together."""

import asyncio
import json
from pathlib import Path

from tests.crew import launch

WORKER = Path(__file__).with_name("ratelimit_worker.py")


async def fleet(count, during=None, **said):
    """What each of ``count`` workers found; they start together, once all are ready."""
    base = {"seconds": 2.0, "most": 3, "pace": 0, "timeout": 5.0, "amount": 600, "period": 60_000_000, "burst": 60}
    workers = await launch(WORKER, count, {**base, **said})
    try:
        assert (await workers.stdout.readline()).strip() == b"ready"
        workers.stdin.write(b"go\n")
        happening = asyncio.create_task(during()) if during else None
        found = [json.loads(await workers.stdout.readline()) for _ in range(count)]
        if happening:
            await happening
    finally:
        await workers.wait()
    return found


def most_within(admitted, seconds):
    """The largest cost that surely passed in some window of that length: decided after its start and before its end."""
    starts = sorted(admitted)
    most = 0
    for first, _, _ in starts:
        most = max(most, sum(cost for began, done, cost in starts if began >= first and done <= first + seconds))
    return most


def all_of(found):
    return [tuple(one) for worker in found for one in worker["admitted"]]


class Proxy:
    """Between a client and redis: passes bytes on, late, or not at all."""

    def __init__(self, port):
        self.port, self.delay, self.broken, self.writers = port, 0.0, False, set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_):
        self.server.close()
        self.reset()
        await self.server.wait_closed()

    def reset(self):
        for writer in list(self.writers):
            writer.transport.abort()

    async def _serve(self, reader, writer):
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers |= {writer, up_writer}
        try:
            await asyncio.gather(self._pump(reader, up_writer), self._pump(up_reader, writer))
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            for one in (writer, up_writer):
                self.writers.discard(one)
                one.transport.abort()

    async def _pump(self, reader, writer):
        while data := await reader.read(65536):
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.broken:
                self.reset()
            writer.write(data)
        writer.transport.abort()
