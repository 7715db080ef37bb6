"""Load shedding by a worker's calls in flight, the memory of their bodies, and its event-loop lag.

An overloaded worker delays all its calls, until every client has given up. One that rejects early, before reading a
body or authenticating, serves the rest in time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Iterator

import structlog

from gwcore.call import Call
from gwcore.errors import Overloaded
from gwcore.ports import Sample

PATIENCE = 5.0
"""Seconds that a call waits for memory before its body is read. Nothing of it is held meanwhile, and bursts pass."""
INTERVAL = 0.05
"""Seconds between two measurements of the lag."""
_log = structlog.get_logger("gwcore")


class Load:
    """One per gateway; it outlives a reload.

    Attributes:
        bodies: bytes of large bodies held for calls in flight.
        inflight: calls in flight.
        late: the lag has exceeded its limit, and has not yet fallen below half of it.
        stuck_at: ``time.monotonic`` from which calls are rejected unless the lag is measured first: a loop far behind
            gets to thousands of new calls before it gets to the measurement. Applies only if the lag was already over
            half its limit, since calls that waited for one long step are no overload.
        lag: seconds that a ready callback waits for its turn, smoothed: one or two long steps are no overload.
        shed: number of calls rejected, by reason: ``inflight``, ``lag`` or ``memory``.
        most: limit of calls in flight. ``room``: limit of ``bodies``.
        max_lag: limit of the lag in seconds.
    """

    __slots__ = (
        "_due",
        "_queue",
        "_timer",
        "bodies",
        "inflight",
        "lag",
        "late",
        "max_lag",
        "most",
        "room",
        "shed",
        "stuck_at",
    )

    def __init__(self) -> None:
        self.bodies = self.inflight = 0
        self.late = False
        self.lag = 0.0
        self.shed = Counter({"inflight": 0, "lag": 0, "memory": 0})
        self.stuck_at = math.inf
        self.limit(None, None, None)
        self._queue: deque[tuple[asyncio.Future[None], Call, int]] = deque()
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def limit(self, most: int | None, max_lag: float | None, room: int | None) -> None:
        """Set the limits; ``None`` is no limit."""
        self.most = math.inf if most is None else most
        self.max_lag = math.inf if max_lag is None else max_lag
        self.room = math.inf if room is None else room

    def full(self) -> bool:
        """Whether to reject the next call."""
        if self.late or self.inflight >= self.most:
            return True
        return time.monotonic() > self.stuck_at and self.lag > self.max_lag / 2

    def refusal(self) -> Overloaded:
        """The error for a rejected call, which it counts."""
        reason = "inflight" if self.inflight >= self.most else "lag"
        self.shed[reason] += 1
        return Overloaded("the gateway has more calls than it can serve in time; try again", retry_after=1.0)

    async def admit(self, call: Call, size: int) -> None:
        """Wait until there is room for a call's body, before it is read. First come, first served.

        Raises ``Overloaded`` after :data:`PATIENCE` seconds.
        """
        if not self._queue and self._fits(call, size):
            self._take(call, size)
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append((turn, call, size))
        try:
            async with asyncio.timeout(PATIENCE):
                await turn
        except TimeoutError:
            raise self._no_room() from None
        finally:
            self._next()  # it may have been the first

    def hold(self, call: Call, size: int) -> None:
        """Count ``size`` more bytes of a call's body. Raises ``Overloaded``, since what waits must not hold memory."""
        if not self._fits(call, size):
            raise self._no_room()
        self._take(call, size)

    def release(self, call: Call) -> None:
        """A call is over."""
        if call.weight:
            self.bodies -= call.weight
            call.weight = 0
            self._next()

    def _fits(self, call: Call, size: int) -> bool:
        """A body alone may have any size."""
        return self.bodies == call.weight or self.bodies + size <= self.room

    def _take(self, call: Call, size: int) -> None:
        self.bodies += size
        call.weight += size

    def _next(self) -> None:
        while self._queue:
            turn, call, size = self._queue[0]
            if not turn.done():
                if not self._fits(call, size):
                    return
                self._take(call, size)
                turn.set_result(None)
            self._queue.popleft()

    def _no_room(self) -> Overloaded:
        self.shed["memory"] += 1
        return Overloaded("the requests under way take the memory that there is for bodies; try again", retry_after=1.0)

    def samples(self) -> Iterator[Sample]:
        """Metric samples."""
        yield Sample(
            "gwcore_event_loop_lag_seconds",
            self.lag,
            help="Event loop lag: how late ready work runs, smoothed.",
            merge="max",
        )
        yield Sample("gwcore_body_bytes", self.bodies, help="Bytes of large request bodies held for calls in flight.")
        for reason, count in self.shed.items():
            labels = {"reason": reason}
            yield Sample(
                "gwcore_shed_calls",
                count,
                labels,
                "Calls rejected with 503 by load shedding, by reason.",
                kind="counter",
            )

    # ── the lag ──────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start measuring the lag of the running loop."""
        self._again()

    def stop(self) -> None:
        """Stop measuring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.stuck_at = math.inf

    def _again(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._due = time.monotonic() + INTERVAL
        self.stuck_at = self._due + 2 * self.max_lag
        # queue behind what is ready when the timer fires, as a new call would be
        self._timer = loop.call_later(INTERVAL, loop.call_soon, self._look)

    def _look(self) -> None:
        if self._timer is None:
            return
        seconds = time.monotonic() - self._due
        self._again()  # first, so that a failing log write cannot stop the measurements
        self.note(seconds)

    def note(self, seconds: float) -> None:
        """Add one measurement of the lag. Three in a row far over the limit are an overload, two are not."""
        self.lag += (max(0.0, min(seconds, 2 * self.max_lag)) - self.lag) / 4
        before, self.late = self.late, self.lag > (self.max_lag / 2 if self.late else self.max_lag)
        if self.late and not before:
            _log.warning("shedding calls", lag_seconds=round(self.lag, 3), inflight=self.inflight)
