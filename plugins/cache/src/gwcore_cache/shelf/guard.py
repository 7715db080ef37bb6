"""Protects calls from a failing shelf: a failure is a miss, and for a second no call waits for it again."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import structlog

from gwcore_cache.entry import Entry
from gwcore_cache.shelf import Shelf, ShelfDown, ShelfFull, Turn, Turned

PAUSE: Final = 1.0
"""Seconds between two attempts to reach a store that is down."""
_AGAIN: Final = 60.0
"""Seconds between two log lines about a full store."""
T = TypeVar("T")
_log = structlog.get_logger("gwcore")


class Guard:
    """Wraps a shelf on the request path.

    Attributes:
        down_since: monotonic second since which the store is down, or ``None``.
        failures: number of failed look-ups and writes.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._next = self._tell = 0.0
        self.down_since: float | None = None
        self.failures = 0

    async def get(self, keys: Sequence[bytes], scope: str) -> list[Entry | None]:
        """Returns only ``None`` if the store is down."""
        found = await self._asked(lambda: self._shelf.get(keys, scope))
        return [None] * len(keys) if found is None else found

    async def turn(self, key: bytes, scope: str) -> Turned:
        """Ours if the store is down; that answer is not stored."""
        return await self._asked(lambda: self._shelf.turn(key, scope)) or Turned(Turn.OURS, None, -1)

    async def put(self, entries: Sequence[tuple[bytes, Entry]], turn: bytes | None, epoch: int) -> bool:
        """``False`` if the store is down or full."""
        if epoch < 0:
            return False
        return bool(await self._asked(lambda: self._shelf.put(entries, turn, epoch)))

    async def leave(self, turn: bytes, *, alone: bool) -> None:
        """Best effort: a turn expires by itself."""
        await self._asked(lambda: self._shelf.leave(turn, alone=alone))

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        now = time.monotonic()
        if self.down_since is not None:
            if now < self._next:
                return None
            self._next = now + PAUSE  # this call tries the store; the next ones do not wait
        try:
            answer = await ask()
        except ShelfFull:  # it can still be read
            self.failures += 1
            if now >= self._tell:
                self._tell = now + _AGAIN
                _log.warning("cache store is full; nothing new is kept")
            return None
        except ShelfDown as error:
            self.failures += 1
            self._next = time.monotonic() + PAUSE
            if self.down_since is None:
                self.down_since = now
                _log.warning("cache store is unreachable; calls go on without it", problem=str(error))
            return None
        if self.down_since is not None:
            self.down_since = None
            _log.info("cache store is back")
        return answer
