"""``retain``: rows of long ago go, in small transactions, by one worker; what they came to stays, and everything still agrees."""

import asyncio
import random
from collections import Counter
from dataclasses import replace

import pytest
from budget_kit import accounts, alive, budget, do, eventually, now_of, post, reap, reserve, spent, void
from budget_stack import ask, completion, holds, serving, sound, stack
from test_escrow import hold, quiet
from test_ledger import sound as agrees

from gwcore.resources import Lease, Resources
from gwcore.sql import Migrations, migrate
from gwcore.testing.upstream import FakeUpstream
from gwcore_budget import retention
from gwcore_budget.ledger import closing
from gwcore_budget.ledger.books import Books
from gwcore_budget.ledger.closing import START
from gwcore_budget.ledger.home import StoreDown
from gwcore_budget.ledger.homes import LEDGER, home_of
from gwcore_budget.ledger.ops import POSTED, REAPED, VOIDED, Missing
from gwcore_budget.ledger.reconcile import reconcile
from gwcore_budget.ledger.sqlite import SqliteHome
from gwcore_budget.ledger.verify import verify
from gwcore_budget.retention import Retention

ALL = -60_000
"""A ``retain`` that keeps nothing: until a minute from now."""
OTHERS = "UPDATE budget_worker SET seen = seen + $1 RETURNING id"


async def count(home, table):
    return (await home.rows(f"SELECT count(*) FROM {table}"))[0][0]


@pytest.fixture(autouse=True)
def _young(monkeypatch):
    """Rows of a test are closed as if they were of long ago."""
    monkeypatch.setattr(closing, "OPEN", 10 * ALL)


async def close(home, retain=ALL, most=100):
    """One transaction; how many rows went."""
    return (await home.close_books(retain, most, 0)).rows


async def everything(home, most=7):
    """Close all that is old enough, some rows at a time; how many transactions that took."""
    last, turns = START, 0
    while last.more:
        last = await home.close_books(ALL, most, 0, last)
        turns += 1
        await agrees(home)
    return turns


async def some_of_all(home):
    """Holds of every end, on one account and on two; one is open."""
    team, key = budget("team:t", 10_000), budget("key:k", 10_000)
    for n, end in enumerate([post("r0:1", 70), void("r1:1"), reap("r2:1"), post("r3:1", 600), post("r4:1", 0)]):
        await do(home, reserve(f"r{n}:1", 100, *([team, key] if n % 2 else [team])))
        await do(home, end)
    await do(home, reserve("open:1", 100, team, key))
    await do(home, reserve("free:1", None))
    await do(home, post("free:1", 0))
    return {"team:t:total": (770, 100, 500), "key:k:total": (600, 100, 500)}


async def test_what_is_closed_still_counts(home):
    came_to = await some_of_all(home)
    assert await accounts(home) == came_to
    assert await everything(home, most=2) > 3, "a little at a time"
    assert await accounts(home) == came_to
    assert await home.rows("SELECT id FROM budget_hold") == [("open:1",)], "what is open stays"
    assert await count(home, "budget_entry") == 0
    assert (await home.rows("SELECT CAST(sum(spend) AS BIGINT), CAST(sum(attempts) AS BIGINT) FROM budget_daily")) == [
        (770, 6)
    ]
    # and goes on
    await do(home, post("open:1", 50))
    assert (await accounts(home))["team:t:total"] == (820, 0, 500)
    await agrees(home)
    await everything(home)
    assert await count(home, "budget_hold") == 0
    assert isinstance(await do(home, reap("r0:1")), Missing)


