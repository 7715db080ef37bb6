"""Work on the event loop takes little of an idle loop's time at once, and a share of a busy one's."""

import asyncio
from types import SimpleNamespace

import pytest

from gwcore_observability import slices

UNIT = 0.0002  # one record


async def turns_for(units, turn, monkeypatch):
    """How many turns of a loop that is otherwise busy for ``turn`` seconds the work takes, by a clock of its own."""
    clock, turns = SimpleNamespace(now=0.0), 0
    monkeypatch.setattr(slices, "time", SimpleNamespace(monotonic=lambda: clock.now))

    async def others():
        nonlocal turns
        while True:
            turns += 1
            clock.now += turn
            await asyncio.sleep(0)

    busy = asyncio.create_task(others())
    mine = slices.Slices()
    for _ in range(units):
        clock.now += UNIT
        await mine.breathe()
    busy.cancel()
    return turns, clock.now - turns * turn


async def test_an_idle_loop_is_yielded_to_after_each_record(monkeypatch):
    turns, _ = await turns_for(1_000, 0.0, monkeypatch)
    assert turns >= 999


@pytest.mark.parametrize(("share", "keeps_up"), [(slices.SHARE, True), (1e9, False)], ids=["", "control: no share"])
async def test_a_busy_loop_s_work_takes_its_share(monkeypatch, share, keeps_up):
    """2,400 calls a second in turns of 50 ms: 120 new records a turn are 24 ms of work; a slice of 0.1 ms fell behind."""
    monkeypatch.setattr(slices, "SHARE", share)
    turns, worked = await turns_for(1_000, 0.05, monkeypatch)
    assert (turns <= 40) is keeps_up
    assert not keeps_up or worked / (worked + turns * 0.05) <= 1 / slices.SHARE + 0.02
