"""When a worker takes no more calls, by the measurements alone."""

import asyncio
import errno
import time

import pytest
import uvloop

from gwcore import load as module
from gwcore.errors import Overloaded
from gwcore.load import Load
from gwcore.testing import fakes


def loaded(*seconds, max_lag=0.02):
    load = Load()
    load.limit(None, max_lag, None)
    for lag in seconds:
        load.note(lag)
    return load


def test_a_long_step_or_two_are_no_overload():
    assert not loaded(5, 5).late
    assert loaded(5, 5, 5).late
    assert loaded(*[0.03] * 6).late and not loaded(*[0.019] * 100).late
    assert not loaded(*[5] * 100, max_lag=None).late


def test_it_takes_calls_again_below_half_the_limit_not_at_it():
    load = loaded(5, 5, 5)
    for _ in range(100):
        load.note(0.015)
    assert load.late
    for _ in range(100):
        load.note(0.009)
    assert not load.late


@pytest.mark.parametrize(("max_lag", "late"), [(0.02, True), (None, False)], ids=["", "control: no limit"])
async def test_the_lag_is_that_of_the_loop(max_lag, late):
    load = Load()
    load.limit(None, max_lag, None)
    load.start()
    for _ in range(12):
        time.sleep(0.06)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if load.late:
            break
    assert load.late is late
    async with asyncio.timeout(10):
        while load.late:
            await asyncio.sleep(0.01)
    load.stop()


@pytest.mark.parametrize(
    ("max_lag", "before", "full"),
    [(0.02, 0.015, True), (0.02, 0.01, False), (None, 0.015, False)],
    ids=["", "control: it was not behind before", "control: no limit"],
)
async def test_a_loop_that_is_ever_further_behind_takes_no_call_before_it_was_measured(max_lag, before, full):
    load = loaded(*[before] * 50, max_lag=max_lag)
    load.start()
    time.sleep(0.15)
    assert load.full() is full and not load.late
    load.stop()
    assert not load.full()


async def test_nobody_looks_after_the_end():
    load = Load()
    load.start()
    load.start()
    load.stop()
    before = load.lag
    await asyncio.sleep(0.12)
    assert load.lag == before


class FullDisk:
    def warning(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_log_that_cannot_be_written_does_not_end_the_looking(monkeypatch):
    monkeypatch.setattr(module, "_log", FullDisk())
    failed = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context["exception"]))
    load = Load()
    load.limit(None, 0.02, None)
    load.start()
    async with asyncio.timeout(10):
        while not failed:
            time.sleep(0.06)
            await asyncio.sleep(0)
        assert load.late
        while load.full():
            await asyncio.sleep(0.01)
    load.stop()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_it_looks_at_the_loop_it_was_started_in_last(loop):
    load = Load()

    async def looked():
        load.start()
        load.lag = 1.0
        async with asyncio.timeout(10):
            while load.lag == 1.0:
                await asyncio.sleep(0.01)

    for _ in range(2):  # without a stop
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(looked())


async def test_it_looks_once_however_often_it_is_started():
    load = Load()
    load.start()
    first = load._timer
    load.start()
    assert first.cancelled() and not load._timer.cancelled()
    load.stop()


def with_room(room, count):
    load = Load()
    load.limit(None, None, room)
    return load, [fakes.call(str(n)) for n in range(count)]


async def test_a_body_alone_may_have_any_size_and_others_what_is_left(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    load, calls = with_room(100, 3)
    await load.admit(calls[0], 150)
    for _ in range(2):
        with pytest.raises(Overloaded):
            await load.admit(calls[1], 1)
    load.release(calls[1])
    load.release(calls[0])
    load.release(calls[0])
    assert load.bodies == 0
    await load.admit(calls[1], 60)
    await load.admit(calls[2], 40)
    for call in calls:
        with pytest.raises(Overloaded):
            load.hold(call, 1)  # a piece more, at once
    load.release(calls[2])
    load.hold(calls[1], 90)  # it is alone now
    assert load.bodies == 150 and load.shed["memory"] == 5


async def test_bodies_wait_for_their_turn_in_order():
    load, calls = with_room(100, 5)
    turns = []

    async def wait(n, size):
        await load.admit(calls[n], size)
        turns.append(n)

    await load.admit(calls[0], 100)
    tasks = [asyncio.create_task(wait(n, size)) for n, size in ((1, 80), (2, 30), (3, 10), (4, 10))]
    await asyncio.sleep(0)
    load.release(calls[0])
    await asyncio.sleep(0)
    assert turns == [1] and load.bodies == 80  # the small ones do not overtake, or the large one might wait for ever
    tasks[1].cancel()  # it left
    await asyncio.gather(*tasks, return_exceptions=True)
    assert turns == [1, 3, 4] and load.bodies == 100
    for call in calls:
        load.release(call)
    assert load.bodies == 0 and not load._queue and not load.shed["memory"]


async def test_who_left_when_his_turn_came_keeps_nothing():
    load, calls = with_room(100, 3)
    await load.admit(calls[0], 100)
    second = asyncio.create_task(load.admit(calls[1], 100))
    third = asyncio.create_task(load.admit(calls[2], 50))
    await asyncio.sleep(0)
    load.release(calls[0])  # the second's turn
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    load.release(calls[1])  # as the gateway does at the end of each call
    await asyncio.wait_for(third, 10)
    assert load.bodies == 50
