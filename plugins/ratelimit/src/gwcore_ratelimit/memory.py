"""Limits of one machine: in the memory of one process, or shared by its workers."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gwcore.errors import BadConfig
from gwcore_ratelimit.gcra import (
    BUCKETS,
    REST,
    SECOND,
    TAT,
    Change,
    Charge,
    Limit,
    Reading,
    Verdict,
    reading_of,
    window_wait,
)
from gwcore_ratelimit.table import DATA, UNTIL, Lock, Row, Rows, Table

COLUMNS: Final = 56
"""Maximum workers of one machine: what fits into a row, at two bytes each."""
RETRY: Final = SECOND
"""Wait reported for a refused parallel call, because it is not known when another ends."""
_FOREVER: Final = 1 << 62
_NO_FLOORS: Final[Mapping[str, int]] = MappingProxyType({})
_SPAN: Final = BUCKETS + 1
_RING: Final = DATA + 1
"""First cell of a strict window's ring of bucket counts; the cell before it holds the newest bucket."""


_Other = tuple[int, Limit, str, int, int]
"""A charge other than an admissible GCRA one: its index, limit, key and cost, and microseconds to wait."""


def monotonic() -> int:
    """Microseconds since boot: one clock for all processes of a machine."""
    return time.monotonic_ns() // 1000


