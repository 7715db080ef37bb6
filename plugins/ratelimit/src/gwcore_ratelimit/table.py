"""Rows of sixteen integers under hashed keys, in memory of this process or shared by the workers of a machine.

An open-addressed hash table over one ``mmap``: a key's row is the first of ``WINDOW`` after its hash that is its own. A
row whose time is over means the same as no row and may be taken by another key, so nothing is ever swept.

Workers share the table as a file, which they lock (``flock``) for each operation; the kernel unlocks it when a worker
dies. A worker that is *stopped* inside an operation would hold the others up: after ``PATIENCE`` they give up with
:class:`StoreDown`, and the limiter does what ``on_store_error`` says.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
import time
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Final

CELLS: Final = 16
HASH: Final = 0
UNTIL: Final = 1
"""Cell with the time in microseconds after which the row may be taken."""
DATA: Final = 2
"""First cell for what the row holds."""
WINDOW: Final = 64
_HEAD: Final = Struct("4q")
_STATE: Final = Struct("3q")
PATIENCE: Final = 0.1
"""Seconds."""


class StoreDown(Exception):
    """The home of the limits cannot be asked."""


class _Waiter:
    """One wait for a lock, in a thread; a lock that comes too late is given back at once."""

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
        """Whether the lock is ours; if not within that time, it will not be."""
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
        # the holder needs some ten microseconds: waiting here is shorter than a turn of the loop
        for _ in range(5):
            time.sleep(0.00002)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            return
        # only the kernel's own queue is fair, and it knows no time-out: a thread stands in it
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
        """Give the descriptor back."""
        os.close(self._file)


class Table:
    """``rows`` is a power of two. Untouched rows take no memory."""

    def __init__(self, rows: int, file: Path | None) -> None:
        size = rows * CELLS * 8
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

    def row(self, key: str, now: int) -> tuple[int, int, int]:
        """Index of the row's first cell, and what its first two cells of data hold; a new row holds zeros.

        It is the key's at least until ``now`` is over.

        Raises:
            StoreDown: more keys than the table has room for are in use.
        """
        at, digest = self._known.get(key) or self._place(key, now)
        found, until, first, second = _HEAD.unpack_from(self._map, at * 8)
        if found != digest:  # another key has taken it
            at, digest = self._place(key, now)
            found, until, first, second = _HEAD.unpack_from(self._map, at * 8)
        if until <= now:
            self.cells[at + UNTIL] = now + 1  # another key of the same call must not take it
        return at, first, second

    def _place(self, key: str, now: int) -> tuple[int, int]:
        digest = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little", signed=True) or 1
        if len(self._known) > 100_000:
            self._known.clear()
        place = self._known[key] = self._find(digest, now), digest
        return place

    def put(self, at: int, until: int, first: int, second: int) -> None:
        """Change a row's time and its first two cells of data."""
        _STATE.pack_into(self._map, (at + UNTIL) * 8, until, first, second)

    def _find(self, digest: int, now: int) -> int:
        cells, free = self.cells, -1
        for step in range(WINDOW):
            at = ((digest + step) & self._mask) * CELLS
            found = cells[at]
            if found == digest:
                return at
            if free < 0 and (found == 0 or cells[at + UNTIL] <= now):
                free = at
            if found == 0:
                break
        if free < 0:
            raise StoreDown("the table of the limits is full")
        for cell in range(free, free + CELLS):
            cells[cell] = 0
        cells[free] = digest
        return free

    def close(self) -> None:
        """Unmap it."""
        self.cells.release()
        self._bytes.release()
        self._map.close()
