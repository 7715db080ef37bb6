"""Escrow: spend within grants, without asking.

``posted + grants <= limit`` stands in the store; a worker can only spend inside its own grants. A grant is a durable part
of an account's pending money. A request is admitted when every one of its accounts has enough of a grant left; the
journal has it before the first byte goes upstream; what came of it is written behind, in batches.
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
IDLE = 2.0
"""Seconds after which an unused grant is handed back."""


class Grant:
    """What may still be spent of one account, here."""

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
    """The grants that some budgets have, each under the limit that its budget says.

    Attributes:
        budgets: of these; the very tuple, as long as this is kept.
        until: the millisecond at which a grant is over, or a limit is another one.
    """

    budgets: Sequence[Budget]
    grants: Sequence[Grant]
    accounts: tuple[int, ...]
    until: int


class Escrow:
    """The grants of this worker.

    Attributes:
        open: holds of this worker that have not ended, by id; those that the store itself holds for it are among them.
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
    def unwritten(self) -> list[Hold]:
        """Holds that have ended, of which the store may not know."""
        return [*chain.from_iterable(spent.holds for spent in self._sent), *self.done]

    def admit(self, hold: str, amount: int | None, budgets: Sequence[Budget], facts: Facts) -> Within | None:
        """Within what is granted, or ``None``. Raises ``OSError`` when the journal cannot be written."""
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
        """Found once for these budgets, until a grant comes or goes."""
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
        """Others have taken our grants."""
        self.grants.clear()
        self._leases.clear()

    def shrink(self, hold: Within, amount: int) -> bool:
        """Hold less. Only once the journal says so is the rest free: else both would be spent, should we die."""
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
        """A hold has ended."""
        try:
            self.journal.settled(hold)
        except OSError:
            pass  # the store will have it; should we die before, the worst case is posted
        unused = (hold.amount or 0) - (hold.settled or 0)
        for grant in hold.grants:
            grant.free += unused
            grant.open -= 1
        self.done.append(hold)

    def receive(self, grants: Sequence[Granted], limits: dict[str, int | None]) -> None:
        """Grants have been taken in the store."""
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
        """Send what was settled, and what retired grants have left."""
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
        """Give back what is recalled, over, reset or idle; ``rows`` is budget → (recall, generation) in the store."""
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
        if self.retired or everything:  # else what has ended is sent in its time, and not in two halves
            self.pump()

    def _give_back(self, grant: Grant) -> None:
        if grant.free > 0:
            self._turn += 1
            self.group.send(GiveBack(self.worker, ((grant.account, grant.free),), self._turn))
            grant.free = 0

    def _written(self, spent: Spent, _result: Result) -> None:
        self._sent.remove(spent)
