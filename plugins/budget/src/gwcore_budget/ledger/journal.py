"""What a worker admitted within its grants, on disk before the first byte goes upstream: survives ``kill -9`` without a sync.

One JSON array per line: ``["D", hold, held, accounts, created, facts]`` dispatched, ``["S", hold, state, amount, basis,
metered]`` settled. The last line may be torn; whatever has a ``D`` and no ``S`` is of unknown outcome. Lines are stored
through a mapping of the file: that outlives the process as a write does, and neither enters the kernel nor lets go of the
interpreter, for which the ledger's thread waits. Where a line did not fit into what was mapped, zeros fill the gap.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import orjson

from gwcore_budget.ledger.ops import REAPED, Facts, Metered, Settle, Spent

COMPACT = 4 << 20
"""Bytes from which on a journal is emptied at the first moment at which nothing in it is needed."""
SEGMENT = 1 << 20
"""Bytes that are allocated and mapped at once."""
_PAGE = mmap.ALLOCATIONGRANULARITY
_NONE = bytearray()


class Journal:
    """Append-only, opened on first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._mapped: mmap.mmap | bytearray = _NONE
        self._start = 0  # of what is mapped, in the file
        self._at = 0  # in what is mapped, of the next line

    def dispatched(self, hold: str, held: int | None, accounts: tuple[int, ...], created: int, facts: Facts) -> None:
        """Before the attempt. Raises ``OSError``: then it must not be dispatched."""
        self._write(orjson.dumps(("D", hold, held, accounts, created, tuple(facts)), option=orjson.OPT_APPEND_NEWLINE))

    def settled(self, settle: Settle) -> None:
        """After it. Raises ``OSError``."""
        record = ("S", settle.hold, settle.state, settle.amount, settle.basis, tuple(settle.metered))
        self._write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))

    def _write(self, line: bytes) -> None:
        end = self._at + len(line)
        if end > len(self._mapped):
            self._map(len(line))
            end = len(line)
        self._mapped[self._at : end] = line
        self._at = end

    def _map(self, least: int) -> None:
        """Map what follows the file's end. Its blocks are allocated first: a full disk is an error here, not a signal later."""
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        start = -(-os.fstat(self._descriptor).st_size // _PAGE) * _PAGE
        size = max(SEGMENT, -(-least // _PAGE) * _PAGE)
        os.posix_fallocate(self._descriptor, start, size)
        self._mapped = mmap.mmap(self._descriptor, size, offset=start)
        self._start, self._at = start, 0

    def forget(self) -> None:
        """Nothing in it is needed any more: empty it if it has grown."""
        if self._start + self._at > COMPACT:
            self._mapped, self._start, self._at = _NONE, 0, 0
            os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        """Close the file; it stays, as long as its lines are."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, self._start + self._at)
            os.close(self._descriptor)
            self._mapped, self._descriptor = _NONE, -1


def recover(path: Path, worker: str) -> list[Spent]:
    """What a dead worker's journal says: settled holds with their truth, all others as reaped. Raises ``OSError``."""
    open_: dict[str, Spent] = {}
    settles: dict[str, Settle] = {}
    for line in path.read_bytes().split(b"\n"):
        try:
            record = orjson.loads(line.lstrip(b"\0"))
            if record[0] == "D":
                _, hold, held, accounts, created, facts = record
                reap = Settle(hold, REAPED, basis="worker lost")
                open_[hold] = Spent(hold, worker, held, tuple(accounts), Facts(*facts), created, reap)
            elif record[0] == "S":
                _, hold, state, amount, basis, metered = record
                settles[hold] = Settle(hold, state, amount, basis, Metered(*metered))
        except (ValueError, TypeError, IndexError):
            continue  # torn
    return [
        Spent(s.hold, s.worker, s.held, s.accounts, s.facts, s.created, settles.get(hold, s.settle))
        for hold, s in open_.items()
    ]
