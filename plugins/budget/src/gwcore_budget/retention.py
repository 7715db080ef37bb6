"""How long the books are kept in full (``retain``): older rows are closed, a few at a time, by one worker.

Their totals stay: accounts, daily sums, and what ``gwcore ledger verify`` compares them with. Accounts of rolling windows are
deleted, too: each is a slice of a window, and no longer matters once that has moved on.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from gwcore_budget.ledger.clock import Clock
from gwcore_budget.ledger.closing import ROLLING, START
from gwcore_budget.ledger.home import Home

EVERY = 3_600_000
"""Milliseconds between two rounds, and after which another worker takes over a round that has stopped."""
LOOK = 600.0
"""Seconds between two checks whether a round is due, and before the first: by then a new machine has set its clock."""
MOST = 200
"""Most holds, entries, and accounts closed in one transaction."""
WINDOWS = 50
"""Rolling windows checked in one transaction."""
SHARE = 4
"""The pause after a transaction, in multiples of its duration: the store's work for calls comes first."""
_log = structlog.get_logger("gwcore.budget")


class Retention:
    """One task per worker. ``retain`` in seconds; ``now`` is the store's clock."""

    def __init__(self, retain: float, home: Home, now: Callable[[], int], counts: Counter[str]) -> None:
        self._retain = round(retain * 1000)
        self._home = home
        self._now = now
        self._counts = counts

    async def run(self) -> None:
        """Run until cancelled, or until the store's clock has jumped: only a person can say which of its times was wrong."""
        clock = Clock(wall=lambda: self._now() / 1000)
        while True:
            await asyncio.sleep(LOOK)
            _, jump = clock.look()
            if jump:
                _log.error("the store's clock has jumped: this worker closes no books until it is started anew")
                return
            try:
                if await self._ours():
                    await self.round()
            except Exception as error:  # one failed round must not end the loop
                self._counts["close_failed"] += 1
                _log.error("books could not be closed", error=type(error).__name__)

    async def _ours(self) -> bool:
        """Claim a round if one is due and not claimed yet. A ``due`` time too far in the future was set by a wrong clock."""
        claim = "UPDATE budget_retention SET due = $1 WHERE due <= $2 OR due > $3 RETURNING id"
        now = self._now()
        return bool(await self._home.rows(claim, now + EVERY, now, now + 2 * EVERY))

    async def round(self) -> int:
        """Close all that is old enough; returns the number of rows deleted. Raises ``StoreDown``, ``Conflict``."""
        total, last = 0, START
        while last.more:
            async with _unhurried():
                last = await self._home.close_books(self._retain, MOST, self._now() + EVERY, last)
                total += self._closed(last.rows)
        total += await self._slices()
        if total:
            _log.info("books closed", rows=total)
        return total

    async def _slices(self) -> int:
        """Close accounts of rolling windows, after the holds and entries that moved them."""
        total, rolling = 0, await self._home.report(ROLLING)
        for at in range(0, len(rolling), WINDOWS):
            gone = MOST
            while gone == MOST:
                async with _unhurried():
                    gone = await self._home.close_slices(rolling[at : at + WINDOWS], MOST)
                    total += self._closed(gone)
        return total

    def _closed(self, rows: int) -> int:
        self._counts["closed"] += rows
        return rows


@asynccontextmanager
async def _unhurried() -> AsyncIterator[None]:
    """Pause after the block, :data:`SHARE` times as long as it took."""
    began = time.monotonic()
    yield
    await asyncio.sleep(SHARE * (time.monotonic() - began))
