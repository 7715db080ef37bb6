"""What stands before a reply while two attempts race."""

from __future__ import annotations

import asyncio
import time

from gwcore.alarm import Alarm
from gwcore.call import Attempt, Call


class Race:
    """The gate of a call with several attempts at a time, each in a task of its own: the first to commit wins."""

    __slots__ = ("_began", "_call", "_runners", "_waited", "winner")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._began = time.perf_counter()
        self._waited = call.waited
        self._runners: dict[asyncio.Task[object], tuple[Attempt, Alarm]] = {}
        self.winner: asyncio.Task[object] | None = None

    def enter(self, attempt: Attempt, alarm: Alarm) -> None:
        """The current task runs this attempt. Raises ``CancelledError`` where it was decided before the task had begun."""
        task = asyncio.current_task()
        assert task is not None
        if self.winner is not None:
            raise asyncio.CancelledError
        self._runners[task] = attempt, alarm

    def commit(self) -> None:
        """Whoever comes first answers; the others are cancelled. Raises ``CancelledError`` for whoever comes second."""
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
        """What was waited for upstreams until now: the time of two attempts is not the sum of theirs."""
        if len(self._runners) > 1:
            self._call.waited = self._waited + time.perf_counter() - self._began

    def write(self, chunk: bytes) -> bytes:
        """Nothing to change."""
        return chunk