async def test_what_is_young_stays(home):
    await some_of_all(home)
    await alive(home, await now_of(home) + 2 * closing.DAY)  # nobody is silent: that alone closes nothing
    before = await count(home, "budget_hold"), await count(home, "budget_entry")
    assert await close(home, 60_000) == 0
    assert (await count(home, "budget_hold"), await count(home, "budget_entry")) == before
    await agrees(home)


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_negative_control_a_sum_that_is_not_carried(home, monkeypatch, lost):
    """Verify sees it."""
    await some_of_all(home)
    took = await do(home, reserve("take:1", 10, budget("user:u", 10_000), chunk=900))
    await do(home, spent("in:1", 10, [took.grants[0].account], POSTED, 5))
    sums = closing.sums
    monkeypatch.setattr(
        closing,
        "sums",
        lambda *rows: [(row[0], *(0 if n == lost else v for n, v in enumerate(row[1:]))) for row in sums(*rows)],
    )
    await close(home)
    problems = (await verify(home)).problems
    assert problems and all(one.startswith("I2" if lost == 2 else "I3") or "daily" in one for one in problems)


async def test_negative_control_what_is_open_is_closed_too(home, monkeypatch):
    await some_of_all(home)
    monkeypatch.setattr(closing, "HOLDS", closing.HOLDS.replace("state <> 0", "state >= 0"))
    await close(home)
    assert any("pending 100, holds and grants 0" in one for one in (await verify(home)).problems)


async def test_all_or_nothing(home, monkeypatch):
    """What dies in the middle has done nothing."""
    came_to = await some_of_all(home)
    rows = await count(home, "budget_hold"), await count(home, "budget_entry")

    def dies(*_rows):
        raise ZeroDivisionError

    sums = closing.sums
    monkeypatch.setattr(closing, "sums", dies)
    with pytest.raises(ZeroDivisionError):
        await close(home)
    monkeypatch.setattr(closing, "sums", sums)
    assert (await count(home, "budget_hold"), await count(home, "budget_entry")) == rows
    assert await accounts(home) == came_to
    await agrees(home)
    assert await close(home)


async def test_the_book_is_append_only_as_far_as_it_is_kept(home):
    await some_of_all(home)
    await close(home, 60_000)
    for statement in ("DELETE FROM budget_entry RETURNING seq", "UPDATE budget_entry SET posted = 1 RETURNING seq"):
        with pytest.raises(Exception, match=r"append only|StoreDown|IntegrityError"):
            await home.rows(statement)
    await everything(home)
    await do(home, reserve("young:1", 100, budget("team:t", 10_000), now=await now_of(home)))
    await home.rows("UPDATE budget_retention SET since = 1 RETURNING id")
    with pytest.raises(Exception, match=r"append only|StoreDown|IntegrityError"):
        await home.rows("DELETE FROM budget_entry RETURNING seq")


# ── what is told late ────────────────────────────────────────────────────────────────────────────────────────────────


async def told_again(home):
    """A hold within grants is told, closed, and told again: what is posted."""
    took = await do(home, reserve("take:1", 10, budget("team:t", 10_000), chunk=900))
    once = spent("in:1", 10, [took.grants[0].account], POSTED, 5)
    await do(home, once)
    await everything(home)
    answer = await home.transact([spent("in:1", 10, [took.grants[0].account], POSTED, 5)])
    return (await accounts(home))["team:t:total"][0], [event.topic for event in answer.events]


async def test_what_is_closed_is_not_counted_twice(home):
    assert await told_again(home) == (5, ["budget.late"])
    await agrees(home)


async def test_what_is_closed_and_what_is_taken_part_at_one_millisecond(home):
    """Of two holds a millisecond apart one is closed, and not taken again; the other is kept, and told again it is known."""
    took = await do(home, reserve("take:1", 10, budget("team:t", 10_000), chunk=900))
    at = await now_of(home)
    await alive(home, at + closing.DAY)

    async def tell(*told):
        """What is posted once these are told."""
        for name, now in told:
            await do(home, spent(f"{name}:1", 10, [took.grants[0].account], POSTED, 5, now=now))
        return (await accounts(home))["team:t:total"][0]

    assert await tell(("old", at - 1), ("young", at)) == 10
    await everything(home)
    assert await home.rows("SELECT id FROM budget_hold") == [("young:1",)]
    assert await tell(("old", at - 1), ("young", at), ("found", at - 1)) == 10
    assert await tell(("new", at)) == 15
    await agrees(home)


