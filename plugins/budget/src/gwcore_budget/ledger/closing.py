"""Closing the books: rows of long ago are deleted, and their sums are carried forward, so that everything still agrees.

A hold is closed when it has ended and began before the day until which books are closed; an entry by its own time. What a
worker might still have to tell of such holds would be counted anew: so the books stay open since a day before the last sign
of life of whoever is not buried (:mod:`gwcore_budget.ledger.worker`), and :meth:`Books._spent` takes nothing older.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

DAY = 86_400_000
"""Milliseconds; longer than any call."""
ALL = 0
"""The account under which the sums of all holds are carried."""

BEGIN = "UPDATE budget_retention SET due = $1, since = CASE WHEN since < $2 THEN $2 ELSE since END WHERE id = 1 RETURNING since"
"""Whoever runs this is alone: the row stays locked until the transaction ends."""
OLDEST = "SELECT min(seen) FROM budget_worker"
HOLDS = "SELECT id, accounts, coalesce(settled, 0) FROM budget_hold WHERE created < $1 AND state <> 0 ORDER BY created LIMIT $2"
ENTRIES = "SELECT seq, accounts, pending, posted, at FROM budget_entry ORDER BY seq LIMIT $1"
CARRY = (
    "INSERT INTO budget_carried (account, pending, posted, settled) VALUES ($1,$2,$3,$4) ON CONFLICT (account) DO UPDATE SET "
    "pending = budget_carried.pending + excluded.pending, posted = budget_carried.posted + excluded.posted, "
    "settled = budget_carried.settled + excluded.settled"
)


def until(now: int, retain: int, oldest: int | None) -> int:
    """The millisecond before which books may be closed. ``oldest``: the last sign of life of the worker silent for longest."""
    return now - retain if oldest is None else min(now - retain, oldest - DAY)


def before(entries: Iterable[Sequence[Any]], since: int) -> list[Sequence[Any]]:
    """The first of them, as long as they are old enough: they were written in about this order."""
    found = []
    for entry in entries:
        if entry[4] >= since:
            break
        found.append(entry)
    return found


def sums(holds: Iterable[Sequence[Any]], entries: Iterable[Sequence[Any]]) -> list[tuple[int, ...]]:
    """What is carried, by account: the values of :data:`CARRY`, in the order of accounts."""
    found: dict[int, list[int]] = {}
    for _, accounts, settled in holds:
        for account in (ALL, *orjson.loads(accounts)):
            found.setdefault(account, [0, 0, 0])[2] += settled
    for _, accounts, pending, posted, _ in entries:
        for account in orjson.loads(accounts):
            row = found.setdefault(account, [0, 0, 0])
            row[0] += pending
            row[1] += posted
    return [(account, *row) for account, row in sorted(found.items())]
