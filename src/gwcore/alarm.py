"""A deadline for the start of an answer: the client's, in ``x-gwcore-timeout`` (or LiteLLM's header), or a router's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gwcore.call import Attempt, Call
from gwcore.errors import BadRequest, GatewayError, UpstreamTimeout
from gwcore.units import parse_duration

TIMEOUT, _THEIR_TIMEOUT = b"x-gwcore-timeout", b"x-litellm-timeout"


def patience(call: Call) -> float | None:
    """Seconds that the client will wait for its answer to begin, if given. Raises ``BadRequest``."""
    wanted = call.header(TIMEOUT, _THEIR_TIMEOUT)
    if wanted is None:
        return None
    try:
        seconds = parse_duration(wanted.decode("latin-1").strip())
    except (ValueError, OverflowError):  # pydantic's error is a ValueError; a sum of many digits overflows
        seconds = 0.0
    if seconds <= 0.0:
        raise BadRequest(f"{TIMEOUT.decode()} is not a duration: write seconds, or such as 30s")
    return seconds


class Alarm:
    """Cancels an attempt whose answer has not begun in time, and reports when it begins.

    Args:
        attempt: runs in the current task.
        at: seconds from now, and the phase that this limits; ``None`` for no deadline.
        begun: called at the commit.

    Attributes:
        committed: the answer has begun.
        rang: the deadline passed first.
    """

    __slots__ = ("_attempt", "_begun", "_cancelling", "_handle", "_phase", "_task", "committed", "rang")

    def __init__(self, attempt: Attempt, at: tuple[float, str] | None, begun: Callable[[], None] | None) -> None:
        self._attempt = attempt
        self._begun = begun
        self._handle: asyncio.TimerHandle | None = None
        self.committed = self.rang = False
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
        """After a ``CancelledError``: the timeout that caused it; ``None`` if something else cancelled the call."""
        if self.rang and self._task.uncancel() <= self._cancelling:
            return self._attempt.error
        return None

    def off(self) -> None:
        """Disarm: the attempt is over, or its answer has begun."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def commit(self) -> None:
        """The answer begins."""
        self.off()
        self.committed = True
        if self._begun is not None:
            self._begun()


class Single:
    """The gate of a call with one attempt at a time: removes itself once the answer has begun."""

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
