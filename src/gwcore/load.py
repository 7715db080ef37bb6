"""How busy a worker is, and when it takes no more: calls under way, and how late its event loop comes to what is ready.

A worker with more to do than it can makes all its calls late, until every client has given up. One that refuses early, before
it reads a body or knows who calls, serves the rest in time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterator

import structlog

from gwcore.errors import Overloaded
from gwcore.ports import Sample

INTERVAL = 0.05
"""Seconds between two looks at the lag."""
_log = structlog.get_logger("gwcore")


class Load:
    """One per gateway; it outlives a reload.

    Attributes:
        inflight: calls under way.
        late: whether the lag has been over its limit; until it is below half of it.
        stuck_at: when, of ``time.monotonic``, no call is taken unless the lag was measured meanwhile: a loop that is far
            behind comes to thousands of new calls before it comes to that. It counts where the lag was over half of its
            limit already, as the calls that waited out one long step are no overload.
        lag: seconds that a callback which is ready waits for its turn, smoothed: one or two long steps are no overload.
        shed: calls refused, by reason: ``inflight`` or ``lag``.
        most: calls under way beyond which none is taken.
        max_lag: seconds of lag beyond which none is taken.
    """

    __slots__ = ("_due", "_timer", "inflight", "lag", "late", "max_lag", "most", "shed", "stuck_at")

    def __init__(self) -> None:
        self.inflight = 0
        self.late = False
        self.lag = 0.0
        self.shed = Counter({"inflight": 0, "lag": 0})
        self.stuck_at = math.inf
        self.limit(None, None)
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def limit(self, most: int | None, max_lag: float | None) -> None:
        """From now on these hold; ``None`` is no limit."""
        self.most = math.inf if most is None else most
        self.max_lag = math.inf if max_lag is None else max_lag

    def full(self) -> bool:
        """Whether the next call is one too many."""
        if self.late or self.inflight >= self.most:
            return True
        return time.monotonic() > self.stuck_at and self.lag > self.max_lag / 2

    def refusal(self) -> Overloaded:
        """What a call is told that is not taken; it counts."""
        reason = "inflight" if self.inflight >= self.most else "lag"
        self.shed[reason] += 1
        return Overloaded("the gateway has more calls than it can serve in time; try again", retry_after=1.0)

    def samples(self) -> Iterator[Sample]:
        """What there is to see."""
        yield Sample("gwcore_event_loop_lag_seconds", self.lag, help="How late callbacks run, smoothed.", merge="max")
        for reason, count in self.shed.items():
            labels = {"reason": reason}
            yield Sample("gwcore_shed_calls", count, labels, "Calls refused as the gateway was busy.", kind="counter")

    # ── the lag ──────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Look at the lag of the running loop from now on."""
        self._again()

    def stop(self) -> None:
        """Look no more."""
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
        # behind what is ready when the timer fires, as a new call would be
        self._timer = loop.call_later(INTERVAL, loop.call_soon, self._look)

    def _look(self) -> None:
        if self._timer is None:
            return
        seconds = time.monotonic() - self._due
        self._again()  # first: a log that cannot be written does not end the looking
        self.note(seconds)

    def note(self, seconds: float) -> None:
        """Take one measurement of the lag. Three in a row that are far over the limit are an overload, two are not."""
        self.lag += (max(0.0, min(seconds, 2 * self.max_lag)) - self.lag) / 4
        before, self.late = self.late, self.lag > (self.max_lag / 2 if self.late else self.max_lag)
        if self.late and not before:
            _log.warning("shedding calls", lag_seconds=round(self.lag, 3), inflight=self.inflight)
