"""What a worker admitted within its grants, on disk before the first byte goes upstream: survives ``kill -9`` without a sync.

One JSON array per line: ``["D", hold, held, accounts, created, facts]`` dispatched, ``["S", hold, state, amount, basis,
metered]`` settled. Of two ``D`` of one hold the later counts: it holds less by then. The last line may be torn; whatever has a
``D`` and no ``S`` is of unknown outcome. Lines are stored through a mapping of the file: that outlives the process as a write
does, and neither enters the kernel nor lets go of the interpreter, for which the ledger's thread waits. Where a line did not fit
into what was mapped, zeros fill the gap.
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
"""Bytes by which a journal may grow before it is written anew without what is needed no more."""
SEGMENT = 1 << 20
"""Bytes that are allocated and mapped at once."""
LOST = "worker lost"
"""Basis of what is reaped because its worker died."""
_PAGE = mmap.ALLOCATIONGRANULARITY


class _Lines:
    """A mapped file that grows, made on first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._mapped: mmap.mmap  # from the first line on
        self._start = 0  # of what is mapped, in the file
        self._at = 0  # in what is mapped, of the next line
        self._end = 0  # of what is mapped

    @property
    def size(self) -> int:
        """Bytes, gaps included."""
        return self._start + self._at

    def add(self, line: bytes) -> None:
        """Raises ``OSError``."""
        end = self._at + len(line)
        if end > self._end:
            self._map(len(line))
            end = len(line)
        self._mapped.write(line)
        self._at = end

    def open(self) -> None:
        """Make the file. Raises ``OSError``."""
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _map(self, least: int) -> None:
        """Map what follows the file's end. Its blocks are allocated first: a full disk is an error here, not a signal later."""
        self.open()
        start = -(-os.fstat(self._descriptor).st_size // _PAGE) * _PAGE
        size = max(SEGMENT, -(-least // _PAGE) * _PAGE)
        os.posix_fallocate(self._descriptor, start, size)
        self._mapped = mmap.mmap(self._descriptor, size, offset=start)
        self._start, self._at, self._end = start, 0, size

    def close(self) -> None:
        """The file stays, as long as its lines are."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, self.size)
            os.close(self._descriptor)
            self._descriptor = -1
        if self._end:
            self._mapped.close()
            self._end = 0


class Journal:
    """Append-only, but for what :meth:`rewrite` leaves out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = _Lines(path)
        self._least = 0

    def dispatched(self, hold: Hold) -> None:
        """Before the attempt. Raises ``OSError``: then it must not be dispatched."""
        self._lines.add(_dispatched(hold))

    def settled(self, hold: Hold) -> None:
        """After it. Raises ``OSError``."""
        self._lines.add(_settled(hold))

    @property
    def grown(self) -> bool:
        """Whether it is worth writing anew."""
        return self._lines.size > 2 * self._least + COMPACT

    def rewrite(self, kept: Iterable[Hold]) -> None:
        """Keep these alone: what is not settled, and what is settled here and not yet in the store.

        Who finds the file at any moment finds the old one or the new one. Raises ``OSError``: then it is the old one.
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
            self._least = self._lines.size  # not at once again
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
    except TypeError:  # a number beyond 64 bits: it costs what it costs
        return json.dumps(record).encode() + b"\n"


def recover(path: Path, worker: str) -> list[Hold]:
    """What a dead worker's journal says: settled holds with their truth, all others as reaped. Raises ``OSError``."""
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
