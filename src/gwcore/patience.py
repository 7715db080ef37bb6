"""``Patience``: a wait for a store or another process that does not count time in which our own event loop is behind.

A loop that was blocked, e.g. by a reload, or whose turns are long because the worker is at its limit, delays the question and
the answer by several turns: the other may have answered long ago.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

LATE = 0.02
"""Seconds: a loop's turn that takes longer is a long one."""
TURNS = 8
"""How many turns show whether the loop is behind: a busy loop has short ones, too, and an answer may take some."""
PROLONGED = 8
"""How often a wait is prolonged by its whole length."""


class Patience:
    """Calls ``end`` once ``seconds`` are over, unless cancelled before.

    The wait is prolonged, up to :data:`PROLONGED` times, if the loop is behind and ``worth()`` says that it may help.
    """

    __slots__ = ("_due", "_end", "_handle", "_left", "_loop", "_seconds", "_worth")

    def __init__(self, seconds: float, end: Callable[[], object], worth: Callable[[], bool] = lambda: True) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._end = end
        self._worth = worth
        self._left = PROLONGED
        self._wait()

    def _wait(self) -> None:
        self._due = self._loop.time() + self._seconds
        self._handle: asyncio.Handle = self._loop.call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        self._look(self._loop.time() - self._due, TURNS)

    def _look(self, late: float, turns: int) -> None:
        behind = late > LATE
        if behind and self._left and self._worth():
            self._left -= 1
            self._wait()
        elif behind or not turns:
            self._end()
        else:
            self._handle = self._loop.call_soon(self._turn, time.monotonic(), turns - 1)

    def _turn(self, began: float, turns: int) -> None:
        self._look(time.monotonic() - began, turns)

    def cancel(self) -> None:
        """The wait is over."""
        self._handle.cancel()


@asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[None]:
    """``asyncio.timeout`` with :class:`Patience`. Raises ``TimeoutError``."""
    async with asyncio.timeout(None) as limit:
        wait = Patience(seconds, lambda: limit.reschedule(0))
        try:
            yield
        finally:
            wait.cancel()
