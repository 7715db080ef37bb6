"""What a report takes: no longer than it may, and nobody else's time."""

import asyncio
import time
from dataclasses import replace

import pytest
from budget_kit import accounts, budget, do, now_of, post, reserve, spent

from gwcore_budget.ledger import postgres
from gwcore_budget.ledger.home import StoreDown, Turns
from gwcore_budget.ledger.ops import POSTED, Facts, Reset, Spent
from gwcore_budget.ledger.postgres import PostgresHome
from gwcore_budget.reports import Where, attempts, running
from gwcore_budget.reports import sums as sums_of
from gwcore_budget.window import Window

ENDLESS = {
    "sqlite": "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
    "postgres": "SELECT count(*) FROM generate_series(1, 10000000000)",
}


@pytest.fixture
def endless(store_url):
    return ENDLESS["sqlite" if store_url.startswith("sqlite") else "postgres"]


@pytest.mark.parametrize("store_url", ["postgres"], indirect=True)
@pytest.mark.parametrize(("begin", "whole"), [(postgres._BEGIN, 0), ("BEGIN", 20)], ids=["", "control"])
async def test_no_plan_of_when_a_table_was_small_reads_it_whole(make_home, begin, whole, monkeypatch):
    """Each transaction of a new ledger under load read every attempt's row, until the first ANALYZE."""
    monkeypatch.setattr(postgres, "_BEGIN", begin)
    home = make_home()
    await home.open()
    made = await do(home, reserve("take:1", 1, budget(limit=10**9), chunk=10**6))
    one = spent("", 1, [made.grants[0].account], POSTED, 1).holds[0]
    for n in range(20):
        holds = [replace(one, id=f"r{n}-{m}:1") for m in range(8)]
        await do(home, Spent("w1", tuple(holds)))
    await home._db.fetchval("SELECT pg_stat_force_next_flush()")
    read = await home._db.fetchval("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'budget_hold'")
    await home.aclose()
    assert read >= whole if whole else read == 0


@pytest.mark.parametrize("store_url", ["postgres"], indirect=True)
async def test_a_commit_is_durable_and_a_pooled_connection_is_left_as_it_was(make_home, store_url, monkeypatch):
    seen = []

    async def told(home, db, books, write=PostgresHome._write):
        seen.append([await db.fetchval(f"SHOW {name}") for name in ("synchronous_commit", "enable_seqscan")])
        await write(home, db, books)

    monkeypatch.setattr(PostgresHome, "_write", told)
    home = make_home()
    home._how["server_settings"] = {"synchronous_commit": "off"}  # as a database's default may be
    await home.open()
    await do(home, reserve("r:1", 1, budget()))
    seen.append([await home._db.fetchval(f"SHOW {name}") for name in ("synchronous_commit", "enable_seqscan")])
    await home.aclose()
    assert seen == [["on", "off"], ["off", "on"]]


async def test_names_that_no_index_takes_together_cost_no_money(make_ledger):
    """Each of them is as long as it may be, in letters of three bytes: PostgreSQL refused the row, and the spend with it."""
    odd = [
        "".join(chr(0x4E00 + (seed * 7919 + n * 104_729) % 20_000) for n in range(long))
        for seed, long in ((1, 490), (2, 256))
    ]
    ledger = await make_ledger()
    for n in "ab":
        known = Facts(n, model_asked=f"up/{odd[0]}", model=odd[0], upstream="up", end_user=odd[1], key_id=n)
        hold = await ledger.hold(f"{n}:1", 10, [budget(limit=10**9)], known)
        ledger.settle(hold, POSTED, 7, basis="usage")
    ledger.escrow.pump()
    assert await ledger.group.flushed()
    assert (await accounts(ledger.home))["global:total"][0] == 14
    assert [(key, sums.spend) for (key,), sums in await sums_of(ledger.home, ("key_id",))] == [("a", 7), ("b", 7)]
    assert [row["end_user"] for row in await attempts(ledger.home, Where(), limit=9)] == [odd[1]] * 2


