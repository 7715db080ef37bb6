"""Accounts of rolling windows, a slice of time each: they count together, and go with what moved them once they count no more."""

from collections import Counter

import pytest
from budget_kit import accounts, budget, do, now_of, post, reap, reserve, void
from test_ledger import sound as agrees
from test_retention import ALL, _young, count, everything  # noqa: F401 - a fixture

from gwcore_budget import retention
from gwcore_budget.ledger import closing
from gwcore_budget.ledger.home import StoreDown
from gwcore_budget.ledger.ops import Admitted, Bury, GiveBack, Reset, Short
from gwcore_budget.ledger.sqlite import SqliteHome
from gwcore_budget.retention import Retention
from gwcore_budget.window import SLICES, Window

LONG = Window.parse("rolling 600d")
"""Of slices so long that none ends within a test."""
AGED = (
    "UPDATE budget_account SET start = start - $1 WHERE start > 0 RETURNING id",
    "UPDATE budget_hold SET created = created - $1 WHERE created > 0 RETURNING id",
)


async def test_a_rolling_window_counts_its_slices(home):
    slice_ = LONG.length // SLICES
    rolling = budget("key:k", 100, LONG)
    now = await now_of(home)
    await do(home, reserve("r:1", 60, rolling, now=now))
    await do(home, post("r:1", 60))
    # the same spend, moved into an older slice
    for back, fits in ((30, False), (59, False), (61, True)):
        start = LONG.period(now).start - back * slice_
        await home.rows(f"UPDATE budget_account SET start={start} WHERE posted=60 RETURNING id")
        result = await do(home, reserve(f"r{back}:1", 50, rolling, now=await now_of(home)))
        assert isinstance(result, Admitted if fits else Short), back
        if not fits:
            assert result.posted == 60
            # when the slice has left the window
            assert result.resets == start + slice_ + LONG.length


async def slices(home, most=100):
    """One transaction; how many went."""
    gone = await home.close_slices(await home.rows(closing.ROLLING), most)
    await agrees(home)
    return gone


async def used_long_ago(home, *, close=True):
    """A rolling window and a total of one key: three slices, of which one is of the budget before its reset; and today's."""
    rolling, total = budget("key:k", 10_000, LONG), budget("key:k", 10_000)
    for n, end in enumerate([post("r0:1", 70), void("r1:1"), reap("r2:1")]):
        await do(home, reserve(f"r{n}:1", 100, rolling, total, now=await now_of(home)))
        await do(home, end)
        for statement in AGED:
            await home.rows(statement, 2 * LONG.length)
        if n == 0:
            await do(home, Reset(rolling.id))
    if close:
        await everything(home)
    await do(home, reserve("now:1", 100, rolling, total, now=await now_of(home)))
    await do(home, post("now:1", 5))


async def test_slices_that_count_no_more_go(home):
    await used_long_ago(home)
    carried = await count(home, "budget_carried")
    assert [await slices(home, most=2) for _ in range(3)] == [2, 1, 0]
    assert await accounts(home) == {"key:k:rolling 600d": (5, 0, 0), "key:k:total": (175, 0, 0)}
    assert await count(home, "budget_carried") == carried - 3
    await do(home, reserve("more:1", 100, budget("key:k", 10_000, LONG), now=await now_of(home)))
    assert (await accounts(home))["key:k:rolling 600d"] == (5, 100, 0)


async def closed_until_now(home):
    """The store takes nothing any more of what began before; rows stay."""
    await home.rows("UPDATE budget_retention SET since = $1 RETURNING id", await now_of(home))


async def test_slices_stay_as_long_as_rows_say_what_they_came_to(home):
    await used_long_ago(home, close=False)
    await closed_until_now(home)
    assert await slices(home) == 0
    assert (await accounts(home))["key:k:rolling 600d"] == (175, 0, 0)


async def test_slices_stay_as_long_as_an_entry_says_what_they_came_to(home, monkeypatch):
    monkeypatch.setattr(closing, "old", lambda _looked, _before: [])
    await used_long_ago(home)
    assert await count(home, "budget_hold") == 1
    assert await slices(home) == 1, "the one on which nothing was posted"