async def test_negative_control_closed_books_that_take_more(home, monkeypatch):
    spend = Books._spent

    def taking(self, op):
        self.since = 0
        return spend(self, op)

    monkeypatch.setattr(Books, "_spent", taking)
    assert await told_again(home) == (10, [])


async def test_the_books_stay_open_for_who_may_still_tell(make_ledger):
    """A worker that is silent, and not buried, may come back with what it has spent: nothing since then is closed."""
    ledger, silent = await make_ledger(), await make_ledger()
    held = await hold(silent, "r:1", 10)
    for n in range(3):
        ledger.settle(await hold(ledger, f"s{n}:1", 10), POSTED, 1)
    await quiet(ledger)
    assert await close(ledger.home) == 0, "both live: a day is kept"
    day = closing.DAY + 120_000
    await ledger.home.rows(
        "UPDATE budget_worker SET seen = seen + $1 WHERE id = $2 RETURNING id", day, ledger.worker.id
    )
    assert await close(ledger.home) == 0, "one is silent"
    silent.settle(held, POSTED, 7)
    await quiet(silent)
    assert (await accounts(ledger.home))["global:total"][0] == 10
    await ledger.home.rows(OTHERS, day)
    assert await close(ledger.home) > 3
    await agrees(ledger.home)


async def test_the_books_stay_open_for_what_the_store_refuses(home):
    await some_of_all(home)
    refused = "INSERT INTO budget_refused (hold, worker, at) VALUES ('odd:1', 'w1', $1) RETURNING hold"
    await home.rows(refused, await now_of(home))
    assert await close(home) == 0


async def test_a_journal_that_is_found_late_is_no_news(home):
    """Its lines were told long ago: nothing is counted twice, and nothing is alarming."""
    took = await do(home, reserve("take:1", 10, budget("team:t", 10_000), chunk=900))
    await do(home, spent("in:1", 10, [took.grants[0].account], POSTED, 5))
    await everything(home)
    found = replace(spent("in:1", 10, [took.grants[0].account], POSTED, 5), found=True)
    assert (await home.transact([found])).events == []
    assert (await accounts(home))["team:t:total"][0] == 5


async def test_a_bill_for_what_is_closed_meanwhile_is_missing(home, monkeypatch):
    await do(home, reserve("r:1", 100, budget()))
    await do(home, reap("r:1"))
    rows = home.rows

    async def then_closed(query, *values):
        found = await rows(query, *values)
        await everything(home)
        return found

    monkeypatch.setattr(home, "rows", then_closed)
    deltas = await reconcile(home, {"r": 5})
    assert (deltas.missing, deltas.kept, deltas.corrected) == (["r"], 0, 0), "named as in the bill"


# ── clocks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def after_a_wrong_clock(home):
    """What is posted of a call, in a store that was closed by a clock a year ahead."""
    took = await do(home, reserve("take:1", 10, budget("team:t", 10_000), chunk=900))
    now = await now_of(home)
    await home.rows("UPDATE budget_retention SET since = $1, due = $1 RETURNING id", now + 365 * closing.DAY)
    await do(home, spent("in:1", 10, [took.grants[0].account], POSTED, 5, now=now))
    return (await accounts(home))["team:t:total"][0]


async def test_a_clock_that_was_wrong_once_makes_no_call_free(home, monkeypatch):
    monkeypatch.setattr(closing, "OPEN", 6 * closing.DAY)
    assert await after_a_wrong_clock(home) == 5
    await agrees(home)
    # and the store is mended by the next round, which closes by the time it is now
    assert await close(home, 7 * closing.DAY) == 0
    ((since,),) = await home.rows("SELECT since FROM budget_retention")
    assert abs(since - (await now_of(home) - 7 * closing.DAY)) < 60_000
    await home.rows("UPDATE budget_retention SET due = due + $1 RETURNING id", 365 * closing.DAY)
    now = await now_of(home)
    assert await Retention(604_800, home, lambda: now, Counter())._ours()


