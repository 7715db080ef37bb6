"""Escrow: spend within grants, without asking the store.

The store ensures ``posted + grants <= limit``; a worker can only spend inside its own grants. A grant is a durable part
of an account's pending money. A request is admitted if its grant on each account has enough left; it is written to the
journal before the first byte goes upstream; its outcome is written to the store later, in batches.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple

import structlog

from gwcore_budget.ledger.group import BATCH, Group
from gwcore_budget.ledger.journal import Journal
from gwcore_budget.ledger.ops import PENDING, Budget, Facts, GiveBack, Granted, Hold, Result, Spent
from gwcore_budget.window import FOREVER

_log = structlog.get_logger("gwcore")

_LEASES = 4096
BEHIND = 128
"""Batches of ended holds, unwritten by the store, from which on each new hold is asked of it, and so waits for its pace."""
IDLE = 2.0
"""Seconds after which an unused grant is returned."""


class Grant:
    """What this worker may still spend on one account."""

    __slots__ = ("account", "budget", "end", "free", "generation", "limit", "open", "recall", "used")

    def __init__(self, granted: Granted, limit: int | None) -> None:
        self.account = granted.account
        self.budget = granted.budget
        self.end = granted.end
        self.recall = granted.recall
        self.generation = granted.generation
        self.limit = limit
        self.free = granted.amount
        self.open = 0
        self.used = time.monotonic()


@dataclass(slots=True)
class Within(Hold):
    """A hold within our grants."""

    grants: Sequence[Grant] = ()


class Lease(NamedTuple):
    """The grants of a sequence of budgets, each made under its budget's present limit.

    Attributes:
        budgets: the object itself, kept alive because its ``id()`` is the key.
        until: the millisecond at which a grant ends or a limit changes.
    """

    budgets: Sequence[Budget]
    grants: Sequence[Grant]
    accounts: tuple[int, ...]
    until: int


class Escrow:
    """The grants of this worker.

    Attributes:
        open: holds of this worker that have not ended, by id, including those held in the store.
        done: holds that have ended, and are not yet sent to the store.
    """

    def __init__(self, group: Group, worker: str, journal: Journal) -> None:
        self.group = group
        self.worker = worker
        self.journal = journal
        self.grants: dict[str, Grant] = {}
        self.retired: list[Grant] = []
        self.open: dict[str, Hold] = {}
        self.done: list[Hold] = []
        self._sent: list[Spent] = []
        self._turn = 0
        self._leases: dict[int, Lease] = {}  # by id() of the budgets

    @property
    def used(self) -> bool:
        """Whether a hold is open within a grant."""
        return any(grant.open for grant in self.grants.values())

    @property
    def behind(self) -> bool:
        """Whether the store is slower than the calls: what waits for it would grow without bound."""
        return len(self._sent) >= BEHIND

    @property
    def unwritten(self) -> list[Hold]:
        """Holds that have ended and that the store may not have yet."""
        return [*chain.from_iterable(spent.holds for spent in self._sent), *self.done]

    def admit(self, hold: str, amount: int | None, budgets: Sequence[Budget], facts: Facts) -> Within | None:
        """Admit within the grants, or return ``None``. Raises ``OSError`` if the journal cannot be written."""
        now = self.group.now()
        need = amount or 0
        grants: Sequence[Grant] = ()
        accounts: tuple[int, ...] = ()
        if need:
            lease = self._leases.get(id(budgets))
            if lease is None or now >= lease.until:
                lease = self._lease(budgets, now)
                if lease is None:
                    return None
            _, grants, accounts, _ = lease
            for grant in grants:
                if grant.free < need:
                    return None
        local = Within(hold, self.worker, PENDING, amount, None, accounts, now, now, facts)
        local.grants = grants
        local.began = used = time.monotonic()
        self.journal.dispatched(local)
        for grant in grants:
            grant.free -= need
            grant.open += 1
            grant.used = used
        self.open[hold] = local
        return local

    def _lease(self, budgets: Sequence[Budget], now: int) -> Lease | None:
        """The grants for these budgets, cached until a grant is added or removed."""
        grants, until = [], FOREVER
        for budget in budgets:
            grant = self.grants.get(budget.id)
            if grant is None or now >= grant.end or grant.limit != budget.limit_at(now):
                return None
            grants.append(grant)
            until = min(until, grant.end, budget.bonus_until if now < budget.bonus_until else FOREVER)
        if len(self._leases) >= _LEASES:
            self._leases.clear()
        accounts = tuple([grant.account for grant in grants])
        lease = self._leases[id(budgets)] = Lease(budgets, grants, accounts, until)
        return lease

    def forget(self) -> None:
        """Drop all grants, because other workers have taken them."""
        self.grants.clear()
        self._leases.clear()

    def shrink(self, hold: Within, amount: int) -> bool:
        """Hold less. The rest is freed only after the journal says so: otherwise a crash could count it twice."""
        held, hold.amount = hold.amount or 0, amount
        try:
            self.journal.dispatched(hold)
        except OSError:
            hold.amount = held
            return False
        for grant in hold.grants:
            grant.free += held - amount
        return True

    def settle(self, hold: Within) -> None:
        """Free what an ended hold did not use, and queue it for the store."""
        try:
            self.journal.settled(hold)
        except OSError:
            pass  # the store will get it; after a crash before that, the worst case is posted
        unused = (hold.amount or 0) - (hold.settled or 0)
        for grant in hold.grants:
            grant.free += unused
            grant.open -= 1
        self.done.append(hold)

    def receive(self, grants: Sequence[Granted], limits: dict[str, int | None]) -> None:
        """Add grants that the store has made."""
        for granted in grants:
            grant = self.grants.get(granted.budget)
            limit = limits.get(granted.budget)
            if grant is not None and grant.account == granted.account and grant.limit == limit:
                grant.free += granted.amount
                grant.recall, grant.used = granted.recall, time.monotonic()
                continue
            if grant is not None:
                self.retired.append(grant)
            self.grants[granted.budget] = Grant(granted, limit)
            self._leases.clear()

    def pump(self) -> None:
        """Send ended holds, and return what retired grants have left."""
        while self.done:
            spent = Spent(self.worker, tuple(self.done[:BATCH]))
            del self.done[:BATCH]
            self._sent.append(spent)
            self.group.send(spent, partial(self._written, spent))
        if self.journal.grown:
            try:
                ours = [hold for hold in self.open.values() if isinstance(hold, Within)]
                self.journal.rewrite(chain(ours, self.unwritten))
            except OSError as error:
                _log.warning("journal cannot be written anew", error=type(error).__name__)
        for grant in self.retired:
            self._give_back(grant)
        self.retired = [grant for grant in self.retired if grant.open]

    def retire(self, now: int, rows: dict[str, tuple[int, int]] | None = None, *, everything: bool = False) -> None:
        """Return grants that are recalled, expired, reset or idle; ``rows``: budget → stored (recall, generation)."""
        idle = time.monotonic() - IDLE
        for budget, grant in list(self.grants.items()):
            row = rows.get(budget) if rows is not None else None
            over = now >= grant.end or (row is not None and row[1] != grant.generation)
            if everything or over or (not grant.open and grant.used < idle):
                del self.grants[budget]
                self._leases.clear()
                self.retired.append(grant)
            elif row is not None and row[0] != grant.recall:
                grant.recall = row[0]
                self._give_back(grant)
        if self.retired or everything:  # otherwise ended holds wait for the next pump, to go in one batch
            self.pump()

    def _give_back(self, grant: Grant) -> None:
        if grant.free > 0:
            self._turn += 1
            self.group.send(GiveBack(self.worker, ((grant.account, grant.free),), self._turn))
            grant.free = 0

    def _written(self, spent: Spent, _result: Result) -> None:
        self._sent.remove(spent)
