"""The limits of one machine: in memory of one process, or shared by its workers."""

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
from gwcore_ratelimit.gcra import BUCKETS, PARALLEL, SECOND, Charge, Limit, Reading, Verdict, reading_of, window_wait
from gwcore_ratelimit.table import DATA, UNTIL, Lock, Table

COLUMNS: Final = 56
"""Most workers of one machine: what fits into a row, at two bytes each."""
RETRY: Final = SECOND
"""What a refused parallel call is told to wait: when another will end is not known."""
_FOREVER: Final = 1 << 62
_NO_FLOORS: Final[Mapping[str, int]] = MappingProxyType({})
_SPAN: Final = BUCKETS + 1


def monotonic() -> int:
    """Microseconds since boot: one clock for all processes of a machine."""
    return time.monotonic_ns() // 1000


class Memory:
    """Decides in some microseconds, without waiting for anything but the lock.

    Calls under way are counted per worker, in a column of its own; a worker shows that it lives by a lock on its
    column's file. The columns of the dead are cleared when one starts, and when they would make a call be refused.

    Attributes:
        column: which of the workers this one is.
        held: its calls under way.
    """

    def __init__(
        self, folder: Path | None = None, *, clock: Callable[[], int] = monotonic, rows: int = 1 << 17
    ) -> None:
        self._now = clock
        self._folder = folder
        self._lock = Lock(folder / "lock") if folder else threading.Lock()
        self._rates = Table(rows, folder / "rates" if folder else None)
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
        """All charges in one step, or none; ``floors`` as of :meth:`gwcore_ratelimit.redis.RedisHome.admit`."""
        if floors:
            self._raise(charges, floors)
        return self.decide(charges)

    def _raise(self, charges: Sequence[Charge], floors: Mapping[str, int]) -> None:
        for charge in charges:
            least = floors.get(charge.key, 0)
            if least > self.lead(charge.limit, charge.key) and not charge.limit.width:
                self.seed(charge, Reading(0, least))

    def decide(self, charges: Sequence[Charge]) -> Verdict:
        """As :meth:`admit`, at once. Raises ``StoreDown``."""
        with self._lock:
            now = self._now()
            refused, worst = -1, 0
            shadowed: tuple[int, ...] = ()
            looks = [self._look(charge, now) for charge in charges]
            for index, (limit, _, _, wait) in enumerate(looks):
                if wait <= 0:
                    continue
                if limit.shadow:
                    shadowed = (*shadowed, index)
                elif wait > worst:
                    refused, worst = index, wait
            readings: list[Reading | None] = []
            for limit, at, state, wait in looks:
                if refused < 0 and wait <= 0:
                    self._move(at, state, limit, now)
                readings.append(self._read(limit, at, now))
        return Verdict(refused, worst, readings, shadowed)

    def _look(self, charge: Charge, now: int) -> tuple[Limit, int, int, int]:
        """The limit, its row, the state after the charge, and how long to wait for it."""
        limit, key, cost = charge
        if limit.kind == PARALLEL:
            at = self._slots.row(key, now)
            if self._busy(at) < limit.amount:
                return limit, at, 1, 0
            return limit, at, 0, 0 if self._bury(now) and self._busy(at) < limit.amount else RETRY
        at = self._rates.row(key, now)
        if limit.width:
            counts = self._window(at, limit, now)
            over = sum(counts) + cost > limit.amount
            return limit, at, cost, window_wait(counts, cost, limit, now, now // limit.width) if over else 0
        cells, amount = self._rates.cells, limit.amount
        now *= amount
        tat = cells[at + DATA] * amount + cells[at + DATA + 1]
        tat = max(tat, now) + cost * limit.period
        excess = tat - limit.burst * limit.period - now
        return limit, at, tat, -(-excess // amount) if excess > 0 and cost else 0

    def _move(self, at: int, state: int, limit: Limit, now: int) -> None:
        cells = self._rates.cells
        if limit.kind == PARALLEL:
            self._hold(at, 1)
        elif limit.width:
            cells[at + DATA + 1 + now // limit.width % _SPAN] += state
            cells[at + UNTIL] = now + limit.period + 2 * limit.width
        else:
            whole, cells[at + DATA + 1] = divmod(state, limit.amount)
            cells[at + DATA] = whole
            cells[at + UNTIL] = whole + 1

    def _read(self, limit: Limit, at: int, now: int) -> Reading:
        if limit.kind == PARALLEL:
            return Reading(max(0, limit.amount - self._busy(at)), 0)
        cells = self._rates.cells
        if limit.width:
            counts = self._window(at, limit, now)
            bucket = now // limit.width
            last = max((n for n, count in enumerate(counts) if count), default=-1)
            reset = (bucket + last + 1) * limit.width - now if last >= 0 else 0
            return Reading(max(0, limit.amount - sum(counts)), reset, bucket)
        return reading_of(limit, (cells[at + DATA] - now) * limit.amount + cells[at + DATA + 1])

    def _window(self, at: int, limit: Limit, now: int) -> list[int]:
        """Counts of the buckets of the window, oldest first, after those that have left are forgotten."""
        cells, ring, bucket = self._rates.cells, at + DATA + 1, now // limit.width
        newest = cells[at + DATA]
        for gone in range(max(newest + 1, bucket - BUCKETS), bucket + 1):
            cells[ring + gone % _SPAN] = 0
        cells[at + DATA] = max(newest, bucket)
        return [cells[ring + n % _SPAN] for n in range(bucket - BUCKETS, bucket + 1)]

    # ── correcting ───────────────────────────────────────────────────────────────────────────────────────────────

    def settle(
        self,
        charges: Sequence[Charge],
        stamps: Sequence[int],
        lease: str = "",  # noqa: ARG002 - one contract with redis
        *,
        local: bool = True,  # noqa: ARG002 - and with its guard
    ) -> None:
        """Correct what was charged: ``cost`` is the difference, negative for a refund; of ``parallel``, the end.

        A debt grows to one burst beyond the burst and no further. Raises ``StoreDown``.
        """
        with self._lock:
            now = self._now()
            for (limit, key, more), stamp in zip(charges, stamps, strict=True):
                if limit.kind == PARALLEL:
                    self._hold(self._slots.row(key, now), -1)
                elif limit.width:
                    self._adjust_window(self._rates.row(key, now), limit, more, stamp, now)
                elif more:
                    self._adjust(self._rates.row(key, now), limit, more, now)

    def _adjust(self, at: int, limit: Limit, more: int, now: int) -> None:
        cells, amount = self._rates.cells, limit.amount
        now *= amount
        tat = max(cells[at + DATA] * amount + cells[at + DATA + 1], now)
        most = max(tat, now + 2 * limit.burst * limit.period)
        self._move(at, min(max(tat + more * limit.period, now), most), limit, now // amount)

    def _adjust_window(self, at: int, limit: Limit, more: int, stamp: int, now: int) -> None:
        cells, bucket = self._rates.cells, now // limit.width
        self._window(at, limit, now)
        if more > 0:
            self._move(at, more, limit, now)
        elif stamp >= bucket - BUCKETS:
            cell = at + DATA + 1 + stamp % _SPAN
            cells[cell] = max(0, cells[cell] + more)

    def seed(self, charge: Charge, reading: Reading) -> None:
        """Take over what another home has just said of a key, so that going on here starts from there."""
        limit, key, _ = charge
        with self._lock:
            now = self._now()
            if limit.kind == PARALLEL:
                self._hold(self._slots.row(key, now), 1)
                return
            at = self._rates.row(key, now)
            if not limit.width:
                self._move(at, (now + reading.reset) * limit.amount, limit, now)
                return
            used = limit.amount - reading.remaining
            self._adjust_window(at, limit, max(0, used - sum(self._window(at, limit, now))), 0, now)

    def lead(self, limit: Limit, key: str) -> int:
        """Microseconds until a key of a rate is as if never used."""
        with self._lock:
            now = self._now()
            return self._read(limit, self._rates.row(key, now), now).reset

    # ── calls under way ──────────────────────────────────────────────────────────────────────────────────────────

    def _busy(self, at: int) -> int:
        first = (at + DATA) * 4
        return sum(self._counts[first : first + self.columns])

    def _hold(self, at: int, more: int) -> None:
        cell = (at + DATA) * 4 + self.column
        self._counts[cell] += more
        self.held += more
        self._slots.cells[at + UNTIL] = _FOREVER if self._busy(at) else 0

    def _bury(self, now: int) -> bool:
        """Clear the columns of workers that have died; whether there was one. Looks at most ten times a second."""
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
        for at in range(0, len(cells), 16):
            if cells[at] and counts[(at + DATA) * 4 + column]:
                counts[(at + DATA) * 4 + column] = 0
                cells[at + UNTIL] = _FOREVER if self._busy(at) else 0

    async def aclose(self) -> None:
        """Give memory, files and the column back."""
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
