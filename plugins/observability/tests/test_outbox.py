"""The outbox against sinks that misbehave: nothing is lost, nothing grows, nobody waits."""

import asyncio
import dataclasses
import os
import time
from collections import Counter

import orjson
import pytest
import structlog

from gwcore.call import Outcome
from gwcore.errors import Unreachable
from gwcore.redact import Redactor
from gwcore.testing.fakes import call
from gwcore_observability import outbox as module
from gwcore_observability.content import Captured, Reader
from gwcore_observability.outbox import Outbox
from gwcore_observability.record import record_of
from gwcore_observability.settings import OutboxConfig
from gwcore_observability.sink import ACCEPTED, Delivery, Verdict, judge
from gwcore_observability.spill import Item

ONE = record_of(call(), Outcome(200), Redactor())


def record(n):
    return dataclasses.replace(ONE, id=f"e{n}")


class Scripted:
    """A sink that answers as told; ``taken`` counts the ids that it accepted."""

    def __init__(self, *verdicts):
        self.verdicts = list(verdicts)
        self.default = ACCEPTED
        self.taken = Counter()
        self.sent = []

    def encode(self, one, content):
        return Item(one.id, orjson.dumps({"id": one.id, "content": content}))

    def pack(self, items):
        return [Delivery(items)]

    async def send(self, delivery):
        self.sent.append([item.id for item in delivery.items])
        verdict = self.verdicts.pop(0) if self.verdicts else self.default
        if callable(verdict):
            verdict = await verdict(delivery)
        if isinstance(verdict, Exception):
            raise verdict
        if verdict.kind == "accepted":
            self.taken.update(i.id for i in delivery.items if i.id not in verdict.refused and i.id not in verdict.again)
        return verdict


async def hang(_delivery):
    await asyncio.Event().wait()


class Box(Outbox):
    """With its sink at hand."""

    def __init__(self, sink, config, folder):
        super().__init__("it", config, folder)
        self.its = sink

    async def start(self):
        await super().start(self.its, Reader(Redactor()))


def outbox(sink, folder, **settings):
    return Box(sink, OutboxConfig(**{"backoff": 0.05, **settings}), folder)


async def until(condition, within=30):
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.005)


class Running:
    def __init__(self, box):
        self.box = box

    async def __aenter__(self):
        await self.box.start()
        return self.box

    async def __aexit__(self, *_):
        await self.box.stop()


TROUBLE = {
    "429": Verdict("later", "http_429", after=0.05),
    "503": Verdict("later", "http_503"),
    "refused connection": Unreachable("nobody there"),
    "reset": ConnectionResetError(),
    "timeout": TimeoutError(),
}


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize("disk", [True, False])
async def test_a_sink_in_trouble_gets_everything_once_it_is_well(tmp_path, trouble, disk):
    sink = Scripted(*[TROUBLE[trouble]] * 5)
    async with Running(outbox(sink, tmp_path if disk else None, batch=10)) as box:
        for n in range(95):
            box.put(record(n))
        await until(lambda: len(sink.taken) == 95)
        assert set(sink.taken.values()) == {1}
        assert (box.sent, box.dropped, box.rejected) == (95, 0, 0)
        await until(lambda: not box.waiting)


async def test_the_breaker_leaves_a_sink_alone(tmp_path):
    sink = Scripted()
    sink.default = Verdict("later", "http_500")
    async with Running(outbox(sink, tmp_path, backoff=30, flush=0)) as box:
        box.put(record(0))
        await until(lambda: box.state == "open")
        box._open_until = time.monotonic() + 60
        asked = len(sink.sent)
        for n in range(1, 300):
            box.put(record(n))
        await until(lambda: box._spill.count == 300)
        assert len(sink.sent) == asked
        assert box.health()["reason"] == "http_500" and box.lag > 0
    assert box._spill is not None


async def test_bad_items_alone_are_buried(tmp_path):
    async def picky(delivery):
        bad = [i.id for i in delivery.items if i.id in {"e3", "e17"}]
        return Verdict("refused", "http_400") if bad else ACCEPTED

    sink = Scripted()
    sink.default = picky

    real = sink.send

    async def counting(delivery):
        verdict = await real(delivery)
        if verdict.kind == "accepted":
            sink.taken.update(i.id for i in delivery.items if not sink.taken[i.id])
        return verdict

    sink.send = counting
    async with Running(outbox(sink, tmp_path)) as box:
        for n in range(30):
            box.put(record(n))
        await until(lambda: len(sink.taken) == 28 and box.rejected == 2)
        dead = [orjson.loads(line) for path in tmp_path.rglob("dead.jsonl") for line in path.read_text().splitlines()]
    assert {(one["id"], one["reason"]) for one in dead} == {("e3", "http_400"), ("e17", "http_400")}


