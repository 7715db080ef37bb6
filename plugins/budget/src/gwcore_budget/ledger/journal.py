"""A worker's holds within its grants, on disk before the first byte goes upstream; survives ``kill -9`` without a sync.

One JSON array per line: ``["D", hold, held, accounts, created, facts]`` dispatched, ``["S", hold, state, amount, basis,
metered]`` settled. A later ``D`` of a hold replaces the earlier: the hold was lowered. The last line may be torn; a
``D`` without an ``S`` has an unknown outcome. Lines are written through a memory mapping: as with ``write``, they
outlive the process, but without a system call, and without releasing the GIL, for which the ledger's thread waits. If a
line does not fit into the mapping, zeros fill the gap.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import orjson

from gwcore_budget.ledger.ops import NOTHING_METERED, PENDING, REAPED, Facts, Hold, Metered

COMPACT = 4 << 20
"""Bytes by which a journal may grow before it is rewritten without obsolete lines."""
SEGMENT = 1 << 20
"""Bytes that are allocated and mapped at once."""
LOST = "worker lost"
"""Basis of holds that are reaped because their worker died."""
_PAGE = mmap.ALLOCATIONGRANULARITY


class _Lines:
    """A memory-mapped file that grows, created on first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._mapped: mmap.mmap  # set by the first line
        self._start = 0  # offset of the mapping in the file
        self._at = 0  # offset of the next line in the mapping
        self._end = 0  # length of the mapping

    @property
    def size(self) -> int:
        """Bytes, including gaps."""
        return self._start + self._at

    def add(self, line: bytes) -> None:
        """Append a line. Raises ``OSError``."""
        end = self._at + len(line)
        if end > self._end:
            self._map(len(line))
            end = len(line)
        self._mapped.write(line)
        self._at = end

    def open(self) -> None:
        """Create the file. Raises ``OSError``."""
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _map(self, least: int) -> None:
        """Map space after the file's end. Its blocks are allocated first: a full disk raises here, no signal later."""
        self.open()
        start = -(-os.fstat(self._descriptor).st_size // _PAGE) * _PAGE
        size = max(SEGMENT, -(-least // _PAGE) * _PAGE)
        os.posix_fallocate(self._descriptor, start, size)
        self._mapped = mmap.mmap(self._descriptor, size, offset=start)
        self._start, self._at, self._end = start, 0, size

    def close(self) -> None:
        """Truncate the file to its lines and close it."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, self.size)
            os.close(self._descriptor)
            self._descriptor = -1
        if self._end:
            self._mapped.close()
            self._end = 0


class Journal:
    """Append-only, except for :meth:`rewrite`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = _Lines(path)
        self._least = 0

    def dispatched(self, hold: Hold) -> None:
        """Record a hold before its attempt. Raises ``OSError``: then the attempt must not be dispatched."""
        self._lines.add(_dispatched(hold))

    def settled(self, hold: Hold) -> None:
        """Record the end of a hold. Raises ``OSError``."""
        self._lines.add(_settled(hold))

    @property
    def grown(self) -> bool:
        """Whether a rewrite is worthwhile."""
        return self._lines.size > 2 * self._least + COMPACT

    def rewrite(self, kept: Iterable[Hold]) -> None:
        """Keep only these holds: those not settled, and those settled but not yet in the store.

        The file is replaced atomically. Raises ``OSError``: then the old file stays.
        """
        fresh = _Lines(self.path.with_suffix(".next"))
        try:
            fresh.path.unlink(missing_ok=True)
            fresh.open()
            for hold in kept:
                fresh.add(_dispatched(hold))
                if hold.state != PENDING:
                    fresh.add(_settled(hold))
            fresh.path.replace(self.path)
        except OSError:
            fresh.close()
            self._least = self._lines.size  # do not retry at once
            raise
        self._lines.close()
        self._lines, self._least = fresh, fresh.size

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def _dispatched(hold: Hold) -> bytes:
    record = ("D", hold.id, hold.amount, hold.accounts, hold.created, tuple(hold.facts))
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _settled(hold: Hold) -> bytes:
    record = ("S", hold.id, hold.state, hold.settled or 0, hold.basis, tuple(hold.metered))
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a number beyond 64 bits, which orjson refuses
        return json.dumps(record).encode() + b"\n"


def recover(path: Path, worker: str) -> list[Hold]:
    """The holds in a dead worker's journal: settled ones with their outcome, others as reaped. Raises ``OSError``."""
    found: dict[str, Hold] = {}
    for line in path.read_bytes().split(b"\n"):
        try:
            kind, id_, *record = orjson.loads(line.lstrip(b"\0"))
            if kind == "D":
                amount, accounts, created, facts = record
                hold = Hold(id_, worker, PENDING, amount, None, tuple(accounts), created, created, Facts(*facts))
                hold.end(REAPED, 0, LOST, NOTHING_METERED)
                found[id_] = hold
            elif kind == "S":
                state, amount, basis, metered = record
                found[id_].end(state, amount, basis, Metered(*metered))
        except (ValueError, TypeError, LookupError):
            continue  # torn
    return list(found.values())
