"""A shelf that can fail: what fails is a miss, and for a second nobody waits for it again."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import structlog

from gwcore_cache.entry import Entry
from gwcore_cache.shelf import Shelf, ShelfDown, ShelfFull, Turn, Turned

PAUSE: Final = 1.0
"""Seconds between two looks at a store that is away."""
_AGAIN: Final = 60.0
"""Seconds between two lines of the log that say it is full."""
T = TypeVar("T")
_log = structlog.get_logger("gwcore")


class Guard:
    """Stands before a shelf on the request path.

    Attributes:
        down_since: monotonic second since which the store is away, or ``None``.
        failures: look-ups and writes that failed.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._next = self._tell = 0.0
        self.down_since: float | None = None
        self.failures = 0

    async def get(self, keys: Sequence[bytes], scope: str) -> list[Entry | None]:
        """Nothing where the store is away."""
        found = await self._asked(lambda: self._shelf.get(keys, scope))
        return [None] * len(keys) if found is None else found

    async def turn(self, key: bytes, scope: str) -> Turned:
        """Ours where the store is away; such an answer is not kept."""
        return await self._asked(lambda: self._shelf.turn(key, scope)) or Turned(Turn.OURS, None, -1)

    async def put(self, entries: Sequence[tuple[bytes, Entry]], turn: bytes | None, epoch: int) -> bool:
        """False where the store is away."""
        if epoch < 0:
            return False
        return bool(await self._asked(lambda: self._shelf.put(entries, turn, epoch)))

    async def leave(self, turn: bytes, *, alone: bool) -> None:
        """Best effort: a turn that is not ended ends by itself."""
        await self._asked(lambda: self._shelf.leave(turn, alone=alone))

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        now = time.monotonic()
        if self.down_since is not None:
            if now < self._next:
                return None
            self._next = now + PAUSE  # this call looks; those behind it do not wait
        try:
            answer = await ask()
        except ShelfFull:  # what is there can still be had
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
