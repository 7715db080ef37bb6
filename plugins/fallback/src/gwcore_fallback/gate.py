"""What stands before a reply while two attempts race."""

from __future__ import annotations

import asyncio

from gwcore.alarm import Alarm
from gwcore.call import Attempt, Call


class Race:
    """The gate of a call with several attempts at a time, each in a task of its own: the first to commit wins."""

    __slots__ = ("_call", "_runners", "winner")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._runners: dict[asyncio.Task[object], tuple[Attempt, Alarm]] = {}
        self.winner: asyncio.Task[object] | None = None

    def enter(self, attempt: Attempt, alarm: Alarm) -> None:
        """The current task runs this attempt."""
        task = asyncio.current_task()
        assert task is not None
        self._runners[task] = attempt, alarm

    def commit(self) -> None:
        """Whoever comes first answers; the others are cancelled. Raises ``CancelledError`` for whoever comes second."""
        task = asyncio.current_task()
        if self.winner is not None or task not in self._runners:
            raise asyncio.CancelledError
        self.winner = task
        self._call.reply.gate = None
        for other in self._runners:
            if other is not task:
                other.cancel()
        attempt, alarm = self._runners[task]
        self._call.served = attempt
        alarm.commit()

    def write(self, chunk: bytes) -> bytes:
        """Nothing to change."""
        return chunk