async def test_a_batch_that_is_too_large_is_halved(tmp_path):
    async def small(delivery):
        return Verdict("split", "http_413") if len(delivery.items) > 3 else ACCEPTED

    sink = Scripted()
    sink.default = small
    async with Running(outbox(sink, tmp_path)) as box:
        for n in range(20):
            box.put(record(n))
        await until(lambda: box.sent == 20)
    assert set(sink.taken.values()) == {1} and max(map(len, sink.sent)) == 20


async def test_an_answer_item_by_item(tmp_path):
    """As Langfuse's 207: some are in, one never will be, one shall come again."""
    sink = Scripted(Verdict("accepted", refused={"e1": "bad"}, again=frozenset({"e2"})))
    async with Running(outbox(sink, tmp_path)) as box:
        for n in range(4):
            box.put(record(n))
        await until(lambda: box.sent == 3)
        await until(lambda: not box.waiting)
    assert dict(sink.taken) == {"e0": 1, "e2": 1, "e3": 1} and box.rejected == 1


async def test_a_sink_that_raises_what_nobody_knows_loses_the_item_and_not_the_queue(tmp_path):
    async def broken(delivery):
        if any(i.id == "e2" for i in delivery.items):
            raise KeyError("prompt text")
        return ACCEPTED

    sink = Scripted()
    sink.default = broken
    async with Running(outbox(sink, tmp_path)) as box:
        for n in range(5):
            box.put(record(n))
        await until(lambda: box.sent == 4 and box.rejected == 1)


async def test_an_encoder_that_raises_costs_one_record(tmp_path):
    sink = Scripted()
    real = sink.encode
    sink.encode = lambda one, content: real(one, content) if one.id != "e1" else 1 / 0
    async with Running(outbox(sink, tmp_path)) as box:
        for n in range(3):
            box.put(record(n))
        await until(lambda: box.sent == 2)
    assert box.failed == 1


async def test_a_sink_that_hangs_bounds_memory_and_everything_is_on_disk(tmp_path):
    sink = Scripted()
    sink.default = hang
    async with Running(outbox(sink, tmp_path, queue=200, timeout=60, flush=0)) as box:
        for n in range(2000):
            box.put(record(n))
            if n % 100 == 99:
                await until(lambda: not box._fresh)
        await until(lambda: box._spill.count >= 2000 - 100)
        assert len(box._ready) == 0 and box.dropped == 0
    after = Scripted()
    async with Running(outbox(after, tmp_path)) as box:
        await until(lambda: len(after.taken) == 2000)


async def test_beyond_its_bounds_it_drops_and_counts(tmp_path):
    sink = Scripted()
    async with Running(outbox(sink, None, queue=10, flush=0)) as box:
        for n in range(25):
            box.put(record(n))  # without a turn of the loop in between
        assert box.dropped == 15
        await until(lambda: box.sent == 10)
    box = outbox(sink, None, memory=module.RECORD_SIZE * 3)
    await box.start()
    for n in range(5):
        box.put(record(n))
    assert box.dropped == 2
    await box.stop()


@pytest.mark.parametrize("up", [True, False])
async def test_a_stop_sends_or_keeps(tmp_path, up):
    sink = Scripted()
    if not up:
        sink.default = Verdict("later", "http_503")
    box = outbox(sink, tmp_path, flush=5)
    await box.start()
    for n in range(5000):
        box.put(record(n))
    await box.stop()
    assert len(sink.taken) == (5000 if up else 0)
    again = Scripted()
    async with Running(outbox(again, tmp_path)) as box:
        await until(lambda: len(again.taken) == (0 if up else 5000) and not box.waiting)
    assert set(again.taken.values()) <= {1}


async def test_a_stop_that_hangs_ends_in_time_and_keeps(tmp_path):
    sink = Scripted()
    sink.default = hang
    box = outbox(sink, tmp_path, flush=0.2, timeout=60)
    await box.start()
    for n in range(50):
        box.put(record(n))
    async with asyncio.timeout(5):
        await box.stop()
    again = Scripted()
    async with Running(outbox(again, tmp_path)):
        await until(lambda: len(again.taken) == 50)


