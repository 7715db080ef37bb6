"""B5: every home against one model, by random operations in any order and multiplicity.

``GWCORE_EXAMPLES`` sets the number of runs of 40 steps each (the acceptance figure is 400).
"""

import asyncio
import os
import shutil
import tempfile
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from budget_kit import budget, do, reserve, spent
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gwcore.resources import Lease, Resources
from gwcore.sql import migrate
from gwcore_budget.ledger import closing
from gwcore_budget.ledger.books import Books
from gwcore_budget.ledger.closing import START
from gwcore_budget.ledger.homes import LEDGER
from gwcore_budget.ledger.ops import (
    PENDING,
    POSTED,
    REAPED,
    VOIDED,
    Admitted,
    Already,
    Bury,
    Done,
    GiveBack,
    Missing,
    Settle,
    Short,
    Shrink,
)  # fmt: skip
from gwcore_budget.ledger.postgres import PostgresHome
from gwcore_budget.ledger.sqlite import SqliteHome
from gwcore_budget.ledger.verify import verify

EXAMPLES = int(os.environ.get("GWCORE_EXAMPLES", "25"))
NAMES = ("global", "team:t", "key:k")
TABLES = ["account", "budget", "hold", "grant", "entry", "worker", "outbox", "daily", "daily_tag", "carried"]
SOON = 60_000
"""Milliseconds by which time goes on between two closings."""


@pytest.fixture(autouse=True)
def _young(monkeypatch):
    """Books are closed as if all in them were of long ago."""
    monkeypatch.setattr(closing, "OPEN", -1000 * SOON)


class Model:
    """The ledger in thirty lines: what must be true, however it is stored."""

    def __init__(self):
        self.limits = dict.fromkeys(NAMES, 1_000)
        self.posted, self.pending, self.over = (dict.fromkeys(NAMES, 0) for _ in range(3))
        self.holds = {}  # id -> [state, amount, settled, names]
        self.grants = {}  # (worker, name) -> amount
        self.burned = {}  # (worker, name) -> what still stands of it
        self.closed = set()  # ids of what was told, and is not kept

    def free(self, name):
        return self.limits[name] - self.posted[name] - self.pending[name]

    def unspent(self, name):
        return self.limits[name] - self.posted[name]

    def move(self, names, pending, posted, over=0):
        for name in names:
            self.pending[name] += pending
            self.posted[name] += posted
            self.over[name] += over

    def settle(self, hold, state, amount):
        """The expected change, or ``None``."""
        known = self.holds.get(hold)
        if known is None:
            if state == VOIDED:
                self.holds[hold] = [VOIDED, 0, 0, ()]
            return None
        was, held, settled, names = known
        final = {POSTED: amount, VOIDED: 0, REAPED: held}[state]
        if was == PENDING:
            self.move(names, -held, final, max(0, final - held))
        elif was == REAPED and state == POSTED:
            self.move(names, 0, final - settled, max(0, final - held))
        else:
            return None
        self.holds[hold] = [state, held, final, names]
        return final