class Memory:
    """Decides in some microseconds, and waits only for the lock.

    Parallel calls are counted per worker, in its own column; a live worker holds a lock on its column's file. A dead
    worker's column is cleared when a new worker takes it, and before it would cause a refusal.

    Attributes:
        column: this worker's.
        held: places taken by its calls under parallel limits.
    """

    def __init__(
        self, folder: Path | None = None, *, clock: Callable[[], int] = monotonic, rows: int = 1 << 17
    ) -> None:
        self._now = clock
        self._folder = folder
        self._lock = Lock(folder / "lock") if folder else threading.Lock()
        self._rates = Table(rows, folder / "rates") if folder else Rows(rows)
        self._slots = Table(rows // 8, folder / "slots" if folder else None)
        self._counts = self._slots.cells.cast("B").cast("H")
        self.columns = COLUMNS if folder else 1
        self._alive: int | None = None
        self._looked = 0
        self.column = 0 if folder is None else self._take_column(folder)
        self.held = 0

    # ── deciding ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def admit(
        self,
        charges: Sequence[Charge],
        lease: str,  # noqa: ARG002 - one contract with redis
        floors: Mapping[str, int] = _NO_FLOORS,
    ) -> Verdict:
        """Apply all charges atomically, or none; ``floors`` as in :meth:`gwcore_ratelimit.redis.RedisHome.admit`."""
        if floors:
            self._raise(charges, floors)
        return self.decide(charges)

    def _raise(self, charges: Sequence[Charge], floors: Mapping[str, int]) -> None:
        for limit, key, _ in charges:
            least = floors.get(key, 0)
            if limit.gcra and least > self.lead(limit, key):
                self.seed(limit, key, (0, least, 0))

    def decide(self, charges: Sequence[Charge]) -> Verdict:
        """Synchronous :meth:`admit` without floors. Raises ``StoreDown``."""
        readings: list[Reading | None] = []
        moves: list[tuple[Row, int, int]] = []
        others: list[_Other] = []
        shadowed: tuple[int, ...] = ()
        with self._lock:
            rates = self._rates
            now = rates.now = self._now()
            for limit, key, cost in charges:
                if limit.gcra:
                    row = rates[key]
                    # in 1/amount of a microsecond; a past TAT becomes now, so that the row is in use
                    lead, ahead = row[TAT] - now, cost * limit.period
                    if lead >= 0:
                        ahead += lead * limit.amount + row[REST]
                    else:
                        row[TAT], row[REST] = now, 0
                    left = limit.full - ahead
                    if left >= 0:
                        lead, rest = divmod(ahead, limit.amount)
                        moves.append((row, now + lead, rest))
                        readings.append((left // limit.period, lead + 1 if rest else lead, 0))
                        continue
                    wait = -(left // limit.amount) if cost else 0
                else:
                    wait = self._wait(limit, key, cost, now)
                others.append((len(readings), limit, key, cost, wait))
                readings.append(None)
            if others:
                refused, worst, shadowed = _longest(others)
                if refused >= 0:
                    return Verdict(refused, worst, self._readings(charges, now), shadowed)
                for n, limit, key, cost, wait in others:
                    if not wait:
                        self._take(limit, key, cost, now)
                    readings[n] = self._read(limit, key, now)
            for moving, tat, rest in moves:
                moving[TAT] = tat
                moving[REST] = rest
        return Verdict(-1, 0, readings, shadowed)

    def _readings(self, charges: Sequence[Charge], now: int) -> list[Reading | None]:
        return [self._read(limit, key, now) for limit, key, _ in charges]

    def _read(self, limit: Limit, key: str, now: int) -> Reading:
        if not limit.period:
            return max(0, limit.amount - self._busy(self._place(key, now))), 0, 0
        if limit.gcra:
            row = self._rates[key]
            return reading_of(limit, row[TAT] - now, row[REST])
        counts = self._window(key, limit, now)
        bucket = now // limit.width
        last = max((n for n, count in enumerate(counts) if count), default=-1)
        reset = (bucket + last + 1) * limit.width - now if last >= 0 else 0
        return max(0, limit.amount - sum(counts)), reset, bucket

    # ── windows and places ───────────────────────────────────────────────────────────────────────────────────────

    def _wait(self, limit: Limit, key: str, cost: int, now: int) -> int:
        if limit.width:
            counts = self._window(key, limit, now)
            over = sum(counts) + cost > limit.amount
            return window_wait(counts, cost, limit, now, now // limit.width) if over else 0
        at = self._place(key, now)
        free = self._busy(at) < limit.amount or (self._bury(now) and self._busy(at) < limit.amount)
        return 0 if free else RETRY

    def _take(self, limit: Limit, key: str, cost: int, now: int) -> None:
        if limit.width:
            row = self._rates[key]
            row[_RING + now // limit.width % _SPAN] += cost
            row[UNTIL] = now + limit.period + 2 * limit.width
        elif not limit.period:
            self._hold(self._place(key, now), 1)

    def _window(self, key: str, limit: Limit, now: int) -> list[int]:
        """Counts of the window's buckets, oldest first, after clearing expired ones. Marks the row as in use."""
        row = self._rates[key]
        bucket, newest = now // limit.width, row[DATA]
        for gone in range(max(newest + 1, bucket - BUCKETS), bucket + 1):
            row[_RING + gone % _SPAN] = 0
        row[DATA] = max(newest, bucket)
        row[UNTIL] = max(row[UNTIL], now)
        return [row[_RING + n % _SPAN] for n in range(bucket - BUCKETS, bucket + 1)]

    # ── correcting ───────────────────────────────────────────────────────────────────────────────────────────────

    def settle(
        self,
        changes: Sequence[Change],
        lease: str = "",  # noqa: ARG002 - one contract with redis
        *,
        local: bool = False,
    ) -> None:
        """Correct earlier charges. A debt grows to at most one burst beyond the burst. Raises ``StoreDown``.

        Ignores changes of ``local`` decisions: a guard made those without this store.
        """
        if local:
            return
        with self._lock:
            rates = self._rates
            now = rates.now = self._now()
            for limit, key, more, stamp in changes:
                if limit.gcra:
                    row = rates[key]
                    lead = row[TAT] - now
                    before = lead * limit.amount + row[REST] if lead >= 0 else 0
                    ahead = before + more * limit.period
                    if more > 0:
                        ahead = min(ahead, max(before, limit.most))
                    elif ahead < 0:
                        ahead = 0
                    lead, row[REST] = divmod(ahead, limit.amount)
                    row[TAT] = now + lead
                elif limit.width:
                    self._adjust_window(limit, key, more, stamp, now)
                else:
                    self._hold(self._place(key, now), -1)

    async def look(self) -> None:
        """Raises ``StoreDown`` if the lock cannot be acquired."""
        with self._lock:
            pass

    def _adjust_window(self, limit: Limit, key: str, more: int, stamp: int, now: int) -> None:
        self._window(key, limit, now)
        row = self._rates[key]
        if more > 0:
            self._take(limit, key, more, now)
        elif stamp >= now // limit.width - BUCKETS:
            cell = _RING + stamp % _SPAN
            row[cell] = max(0, row[cell] + more)

    def seed(self, limit: Limit, key: str, reading: Reading, since: int = 0) -> None:
        """Take over another store's reading of a key and continue from it; for a rate, as it was at ``since``."""
        remaining, reset, _ = reading
        with self._lock:
            now = self._rates.now = self._now()
            if limit.gcra:
                row = self._rates[key]
                row[TAT] = (since or now) + reset
                row[REST] = 0
            elif limit.width:
                more = limit.amount - remaining - sum(self._window(key, limit, now))
                self._adjust_window(limit, key, max(0, more), 0, now)
            else:
                self._hold(self._place(key, now), 1)

    def lead(self, limit: Limit, key: str) -> int:
        """Microseconds until a key of a rate is as if never used."""
        with self._lock:
            now = self._rates.now = self._now()
            return self._read(limit, key, now)[1]

    # ── calls under way ──────────────────────────────────────────────────────────────────────────────────────────

    def _place(self, key: str, now: int) -> int:
        """Index of a key's row of places; marks it as in use."""
        self._slots.now = now
        at = self._slots.at(key)
        cells = self._slots.cells
        cells[at + UNTIL] = max(cells[at + UNTIL], now)
        return at

    def _busy(self, at: int) -> int:
        first = (at + DATA) * 4
        return sum(self._counts[first : first + self.columns])

    def _hold(self, at: int, more: int) -> None:
        cell = (at + DATA) * 4 + self.column
        self._counts[cell] += more
        self.held += more
        self._slots.cells[at + UNTIL] = _FOREVER if self._counts[cell] or self._busy(at) else 0

    def _bury(self, now: int) -> bool:
        """Clear the columns of dead workers; returns whether there was one. Checks at most ten times a second."""
        if self._folder is None or now - self._looked < SECOND // 10:
            return False
        self._looked = now
        dead = [column for column in range(COLUMNS) if column != self.column and self._dead(column)]
        for column in dead:
            self._clear(column)
        return bool(dead)

    def _dead(self, column: int) -> bool:
        assert self._folder is not None
        file = self._folder / f"worker-{column}"
        if not file.exists():
            return False
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def _take_column(self, folder: Path) -> int:
        for column in range(COLUMNS):
            descriptor = os.open(folder / f"worker-{column}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            self._alive = descriptor
            with self._lock:
                self._clear(column)
            return column
        raise BadConfig(f"ratelimit: more than {COLUMNS} workers share limits in memory; use a redis store")

    def _clear(self, column: int) -> None:
        cells, counts = self._slots.cells, self._counts
        for at in self._slots.rows():
            if counts[(at + DATA) * 4 + column]:
                counts[(at + DATA) * 4 + column] = 0
                cells[at + UNTIL] = _FOREVER if self._busy(at) else 0

    async def aclose(self) -> None:
        """Release memory, files and the column."""
        if self._alive is not None:
            with self._lock:
                self._clear(self.column)
            os.close(self._alive)
            self._alive = None
        self._counts.release()
        self._rates.close()
        self._slots.close()
        if isinstance(self._lock, Lock):
            self._lock.close()


def _longest(others: list[_Other]) -> tuple[int, int, tuple[int, ...]]:
    """Index of the charge that must wait longest (-1: none), its wait, and indices of shadow charges that must wait."""
    refused, worst = -1, 0
    for n, limit, *_, wait in others:
        if wait > worst and not limit.shadow:
            refused, worst = n, wait
    return refused, worst, tuple([n for n, limit, *_, wait in others if wait and limit.shadow])
