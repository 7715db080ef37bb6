"""``gwcore ledger verify``: the invariants, asked of the store itself. Works while the gateway serves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson

from gwcore_budget.ledger.home import Home

_OPEN_FOR = 90_000


@dataclass(slots=True)
class Report:
    """What was found. ``problems`` is empty where everything holds."""

    accounts: int = 0
    holds: dict[str, int] = field(default_factory=dict)
    posted: int = 0
    pending: int = 0
    over: int = 0
    problems: list[str] = field(default_factory=list)


async def verify(home: Home) -> Report:
    """Check I1–I3, I12 and the daily sums.

    Reads in one statement per table, each a consistent snapshot in itself; what a worker commits between two of them is
    read again before it is called a problem.
    """
    report = Report()
    for _ in range(3):
        report = await _once(home)
        if not report.problems:
            break
    return report


_SNAPSHOT = """
SELECT 'account', id, posted, pending, excess, coalesce(lim, -1), budget FROM budget_account
UNION ALL SELECT 'hold', state, coalesce(amount, -1), coalesce(settled, 0), expires, CASE WHEN amount IS NULL THEN 1 ELSE 0 END, accounts FROM budget_hold
UNION ALL SELECT 'grant', account, amount, 0, 0, 0, worker FROM budget_grant
UNION ALL SELECT 'entry', 0, pending, posted, 0, 0, accounts FROM budget_entry
UNION ALL SELECT 'daily', 0, spend, attempts, 0, 0, day FROM budget_daily
"""


async def _once(home: Home) -> Report:
    report = Report()
    accounts: dict[int, tuple[Any, ...]] = {}
    pending: Counter[int] = Counter()
    posted: Counter[int] = Counter()
    moved: Counter[int] = Counter()
    spent: Counter[int] = Counter()
    states: Counter[int] = Counter()
    settled = daily = 0
    for kind, a, b, c, d, e, text in await home.rows(_SNAPSHOT):
        if kind == "account":
            accounts[a] = (b, c, d, e, text)
        elif kind == "hold":
            states[a] += 1
            settled += c
            for account in orjson.loads(text):
                if a == 0:
                    pending[account] += max(0, b)
                else:
                    posted[account] += c
            if b < 0 and not e:
                report.problems.append(f"I12: a hold with amount {b}")
        elif kind == "grant":
            pending[a] += b
        elif kind == "entry":
            for account in orjson.loads(text):
                moved[account] += b
                spent[account] += c
        else:
            daily += b
    for id_, (is_posted, is_pending, over, limit, budget) in accounts.items():
        name = f"account {id_} ({budget})"
        if is_pending != pending[id_]:
            report.problems.append(f"I2: {name}: pending {is_pending}, holds and grants {pending[id_]}")
        if is_posted != posted[id_]:
            report.problems.append(f"I2: {name}: posted {is_posted}, holds {posted[id_]}")
        if (moved[id_], spent[id_]) != (is_pending, is_posted):
            report.problems.append(f"I3: {name}: entries sum to {moved[id_]} pending and {spent[id_]} posted")
        if is_posted < 0 or is_pending < 0:
            report.problems.append(f"I12: {name}: a negative amount")
        report.posted, report.pending, report.over = (
            report.posted + is_posted,
            report.pending + is_pending,
            report.over + over,
        )
    if settled != daily:
        report.problems.append(f"daily sums say {daily}, settled holds {settled}")
    report.accounts = len(accounts)
    report.holds = {name: states[state] for state, name in enumerate(("pending", "posted", "voided", "reaped"))}
    return report
