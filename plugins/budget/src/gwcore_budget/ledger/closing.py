"""Closing the books: old rows are deleted, and their sums are carried forward, so that everything still agrees.

A hold is closed if it has ended and began long enough ago; an entry by its own time. If a worker reported such a hold
later, it would be counted twice: so the books stay open from a day before the last heartbeat of any worker not buried
(:mod:`gwcore_budget.ledger.worker`) and the oldest refusal, and :meth:`Books._spent` accepts nothing older. The store
keeps that boundary; it never applies to the last :data:`OPEN` milliseconds: a clock that was wrong once must not make
later calls free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from gwcore_budget.window import Window

DAY = 86_400_000
"""Milliseconds; longer than any call."""
OPEN = 6 * DAY
"""Milliseconds for which books are open, whatever the store says: ``retain`` is at least a week."""
ALL = 0
"""The account under which the sums of all holds are carried."""

BEGIN = (
    "UPDATE budget_retention SET due = $1, since = CASE WHEN since < $2 OR since > $3 THEN $2 ELSE since END "
    "WHERE id = 1 RETURNING id"
)
"""Also excludes others: the row stays locked until the transaction ends."""
SINCE = "SELECT since FROM budget_retention"
OLDEST = "SELECT min(at) FROM (SELECT seen AS at FROM budget_worker UNION ALL SELECT at FROM budget_refused) AS open"
HOLDS = (
    "SELECT id, accounts, coalesce(settled, 0), created FROM budget_hold "
    "WHERE created >= $1 AND created < $2 AND state <> 0 ORDER BY created LIMIT $3"
)
ENTRIES = "SELECT seq, accounts, pending, posted, at FROM budget_entry WHERE seq > $1 ORDER BY seq LIMIT $2"
CARRY = (
    "INSERT INTO budget_carried (account, pending, posted, settled) VALUES ($1,$2,$3,$4) ON CONFLICT (account) DO UPDATE SET "
    "pending = budget_carried.pending + excluded.pending, posted = budget_carried.posted + excluded.posted, "
    "settled = budget_carried.settled + excluded.settled"
)
ROLLING = "SELECT id, generation, span FROM budget_budget WHERE span LIKE 'rolling %' ORDER BY id"
KEPT = "SELECT min(created) FROM budget_hold"
CARRIED = (
    "a.pending = 0 AND coalesce(c.pending, 0) = 0 AND coalesce(c.posted, 0) = a.posted AND coalesce(c.settled, 0) = a.posted "
    "AND a.id < (SELECT max(id) FROM budget_account)"
)
"""Whether only the carried sums ``c`` are left of account ``a``. The newest id stays: SQLite would reuse it."""
GONE = ("DELETE FROM budget_account WHERE id = $1", "DELETE FROM budget_carried WHERE account = $1")
Rows = Sequence[Sequence[Any]]


class Round(NamedTuple):
    """How far closing has come.

    Attributes:
        rows: number deleted in the last transaction; ``more``: whether there may be others.
        created, seq: of the last hold and entry examined: a search from the beginning would pass all deleted rows that
            a snapshot keeps in the store.
    """

    rows: int = 0
    created: int = 0
    seq: int = 0
    more: bool = True


START = Round()


def until(now: int, retain: int, oldest: int | None) -> int:
    """The millisecond before which books may be closed. ``oldest``: the result of :data:`OLDEST`."""
    return now - retain if oldest is None else min(now - retain, oldest - DAY)


def taken_since(now: int, since: int) -> int:
    """The millisecond before which unknown holds must not have begun; ``since``: as stored."""
    return min(since, now - OPEN)


def slices(rolling: Rows, now: int, since: int, kept: int | None) -> list[tuple[str, int, int]]:
    """For each rolling window: budget, generation, and the start before which its accounts no longer count and cannot change.

    A hold moves only accounts of its own time. Holds from before the books were closed are not accepted, and those that are
    kept may still be posted or corrected.

    Args:
        rolling: rows of :data:`ROLLING`.
        now: the store's clock.
        since: as stored.
        kept: when the oldest stored hold began.
    """
    closed = min(taken_since(now, since), now if kept is None else kept)
    return [
        (budget, one, Window.parse(span).period(closed).since)
        for budget, generation, span in rolling
        for one in range(generation + 1)
    ]


def old(entries: Rows, before: int) -> Rows:
    """The entries from before ``before``. They are roughly in order of time, unless a clock was wrong."""
    return [entry for entry in entries if entry[4] < before]


def went(last: Round, holds: Rows, looked: Rows, gone: Rows, now: int) -> Round:
    """How far closing has come: ``looked`` are the entries read, ``gone`` those deleted."""
    young = any(entry[4] <= now for entry in looked) and not gone
    return Round(
        len(holds) + len(gone),
        holds[-1][3] if holds else last.created,
        looked[-1][0] if looked and not young else last.seq,
        bool(holds or (looked and not young)),
    )


def sums(holds: Rows, entries: Rows) -> list[tuple[int, ...]]:
    """The sums to carry, sorted by account: values of :data:`CARRY`."""
    found: dict[int, list[int]] = {}
    for _, accounts, settled, _ in holds:
        for account in (ALL, *orjson.loads(accounts)):
            found.setdefault(account, [0, 0, 0])[2] += settled
    for _, accounts, pending, posted, _ in entries:
        for account in orjson.loads(accounts):
            row = found.setdefault(account, [0, 0, 0])
            row[0] += pending
            row[1] += posted
    return [(account, *row) for account, row in sorted(found.items())]
