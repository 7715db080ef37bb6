"""What is gathered into one transaction, and what becomes of the rest where one of it cannot be written."""

import asyncio
import gc
import sqlite3
import time
import weakref
from contextlib import closing

import asyncpg
import pytest
from budget_kit import accounts, budget, do, eventually, reserve
from test_escrow import hold, quiet, sound, within

from gwcore_budget.ledger import escrow
from gwcore_budget.ledger import group as module
from gwcore_budget.ledger.escrow import Escrow
from gwcore_budget.ledger.group import Group, Unavailable
from gwcore_budget.ledger.home import Conflict, StoreDown, Unapplied
from gwcore_budget.ledger.journal import Journal
from gwcore_budget.ledger.ops import POSTED, Admitted, Facts, Settle, Spent
from gwcore_budget.ledger.sqlite import SqliteHome

ONE = budget(limit=1_000_000)


class Picky:
    """A home that refuses every transaction in which a hold has this name, as one would whose row nobody can write."""

    def __init__(self, home, name):
        self.home = home
        self.name = name
        self.sizes = []

    def __getattr__(self, name):
        return getattr(self.home, name)

    async def transact(self, ops):
        holds = [hold.id for op in ops if isinstance(op, Spent) for hold in op.holds]
        self.sizes.append(len(holds))
        if self.name in holds:
            raise Conflict(self.name)
        return await self.home.transact(ops)


async def grants(home):
    return (await do(home, reserve("take:1", 10, ONE, chunk=100_000))).grants


async def settled(group, path, grants_, count):
    """An escrow that has settled so many holds, and sent them all."""
    escrow = Escrow(group, "w1", Journal(path))
    escrow.receive(grants_, {ONE.id: ONE.limit})
    for n in range(count):
        held = escrow.admit(f"r{n}:1", 10, (ONE,), Facts(f"r{n}"))
        held.end(POSTED, 3, "usage", held.metered)
        escrow.settle(held)
    escrow.pump()
    return escrow


async def written(home):
    return {row[0] for row in await home.rows("SELECT id FROM budget_hold")}


async def test_one_hold_that_cannot_be_written_hurts_no_other(make_home, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CONFLICTS", 2)
    home = Picky(make_home(), "r3:1")
    group = Group(home)
    await group.open()
    escrow = await settled(group, tmp_path / "journal", await grants(home), 6)
    await eventually(lambda: not group.backlog)
    assert await written(home) == {f"r{n}:1" for n in range(6) if n != 3}
    posted = await home.rows("SELECT posted, pending FROM budget_account")
    assert posted == [(15, 100_000 - 15)]
    assert [hold.id for hold in escrow.unwritten] == ["r3:1"], "its line is to stay in the journal, and no other"
    await group.aclose()


async def test_what_is_written_is_no_longer_unwritten(make_home, tmp_path):
    home = Picky(make_home(), None)
    group = Group(home)
    await group.open()
    escrow = await settled(group, tmp_path / "journal", await grants(home), 6)
    assert len(escrow.unwritten) == 6
    await eventually(lambda: not group.backlog)
    assert escrow.unwritten == [] and len(await written(home)) == 6
    await group.aclose()


async def test_a_transaction_is_no_larger_for_an_outage(make_home, tmp_path, monkeypatch):
    """However much has gathered: others wait for the lock."""
    monkeypatch.setattr(module, "BATCH", 20)
    monkeypatch.setattr("gwcore_budget.ledger.escrow.BATCH", 20)
    home = Picky(make_home(), None)
    group = Group(home)
    await group.open()
    taken = await grants(home)
    home.sizes.clear()
    await settled(group, tmp_path / "journal", taken, 90)
    await eventually(lambda: not group.backlog)
    assert sum(home.sizes) == 90 and max(home.sizes) == 20
    await group.aclose()


async def test_time_in_which_the_loop_was_stuck_is_not_the_store_s(make_home, monkeypatch):
    """A reload on a busy machine refused every call that just asked for money: 'the budget's store does not answer'."""
    group = Group(make_home(), patience=30)
    await group.open()
    asking = [asyncio.create_task(group.ask(reserve(f"r:{n}", 10, budget()))) for n in range(3)]
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda time=loop.time: time() + 60)  # as if it had been stuck for a minute
    assert all(isinstance(one, Admitted) for one in await asyncio.gather(*asking))
    await group.aclose()


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)  # over PostgreSQL, a transaction takes dozens of turns
@pytest.mark.parametrize(("turn", "answered"), [(0.3, True), (0.0, False)], ids=["", "control: the store is slow"])
async def test_long_turns_of_a_busy_loop_are_not_the_store_s(make_home, turn, answered):
    """A worker at its limit refused calls that its store had answered in time: each turn of its loop took 150 ms."""
    home = make_home()
    group, over = Group(home, patience=0.2), asyncio.Event()
    await group.open()

    async def turns():
        while not over.is_set():
            time.sleep(turn)
            await asyncio.sleep(0 if turn else 0.01)

    async def late(ops, transact=home.transact):
        for _ in range(4):  # turns that the answer takes
            await asyncio.sleep(0 if answered else 1)
        return await transact(ops)

    home.transact = late
    busy = asyncio.create_task(turns())
    try:
        if answered:
            assert isinstance(await group.ask(reserve("r:1", 10, budget())), Admitted)
        else:
            with pytest.raises(Unavailable):
                await group.ask(reserve("r:1", 10, budget()))
    finally:
        over.set()
        await busy
    await group.aclose()


