"""An outbox while its sink or its disk is slow: each record is kept, and counted once."""

import asyncio
import threading
import time

from test_outbox import Running, Scripted, hang, outbox, record, until

from gwcore_observability.sink import Verdict


async def test_what_is_on_its_way_to_a_slow_disk_when_it_stops_arrives(tmp_path):
    """Each record once, and whole: what waited for its turn at the disk was cancelled with it."""
    sink = Scripted()
    sink.default = hang
    async with Running(outbox(sink, tmp_path, queue=200, timeout=60, flush=0)) as box:
        append, begun = box._spill.append, threading.Event()

        def slow(items):
            begun.set()
            time.sleep(0.3)
            append(items)

        box._spill.append = slow
        for n in range(100):
            box.put(record(n))
        await until(begun.is_set)
        for n in range(100, 200):
            box.put(record(n))
        await until(lambda: not box._fresh and not box._ready)
    after = Scripted()
    async with Running(outbox(after, tmp_path)) as box:
        await until(lambda: len(after.taken) == 200)
    assert max(after.taken.values()) == 1


async def test_what_a_slow_sink_keeps_waiting_is_counted_once(tmp_path):
    sink = Scripted()
    sink.default = hang
    async with Running(outbox(sink, tmp_path, timeout=60, flush=0)) as box:
        for n in range(3):
            box.put(record(n))
        await until(lambda: box._spill.count == 3 and box.waiting == 3)


async def test_what_a_slow_sink_does_not_take_while_the_disk_is_full_is_sent_again(tmp_path):
    """It was under way, hence in no queue; what the disk did not take was forgotten with the answer of the sink."""
    slow, full = asyncio.Event(), asyncio.Event()

    async def later(_delivery):
        await slow.wait()
        return Verdict("later", "http_503")

    sink = Scripted(later)
    async with Running(outbox(sink, tmp_path)) as box:

        def append(_items):
            loop.call_soon_threadsafe(full.set)
            raise OSError(28, "No space left on device")

        loop, box._spill.append = asyncio.get_running_loop(), append
        for n in range(3):
            box.put(record(n))
        await full.wait()
        assert box.waiting == 3
        slow.set()
        await until(lambda: len(sink.taken) == 3)
    assert box.dropped == 0