async def test_negative_control_the_store_is_believed(home, monkeypatch):
    monkeypatch.setattr(closing, "taken_since", lambda _now, since: since)
    assert await after_a_wrong_clock(home) == 0


async def test_entries_of_a_time_to_come_hinder_nobody(home):
    """A clock that was ahead has left them at the head of the book."""
    budgets = budget("team:t", 10_000)
    for n in range(4):
        await do(home, reserve(f"r{n}:1", 10, budgets))
    if isinstance(home, SqliteHome):
        await home.rows("DROP TRIGGER budget_entry_update")
    else:
        await home.rows("DROP TRIGGER budget_entry_forbid ON budget_entry")
    await home.rows("UPDATE budget_entry SET at = at + $1 WHERE seq <= 3 RETURNING seq", 365 * closing.DAY)
    await everything(home, most=2)
    assert await count(home, "budget_entry") == 3


async def test_who_sees_the_clock_jump_closes_nothing(home, monkeypatch):
    monkeypatch.setattr(retention, "LOOK", 0.05)
    now = [await now_of(home)]
    await some_of_all(home)
    task = asyncio.create_task(Retention(ALL / 1000, home, lambda: now[0], Counter()).run())
    await asyncio.sleep(0)
    now[0] += 400_000
    await asyncio.wait_for(task, 5)
    assert await count(home, "budget_hold") == 7


async def test_a_round_that_fails_is_not_the_last(home, monkeypatch):
    monkeypatch.setattr(retention, "LOOK", 0.02)
    now = await now_of(home)
    await some_of_all(home)
    close_books, fails = home.close_books, [PermissionError, StoreDown]

    async def failing(*arguments):
        await home.rows("UPDATE budget_retention SET due = 0 RETURNING id")
        if fails:
            raise fails.pop()
        return await close_books(*arguments)

    monkeypatch.setattr(home, "close_books", failing)
    task = asyncio.create_task(Retention(ALL / 1000, home, lambda: now, Counter()).run())

    async def gone():
        return await count(home, "budget_hold") == 1

    await eventually(gone)
    task.cancel()


# ── any history ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(4))
async def test_any_history_closed_anywhere(home, seed):
    """Holds of all kinds come and go while books are closed at random: accounts are as if nothing was closed, and verify agrees."""
    chance = random.Random(seed)
    names = ["team:a", "team:b", "key:k"]
    expected, grants, running = Counter(), {}, {}
    young = await now_of(home) - 2 * ALL
    for n in range(120):
        some = [budget(name, 10**9) for name in names if chance.random() < 0.6]
        ids = [one.id for one in some]
        kind = chance.random()
        if kind < 0.15 and grants:
            worker, account, owner = chance.choice(list(grants.values()))
            amount = chance.randrange(20)
            await do(home, spent(f"e{n}:1", 20, [account], POSTED, amount, worker=worker, now=young))
            expected[owner] += amount
        elif kind < 0.25:
            one, worker = chance.choice([budget(name, 10**9) for name in names]), f"w{n % 3}"
            found = await do(home, reserve(f"g{n}:1", 1, one, worker=worker, chunk=100))
            grants[n] = worker, found.grants[0].account, one.id
        elif kind < 0.6 and running:
            id_ = chance.choice(list(running))
            bound = running.pop(id_)
            state, amount = chance.choice([(POSTED, 70), (POSTED, 130), (VOIDED, 0), (REAPED, 100)])
            await do(home, {POSTED: post(id_, amount), VOIDED: void(id_), REAPED: reap(id_)}[state])
            expected.update(dict.fromkeys(bound, amount))
        elif kind < 0.7:
            await close(home, chance.choice([ALL, 0, 5]), chance.randrange(1, 9))
        else:
            await do(home, reserve(f"r{n}:1", 100, *some))
            running[f"r{n}:1"] = ids
    await agrees(home)
    await everything(home)
    assert {id_: row[0] for id_, row in (await accounts(home)).items()} == {
        id_: expected[id_] for id_ in await accounts(home)
    }