class LedgerMachine(RuleBasedStateMachine):
    make = None

    @initialize()
    def begin(self):
        self.runner = asyncio.Runner()
        self.home = type(self).make()
        self.runner.run(self.home.open())
        self.model = Model()
        self.ids = {}
        self.turn = self.lives = self.closed = 0

    def do(self, op):
        return self.runner.run(do(self.home, op))

    def budgets(self, names):
        return [budget(name, self.model.limits[name]) for name in names]

    holds = st.sampled_from([f"r{n}:1" for n in range(3)])
    amounts = st.integers(0, 700)
    scopes = st.sets(st.sampled_from(NAMES), min_size=0).map(sorted)
    workers = st.sampled_from(["w1", "w2"])

    @rule(hold=holds, amount=amounts, names=scopes, least=st.none() | st.integers(0, 300))
    def reserve(self, hold, amount, names, least):
        model = self.model
        known = model.holds.get(hold)
        free = min((model.free(name) for name in names), default=amount)
        unspent = min((model.unspent(name) for name in names), default=amount)
        got = self.do(reserve(hold, amount, *self.budgets(names), least=least))
        if known is not None:
            kind = Admitted if known[0] == PENDING else Already
            assert type(got) is kind
            return
        least = amount if least is None else max(1, min(least, amount))
        fits = max(least, min(amount, unspent)) if amount else 0  # cut for what is spent, never for what is held
        if fits > free and amount:
            assert isinstance(got, Short)
            # I8: a refusal implies that some account really had less than that
            assert got.free < fits == got.need and got.posted + got.pending + fits > got.limit
            assert got.held_only == (least <= unspent)
            return
        assert isinstance(got, Admitted) and got.amount == fits
        model.holds[hold] = [PENDING, fits, None, tuple(names)]
        model.move(names, fits, 0)

    @rule(hold=holds, state=st.sampled_from([POSTED, VOIDED, REAPED]), percent=st.integers(0, 130))
    def settle(self, hold, state, percent):
        held = (self.model.holds.get(hold) or [0, 100])[1]
        amount = held * percent // 100
        unknown = hold not in self.model.holds
        expected = self.model.settle(hold, state, amount)
        got = self.do(Settle(hold, state, amount))
        if unknown:
            assert got == (Done(VOIDED, 0) if state == VOIDED else Missing(hold))
        else:
            assert type(got) is (Already if expected is None else Done)
            assert expected is None or got.amount == expected

    @rule(amount=st.integers(1, 200), names=scopes,
          ends=st.lists(st.tuples(st.sampled_from([POSTED, VOIDED, REAPED]), st.integers(0, 130)), min_size=1, max_size=3))  # fmt: skip
    def whole_life(self, amount, names, ends):
        """A hold of its own, ended more than once: what random ids seldom meet."""
        self.lives += 1
        hold = f"life{self.lives}:1"
        self.reserve(hold, amount, names, None)
        for state, percent in ends:
            self.settle(hold, state, percent)

    @rule(hold=holds, amount=amounts)
    def shrink(self, hold, amount):
        known = self.model.holds.get(hold)
        self.do(Shrink(hold, amount))
        if known and known[0] == PENDING and amount < known[1]:
            self.model.move(known[3], amount - known[1], 0)
            known[1] = amount

    @rule(name=st.sampled_from(NAMES), limit=st.integers(0, 3_000))
    def admin_changes_a_limit(self, name, limit):
        self.model.limits[name] = limit

    @rule()
    def reopen(self):
        self.runner.run(self.home.aclose())
        self.home = type(self).make()
        self.runner.run(self.home.open())

    @rule(worker=workers, amount=st.integers(1, 100), names=scopes.filter(bool), floor=st.integers(0, 500))
    def take(self, worker, amount, names, floor):
        model = self.model
        frees = [model.free(name) for name in names]
        got = self.do(reserve("take:1", amount, *self.budgets(names), worker=worker, chunk=200, floor=floor))
        if min(frees) < amount:
            assert isinstance(got, Short)
            return
        if min(frees) <= floor:
            assert got.grants == ()
            model.move(names, amount, 0)
            self.do(Settle("take:1", VOIDED))
            model.move(names, -amount, 0)
            self.forget_take()
            return
        assert [g.amount for g in got.grants] == [max(amount, min(200, free // 8)) for free in frees]
        for name, grant in zip(names, got.grants, strict=True):
            self.ids[name] = grant.account
            model.grants[worker, name] = model.grants.get((worker, name), 0) + grant.amount
            model.move([name], grant.amount, 0)

    def forget_take(self):
        """The same hold is asked for again and again: give it another name for the next time."""
        new = f"'t{os.urandom(8).hex()}:1'"
        self.runner.run(self.home.rows(f"UPDATE budget_hold SET id={new} WHERE id='take:1' RETURNING id"))

    @rule(hold=holds.map("e".__add__), worker=workers, part=st.integers(0, 100), percent=st.integers(0, 130),
          state=st.sampled_from([POSTED, VOIDED, REAPED]), names=scopes)  # fmt: skip
    def spend_a_grant(self, hold, worker, part, percent, state, names):
        model = self.model
        # a worker that was taken for dead goes on for a while within what it had
        had = {name: model.grants.get((worker, name), 0) + model.burned.get((worker, name), 0) for name in names}
        names = [name for name in names if had[name]]
        if hold in model.holds:  # told again, and of the accounts that it was told of before
            names = model.holds[hold][3]
        held = min((had.get(name, 0) for name in names), default=200) * part // 100
        amount = held * percent // 100
        ids = [self.ids[name] for name in names]
        if hold in model.closed:  # told again so late that nobody knows of it
            self.do(spent(hold, held, ids, state, amount, worker))
            return
        op = spent(hold, held, ids, state, amount, worker, now=self.young())
        if hold in model.holds:
            model.settle(hold, state, amount)
            self.do(op)
            return
        final = {POSTED: amount, VOIDED: 0, REAPED: held}[state]
        model.holds[hold] = [state, held, final, tuple(names)]
        for name in names:
            burned, had = model.burned.get((worker, name), 0), model.grants.get((worker, name), 0)
            drawn = min(final, burned)
            part = min(final - drawn, had)
            model.burned[worker, name], model.grants[worker, name] = burned - drawn, had - part
            model.move([name], -part, final - drawn, max(0, final - held))
        assert self.do(op).amount == final

    @precondition(lambda self: self.model.grants)
    @rule(which=st.integers(0, 5), percent=st.integers(0, 130), times=st.integers(1, 2))
    def give_back(self, which, percent, times):
        grants = sorted(self.model.grants)
        worker, name = one = grants[which % len(grants)]
        had = self.model.grants[one]
        amount = had * percent // 100
        self.turn += 1
        for _ in range(times):
            self.do(GiveBack(worker, ((self.ids[name], amount),), self.turn))
        self.model.grants[one] -= min(amount, had)
        self.model.move([name], -min(amount, had), 0)

    @rule(worker=workers, burn=st.booleans())
    def bury(self, worker, burn):
        self.do(Bury(worker, burn=burn))
        for name in NAMES:
            part = self.model.grants.pop((worker, name), 0)
            if part:
                self.model.move([name], -part, part if burn else 0)
                if burn:
                    self.model.burned[worker, name] = self.model.burned.get((worker, name), 0) + part

    @rule(worker=workers, name=st.sampled_from(NAMES), part=st.integers(0, 100), percent=st.integers(0, 130))
    def whole_life_of_a_grant(self, worker, name, part, percent):
        """Its worker is taken for dead, and is not."""
        self.take(worker, 100, [name], 0)
        self.bury(worker, True)
        self.lives += 1
        self.spend_a_grant(f"life{self.lives}:1", worker, part, percent, POSTED, [name])

    def young(self):
        """The millisecond of what begins behind the last closing, and before the next."""
        return time.time_ns() // 1_000_000 + (2 * self.closed + 1) * SOON

    @rule(most=st.integers(1, 5))
    def close(self, most):
        """What has ended is of long ago; a few rows at a time."""
        model, last = self.model, START
        while last.more:
            last = self.runner.run(self.home.close_books(-(2 * self.closed + 2) * SOON, most, 0, last))
        self.closed += 1
        model.closed.update(hold for hold, known in model.holds.items() if known[0] != PENDING)
        model.holds = {hold: known for hold, known in model.holds.items() if known[0] == PENDING}
        model.burned.clear()

    @rule(worker=workers, name=st.sampled_from(NAMES), part=st.integers(0, 50), percent=st.integers(0, 130))
    def told_again_behind_its_close(self, worker, name, part, percent):
        self.take(worker, 100, [name], 0)
        self.lives += 1
        for _ in range(2):
            self.spend_a_grant(f"life{self.lives}:1", worker, part, percent, POSTED, [name])
            self.close(3)

    @invariant()
    def the_store_says_what_the_model_says(self):
        if not hasattr(self, "home"):
            return
        report = self.runner.run(verify(self.home))
        assert report.problems == []
        rows = self.runner.run(self.home.rows("SELECT budget, posted, pending, excess FROM budget_account"))
        for id_, posted, pending, over in rows:
            name = id_.removesuffix(":total")
            assert (posted, pending, over) == (self.model.posted[name], self.model.pending[name], self.model.over[name])

    def teardown(self):
        if hasattr(self, "home"):
            self.runner.run(self.home.aclose())
            self.runner.close()


def migrated(url):
    """A store's tables, made."""

    async def make():
        lease = Lease(Resources())
        await migrate(lease.store(url), LEDGER)
        await lease.release()

    asyncio.run(make())


def run(machine, examples=EXAMPLES, phases=tuple(Phase)):
    config = settings(
        max_examples=examples, stateful_step_count=40, database=None,
        suppress_health_check=list(HealthCheck), print_blob=False, phases=phases,
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=config)


def sqlite_machine(tmp):
    migrated(f"sqlite:///{tmp}/empty.db")

    class Sqlite(LedgerMachine):
        @staticmethod
        def make():
            return SqliteHome(Sqlite.path, durable=False)

        def begin(self):
            Sqlite.path = Path(tempfile.mkdtemp(dir=tmp)) / "book.db"
            shutil.copy(tmp / "empty.db", Sqlite.path)
            super().begin()

        begin = initialize()(begin)

    return Sqlite


@pytest.mark.hypothesis
@pytest.mark.timeout(600)
def test_sqlite(tmp_path):
    run(sqlite_machine(tmp_path))


@pytest.mark.hypothesis
@pytest.mark.timeout(600)
def test_postgres(postgres_url):
    migrated(postgres_url)

    class Postgres(LedgerMachine):
        @staticmethod
        def make():
            return PostgresHome(postgres_url)

        def begin(self):
            async def clean():
                home = PostgresHome(postgres_url)
                await home.open()
                await home.rows("TRUNCATE " + ", ".join(f"budget_{name}" for name in TABLES))
                await home.rows("UPDATE budget_retention SET since = 0 RETURNING id")
                await home.aclose()

            asyncio.run(clean())
            super().begin()

        begin = initialize()(begin)

    run(Postgres)


def counters_one_by_one(self, op, accounts, amount):
    """NC of B6: each counter is checked and moved by itself, so an earlier one stays moved when a later one refuses."""
    for charge, account in zip(op.charges, accounts, strict=True):
        if account.posted + account.pending + amount > charge.budget.limit:
            return -1, Short(charge.budget, 0, charge.budget.limit, account.posted, account.pending, amount, 0)
        account.pending += amount
        account.changed = True
    for account in accounts:
        account.pending -= amount
    return amount, None


def settle_twice(original):
    def settle(self, op):
        hold = self.holds.get(op.hold)
        if hold is not None and hold.state == POSTED and op.state == POSTED:
            hold.state = REAPED  # an additive counter: whatever comes is applied
        return original(self, op)

    return settle


def forget_the_hold(original):
    def settle(self, op):
        if op.state == REAPED and op.hold in self.holds and self.holds[op.hold].state == PENDING:
            op = Settle(op.hold, VOIDED)  # a time-out that releases money
        return original(self, op)

    return settle


def give_back_again(self, op):
    for account, amount in op.amounts:
        self._take_grant(op.worker, account, amount, "return")
    return Done(VOIDED)


def take_what_was_closed(original):
    def spent(self, op):
        self.since = 0
        return original(self, op)

    return spent


MUTANTS = {
    "what was closed is taken again": ("_spent", take_what_was_closed(Books._spent)),
    "a grant is given back by each repeat": ("_returned", give_back_again),
    "counters one by one": ("_room", counters_one_by_one),
    "settled twice": ("_settle", settle_twice(Books._settle)),
    "time-outs release money": ("_settle", forget_the_hold(Books._settle)),
    "a burn stays beside what it was spent on": ("_drawn", lambda self, worker, account, amount: 0),
    "holds are not counted": ("_used", lambda self, charge, account: (account.posted, 0)),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MUTANTS)
def test_negative_controls(name, tmp_path, monkeypatch):
    """Each mutant must be caught."""
    method, mutant = MUTANTS[name]
    monkeypatch.setattr(Books, method, mutant)
    with pytest.raises((AssertionError, ExceptionGroup, KeyError)):
        run(sqlite_machine(tmp_path), 200, (Phase.generate,))  # found is enough: nobody reads the shortest example
