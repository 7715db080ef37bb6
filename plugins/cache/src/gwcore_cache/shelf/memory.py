"""Answers in the memory of this process. Each worker has its own; a purge reaches the others through a shared file."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from gwcore_cache.entry import Entry
from gwcore_cache.shelf import Turn, Turned, Wanted

LISTEN: Final = 0.5
"""Seconds between two checks for purges of other workers."""


def _now() -> int:
    return time.time_ns() // 1_000_000


class MemoryShelf:
    """An LRU cache limited by bytes.

    Args:
        capacity: bytes.
        news: a file to which all workers append purges; ``None`` if there is only one worker.
        clock: milliseconds since the epoch.
    """

    leases = False

    def __init__(self, capacity: int, news: Path | None = None, clock: Callable[[], int] = _now) -> None:
        self.capacity = capacity
        self.size = 0
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._epoch = 0
        self._clock = clock
        self._news = news
        self._read = 0
        self._listeners = 0  # briefly two during a reload

    async def get(self, keys: Sequence[bytes], scope: str) -> list[Entry | None]:  # noqa: ARG002 - of the contract
        """See :class:`gwcore_cache.shelf.Shelf`."""
        return [self._get(key) for key in keys]

    def _get(self, key: bytes) -> Entry | None:
        found = self._entries.get(key)
        if found is None:
            return None
        if found.kept <= self._clock():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return found

    def _drop(self, key: bytes) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self.size -= entry.size
        return True

    async def turn(self, key: bytes, scope: str) -> Turned:  # noqa: ARG002 - of the contract
        """Always ours: workers share nothing."""
        return Turned(Turn.OURS, self._get(key), self._epoch)

    async def put(self, entries: Sequence[tuple[bytes, Entry]], turn: bytes | None, epoch: int) -> bool:  # noqa: ARG002
        """See :class:`gwcore_cache.shelf.Shelf`."""
        if epoch != self._epoch:
            return False
        for key, entry in entries:
            self._drop(key)
            if entry.size > self.capacity:  # it would displace all others, and then be dropped itself
                continue
            self._entries[key] = entry
            self.size += entry.size
        while self.size > self.capacity:
            self._drop(next(iter(self._entries)))
        return True

    async def leave(self, turn: bytes, *, alone: bool) -> None:
        """Does nothing: no other worker waits."""

    async def purge(self, wanted: Wanted) -> int:
        """Purge here at once, in the other workers within :data:`LISTEN` seconds. Counts only entries of this one."""
        if self._news is not None:
            said = orjson.dumps(
                {
                    "keys": [k.hex() for k in wanted.keys],
                    "model": wanted.model,
                    "tag": wanted.tag,
                    "scope": wanted.scope,
                }
            )
            with self._news.open("ab") as file:  # one write per line, so that lines of several workers do not mix
                file.write(said + b"\n")
        return self._purge(wanted)

    def _purge(self, wanted: Wanted) -> int:
        self._epoch += 1
        return sum(self._drop(key) for key in [k for k, e in self._entries.items() if wanted.fits(k, e)])

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Listen for purges of other workers."""
        if self._news is None:
            yield
            return
        self._news.touch(mode=0o600)
        if not self._listeners:
            self._read = self._news.stat().st_size
        self._listeners += 1
        task = asyncio.create_task(self._listen(self._news))
        try:
            yield
        finally:
            self._listeners -= 1
            task.cancel()
            await asyncio.wait({task})

    async def _listen(self, news: Path) -> None:
        while True:
            await asyncio.sleep(LISTEN)
            with contextlib.suppress(OSError):
                self._hear(news)

    def _hear(self, news: Path) -> None:
        if news.stat().st_size <= self._read:
            return
        with news.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                said: dict[str, Any] = orjson.loads(line)
                said["keys"] = tuple(bytes.fromhex(key) for key in said["keys"])
                self._purge(Wanted(**said))

    def health(self) -> dict[str, Any]:
        """Number and bytes of entries."""
        return {"entries": len(self._entries), "bytes": self.size}
