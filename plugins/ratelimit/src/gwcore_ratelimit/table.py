"""Rows of integers by key, in the memory of one process (:class:`Rows`) or of a machine's workers (:class:`Table`).

Each row has an expiry time. An expired row means the same as no row and may be reused for another key, so expired rows
are searched for only if a new key finds no room. The user of a table sets its time, so that the rows of an operation
do not expire during it.

A :class:`Table` is an open-addressed hash table over one ``mmap``: a key's row is found by linear probing of at most
``WINDOW`` rows. Workers share it as a file, which they lock (``flock``) for each operation; the kernel unlocks it when
a worker dies. A worker that is *suspended* inside an operation would block the others: after ``PATIENCE`` they raise
:class:`StoreDown`, and the limiter applies ``on_store_error``.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
import time
from collections import OrderedDict
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

UNTIL: Final = 0
"""Cell with a row's expiry time: the microsecond after which it may be reused."""
DATA: Final = 1
"""First data cell of a row."""
CELLS: Final = 15
"""Cells per row."""
WINDOW: Final = 64
_STRIDE: Final = CELLS + 1
"""Cells per row of a :class:`Table`: the key's hash comes first."""
_SWEEP: Final = 1_000_000
"""Microseconds between two scans of all rows: how long a table may still report full after a row has expired."""
_REMEMBERED: Final = 100_000
PATIENCE: Final = 0.1
"""Seconds to wait for the lock."""


class StoreDown(Exception):
    """The store of the limits is unavailable."""


class _Waiter:
    """One wait for a lock, in a thread; a lock acquired too late is released at once."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._mutex = threading.Lock()
        self._came = threading.Event()
        self._late = False
        self.over = False
        threading.Thread(target=self._run, name="gwcore-ratelimit-lock", daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # closed meanwhile
            fcntl.flock(self._file, fcntl.LOCK_EX)
            with self._mutex:
                if self._late:
                    fcntl.flock(self._file, fcntl.LOCK_UN)
                self._came.set()
        self.over = True

    def granted(self, seconds: float) -> bool:
        """Whether the lock was acquired within that time; if not, it will not be kept."""
        if self._came.wait(seconds):
            return True
        with self._mutex:
            self._late = True
            return self._came.is_set()


class Lock:
    """Exclusion between processes. Not reentrant, never held over an ``await``."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._waiter: _Waiter | None = None

    def __enter__(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._wait(self._file)

    def _wait(self, file: int) -> None:
        # the holder needs some ten microseconds: waiting here is shorter than one event loop iteration
        for _ in range(5):
            time.sleep(0.00002)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            return
        # only the kernel's own queue is fair, but it has no time-out: so a thread waits in it
        if self._waiter is None or self._waiter.over:
            self._waiter = _Waiter(file)
            if self._waiter.granted(PATIENCE):
                return
        raise StoreDown("another worker has held the lock of the limits for too long")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._file)


class Row(Protocol):
    """``CELLS`` integers of 64 bits."""

    def __getitem__(self, cell: int, /) -> int: ...

    def __setitem__(self, cell: int, value: int, /) -> None: ...


class Rows(OrderedDict[str, list[int]]):
    """Rows of one process. A new key gets a row of zeros. Raises ``StoreDown`` if ``most`` rows are in use already.

    Attributes:
        now: the microsecond of the operation under way.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._next_sweep = 0
        self.now = 0

    def __missing__(self, key: str) -> list[int]:
        if len(self) >= self._most:
            self._take_one()
        row = self[key] = [0] * CELLS
        return row

    def _take_one(self) -> None:
        for _ in range(WINDOW):
            key = next(iter(self))
            if self[key][UNTIL] < self.now:
                del self[key]
                return
            self.move_to_end(key)
        if self.now >= self._next_sweep:
            self._next_sweep = self.now + _SWEEP
            over = [key for key, row in self.items() if row[UNTIL] < self.now]
            for key in over:
                del self[key]
            if over:
                return
        raise StoreDown("the table of the limits is full")

    def close(self) -> None:
        """Drop all rows."""
        self.clear()


class Table:
    """Rows in an ``mmap``; ``rows`` is a power of two. Untouched rows take no memory; a new key gets a row of zeros.

    Attributes:
        now: the microsecond of the operation under way.
        cells: of all rows.
    """

    def __init__(self, rows: int, file: Path | None) -> None:
        size = rows * _STRIDE * 8
        if file is None:
            self._map = mmap.mmap(-1, size)
        else:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(descriptor, size)  # the same size again changes nothing
                self._map = mmap.mmap(descriptor, size)
            finally:
                os.close(descriptor)
        self._bytes = memoryview(self._map)
        self.cells = self._bytes.cast("q")
        self._mask = rows - 1
        self._known: dict[str, tuple[int, int]] = {}
        self.now = 0

    def at(self, key: str) -> int:
        """Index in :attr:`cells` of the first cell of the key's row. Raises ``StoreDown`` if no row is free."""
        at, digest = self._known.get(key) or self._place(key)
        if self.cells[at - 1] != digest:  # another key has taken it
            at, digest = self._place(key)
        return at

    def __getitem__(self, key: str) -> memoryview[int]:
        at = self.at(key)
        return self.cells[at : at + CELLS]

    def _place(self, key: str) -> tuple[int, int]:
        digest = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little", signed=True) or 1
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        place = self._known[key] = self._find(digest) + 1, digest
        return place

    def _find(self, digest: int) -> int:
        cells, free = self.cells, -1
        for step in range(WINDOW):
            at = ((digest + step) & self._mask) * _STRIDE
            found = cells[at]
            if found == digest:
                return at
            if free < 0 and (found == 0 or cells[at + 1 + UNTIL] < self.now):
                free = at
            if found == 0:
                break
        if free < 0:
            raise StoreDown("the table of the limits is full")
        for cell in range(free, free + _STRIDE):
            cells[cell] = 0
        cells[free] = digest
        return free

    def rows(self) -> range:
        """Index of each row's first cell."""
        return range(1, len(self.cells), _STRIDE)

    def close(self) -> None:
        """Unmap the memory."""
        self.cells.release()
        self._bytes.release()
        self._map.close()
