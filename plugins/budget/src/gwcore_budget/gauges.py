"""For ``/metrics``: counts of events, and what is left of the budgets nearest to their limits, read periodically.

Rolling windows are not shown: what counts in them changes from slice to slice.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator

from sqlalchemy import and_, false, func, or_, select

from gwcore.errors import StoreUnavailable
from gwcore.ports import Sample
from gwcore.resources import Store
from gwcore.sql import reading
from gwcore.units import DOLLAR
from gwcore_budget.ledger.schema import account, budget
from gwcore_budget.window import FOREVER, Window

EVERY = 10.0
"""Seconds between two reads."""
MOST = 200
"""Most budgets shown, those with the largest share spent first."""


EVENTS = (
    "exceeded", "reserved", "clamped", "tightened", "reaped", "underestimates", "store_unavailable", "unmetered",
    "unpriced_denied", "partly_unpriced", "unknown_plan", "drained", "drains_refused", "budget.soft", "budget.exceeded",
    "exported", "export_failed", "closed", "close_failed", "budget.late", "budget.lessened", "budget.refused",
)  # fmt: skip
"""Events counted; each is shown from the start, because a counter that first appears as 1 shows no increase."""


class Tally:
    """State that survives a reload of the stack file.

    Attributes:
        counts: :data:`EVENTS` so far, of this process.
        factors: model → numerator and denominator by which its worst cases are scaled, because they were too low.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.factors: dict[str, tuple[int, int]] = {}

    async def aclose(self) -> None:
        """Nothing is open."""

    def samples(self) -> Iterator[Sample]:
        """One counter, by event."""
        for event in EVENTS:
            yield Sample(
                "gwcore_budget_events",
                self.counts[event],
                {"event": event},
                "Budget events by type, such as exceeded, clamped or underestimates.",
                kind="counter",
            )


Binding = Callable[[str, Collection[str]], Awaitable[Collection[str] | None]]
"""A scope and ids of it → ids of the budgets that they have now; ``None`` if unknown."""


class Gauges:
    """What the last read found."""

    def __init__(self, store: Store, binding: Binding) -> None:
        self._store = store
        self._binding = binding
        self._found: list[tuple[dict[str, str], tuple[int | None, int | None], int, int]] = []

    async def looking(self) -> None:
        """Read until cancelled. While the store does not answer, the last values stay."""
        while True:
            try:
                await self.look()
            except StoreUnavailable:
                pass
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """Read the running periods."""
        now = int(time.time() * 1000)
        async with reading(self._store) as sql:
            windows = (await sql.execute(select(budget.c.span, budget.c.zone).distinct())).all()
            ends, running, starts = {}, [], set()
            for span, zone in windows:
                window = Window.parse(span, zone)
                if not window.rolling:
                    start, ends[span, zone], _ = window.period(now)
                    starts.add(start)
                    running.append(and_(budget.c.span == span, budget.c.zone == zone, account.c.start == start))
            query = (
                select(budget.c.id, budget.c.scope, budget.c.scope_id, budget.c.span, budget.c.zone)
                .add_columns(account.c.lim, account.c.soft, account.c.posted)
                .join(account, and_(account.c.budget == budget.c.id, account.c.generation == budget.c.generation))
                # first by start, which excludes all past periods: they are many more than the running ones
                .where(account.c.start.in_(starts))
                .where(or_(account.c.lim > 0, account.c.soft >= 0), or_(false(), *running))
                .order_by((account.c.posted / (func.coalesce(account.c.lim, account.c.soft) / 1000 + 1)).desc())
                .limit(10 * MOST)
            )
            rows = (await sql.execute(query)).all()
        found, bound = [], await self._bound([(row.scope, row.scope_id) for row in rows])
        for id_, scope, scope_id, span, zone, limit, soft, posted in rows:
            if scope not in bound or id_ in bound[scope]:
                labels = {"scope": scope, "id": scope_id, "window": span}
                found.append((labels, (limit or None, soft), int(posted), ends[span, zone]))
        self._found = found[:MOST]

    async def _bound(self, whose: list[tuple[str, str]]) -> dict[str, Collection[str]]:
        """By scope, the budgets still configured: not those of deleted keys, or of earlier windows."""
        ids: dict[str, set[str]] = {}
        for scope, id_ in whose:
            ids.setdefault(scope, set()).add(id_)
        found = {scope: await self._binding(scope, some) for scope, some in ids.items()}
        return {scope: budgets for scope, budgets in found.items() if budgets is not None}

    def samples(self) -> Iterator[Sample]:
        """Dollars left and allowed, and when the period ends. All workers show the same: the latest value counts."""
        now = time.time() * 1000
        for labels, (limit, soft), posted, end in self._found:
            if limit is not None:
                left = (limit - posted) / DOLLAR
                yield Sample(
                    "gwcore_budget_remaining_usd",
                    left,
                    labels,
                    "Dollars left in the period, reservations not subtracted; below 0: overspent.",
                    merge="recent",
                )
                yield Sample(
                    "gwcore_budget_limit_usd",
                    limit / DOLLAR,
                    labels,
                    "Limit of the budget in dollars per period.",
                    merge="recent",
                )
            if soft is not None:
                left = (soft - posted) / DOLLAR
                help_ = "Dollars left until the soft limit; below 0: exceeded."
                yield Sample("gwcore_budget_soft_remaining_usd", left, labels, help_, merge="recent")
            if end < FOREVER:
                seconds = max(0.0, (end - now) / 1000)
                yield Sample(
                    "gwcore_budget_resets_seconds",
                    seconds,
                    labels,
                    "Seconds until the budget's period ends.",
                    merge="recent",
                )
