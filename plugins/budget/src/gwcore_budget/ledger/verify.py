"""``gwcore ledger verify``: checks the invariants in the store itself. Works while the gateway serves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson

from gwcore_budget.ledger.closing import ALL
from gwcore_budget.ledger.home import FOREVER, Home
from gwcore_budget.ledger.ops import PENDING, STATES
from gwcore_budget.ledger.worker import SILENT

REAP, SEND = 30_000, 300_000
"""Milliseconds within which a dead worker's lost hold must be reaped, and an outbox row sent."""
_NAMED = 5


@dataclass(slots=True)
class Report:
    """The findings. ``problems`` is empty if all is correct; ``notes``: what may be correct, but should be known."""

    accounts: int = 0
    holds: dict[str, int] = field(default_factory=dict)
    posted: int = 0
    pending: int = 0
    over: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def verify(home: Home) -> Report:
    """Check the store's own structures, I2, I3, I12, the daily sums, and that no work is overdue; I1 gives only notes.

    All sums are read in one statement, a consistent snapshot; it is repeated up to twice while it shows a problem.
    """
    if damage := await home.damage():
        return Report(problems=[f"store: {one}" for one in damage])
    report = Report()
    for _ in range(3):
        report = await _once(home)
        if not report.problems:
            break
    now = (await home.transact(())).now
    report.problems += await _overdue(home, now)
    report.notes += await _beyond(home)
    return report


async def _overdue(home: Home, now: int) -> list[str]:
    lost = await home.report(
        "SELECT id FROM budget_hold WHERE state = 0 AND expires < $1 AND NOT EXISTS "
        "(SELECT 1 FROM budget_worker WHERE budget_worker.id = budget_hold.worker AND seen >= $2) ORDER BY id",
        now - REAP, now - SILENT,
    )  # fmt: skip
    unsent = await home.report("SELECT id FROM budget_outbox WHERE created < $1 ORDER BY created, id", now - SEND)
    refused = await home.report("SELECT hold FROM budget_refused ORDER BY hold")
    told = []
    if refused:
        told.append(f"refused: the store does not take the end of {_some(refused)}: what is held for it stays held")
    if lost:
        told.append(f"I4: {_some(lost)} expired without a living worker, and no worker reaps")
    if unsent:
        told.append(f"outbox: {_some(unsent)} not sent for more than {SEND // 60_000} minutes")
    return told


async def _beyond(home: Home) -> list[str]:
    rows = await home.report("SELECT id, budget, posted, lim, excess FROM budget_account WHERE posted > lim + excess")
    return [
        f"I1: account {id_} ({budget}): posted {posted} of {limit}, excess {over}: was the limit lowered, or an increase over?"
        for id_, budget, posted, limit, over in rows
    ]


def _some(rows: list[tuple[Any, ...]]) -> str:
    """The number of rows, and the first of them by name."""
    return f"{len(rows)} ({', '.join(row[0] for row in rows[:_NAMED])}{', …' if len(rows) > _NAMED else ''})"


# summed by the store: the rows may not fit into memory, while there are few combinations of accounts
_SNAPSHOT = """
SELECT 'account', id, posted, pending, excess, 0, budget FROM budget_account
UNION ALL SELECT 'hold', state, CAST(coalesce(sum(amount), 0) AS BIGINT), CAST(coalesce(sum(settled), 0) AS BIGINT), count(*),
  CASE WHEN min(amount) < 0 OR min(settled) < 0 THEN -1 ELSE 0 END, accounts FROM budget_hold GROUP BY accounts, state
UNION ALL SELECT 'grant', account, amount, 0, 0, 0, worker FROM budget_grant
UNION ALL SELECT 'entry', 0, CAST(sum(pending) AS BIGINT), CAST(sum(posted) AS BIGINT), 0, 0, accounts FROM budget_entry GROUP BY accounts
UNION ALL SELECT 'carried', account, pending, posted, settled, 0, '' FROM budget_carried
UNION ALL SELECT 'daily', 0, CAST(coalesce(sum(spend), 0) AS BIGINT), 0, 0, 0, '' FROM budget_daily
"""


async def _once(home: Home) -> Report:
    tally = _Tally()
    for row in await home.report(_SNAPSHOT, within=FOREVER):
        tally.add(row)
    return tally.report()


@dataclass(slots=True)
class _Tally:
    """Sums of one snapshot, by account id."""

    accounts: dict[int, tuple[int, int, int, str]] = field(default_factory=dict)
    pending: Counter[int] = field(default_factory=Counter)
    posted: Counter[int] = field(default_factory=Counter)
    moved: Counter[int] = field(default_factory=Counter)
    spent: Counter[int] = field(default_factory=Counter)
    states: Counter[int] = field(default_factory=Counter)
    settled: int = 0
    daily: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, row: tuple[Any, ...]) -> None:
        """Add a row of the snapshot."""
        kind, key, first, second, third, least, text = row
        if kind == "account":
            self.accounts[key] = (first, second, third, text)
        elif kind == "hold":
            self._holds(key, first, second, third, orjson.loads(text))
            if least < 0:
                self.problems.append(f"I12: a hold of accounts {text} has a negative amount")
        elif kind == "grant":
            self.pending[key] += first
        elif kind == "entry":
            for account in orjson.loads(text):
                self.moved[account] += first
                self.spent[account] += second
        elif kind == "carried":
            self.moved[key] += first
            self.spent[key] += second
            self.posted[key] += third
        else:
            self.daily += first

    def _holds(self, state: int, amount: int, settled: int, count: int, accounts: list[int]) -> None:
        self.states[state] += count
        self.settled += settled
        for account in accounts:
            if state == PENDING:
                self.pending[account] += amount
            else:
                self.posted[account] += settled

    def report(self) -> Report:
        """The sums, and what does not agree."""
        for id_, (posted, pending, _, budget) in self.accounts.items():
            name = f"account {id_} ({budget})"
            if pending != self.pending[id_]:
                self.problems.append(f"I2: {name}: pending {pending}, holds and grants {self.pending[id_]}")
            if posted != self.posted[id_]:
                self.problems.append(f"I2: {name}: posted {posted}, holds {self.posted[id_]}")
            if (self.moved[id_], self.spent[id_]) != (pending, posted):
                moved, spent = self.moved[id_], self.spent[id_]
                self.problems.append(f"I3: {name}: entries sum to {moved} pending and {spent} posted")
            if min(posted, pending) < 0:
                self.problems.append(f"I12: {name}: a negative amount")
        settled = self.settled + self.posted[ALL]
        if settled != self.daily:
            self.problems.append(f"daily sums say {self.daily}, settled holds {settled}")
        return Report(
            accounts=len(self.accounts),
            holds={name: self.states[state] for state, name in enumerate(STATES)},
            posted=sum(row[0] for row in self.accounts.values()),
            pending=sum(row[1] for row in self.accounts.values()),
            over=sum(row[2] for row in self.accounts.values()),
            problems=self.problems,
        )
