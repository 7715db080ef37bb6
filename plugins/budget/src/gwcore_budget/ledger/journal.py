"""What a worker admitted within its grants, on disk before the first byte goes upstream: survives ``kill -9`` without a sync.

One JSON array per line: ``["D", hold, held, accounts, created, facts]`` dispatched, ``["S", hold, state, amount, basis,
metered]`` settled. The last line may be torn; whatever has a ``D`` and no ``S`` is of unknown outcome.
"""

from __future__ import annotations

import os
from pathlib import Path

import orjson

from gwcore_budget.ledger.ops import REAPED, Facts, Metered, Settle, Spent

COMPACT = 4 << 20
"""Bytes from which on a journal is emptied at the first moment at which nothing in it is needed."""


class Journal:
    """Append-only, opened on first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._size = 0

    def dispatched(self, hold: str, held: int | None, accounts: tuple[int, ...], created: int, facts: Facts) -> None:
        """Before the attempt. Raises ``OSError``: then it must not be dispatched."""
        self._write(orjson.dumps(("D", hold, held, accounts, created, tuple(facts))))

    def settled(self, settle: Settle) -> None:
        """After it."""
        self._write(orjson.dumps(("S", settle.hold, settle.state, settle.amount, settle.basis, tuple(settle.metered))))

    def _write(self, line: bytes) -> None:
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        data = line + b"\n"
        written = os.write(self._descriptor, data)
        self._size += written
        if written != len(data):
            # the torn line would swallow the next one: end it
            os.write(self._descriptor, b"\n")
            raise OSError(28, "the journal took only part of a line")

    def forget(self) -> None:
        """Nothing in it is needed any more: empty it if it has grown."""
        if self._size > COMPACT and self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            self._size = 0

    def close(self) -> None:
        """Close the file; it stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def recover(path: Path, worker: str) -> list[Spent]:
    """What a dead worker's journal says: settled holds with their truth, all others as reaped. Raises ``OSError``."""
    open_: dict[str, Spent] = {}
    settles: dict[str, Settle] = {}
    for line in path.read_bytes().split(b"\n"):
        try:
            record = orjson.loads(line)
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
