"""What the books tell of budgets: each limit once per window, on every home."""

import pytest
from budget_kit import budget, do, now_of, post, reserve, void

from gwcore_budget.ledger.ops import Admitted
from gwcore_budget.window import SLICES, Window


async def test_soft_and_hard_limits_tell_once(make_home):
    home = make_home(exports=True)
    await home.open()
    one = budget(limit=100, soft=50)
    told = []
    for n, amount in enumerate((40, 20, 30, 10)):
        told += (await home.transact([reserve(f"r{n}:1", amount, one), post(f"r{n}:1", amount)])).events
    assert [(event.topic, event.body["posted"]) for event in told] == [("budget.soft", 60), ("budget.exceeded", 100)]
    topics = [row[0] for row in await home.rows("SELECT topic FROM budget_outbox ORDER BY topic")]
    assert topics == ["budget.exceeded", "budget.soft", *["ledger.spend"] * 4]
    await home.aclose()


@pytest.mark.parametrize("window", ["total", "rolling 600d"])
async def test_what_refuses_is_told_once_though_a_little_is_left(home, window):
    """Calls are refused before a limit is met to the nano-dollar, and whoever waits for ``budget.exceeded`` waited for ever."""
    one = budget("key:k", 100, Window.parse(window))
    told = []

    async def tried(hold, amount):
        answer = await home.transact([reserve(hold, amount, one, now=await now_of(home)), post(hold, amount)])
        told.extend((event.topic, event.body["posted"], event.body["limit"]) for event in answer.events)
        return isinstance(answer.results[0], Admitted)

    assert not await tried("r1:1", 101), "this is too large for the budget"
    assert await tried("r2:1", 45) and not await tried("r3:1", 56)
    assert await tried("r4:1", 45) and told == []
    await do(home, reserve("r5:1", 8, one, now=await now_of(home)))
    assert not await tried("r6:1", 9) and told == [], "what is held comes back"
    assert not await tried("r7:1", 11) and not await tried("r8:1", 20)
    assert told == [("budget.exceeded", 90, 100)]
    await do(home, void("r5:1"))
    assert await tried("r9:1", 10) and not await tried("r10:1", 1)
    assert len(told) == 1


async def test_a_rolling_window_tells_once_what_its_slices_have_come_to(home):
    window = Window.parse("rolling 600d")
    slice_ = window.length // SLICES  # so long that none ends within a test
    rolling = budget("key:k", 100, window, soft=50)
    told = []

    async def spend(hold, amount, back):
        """In a slice of its own, that was so many slices ago."""
        now = await now_of(home)
        ops = [reserve(hold, amount, rolling, now=now), post(hold, amount)]
        told.extend((event.topic, event.body["posted"]) for event in (await home.transact(ops)).events)
        start = window.period(now).start
        await home.rows(f"UPDATE budget_account SET start={start - back * slice_} WHERE start={start} RETURNING id")

    for n, (amount, back) in enumerate(((40, 50), (30, 40), (20, 30), (10, 20), (1, 10))):
        await spend(f"r{n}:1", amount, back)
    assert told == [("budget.soft", 70), ("budget.exceeded", 100)]
    await home.rows(f"UPDATE budget_account SET start=start-{10 * slice_ + 1} WHERE posted=40 RETURNING id")
    await spend("x:1", 40, 5)
    assert len(told) == 2, "the slice that told still counts"
    await home.rows(f"UPDATE budget_account SET start=start-{window.length} RETURNING id")
    for n in range(2):
        await spend(f"y{n}:1", 50, 4 - n)
    assert told[2:] == [("budget.soft", 50)], "a slice that crosses by itself tells at once"
    await spend("z:1", 1, 1)
    assert told[3:] == [("budget.exceeded", 100)]


@pytest.mark.parametrize("window", ["total", "month"])
async def test_a_line_that_is_raised_is_told_of_again(make_home, window):
    """Of a budget for all time that is topped up, the end was told once and never again."""
    home = make_home(exports=True)
    await home.open()
    told = []

    async def spend(hold, amount, limit, soft):
        one = budget("key:k", limit, Window.parse(window), soft=soft)
        ops = [reserve(hold, amount, one, now=await now_of(home)), post(hold, amount)]
        told.extend((event.topic, event.body["posted"], event.id) for event in (await home.transact(ops)).events)

    for n, (limit, soft) in enumerate(((100, 90), (100, 90), (200, 150), (150, 90), (200, 150), (200, 150))):
        await spend(f"r{n}:1", 50, limit, soft)
    assert [one[:2] for one in told] == [
        ("budget.soft", 100), ("budget.exceeded", 100), ("budget.soft", 150), ("budget.exceeded", 150),
        ("budget.soft", 200), ("budget.exceeded", 200),
    ]  # fmt: skip
    # the soft limit of 150 was told of twice, and is one event for whoever receives it
    assert len({id_ for *_, id_ in told}) == 5
    await home.aclose()
