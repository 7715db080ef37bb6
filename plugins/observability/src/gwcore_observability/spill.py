"""``Spill``: unsent records on disk. Segments of records, each with a checksum; oldest first; bounded.

A segment is ``<folder>/<worker>/<time>-<n>.seg``: eight bytes with the acknowledged offset, then records::

    magic "GWr1" · crc32 of all that follows · length of id (2) · length of body (4) · id · body     (big endian)

Torn or damaged records are skipped to the next valid one and counted. Each worker writes to its own folder, and holds
a lock on the file ``lock`` in it; the segments of a dead worker are taken over by the first worker to get its lock.

Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar
from zlib import crc32

P = ParamSpec("P")
T = TypeVar("T")

MAGIC = b"GWr1"
_HEAD = struct.Struct(">4sIHI")
_ACKED = struct.Struct(">Q")
SEGMENT = 8 << 20
"""Bytes after which a segment is closed."""


@dataclass(slots=True, frozen=True)
class Item:
    """One record encoded by a sink: its id, and bytes that only the sink interprets."""

    id: str
    body: bytes


@dataclass(slots=True)
class _Segment:
    path: Path
    size: int
    count: int
    """Records not acknowledged; an estimate if another worker wrote the segment."""


def framed(item: Item) -> bytes:
    """One record as stored in a segment."""
    id_ = item.id.encode()
    tail = struct.pack(">HI", len(id_), len(item.body)) + id_ + item.body
    return MAGIC + struct.pack(">I", crc32(tail)) + tail


def unframed(data: bytes, at: int) -> tuple[Item | None, int, int]:
    """The record at or after ``at`` (``None`` at the end), its end, and the number of damaged stretches skipped."""
    skipped = 0
    while at < len(data):
        item = None
        if data.startswith(MAGIC, at) and at + _HEAD.size <= len(data):
            _, crc, ids, bodies = _HEAD.unpack_from(data, at)
            start = at + _HEAD.size
            end = start + ids + bodies
            if end <= len(data) and crc32(data[at + 8 : end]) == crc:
                item = Item(data[start : start + ids].decode(), data[start + ids : end])
        if item is not None:
            return item, end, skipped
        skipped += 1
        at = data.find(MAGIC, at + 1)
        while at != -1 and not _whole(data, at):
            at = data.find(MAGIC, at + 1)
        if at == -1:
            return None, len(data), skipped
    return None, at, skipped


def _whole(data: bytes, at: int) -> bool:
    if at + _HEAD.size > len(data):
        return False
    _, crc, ids, bodies = _HEAD.unpack_from(data, at)
    end = at + _HEAD.size + ids + bodies
    return bool(end <= len(data) and crc32(data[at + 8 : end]) == crc)


def _alone(method: Callable[Concatenate[Spill, P], T]) -> Callable[Concatenate[Spill, P], T]:
    """One call at a time."""

    @wraps(method)
    def held(self: Spill, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._mutex:
            return method(self, *args, **kwargs)

    return held


class Spill:
    """The disk side of one outbox.

    Attributes:
        written, lost, damaged: records written, records dropped for the cap, and damaged stretches, since the start.
    """

    def __init__(self, folder: Path, cap: int) -> None:
        self.folder = folder
        self.cap = cap
        self.written = self.lost = self.damaged = 0
        self._segments: list[_Segment] = []
        self._active: int | None = None
        self._lock: int | None = None
        self._own: Path | None = None
        self._number = 0
        self._dirty_since: float | None = None
        self._read: tuple[Path, bytes, int] | None = None  # the oldest segment, its bytes, up to where acknowledged
        self._next = self._counted = 0
        self._mutex = threading.RLock()

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self) -> None:
        """Create an own folder, and adopt segments of dead workers. Raises ``OSError`` if it cannot be written."""
        if self._own is not None:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while self._own is None:
            own = self.folder / f"{time.time_ns():x}-{os.getpid()}"
            own.mkdir(mode=0o700)
            self._lock = _locked(own)
            if self._lock is not None and (own / "lock").exists():
                self._own = own
            # else another worker adopted the folder before we had locked it
        self.adopt()

    @_alone
    def adopt(self) -> int:
        """Take over segments of dead workers; returns how many."""
        assert self._own is not None
        found: list[_Segment] = []
        for other in sorted(self.folder.iterdir()):
            if other == self._own or not other.is_dir():
                continue
            lock = _locked(other)
            if lock is None:
                continue
            try:
                for path in sorted(other.glob("*.seg")):
                    moved = self._own / path.name
                    path.rename(moved)
                    found.append(_Segment(moved, moved.stat().st_size, _count(moved)))
                if (dead := other / "dead.jsonl").exists():
                    dead.rename(self._own / f"dead-{other.name}.jsonl")
                (other / "lock").unlink(missing_ok=True)
                other.rmdir()
            except OSError:
                pass  # another worker was faster, or the folder contains foreign files
            finally:
                os.close(lock)
        # adopted segments are older than our own
        at = 1 if self._read is not None else 0
        self._segments[at:at] = found
        return len(found)

    @_alone
    def close(self) -> None:
        """Sync and release the folder. Its segments wait for the next start."""
        self._rotate()
        if self._own is not None and not any(self._own.glob("*.*")):
            with contextlib.suppress(OSError):  # an operator may have removed it
                (self._own / "lock").unlink(missing_ok=True)
                self._own.rmdir()
        if self._lock is not None:
            os.close(self._lock)
        self._own = self._lock = self._read = None
        self._segments = []

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────

    @_alone
    def append(self, items: Sequence[Item]) -> None:
        """Append records. If it raises ``OSError``, none of them was written."""
        if not items:
            return
        data = b"".join(map(framed, items))
        segment = self._segments[-1] if self._active is not None else self._begin()
        assert self._active is not None
        try:
            _write(self._active, data)
        except OSError:
            os.ftruncate(self._active, segment.size)  # a partial record would count as damaged
            os.lseek(self._active, segment.size, os.SEEK_SET)
            raise
        segment.size += len(data)
        segment.count += len(items)
        self.written += len(items)
        self._dirty_since = self._dirty_since or time.monotonic()
        if segment.size >= SEGMENT:
            self._rotate()
        while len(self._segments) > 1 and sum(one.size for one in self._segments) > self.cap:
            self._drop_oldest()

    def sync(self, older: float = 0.0) -> None:
        """Fsync if the oldest unsynced write is at least ``older`` seconds old."""
        with self._mutex:
            if self._active is None or self._dirty_since is None or time.monotonic() - self._dirty_since < older:
                return
            copy = os.dup(self._active)  # fsync without the mutex, so that writers need not wait for the disk
            self._dirty_since = None
        try:
            os.fsync(copy)
        finally:
            os.close(copy)

    def _begin(self) -> _Segment:
        assert self._own is not None
        self._number += 1
        path = self._own / f"{time.time_ns():020d}-{self._number:06d}.seg"
        self._active = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            _write(self._active, _ACKED.pack(_ACKED.size))
        except OSError:
            os.close(self._active)
            self._active = None
            path.unlink(missing_ok=True)
            raise
        self._segments.append(_Segment(path, _ACKED.size, 0))
        return self._segments[-1]

    def _rotate(self) -> None:
        if self._active is not None:
            os.fsync(self._active)
            os.close(self._active)
            self._active = self._dirty_since = None

    def _drop_oldest(self) -> None:
        gone = self._segments.pop(0)
        self.lost += gone.count
        gone.path.unlink(missing_ok=True)
        if self._read is not None and self._read[0] == gone.path:
            self._read = None

    def bury(self, line: bytes, cap: int) -> None:
        """Append a line to the dead letters, a file rotated beyond ``cap`` bytes; the previous one is kept."""
        assert self._own is not None
        path = self._own / "dead.jsonl"
        if path.exists() and path.stat().st_size > cap:
            path.replace(self._own / "dead-before.jsonl")
        with path.open("ab") as file:
            file.write(line)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def count(self) -> int:
        """Records waiting."""
        return sum(one.count for one in self._segments)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(one.size for one in self._segments)

    @property
    def oldest(self) -> float | None:
        """Creation time of the oldest segment, in seconds since the epoch; ``None`` if there is none."""
        return int(self._segments[0].path.name[:20]) / 1e9 if self._segments else None

    @_alone
    def read(self, count: int, size: int) -> list[Item]:
        """The oldest records, up to ``count`` and about ``size`` bytes; returns the same until :meth:`ack`."""
        while self._segments:
            items = list(self._batch(count, size))
            if items:
                return items
            gone = self._segments.pop(0)
            gone.path.unlink(missing_ok=True)
            self._read = None
        return []

    def _batch(self, count: int, size: int) -> Iterator[Item]:
        segment = self._segments[0]
        if self._active is not None and len(self._segments) == 1:
            self._rotate()
        if self._read is None or self._read[0] != segment.path:
            data = segment.path.read_bytes()
            acked = _ACKED.unpack_from(data)[0] if len(data) >= _ACKED.size else 0
            at = acked if _ACKED.size <= acked <= len(data) else _ACKED.size
            self._read, self._counted = (segment.path, data, at), 0
        _, data, at = self._read
        self._next = at
        while count > 0 and size > 0:
            item, end, skipped = unframed(data, self._next)
            if skipped and end > self._counted:  # count once, even if a batch is read again
                self.damaged += skipped
                self._counted = end
            self._next = end
            if item is None:
                return
            count -= 1
            size -= len(item.body)
            yield item

    @_alone
    def ack(self, items: Sequence[Item]) -> None:
        """Remove ``items``, which the last :meth:`read` returned."""
        if self._read is None or not self._segments:
            return  # the segment was dropped for the cap meanwhile
        path, data, _ = self._read
        segment = self._segments[0]
        segment.count = max(0, segment.count - len(items))
        if self._next >= len(data):
            self._segments.pop(0)
            path.unlink(missing_ok=True)
            self._read = None
            return
        self._read = (path, data, self._next)
        with path.open("r+b") as file:
            file.write(_ACKED.pack(self._next))


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; ``None`` if another process holds it."""
    try:
        lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _count(path: Path) -> int:
    """Approximate number of unacknowledged records of a segment."""
    data = path.read_bytes()
    return data.count(MAGIC, _ACKED.unpack_from(data)[0]) if len(data) >= _ACKED.size else 0