# ── by whom, and when ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_one_of_all_workers_does_it(make_home, monkeypatch):
    homes = [make_home() for _ in range(3)]
    for home in homes:
        await home.open()
    for n in range(200):
        await homes[0].transact([reserve(f"r{n}:1", 10, budget(limit=10**6)), post(f"r{n}:1", 1)])
    monkeypatch.setattr(retention, "LOOK", 0.01)
    monkeypatch.setattr(retention, "MOST", 50)
    counts = [Counter() for _ in homes]
    now = await now_of(homes[0])
    tasks = [
        asyncio.create_task(Retention(ALL / 1000, home, lambda: now, counted).run())
        for home, counted in zip(homes, counts, strict=True)
    ]

    async def done():
        return not await count(homes[0], "budget_hold") and not await count(homes[0], "budget_entry")

    await eventually(done, 20)
    await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    assert sorted(one["closed"] for one in counts) == [0, 0, 600]
    await agrees(homes[0])
    ((due,),) = await homes[0].rows("SELECT due FROM budget_retention")
    assert due == now + retention.EVERY, "who stops is followed by another an hour later"
    for home in homes:
        await home.aclose()


async def test_a_gateway_keeps_what_the_stack_file_says(store_url, monkeypatch):
    monkeypatch.setattr(retention, "LOOK", 0.02)
    async with FakeUpstream() as up:
        up.default = completion(100)
        text = stack(up.url, store_url, mode="direct", retain="7d", rules=[{"per": "key", "limit": "$300"}])
        async with serving(text) as (url, _, plugin):
            for _ in range(3):
                assert (await ask(url)).status == 200
            assert len(await holds(plugin)) == 3
            home = plugin.ledger.home
            await home.rows("UPDATE budget_hold SET created = created - $1 WHERE id IN (SELECT id FROM budget_hold LIMIT 2) RETURNING id", 8 * closing.DAY)  # fmt: skip
            await home.rows("UPDATE budget_retention SET due = 0 RETURNING id")

            async def gone():
                return await count(home, "budget_hold") == 1

            await eventually(gone)
            report = await sound(plugin)
            assert report.posted == 3 * 100_010_000
            assert plugin.counts["closed"] == 2


def test_a_week_is_the_least(store_url):
    from gwcore_budget.config import BudgetConfig

    with pytest.raises(ValueError, match="retain"):
        BudgetConfig(retain="6d")
    assert BudgetConfig(retain="7d").retain == 604_800
    assert BudgetConfig().retain is None, "nothing goes that nobody said shall go"


# ── stores of before ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_store_of_the_first_schema_is_brought_up(store_url):
    lease = Lease(Resources())
    store = lease.store(store_url)
    await migrate(store, Migrations("budget", LEDGER.package, head="budget_0001"))
    home = home_of(store)
    await home.open()
    for name in ("budget_retention", "budget_carried"):  # which it did not have
        await home.rows(f"DROP TABLE {name}")
    await home.rows(
        "CREATE TRIGGER budget_entry_delete BEFORE DELETE ON budget_entry BEGIN SELECT RAISE(ABORT, 'no'); END"
        if store.scheme == "sqlite"
        else "SELECT 1"
    )
    await migrate(store, LEDGER)
    await some_of_all(home)
    await everything(home)
    assert await count(home, "budget_hold") == 1
    await home.aclose()
    await lease.release()
