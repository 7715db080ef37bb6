"""The algorithm: operations applied to the rows of one transaction, in memory. Both homes load, apply, write.

A home locks every budget that a batch touches and loads the rows; :meth:`Books.apply` changes them, atomically for all
accounts of an operation; the home writes the changes and commits. So there is one algorithm, and a batch takes a
constant number of statements.

Invariants (``gwcore ledger verify`` checks I1 to I3 in the store)::

    I1  posted + pending <= limit + over          unless the limit was lowered, or a temporary increase ended
    I2  pending = sum of PENDING holds + grants   posted = sum of settled
    I3  sums of the entries = the account
    I6  all accounts of a hold move together
    I7  a repeat changes nothing
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from gwcore_budget.ledger.clock import UNOPENED
from gwcore_budget.ledger.ops import (
    NOTHING_METERED,
    PENDING,
    POSTED,
    REAPED,
    VOIDED,
    Admitted,
    Already,
    Budget,
    Bury,
    Charge,
    ClockJump,
    Done,
    Dropped,
    Event,
    Facts,
    GiveBack,
    Granted,
    Hold,
    Metered,
    Missing,
    Op,
    Recall,
    Reserve,
    Reset,
    Result,
    Settle,
    Short,
    Shrink,
    Spent,
    Stale,
    burn_id,
    done,
    ids_text,
)
from gwcore_budget.ledger.refused import fewer
from gwcore_budget.ledger.telling import LIMIT_KNOWN, LIMIT_TOLD, SOFT_KNOWN, SOFT_TOLD, still_told

_KIND = {POSTED: "post", VOIDED: "void", REAPED: "reap"}


@dataclass(slots=True)
class BudgetRow:
    """A budget's row; its money is in its accounts."""

    id: str
    generation: int = 0
    recall: int = 0
    changed: bool = False


@dataclass(slots=True)
class Account:
    """One budget in one period and generation."""

    id: int
    budget: str
    generation: int
    start: int
    posted: int = 0
    pending: int = 0
    over: int = 0
    lim: int | None = None
    soft: int | None = None
    told: int = 0
    changed: bool = False


Entry = tuple[str, str, str, int, int, int]
"""A row of ``budget_entry``: ``hold``, ``accounts``, ``kind``, changes of ``pending`` and ``posted``, ``at``."""


