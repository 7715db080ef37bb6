"""A wait for another does not count time in which our own loop is behind."""

import asyncio
import itertools
from types import SimpleNamespace

import pytest

from gwcore import patience as module
from gwcore.patience import TURNS, Patience, patience

FEW = 4


async def answered_after(turns, seconds):
    """Something that answers at once, but whose answer is so many turns of the loop away."""
    async with patience(seconds):
        for _ in range(turns):
            await asyncio.sleep(0)
    return True


async def test_turns_of_our_own_are_not_counted(busy_loop):
    assert await answered_after(FEW, busy_loop / 2)


async def test_control_without_prolongation_it_is_given_up(busy_loop, monkeypatch):
    monkeypatch.setattr(module, "PROLONGED", 0)
    with pytest.raises(TimeoutError):
        await answered_after(FEW, busy_loop / 2)


async def test_it_ends_behind_a_busy_loop_too(busy_loop):
    with pytest.raises(TimeoutError):
        await answered_after(1_000, busy_loop / 2)


@pytest.mark.parametrize(
    ("lengths", "answered"), [([0, 0, 0.05], True), ([0] * TURNS, False)], ids=["", "control: an idle loop"]
)
async def test_a_busy_loop_has_short_turns_too(monkeypatch, lengths, answered):
    moments = itertools.accumulate(itertools.chain.from_iterable((0, length) for length in lengths))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    ended, answer = asyncio.Event(), asyncio.Event()
    wait = Patience(0.01, ended.set, lambda: answer.set() or True)
    event = answer if answered else ended
    await asyncio.wait_for(event.wait(), 30)
    wait.cancel()
    assert ended.is_set() == (not answered)


async def test_an_idle_loop_waits_no_longer():
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError):
        async with patience(0.05):
            await asyncio.Event().wait()
    assert loop.time() - began >= 0.05


async def test_an_error_and_a_cancellation_are_passed_on():
    with pytest.raises(KeyError):
        async with patience(5):
            raise KeyError
    task = asyncio.create_task(answered_after(1_000_000, 60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