async def test_repeats_have_the_same_ids(tmp_path):
    """The answer to what was taken is lost: it is sent again, and known for the same."""

    async def taken_and_lost(delivery):
        sink.taken.update(i.id for i in delivery.items)
        raise ConnectionResetError

    sink = Scripted(taken_and_lost, taken_and_lost)
    async with Running(outbox(sink, tmp_path)) as box:
        for n in range(20):
            box.put(record(n))
        await until(lambda: box.sent == 20)
    assert len(sink.taken) == 20 and max(sink.taken.values()) > 1


async def test_durable_is_on_disk_before_the_call_is_over(tmp_path):
    sink = Scripted()
    sink.default = hang
    box = outbox(sink, tmp_path, durable=True, flush=0)
    await box.start()
    for n in range(10):
        box.put(record(n))
    assert box._spill.count == 10  # no turn of the loop in between: a kill here would lose nothing
    await box.stop()


async def test_a_folder_that_cannot_be_written_is_said_and_memory_serves(tmp_path):
    (tmp_path / "taken").write_text("")
    sink = Scripted(Verdict("later", "http_503"))
    async with Running(outbox(sink, tmp_path / "taken" / "below")) as box:
        box.put(record(0))
        await until(lambda: box.sent == 1)
        assert box.health()["disk"] is False
    with pytest.raises(OSError):
        await outbox(sink, tmp_path / "taken" / "below", durable=True).start()


async def test_one_sink_in_trouble_does_not_delay_another(tmp_path):
    stuck, well = Scripted(), Scripted()
    stuck.default = hang
    async with (
        Running(outbox(stuck, tmp_path / "a", timeout=60, flush=0)) as one,
        Running(outbox(well, tmp_path / "b")) as two,
    ):
        for n in range(500):
            one.put(record(n))
            two.put(record(n))
        await until(lambda: two.sent == 500)
        assert one.sent == 0


async def test_what_a_killed_process_loses_is_what_came_last(tmp_path):
    """Everything older than a second is on disk while the sink hangs; negative control: without the tick it is not."""
    sink = Scripted()
    sink.default = hang
    box = outbox(sink, tmp_path, timeout=60, flush=0)
    await box.start()
    for n in range(150):
        box.put(record(n))
    await until(lambda: box._spill.count == 150, within=2)
    await box.stop()


def test_verdicts_of_statuses():
    said = {
        status: judge(status, [(b"retry-after", b"7")]) for status in (200, 207, 400, 401, 404, 413, 422, 429, 500, 503)
    }
    assert {s: v.kind for s, v in said.items()} == {
        200: "accepted", 207: "accepted", 400: "refused", 401: "later", 404: "later", 413: "split", 422: "refused",
        429: "later", 500: "later", 503: "later",
    }  # fmt: skip
    assert said[429].after == 7


async def test_what_waits_in_memory_keeps_its_age_and_its_place():
    sink = Scripted()
    sink.default = Verdict("later", "http_503")
    box = outbox(sink, None, flush=0)
    async with Running(box):
        box.put(record(0))
        await until(lambda: len(sink.sent) > 1)
        box.put(record(1))
        await until(lambda: sink.sent[-1] == ["e0", "e1"])
        await until(lambda: box.lag > 1)
        sink.default = ACCEPTED
        await until(lambda: not box.waiting)


async def test_start_twice_stop_twice(tmp_path):
    """Two stacks share an outbox while a reload drains the old one."""
    sink = Scripted()
    box = outbox(sink, tmp_path)
    await box.start()
    await box.start()
    await box.stop()
    box.put(record(1))
    await until(lambda: box.sent == 1)
    await box.stop()
    box.put(record(2))
    assert box.dropped == 1
    assert not os.listdir(tmp_path)


