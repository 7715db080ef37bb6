"""What a report takes: no longer than it may, and nobody else's time."""

import asyncio
import time

import pytest
from budget_kit import budget, do, now_of, post, reserve

from gwcore_budget.ledger import sqlite
from gwcore_budget.ledger.home import StoreDown
from gwcore_budget.reports import Where, attempts

ENDLESS = {
    "sqlite": "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
    "postgres": "SELECT count(*) FROM generate_series(1, 10000000000)",
}


@pytest.fixture
def endless(store_url):
    return ENDLESS["sqlite" if store_url.startswith("sqlite") else "postgres"]


async def test_a_question_that_takes_too_long_is_given_up(home, endless):
    began = time.monotonic()
    with pytest.raises(StoreDown):
        await home.rows(endless, within=0.2)
    assert 0.2 <= time.monotonic() - began < 5
    assert await home.rows("SELECT 1") == [(1,)], "and its connection is of use again"


async def waited(home, endless):
    """Seconds for which the ledger's own question waits beside a report without end."""
    report = asyncio.create_task(home.rows(endless, within=2))
    await asyncio.sleep(0.1)
    began = time.monotonic()
    assert await home.rows("SELECT 1") == [(1,)]
    took = time.monotonic() - began
    with pytest.raises(StoreDown):
        await report
    return took


async def test_the_ledgers_own_questions_do_not_wait_for_a_report(home, endless):
    assert await waited(home, endless) < 1


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_negative_control_one_thread_for_all(make_home, endless, monkeypatch):
    monkeypatch.setattr(sqlite, "READERS", 1)
    home = make_home()
    await home.open()
    assert await waited(home, endless) > 1
    await home.aclose()


async def test_closing_does_not_wait_for_a_report(make_home, endless):
    home = make_home()
    await home.open()
    report = asyncio.create_task(home.rows(endless, within=60))
    await asyncio.sleep(0.2)
    began = time.monotonic()
    await home.aclose()
    assert time.monotonic() - began < 10
    with pytest.raises(StoreDown):
        await report


@pytest.mark.parametrize("column", ["key_id", "team", "user_id", "end_user", "organisation"])
async def test_the_attempts_of_one_are_found_by_an_index(home, column, store_url):
    """A6: whoever may read his own attempts does not make the store look at everybody's."""
    await do(home, reserve("r:1", 1, budget(), now=await now_of(home)))
    await do(home, post("r:1", 1))
    asked = []
    rows = home.rows

    async def seen(query, *values, **options):
        asked.append((query, values))
        return await rows(query, *values, **options)

    home.rows = seen
    await attempts(home, Where().equal(column, "nobody"), limit=10)
    ((query, values),) = asked
    if store_url.startswith("sqlite"):
        plan = str(await rows(f"EXPLAIN QUERY PLAN {query}", *values))
        assert f"({column}=?)" in plan and "SCAN budget_hold" not in plan, plan
    else:
        await rows("SELECT set_config('enable_seqscan', 'off', false)")
        plan = str(await rows(f"EXPLAIN {query}", *values))
        assert f"({column} = 'nobody'" in plan and "Index" in plan, plan
