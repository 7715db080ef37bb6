"""The end of an outbox while its disk is slow."""

import threading
import time

from test_outbox import Running, Scripted, hang, outbox, record, until


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