async def test_a_call_that_waits_goes_before_a_backlog_that_nobody_waits_for(make_home, monkeypatch):
    """A worker that was 20 transactions behind refused calls, since their reserves queued behind what had ended."""
    monkeypatch.setattr(module, "BATCH", 4)
    home = make_home()
    group = Group(home, patience=10)
    await group.open()
    for n in range(40):
        await do(home, reserve(f"r{n}:1", 10, ONE))
    for n in range(40):
        group.send(Settle(f"r{n}:1", POSTED, 3))
    assert isinstance(await group.ask(reserve("late:1", 10, ONE)), Admitted)
    assert group.backlog == 36, "of what had ended before, one transaction was written"
    await eventually(lambda: not group.backlog)
    assert await home.rows("SELECT posted, pending FROM budget_account") == [(40 * 3, 10)]
    await group.aclose()


@pytest.mark.parametrize("bound", [2, 10**9], ids=["", "control"])
async def test_calls_wait_for_a_store_that_is_slower_than_they(make_ledger, monkeypatch, bound):
    """What waits to be written would take all memory, and each rewriting of the journal longer."""
    monkeypatch.setattr(escrow, "BEHIND", bound)
    ledger = await make_ledger(patience=30.0)
    await hold(ledger, "grant:1", 1)
    stuck, transact = asyncio.Event(), ledger.home.transact

    async def slow(ops):
        await stuck.wait()
        return await transact(ops)

    ledger.home.transact = slow
    for n in range(2):
        ledger.settle(await hold(ledger, f"r{n}:1", 1), POSTED, 1, basis="usage")
        ledger.escrow.pump()
    waiting = asyncio.create_task(hold(ledger, "r2:1", 1))
    free = asyncio.create_task(ledger.hold("r3:1", None, (), Facts("r3")))
    await asyncio.sleep(0.1)
    assert [waiting.done(), free.done()] == [bound > 2] * 2
    stuck.set()
    for one in (await waiting, await free):
        ledger.settle(one, POSTED, 1, basis="usage")
    await quiet(ledger)
    assert within(await hold(ledger, "r4:1", 1))
    await sound(ledger)


class Prompt:
    """What a call has in memory."""


@pytest.mark.parametrize("down", [Unapplied, StoreDown], ids=["", "control: perhaps it was applied"])
async def test_a_call_that_was_refused_in_an_outage_leaves_nothing_behind(make_home, down):
    """Its reserve stayed queued until the end of the outage, and with its error the frames of the call, and so its prompt."""
    home = make_home()
    group = Group(home, patience=0.5)
    await group.open()
    transact, prompts = home.transact, []

    async def away(_ops):
        raise down("away")

    async def call(n):
        prompt = Prompt()
        prompts.append(weakref.ref(prompt))
        try:
            await group.ask(reserve(f"r{n}:1", 10, ONE))
        except Unavailable:  # pytest.raises would keep its frames
            return prompt is not None
        raise AssertionError

    home.transact = away
    gc.disable()  # an error that is part of a cycle would wait for it, and it for long
    try:
        await asyncio.gather(*[call(n) for n in range(5)])
        assert not any(prompt() for prompt in prompts)
    finally:
        gc.enable()
    left = [] if down is Unapplied else [Settle] * 5
    await eventually(lambda: not group._inflight and [type(entry.op) for entry in group._queue] == left)
    home.transact = transact
    await eventually(lambda: not group.backlog)
    assert (await accounts(home)).get(ONE.id, (0, 0, 0))[:2] == (0, 0)
    await group.aclose()


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_what_is_locked_before_it_begins_was_not_applied(make_home, tmp_path):
    home = make_home()
    await home.open()
    with closing(sqlite3.connect(tmp_path / "book.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unapplied):
            await do(home, reserve("r:1", 10, ONE))
    await home.aclose()


@pytest.mark.parametrize("commits", [False, True], ids=["", "control: a commit is unknown"])
async def test_what_is_lost_before_its_commit_was_not_applied(make_home, monkeypatch, commits):
    home = make_home()
    await home.open()
    if isinstance(home, SqliteHome):

        class Lost:
            def __init__(self, db):
                self.db = db

            def __getattr__(self, name):
                return getattr(self.db, name)

            def execute(self, query, *values):
                if query.startswith("COMMIT" if commits else "BEGIN"):
                    raise sqlite3.OperationalError("disk I/O error")
                return self.db.execute(query, *values)

        home._db = Lost(home._db)
    else:

        async def lost(self, query, *values, execute=asyncpg.Connection.execute, **options):
            if query.startswith("COMMIT" if commits else "BEGIN"):
                raise ConnectionResetError
            return await execute(self, query, *values, **options)

        monkeypatch.setattr(asyncpg.Connection, "execute", lost)
    with pytest.raises(StoreDown) as raised:
        await do(home, reserve("r:1", 10, ONE))
    assert isinstance(raised.value, Unapplied) == (not commits)
    await home.aclose()