async def test_a_record_for_whose_content_there_is_no_room_goes_without_it():
    """A body of 19 MB in a queue of 64 MB counts for more than that."""
    sink = Scripted()
    async with Running(outbox(sink, None)) as box:
        small = Captured("full", {}, 0, None, False, "m", "chat", None)
        box.put(record(1), dataclasses.replace(small, raw=box.config.memory // 4))
        box.put(record(2), small)
        await until(lambda: len(sink.taken) == 2)
        assert (box.bare, box.dropped, box.sent) == (1, 0, 2)
    box.put(record(3), small)
    assert (box.bare, box.dropped) == (1, 1)


async def test_a_full_disk_costs_nothing_while_memory_has_room(tmp_path, monkeypatch):
    sink = Scripted()
    sink.default = Verdict("later", "http_503")
    async with Running(outbox(sink, tmp_path)) as box:

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(box._spill, "append", full)
        for n in range(300):
            box.put(record(n))
        await until(lambda: box.state == "open")
        sink.default = ACCEPTED
        await until(lambda: len(sink.taken) == 300)
        assert box.dropped == 0


async def test_a_stop_on_a_full_disk_does_not_say_that_records_are_kept(tmp_path, monkeypatch):
    sink = Scripted()
    sink.default = Verdict("later", "http_503")
    with structlog.testing.capture_logs() as said:
        async with Running(outbox(sink, tmp_path, flush=0.1)) as box:

            def full(*_):
                raise OSError(28, "No space left on device")

            for n in range(20):
                box.put(record(n))
            await until(lambda: box._spill.count == 20)
            monkeypatch.setattr(box._spill, "append", full)
            for n in range(20, 30):
                box.put(record(n))
    (left,) = [line for line in said if line["event"].startswith("sink did not")]
    assert (left["left"], left["lost"], left["kept"]) == (30, 10, False)
    assert box.dropped == 10


async def test_what_was_dropped_is_said(tmp_path, caplog):
    with structlog.testing.capture_logs() as said:
        async with Running(outbox(Scripted(), None, queue=1)) as box:
            box.put(record(0))
            box.put(record(1))
            await until(lambda: any(line.get("dropped") == 1 for line in said))


async def test_without_a_disk_a_stop_counts_what_it_loses():
    sink = Scripted()
    sink.default = Verdict("later", "http_503")
    box = outbox(sink, None, flush=0)
    await box.start()
    for n in range(5):
        box.put(record(n))
    await box.stop()
    assert box.dropped == 5


@pytest.mark.parametrize("spill", [True, False])
async def test_a_record_that_a_sink_keeps_waiting_shows_in_the_lag(tmp_path, spill):
    sink = Scripted()
    sink.default = hang
    box = outbox(sink, tmp_path if spill else None, flush=0)
    await box.start()
    try:
        assert box.lag == 0
        box.put(dataclasses.replace(record(1), ended_ns=time.time_ns()))
        for _ in range(2):  # queued or under way, and still so after a while
            async with asyncio.timeout(5):
                before = box.lag
                while box.lag <= before or not sink.sent:
                    await asyncio.sleep(0.01)
            assert box.lag > before
    finally:
        await box.stop()


class Each(Scripted):
    """A sink that takes one record at a time, as Helicone does; ``bad`` always fails."""

    bad = frozenset()

    def pack(self, items):
        return [Delivery([item]) for item in items]

    async def send(self, delivery):
        if delivery.items[0].id in self.bad:
            return Verdict("later", "http_500")
        return await super().send(delivery)


@pytest.mark.parametrize(
    ("verdict", "most"), [(Verdict("later", "http_429", after=60.0), 4), (Verdict("later", "x"), 6)]
)
async def test_a_sink_that_is_not_well_is_not_sent_the_rest_of_a_batch(tmp_path, verdict, most):
    """Each delivery has its time-out: one that hangs was noticed after as many of them as a batch has records."""
    sink = Each()
    sink.default = verdict
    async with Running(outbox(sink, tmp_path, backoff=60)) as box:
        for n in range(50):
            box.put(record(n))
        await until(lambda: box._open_until > 0)
        assert 0 < len(sink.sent) <= most
        sink.default, box._open_until = ACCEPTED, 0.0
        box._work.set()
        await until(lambda: len(sink.taken) == 50)
    assert set(sink.taken.values()) == {1}


async def test_a_few_records_that_always_fail_keep_no_others_back(tmp_path):
    sink = Each()
    sink.bad = {f"e{n}" for n in range(8)}
    async with Running(outbox(sink, tmp_path, backoff=0.01)) as box:
        for n in range(40):
            box.put(record(n))
        await until(lambda: len(sink.taken) == 32)
    assert set(sink.taken.values()) == {1}
