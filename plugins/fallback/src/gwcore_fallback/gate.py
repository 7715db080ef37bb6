"""The gate of a reply while two attempts race."""

from __future__ import annotations

import asyncio
import time

from gwcore.alarm import Alarm
from gwcore.call import Attempt, Call


class Race:
    """The gate of a call with parallel attempts, each in its own task: the first to commit wins."""

    __slots__ = ("_began", "_call", "_runners", "_waited", "winner")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._began = time.perf_counter()
        self._waited = call.waited
        self._runners: dict[asyncio.Task[object], tuple[Attempt, Alarm]] = {}
        self.winner: asyncio.Task[object] | None = None

    def enter(self, attempt: Attempt, alarm: Alarm) -> None:
        """Register the current task's attempt. Raises ``CancelledError`` if another attempt has already won."""
        task = asyncio.current_task()
        assert task is not None
        if self.winner is not None:
            raise asyncio.CancelledError
        self._runners[task] = attempt, alarm

    def commit(self) -> None:
        """The first task to call this wins, and cancels the others. Raises ``CancelledError`` for any other task."""
        task = asyncio.current_task()
        if self.winner is not None or task not in self._runners:
            raise asyncio.CancelledError
        self.winner = task
        self.clock()
        self._call.reply.gate = None
        for other in self._runners:
            if other is not task:
                other.cancel()
        attempt, alarm = self._runners[task]
        self._call.served = attempt
        alarm.commit()

    def clock(self) -> None:
        """Correct the time waited for upstreams: parallel attempts must not be added up."""
        if len(self._runners) > 1:
            self._call.waited = self._waited + time.perf_counter() - self._began

    def write(self, chunk: bytes) -> bytes:
        """Changes nothing."""
        return chunk