async def test_slices_stay_as_long_as_a_hold_says_what_they_came_to(home):
    """One that was written later than its account's time: what a lost worker had of it was burned."""
    rolling = budget("key:k", 10_000, LONG)
    took = await do(home, reserve("take:1", 10, rolling, now=await now_of(home), chunk=900))
    await home.rows(AGED[0], 2 * LONG.length)
    await do(home, Bury("w1", burn=True))
    await home.rows("UPDATE budget_hold SET created = created + $1 RETURNING id", closing.DAY)
    await do(home, reserve("now:1", 100, rolling, now=await now_of(home)))
    await do(home, post("now:1", 5))
    await everything(home)
    assert await home.rows("SELECT accounts FROM budget_hold") == [(f"[{took.grants[0].account}]",)]
    assert await slices(home) == 0


async def test_slices_of_the_window_stay(home):
    rolling = budget("key:k", 10_000, LONG)
    for n in range(2):
        await do(home, reserve(f"r{n}:1", 100, rolling, now=await now_of(home)))
        await do(home, post(f"r{n}:1", 7))
        for statement in AGED:
            await home.rows(statement, LONG.length * 58 // SLICES)
    await everything(home)
    await do(home, reserve("now:1", 100, rolling, now=await now_of(home)))
    assert await slices(home) == 1, "the one of almost two windows ago"
    assert (await accounts(home))["key:k:rolling 600d"] == (7, 100, 0)


@pytest.mark.parametrize("amount", [None, 0, 100])
async def test_slices_that_an_open_hold_may_still_move_stay(home, amount):
    rolling = budget("key:k", 10_000, LONG)
    await do(home, reserve("r:1", amount, rolling, now=await now_of(home)))
    for statement in AGED:
        await home.rows(statement, 2 * LONG.length)
    await do(home, reserve("now:1", 100, rolling, now=await now_of(home)))
    await do(home, post("now:1", 5))
    await closed_until_now(home)
    assert await slices(home) == 0
    await do(home, post("r:1", 3))
    await everything(home)
    assert await slices(home) == 1
    assert (await accounts(home))["key:k:rolling 600d"] == (5, 0, 0)


async def test_slices_of_which_a_worker_has_a_grant_stay(home):
    rolling = budget("key:k", 10_000, LONG)
    took = await do(home, reserve("take:1", 10, rolling, now=await now_of(home), chunk=900))
    await home.rows(AGED[0], 2 * LONG.length)
    await do(home, reserve("now:1", 100, rolling, now=await now_of(home)))
    await do(home, post("now:1", 5))
    await closed_until_now(home)
    assert await slices(home) == 0
    await everything(home)
    assert await slices(home) == 0
    (granted,) = took.grants
    await do(home, GiveBack("w1", ((granted.account, granted.amount),), 1))
    assert await slices(home) == 0, "what was given back is not carried yet"
    await everything(home)
    assert await slices(home) == 1


async def test_the_newest_account_stays(home):
    """SQLite would use its id for another budget's."""
    await do(home, reserve("r:1", 100, budget("key:k", 10_000, LONG), now=await now_of(home)))
    await do(home, post("r:1", 7))
    for statement in AGED:
        await home.rows(statement, 2 * LONG.length)
    await everything(home)
    assert await slices(home) == 0
    assert await count(home, "budget_account") == 1


@pytest.mark.parametrize("most", [1, 200])
async def test_a_round_closes_slices_behind_their_rows(home, most, monkeypatch):
    monkeypatch.setattr(retention, "MOST", most)
    await used_long_ago(home, close=False)
    counts = Counter()
    now = await now_of(home)
    gone = await Retention(ALL / 1000, home, lambda: now, counts).round()
    assert (await accounts(home))["key:k:rolling 600d"] == (5, 0, 0)
    assert gone == counts["closed"] > 3 + 4
    await agrees(home)


async def test_who_sees_the_clock_jump_closes_no_slices(home, monkeypatch):
    if not isinstance(home, SqliteHome):
        return  # its clock is the server's: see Retention
    await used_long_ago(home)
    monkeypatch.setattr(home.clock, "look", lambda now=await now_of(home): (now, 3600.0))
    with pytest.raises(StoreDown):
        await home.close_slices(await home.rows(closing.ROLLING), 100)
