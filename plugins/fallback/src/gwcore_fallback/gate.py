"""What stands before a reply while an attempt runs: its alarm clock, and the race between two attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gwcore.call import Attempt, Call
from gwcore.errors import GatewayError, UpstreamTimeout


class Alarm:
    """Ends an attempt whose answer has not begun in time, and tells of its beginning.

    Args:
        attempt: its task is the current one.
        at: seconds from now, and the phase it is the end of; ``None`` never.
        begun: called at the commit.
    """

    __slots__ = ("_attempt", "_begun", "_cancelling", "_handle", "_phase", "_task", "rang")

    def __init__(self, attempt: Attempt, at: tuple[float, str] | None, begun: Callable[[], None] | None) -> None:
        self._attempt = attempt
        self._begun = begun
        self._handle: asyncio.TimerHandle | None = None
        self.rang = False
        if at is not None:
            task = asyncio.current_task()
            assert task is not None
            self._task, self._cancelling = task, task.cancelling()
            self._phase = at[1]
            self._handle = asyncio.get_running_loop().call_later(at[0], self._ring)

    def _ring(self) -> None:
        self._handle = None
        self.rang = True
        name = self._attempt.target.upstream.name
        self._attempt.error = UpstreamTimeout(f"upstream {name!r} gave no answer in time", phase=self._phase)
        self._task.cancel()

    def ours(self) -> GatewayError | None:
        """After a ``CancelledError``: the time-out that it stands for; ``None`` if somebody else cancelled the call."""
        if self.rang and self._task.uncancel() <= self._cancelling:
            return self._attempt.error
        return None

    def off(self) -> None:
        """The attempt is over, or its answer has begun."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def commit(self) -> None:
        """The answer begins."""
        self.off()
        if self._begun is not None:
            self._begun()


class Single:
    """The gate of a call with one attempt at a time: leaves the reply's way once the answer has begun."""

    __slots__ = ("_alarm", "_call")

    def __init__(self, call: Call, alarm: Alarm) -> None:
        self._call = call
        self._alarm = alarm

    def commit(self) -> None:
        """The answer begins."""
        self._call.reply.gate = None
        self._alarm.commit()

    def write(self, chunk: bytes) -> bytes:
        """Nothing to change."""
        return chunk


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
