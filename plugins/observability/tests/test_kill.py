"""A gateway that is killed, or told to end, while its sink is away: the next start tells what the sink missed.

How much a kill loses at most, and what callers notice of a sink that hangs, is ``make hang``.
"""

import asyncio
import signal

import pytest
from obs_serving import Serving
from obs_world import STACK, Place, ask, ok, webhook

from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_observability.spill import MAGIC


def spilled(folder):
    return sum(path.read_bytes().count(MAGIC) for path in folder.rglob("*.seg"))


@pytest.mark.timeout(180)  # processes start slowly on a busy machine
@pytest.mark.parametrize(("how", "durable", "workers"), [("KILL", False, 1), ("KILL", True, 1), ("TERM", False, 2)])
async def test_what_a_sink_missed_is_told_by_the_next_start(tmp_path, how, durable, workers):
    async with FakeUpstream() as up, Place() as place:
        up.default = ok()
        place.default = Answer(503)
        outbox = {"durable": durable, "flush": "100ms"}
        stack = STACK.format(up=up.url, stack="", watch=webhook(place, tmp_path / "spill", outbox=outbox))
        options = ["--workers", str(workers)] if workers > 1 else []
        first = Serving(stack, tmp_path, *options)
        await asyncio.to_thread(first.__enter__)
        asked = [(await ask(first.url)).headers["x-gwcore-request-id"] for _ in range(12)]
        if durable:
            await ask(first.url)  # a record is written behind its answer's last byte: this one's may be missing
        elif how == "KILL":
            async with asyncio.timeout(10):
                while spilled(tmp_path) < 12:
                    await asyncio.sleep(0.02)
        await asyncio.to_thread(first.stop, getattr(signal, f"SIG{how}"))
        await asyncio.to_thread(first.__exit__)
        assert spilled(tmp_path) >= 12
        place.requests.clear()
        place.default = Answer(204)
        second = Serving(stack, tmp_path, *options)
        await asyncio.to_thread(second.__enter__)
        try:
            await place.until(12)
            assert sorted(id_ for id_ in place.ids if id_ in asked) == sorted(asked)  # each once
            assert len(place.ids) <= 12 + durable
        finally:
            await asyncio.to_thread(second.__exit__)
        assert spilled(tmp_path) == 0
