"""Who is alive: each worker holds a lock on a file of its own, and says so to the store every few seconds.

A worker of the same kernel is dead when its lock can be had: at once, and for certain. One elsewhere is taken for dead when
it has been silent for :data:`SILENT`; it stops spending its grants by itself before (:data:`FENCED`), and a hold that was
reaped too early is corrected by its own settlement. So a clock that is wrong costs nothing but waiting.
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

from gwcore_budget.ledger.clock import BOOT
from gwcore_budget.ledger.home import Home

KINDS = ("next", "journal", "alive")
"""Files of a worker: its journal and the one that is to take its place, and the lock that shows that it lives."""
BEAT = 5.0
"""Seconds between two signs of life."""
FENCED = 40.0
"""Seconds after the last sign of life that reached the store at which a worker spends no grant any more."""
SILENT = 60_000
"""Milliseconds of silence after which a worker of another machine is taken for dead."""


def boot_id() -> str:
    """The running kernel; containers on it share it. Locks of files mean something only below one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


@dataclass(slots=True, frozen=True)
class Other:
    """A worker as the store knows it."""

    id: str
    host: str
    boot: str
    folder: str
    seen: int

    def file(self, kind: str) -> Path:
        """One of its :data:`KINDS`."""
        return Path(self.folder) / f"{self.id}.{kind}"


class Corpse:
    """The lock of a dead worker of this kernel. Whoever has it buries it, and nobody else meanwhile."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def of(cls, other: Other) -> Corpse | None:
        """``None`` while it lives, and where that cannot be known from here."""
        if other.boot != boot_id() or other.boot == "unknown":
            return None
        try:
            descriptor = os.open(other.file("alive"), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None  # perhaps in another container: only its silence can tell
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return cls(descriptor)

    def close(self) -> None:
        """Let go."""
        os.close(self._descriptor)


class Worker:
    """This process's place among the workers of one store."""

    def __init__(self, folder: Path) -> None:
        self.id = f"{os.uname().nodename[:24]}-{os.getpid()}-{os.urandom(4).hex()}"
        self.folder = folder
        self._lock = -1
        self._heard = -FENCED

    def fenced(self) -> bool:
        """Others may take us for dead: no grant may be spent."""
        return time.clock_gettime(BOOT) - self._heard > FENCED

    async def enter(self, home: Home, now: int) -> None:
        """Lock, then say so. Raises ``OSError`` where the folder cannot be written, ``StoreDown``."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self.path("alive"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        host = os.uname().nodename
        await home.rows(
            "INSERT INTO budget_worker (id, host, boot, folder, seen) VALUES ($1,$2,$3,$4,$5) RETURNING id",
            self.id,
            host,
            boot_id(),
            str(self.folder.resolve()),
            now,
        )
        self._heard = time.clock_gettime(BOOT)

    async def beat(self, home: Home, now: int) -> bool:
        """A sign of life; ``False`` when others have buried us. Raises ``StoreDown``."""
        began = time.clock_gettime(BOOT)
        found = await home.rows("UPDATE budget_worker SET seen=$1 WHERE id=$2 RETURNING id", now, self.id)
        if found:
            self._heard = began
        return bool(found)

    async def others(self, home: Home) -> list[Other]:
        """Everybody else, dead or alive."""
        rows = await home.rows("SELECT id, host, boot, folder, seen FROM budget_worker WHERE id <> $1", self.id)
        return [Other(*row) for row in rows]

    def path(self, kind: str) -> Path:
        """One of our own :data:`KINDS`."""
        return self.folder / f"{self.id}.{kind}"

    async def leave(self, home: Home) -> None:
        """All is settled: nobody needs to bury us."""
        await home.rows("DELETE FROM budget_worker WHERE id=$1 RETURNING id", self.id)
        for kind in KINDS:
            self.path(kind).unlink(missing_ok=True)

    def close(self) -> None:
        """Give up the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