async def test_what_a_budget_has_come_to_is_read_of_its_running_period_alone(home, monkeypatch):
    """A rolling window has thousands of accounts a year, and a page of keys shows a hundred of them."""
    window, now = Window.parse("rolling 600d"), await now_of(home)
    for n, name in enumerate(("key:a", "key:b")):
        one = budget(name, 10**6, window)
        await do(home, reserve(f"{name}-old:1", 1, one, now=now))
        await do(home, post(f"{name}-old:1", 1))
        earlier = f"UPDATE budget_account SET start = start - {2 * window.length} WHERE budget = $1 RETURNING id"
        await home.rows(earlier, one.id)
        await do(home, reserve(f"{name}-reset:1", 2, one, now=now))
        await do(home, post(f"{name}-reset:1", 2))
        await do(home, Reset(one.id))
        await do(home, reserve(f"{name}:1", 4 + n, one, now=await now_of(home)))
        await do(home, post(f"{name}:1", 4 + n))
    asked = []
    report = home.report
    monkeypatch.setattr(home, "report", lambda text, *values: (asked.append((text, values)), report(text, *values))[1])
    found = await running(home, "key", ["a", "b", "unbound"], await now_of(home))
    assert {id_: (one.posted, one.window.name) for id_, one in found.items()} == {
        "a": (4, "rolling 600d"),
        "b": (5, "rolling 600d"),
    }
    if isinstance(home, PostgresHome):  # of so few rows it reads all, whatever indexes there are
        return
    plans = [str(await home.rows(f"EXPLAIN QUERY PLAN {text}", *values)) for text, values in asked]
    assert "budget_account USING COVERING INDEX" in plans[0] and "(budget=?)" in plans[0], plans
    assert "(budget=? AND generation=? AND start>?)" in plans[1], plans


async def test_a_report_that_takes_too_long_is_given_up(home, endless):
    began = time.monotonic()
    with pytest.raises(StoreDown):
        await home.report(endless, within=0.2)
    assert 0.2 <= time.monotonic() - began < 5
    assert await home.rows("SELECT 1") == [(1,)], "and its connection is of use again"


async def waited(home, endless):
    """Seconds for which the ledger's own question waits beside reports without end; and the longest report."""
    began = time.monotonic()
    reports = [asyncio.create_task(home.report(endless, within=2)) for _ in range(6)]
    await asyncio.sleep(0.1)
    asked = time.monotonic()
    assert await home.rows("SELECT 1") == [(1,)]
    took = time.monotonic() - asked
    ended = await asyncio.gather(*reports, return_exceptions=True)
    assert all(isinstance(one, StoreDown) for one in ended)
    return took, time.monotonic() - began


async def test_the_ledgers_own_questions_do_not_wait_for_reports(home, endless):
    took, longest = await waited(home, endless)
    assert took < 1
    assert longest < 4, "the wait for other reports is a part of what a report may take"


async def test_negative_control_as_many_reports_as_there_are(home, endless, monkeypatch):
    monkeypatch.setattr(Turns, "take", lambda _turns, asking, within: asking(within))
    assert (await waited(home, endless))[0] > 1


async def test_who_leaves_gives_his_turn_to_the_next(home, endless):
    left = [asyncio.create_task(home.report(endless, within=60)) for _ in range(6)]
    await asyncio.sleep(0.2)
    for task in left:
        task.cancel()
    async with asyncio.timeout(5):
        assert await home.report("SELECT 1") == [(1,)]


async def test_closing_does_not_wait_for_reports(make_home, endless):
    home = make_home()
    await home.open()
    reports = [asyncio.create_task(home.report(endless, within=60)) for _ in range(6)]
    await asyncio.sleep(0.2)
    began = time.monotonic()
    await home.aclose()
    assert time.monotonic() - began < 10
    ended = await asyncio.gather(*reports, return_exceptions=True)
    assert all(isinstance(one, StoreDown) for one in ended), ended


@pytest.mark.parametrize("column", ["key_id", "team", "user_id", "end_user", "organisation"])
async def test_the_attempts_of_one_are_found_by_an_index(home, column, store_url):
    """A6: whoever may read his own attempts does not make the store look at everybody's."""
    await do(home, reserve("r:1", 1, budget(), now=await now_of(home)))
    await do(home, post("r:1", 1))
    asked = []
    rows, report = home.rows, home.report

    async def seen(query, *values):
        asked.append((query, values))
        return await report(query, *values)

    home.report = seen
    await attempts(home, Where().equal(column, "nobody"), limit=10)
    ((query, values),) = asked
    if store_url.startswith("sqlite"):
        plan = str(await rows(f"EXPLAIN QUERY PLAN {query}", *values))
        assert f"({column}=?)" in plan and "SCAN budget_hold" not in plan, plan
    else:
        await rows("SELECT set_config('enable_seqscan', 'off', false)")
        plan = str(await rows(f"EXPLAIN {query}", *values))
        assert f"({column} = 'nobody'" in plan and "Index" in plan, plan


@pytest.mark.parametrize("kept", [True, False])
async def test_behind_a_pooler_the_ledger_keeps_no_statement_by_name(postgres_url, kept):
    more = "&" if "?" in postgres_url else "?"
    home = PostgresHome(postgres_url if kept else f"{postgres_url}{more}statement_cache_size=0")
    await home.open()
    assert await home.rows("SELECT 1 + $1::int", 1) == [(2,)]
    assert bool(await home.rows("SELECT name FROM pg_prepared_statements WHERE name <> ''")) is kept
    for state in ("26000", "42P05"):  # without the option: the store's state, and no fault of the rows
        with pytest.raises(StoreDown):
            await home.rows(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$")
    await home.aclose()