@dataclass(slots=True)
class Books:
    """The rows of one transaction.

    Attributes:
        now: the store's clock. ``jump``: seconds by which it has jumped, so that no new period may open; 0: none.
        since: unknown holds that began earlier are not accepted: the store may have closed them.
        accounts: by id. ``current``: by (budget, start) in the budget's current generation.
        grants: (worker, account) → nano-USD; a 0 is deleted. ``turns``: → ``turn`` of the last :class:`GiveBack`.
    """

    now: int
    jump: float = 0.0
    since: int = 0
    budgets: dict[str, BudgetRow] = field(default_factory=dict)
    accounts: dict[int, Account] = field(default_factory=dict)
    current: dict[tuple[str, int], Account] = field(default_factory=dict)
    slices: dict[str, list[Account]] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    grants: dict[tuple[str, int], int] = field(default_factory=dict)
    turns: dict[tuple[str, int], int] = field(default_factory=dict)
    granted: set[tuple[str, int]] = field(default_factory=set)
    entries: list[Entry] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    turnover: list[tuple[Hold, int, int, int, Metered]] = field(default_factory=list)
    """For daily sums and outbox: (hold, state, change of spend, attempts (correction, burn: 0), metered before)."""

    def grant_row(self, key: tuple[str, int]) -> tuple[str, int, int, int]:
        """The row of a grant."""
        return (*key, self.grants.get(key, 0), self.turns.get(key, 0))

    def apply(self, op: Op) -> Result:
        """Apply one operation. Never raises, whatever the rows contain."""
        if isinstance(op, Spent):
            return self._spent(op)
        if isinstance(op, Reserve):
            return self._reserve(op)
        return self._change(op)

    def _change(self, op: Settle | Shrink | GiveBack | Bury | Reset | Recall) -> Result:
        match op:
            case Settle():
                return self._settle(op)
            case Shrink():
                return self._shrink(op)
            case GiveBack():
                return self._returned(op)
            case Bury():
                return self._bury(op)
            case Reset():
                return self._reset(op)
            case Recall():
                return self._recall(op)

    # ── reserve ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _reserve(self, op: Reserve) -> Result:
        hindered = self._hindered(op)
        if hindered is not None:
            return hindered
        accounts = [self.current[charge.budget.id, charge.period.start] for charge in op.charges]
        if any(account.id == UNOPENED for account in accounts):
            return ClockJump(self.jump)
        amount = op.amount
        if amount:
            amount, short = self._room(op, accounts, amount)
            if short is not None:
                self._refused(op, accounts, short)
                return short
        for charge, account in zip(op.charges, accounts, strict=True):
            self._note(charge, account)
        # a cut amount leaves nothing to grant; an abandoned reserve still takes one: a slow store gives none in time
        if op.chunk and amount and amount == op.amount and (grants := self._grant(op, accounts, amount)):
            return Admitted(amount, grants=grants, now=self.now)
        return Dropped() if op.abandoned else self._hold(op, accounts, amount)

    def _hindered(self, op: Reserve) -> Result | None:
        """The result, if it does not depend on amounts."""
        known = self.holds.get(op.hold)
        if op.abandoned and known is None and not op.chunk:
            return Dropped()
        if known is not None:  # abandoned or not: the caller that gave up voids the hold
            if known.state == PENDING:
                return Admitted(known.amount, known.accounts, now=self.now)
            return Already(known.state, known.settled)
        if any(not charge.period.start <= self.now < charge.period.end for charge in op.charges):
            return Stale(self.now)
        return None

    def _hold(self, op: Reserve, accounts: list[Account], amount: int | None) -> Result:
        ids = tuple(account.id for account in accounts)
        held = amount or 0
        if held:
            for account in accounts:
                account.pending += held
                account.changed = True
        self.holds[op.hold] = Hold(
            op.hold, op.worker, PENDING, amount, None, ids, self.now, self.now + op.expires, op.facts, new=True
        )
        self._enter(op.hold, ids, "hold", held, 0)
        return Admitted(amount, ids, now=self.now)

    def _used(self, charge: Charge, account: Account) -> tuple[int, int]:
        """Posted and pending that count against the limit now."""
        if not charge.budget.window.rolling:
            return account.posted, account.pending
        since = charge.period.since
        counted = [one for one in self.slices[charge.budget.id] if one.start >= since]
        return sum(one.posted for one in counted), sum(one.pending for one in counted)

    def _room(self, op: Reserve, accounts: list[Account], amount: int) -> tuple[int, Short | None]:
        """The amount to hold, and the refusal if an account has less free.

        The amount is cut, down to ``op.least``, for what is spent, but not for what others hold, which may be freed. If
        several budgets refuse, one that is spent takes precedence over one that is held: only the former is final.
        """
        used = []
        most = amount
        for charge, account in zip(op.charges, accounts, strict=True):
            limit = charge.budget.limit_at(self.now)
            if limit is not None:
                posted, pending = self._used(charge, account)
                used.append((charge, account, limit, posted, pending))
                most = min(most, limit - posted)
        least = amount if op.least is None else max(1, min(op.least, amount))
        need = max(most, least)
        short: Short | None = None
        for charge, account, limit, posted, pending in used:
            free = limit - posted - pending
            if free < need and (
                short is None or (posted + need > limit, -free) > (short.posted + need > short.limit, -short.free)
            ):
                resets = self._frees(charge, account, posted + need - limit)
                short = Short(charge.budget, max(0, free), limit, posted, pending, need, resets, self.now)
        return need, short

    def _frees(self, charge: Charge, account: Account, excess: int) -> int:
        """The millisecond from which enough of the posted amount no longer counts."""
        window = charge.budget.window
        if not window.rolling:
            return charge.period.end
        width, gone = charge.period.end - charge.period.start, 0
        for one in sorted(self.slices[charge.budget.id], key=lambda a: a.start):
            if one.start >= charge.period.since:
                gone += one.posted
                if gone >= excess:
                    return one.start + width + window.length
        return account.start + width + window.length

    def _note(self, charge: Charge, account: Account) -> None:
        """Store the budget's present limits in the account."""
        budget = charge.budget
        limit = budget.limit_at(self.now)
        if account.lim != limit or account.soft != budget.soft:
            if not budget.window.rolling:
                account.told = still_told(account.told, (account.soft, account.lim), (budget.soft, limit))
            account.lim, account.soft, account.changed = limit, budget.soft, True
        if budget.window.rolling:
            self._rolled(budget, account, self._used(charge, account)[0])

    def _rolled(self, budget: Budget, account: Account, posted: int) -> None:
        """Send events for the sum of a rolling window's slices, once per window; :meth:`_crossed`: of one account."""
        for mark, known, topic, line in (
            (SOFT_TOLD, SOFT_KNOWN, "budget.soft", budget.soft),
            (LIMIT_TOLD, LIMIT_KNOWN, "budget.exceeded", budget.limit_at(self.now)),
        ):
            if any(one.told & mark for one in self.slices[budget.id]):
                if not account.told & known:
                    account.told, account.changed = account.told | known - mark, True
            elif line is not None and posted >= line:
                self._tell(account, mark, topic, posted)

    def _refused(self, op: Reserve, accounts: list[Account], short: Short) -> None:
        """Send ``budget.exceeded`` if too little is left for calls; with over half left, only the call is too large."""
        for charge, account in zip(op.charges, accounts, strict=True):
            self._note(charge, account)
            final = charge.budget is short.budget and not short.held_only and 2 * short.posted >= short.limit > 0
            if final and not account.told & LIMIT_KNOWN:
                self._tell(account, LIMIT_TOLD, "budget.exceeded", short.posted)

    def _grant(self, op: Reserve, accounts: list[Account], amount: int) -> tuple[Granted, ...]:
        frees = []
        for charge, account in zip(op.charges, accounts, strict=True):
            limit = charge.budget.limit_at(self.now)
            posted, pending = self._used(charge, account)
            # a budget without a limit grants a whole chunk
            frees.append(8 * op.chunk if limit is None else limit - posted - pending)
        if any(free <= op.floor for free in frees):
            return ()
        made = []
        for charge, account, free in zip(op.charges, accounts, frees, strict=True):
            size = max(amount, min(op.chunk, free // 8))
            account.pending += size
            account.changed = True
            key = (op.worker, account.id)
            self.grants[key] = self.grants.get(key, 0) + size
            self.granted.add(key)
            self._enter(f"grant:{op.worker}", (account.id,), "grant", size, 0)
            row = self.budgets[charge.budget.id]
            made.append(Granted(row.id, account.id, size, charge.period.end, row.recall, row.generation))
        return tuple(made)

    # ── settle ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _settle(self, op: Settle) -> Result:
        hold = self.holds.get(op.hold)
        if hold is None:
            if op.state != VOIDED:
                return Missing(op.hold)
            # a tombstone: a reserve that is still under way must not be admitted after this
            self.holds[op.hold] = Hold(
                op.hold, op.worker, VOIDED, 0, 0, (), self.now, self.now, Facts(op.hold), "abandoned", ended=self.now,
                new=True,
            )  # fmt: skip
            return Done(VOIDED, 0)
        correction = hold.state == REAPED and op.state == POSTED
        if hold.state != PENDING and not correction:
            again = hold.settled or 0 if op.state != VOIDED else 0
            return Already(hold.state, hold.settled, conflict=hold.state != op.state or op.amount != again)
        if correction and hold.new:
            # copy the worker's own object: a failed transaction is repeated with the hold as it was
            hold = self.holds[op.hold] = replace(hold)
        held, metered = hold.amount or 0, hold.metered
        before = hold.settled or 0 if correction else 0
        hold.end(op.state, op.amount, op.basis, op.metered)
        hold.ended, hold.changed = self.now, True
        if op.less:
            hold.facts = fewer(hold.facts, op.less)
        final = hold.settled or 0
        pending, posted = (0 if correction else -held), final - before
        # a correction after a reap counts what the reap under-estimated, once
        self._move(hold.accounts, pending, posted, hold.over)
        self._enter(op.hold, hold.accounts, _KIND[op.state], pending, posted)
        self.turnover.append((hold, op.state, posted, 0 if correction else 1, metered))
        return done(hold)

    def _enter(self, hold: str, accounts: tuple[int, ...], kind: str, pending: int, posted: int) -> None:
        self.entries.append((hold, ids_text(accounts), kind, pending, posted, self.now))

    def _move(self, accounts: Iterable[int], pending: int, posted: int, over: int) -> None:
        for id_ in accounts:
            account = self.accounts[id_]
            account.pending += pending
            account.posted += posted
            account.over += over
            account.changed = True
            self._crossed(account)

    def _crossed(self, account: Account) -> None:
        if account.soft is not None and account.posted >= account.soft and not account.told & SOFT_KNOWN:
            self._tell(account, SOFT_TOLD, "budget.soft", account.posted)
        if account.lim is not None and account.posted >= account.lim and not account.told & LIMIT_KNOWN:
            self._tell(account, LIMIT_TOLD, "budget.exceeded", account.posted)

    def _tell(self, account: Account, mark: int, topic: str, posted: int) -> None:
        account.told |= mark
        account.changed = True
        body = {"budget": account.budget, "posted": posted, "limit": account.lim, "soft": account.soft}
        line = account.soft if mark == SOFT_TOLD else account.lim
        self.events.append(Event(f"{topic}:{account.id}:{line}", topic, body))

    def _shrink(self, op: Shrink) -> Result:
        hold = self.holds.get(op.hold)
        if hold is None:
            return Missing(op.hold)
        if hold.state != PENDING or hold.amount is None or op.amount >= hold.amount:
            return Already(hold.state, hold.amount)
        less = hold.amount - op.amount
        self._move(hold.accounts, -less, 0, 0)
        self._enter(op.hold, hold.accounts, "shrink", -less, 0)
        hold.amount, hold.changed = op.amount, True
        return Done(PENDING, op.amount)

    # ── escrow ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_grant(self, worker: str, account: int, amount: int, kind: str) -> int:
        """Lower a grant by up to ``amount``; returns by how much."""
        key = (worker, account)
        part = min(amount, self.grants.get(key, 0))
        if part:
            self.grants[key] -= part
            self.granted.add(key)
            row = self.accounts[account]
            row.pending -= part
            row.changed = True
            if kind:
                self._enter(f"grant:{worker}", (account,), kind, -part, 0)
        return part

    def _spent(self, op: Spent) -> Result:
        """Book the holds. Returns the result of one of them: of the only one, if there is only one."""
        fresh: defaultdict[tuple[int, ...], list[Hold]] = defaultdict(list)
        result: Result = Done(VOIDED)
        ours, now = self.holds, self.now
        for hold in op.holds:
            known = ours.get(hold.id)
            if known is not None:
                result = self._again(hold, known)
                continue
            if hold.created < self.since:
                if not op.found:
                    self._late(hold)
                continue
            ours[hold.id] = hold
            hold.new, hold.ended = True, now
            fresh[hold.accounts].append(hold)
        for accounts, holds in fresh.items():
            self._spend(op.worker, accounts, holds)
            result = done(holds[-1])
        return result

    def _late(self, hold: Hold) -> None:
        """Report a hold that was booked and closed before, or was part of a burn; the books do not change."""
        self.events.append(Event(f"late:{hold.id}", "budget.late", {"hold": hold.id, "settled": hold.settled}))

    def _again(self, hold: Hold, known: Hold) -> Result:
        """Book a hold that the store already has, by the state machine of holds."""
        if known.state not in {PENDING, REAPED}:
            return Already(known.state, known.settled)
        return self._settle(Settle(hold.id, hold.state, hold.settled or 0, hold.basis, hold.metered))

    def _spend(self, worker: str, accounts: tuple[int, ...], holds: Sequence[Hold]) -> None:
        """Post holds of the same accounts, out of the worker's grants."""
        total = sum([hold.settled or 0 for hold in holds])
        if len(holds) > 1 and any(
            self.grants.get((worker, id_), 0) < total or burn_id(worker, id_) in self.holds for id_ in accounts
        ):
            # a grant is too small, or was burned: one by one, so that each entry has its own hold's amounts
            for hold in holds:
                self._spend(worker, accounts, (hold,))
            return
        parts = [self._take_grant(worker, id_, total - self._drawn(worker, id_, total), "") for id_ in accounts]
        self._move(accounts, 0, total, sum([hold.over for hold in holds]))
        now = self.now
        if parts == [total] * len(accounts):
            ids = ids_text(accounts)
            if accounts:
                self.entries += [
                    (one.id, ids, _KIND[one.state], -(one.settled or 0), one.settled or 0, now) for one in holds
                ]
        else:  # one hold, and an entry for each amount that its grants could bear
            for part in set(parts):
                borne = tuple([id_ for id_, taken in zip(accounts, parts, strict=True) if taken == part])
                self._enter(holds[0].id, borne, _KIND[holds[0].state], -part, holds[0].settled or 0)
        self.turnover += [(hold, hold.state, hold.settled or 0, 1, NOTHING_METERED) for hold in holds]

    def _drawn(self, worker: str, account: int, amount: int) -> int:
        """Take up to ``amount`` out of the burn of the worker's grant; returns how much.

        A burn assumes that the whole grant was spent: what its worker reports later was part of it.
        """
        burn = self.holds.get(burn_id(worker, account))
        if burn is None or burn.state != REAPED or not (part := min(amount, burn.settled or 0)):
            return 0
        self._burned(replace(burn, settled=(burn.settled or 0) - part), "drawn", 0, -part)
        return part

    def _burned(self, burn: Hold, kind: str, pending: int, posted: int) -> None:
        burn.changed = True
        self.holds[burn.id] = burn
        self._move(burn.accounts, 0, posted, 0)
        self._enter(burn.id, burn.accounts, kind, pending, posted)
        self.turnover.append((burn, REAPED, posted, 0, NOTHING_METERED))

    def _bury(self, op: Bury) -> Result:
        lost = 0
        for (worker, id_), amount in list(self.grants.items()):
            if worker != op.worker or not amount:
                continue
            if not op.burn:
                self._take_grant(worker, id_, amount, "return")
                continue
            lost += self._take_grant(worker, id_, amount, "")
            name = burn_id(worker, id_)
            before = self.holds.get(name)
            burn = Hold(
                name, worker, REAPED, amount, amount, (id_,), self.now, self.now, Facts(name), "journal lost",
                ended=self.now, new=True,
            )  # fmt: skip
            if before is not None:  # the worker had come back, and was lost again
                had, stands = before.amount or 0, before.settled or 0
                burn = replace(before, state=REAPED, amount=had + amount, settled=stands + amount)
            self._burned(burn, "burn", -amount, amount)
        return Done(REAPED if op.burn else VOIDED, lost)

    def _returned(self, op: GiveBack) -> Result:
        for account, amount in op.amounts:
            if op.turn > self.turns.get((op.worker, account), 0):
                self.turns[op.worker, account] = op.turn
                self._take_grant(op.worker, account, amount, "return")
        return Done(VOIDED)

    def _recall(self, op: Recall) -> Result:
        for budget in op.budgets:
            if row := self.budgets.get(budget):
                row.recall, row.changed = row.recall + 1, True
        return Done(VOIDED)

    def _reset(self, op: Reset) -> Result:
        row = self.budgets.get(op.budget)
        if row is None:
            return Missing(op.budget)
        row.generation += 1
        row.changed = True
        return Done(VOIDED, row.generation)
