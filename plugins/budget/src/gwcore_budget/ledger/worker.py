"""Liveness of workers: each one locks a file of its own, and sends the store a heartbeat every few seconds.

A worker on the same kernel is dead, at once and for certain, if its lock can be taken. One elsewhere is considered dead
after :data:`SILENT` milliseconds without a heartbeat; it stops spending its grants earlier (:data:`FENCED`), and a hold
that was reaped too early is corrected by its settlement. So a wrong clock costs only waiting.
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
"""Files of a worker: its journal while it is rewritten, its journal, and the lock that shows that it lives."""
BEAT = 5.0
"""Seconds between two heartbeats."""
FENCED = 40.0
"""Seconds after its last heartbeat that reached the store, after which a worker spends no grants."""
SILENT = 60_000
"""Milliseconds without a heartbeat after which a worker on another machine is considered dead."""


def boot_id() -> str:
    """The id of the running kernel, which its containers share. File locks work only within one kernel."""
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
        """The path of its file of a kind, one of :data:`KINDS`."""
        return Path(self.folder) / f"{self.id}.{kind}"


class Corpse:
    """The lock of a dead worker on this kernel. Only the process that holds it may bury the worker."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def of(cls, other: Other) -> Corpse | None:
        """Take the lock; ``None`` if the worker lives, or if that cannot be determined from here."""
        if other.boot != boot_id() or other.boot == "unknown":
            return None
        try:
            descriptor = os.open(other.file("alive"), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None  # perhaps in another container: only its silence can show it
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return cls(descriptor)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


class Worker:
    """This process as one of the workers of a store."""

    def __init__(self, folder: Path) -> None:
        self.id = f"{os.uname().nodename[:24]}-{os.getpid()}-{os.urandom(4).hex()}"
        self.folder = folder
        self._lock = -1
        self._heard = -FENCED

    def fenced(self) -> bool:
        """Whether others may consider this worker dead, so that it must not spend grants."""
        return time.clock_gettime(BOOT) - self._heard > FENCED

    async def enter(self, home: Home, now: int) -> None:
        """Take the lock, then register. Raises ``StoreDown``; ``OSError`` if the folder cannot be written."""
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
        """Send a heartbeat; ``False`` if others have buried this worker. Raises ``StoreDown``."""
        began = time.clock_gettime(BOOT)
        found = await home.rows("UPDATE budget_worker SET seen=$1 WHERE id=$2 RETURNING id", now, self.id)
        if found:
            self._heard = began
        return bool(found)

    async def others(self, home: Home) -> list[Other]:
        """All other workers, dead or alive."""
        rows = await home.rows("SELECT id, host, boot, folder, seen FROM budget_worker WHERE id <> $1", self.id)
        return [Other(*row) for row in rows]

    def path(self, kind: str) -> Path:
        """The path of its own file of a kind, one of :data:`KINDS`."""
        return self.folder / f"{self.id}.{kind}"

    async def leave(self, home: Home) -> None:
        """Deregister once all is settled: nobody needs to bury this worker."""
        await home.rows("DELETE FROM budget_worker WHERE id=$1 RETURNING id", self.id)
        for kind in KINDS:
            self.path(kind).unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock for good."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
