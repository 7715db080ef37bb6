"""Health of deployments and credentials: breaker, cool-down, latency. Pure; clock and randomness are injected.

A breaker is closed, open until a time, or half-open: then exactly one attempt is let through as a probe, which decides.
A cool-down is not a failure: the upstream said when to come back, and nothing is sent earlier, whatever the result of
calls already in flight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

_BUCKETS = 6
_ALPHA = 0.2  # EWMA: the last ten samples make up nine tenths of it
_YIELD = 1.0  # seconds
_KEPT = 128
_REFRESH = 16


@dataclass(slots=True, frozen=True)
class Limits:
    """When breakers open and for how long; seconds."""

    allowed_fails: int = 5
    failure_rate: float = 0.5
    failure_samples: int = 20
    failure_window: float = 30.0
    cooldown: float = 10.0
    max_cooldown: float = 300.0
    key_cooldown: float = 60.0


Report = Callable[[str, "Breaker"], None]
"""Called with events for other replicas: ``fail``, ``well`` (after failures), ``open``, ``close`` and ``cool``."""


def unheard(_event: str, _breaker: Breaker) -> None:
    """Reports to no one."""


class Breaker:
    """The breaker of a deployment or a credential.

    Attributes:
        fails: failures in a row.
        opens: how often it opened in a row; 0 if closed.
        until: monotonic second before which nothing is sent; an open breaker then becomes half-open.
        cooling: ``until`` is a time that the upstream asked for.
        probing: a probe is in flight.
        failed_at: monotonic second of the latest failure; 0 before the first.
        reason: kind of the latest failure.
        refusals: rate limit errors in a row for which the upstream named no time.
        yields: monotonic second until which it is tried after all others, because of such errors.
    """

    __slots__ = (
        "_bad",
        "_clock",
        "_good",
        "_random",
        "_report",
        "_turn",
        "cooling",
        "failed_at",
        "fails",
        "id",
        "limits",
        "opens",
        "probing",
        "reason",
        "refusals",
        "until",
        "yields",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        limits: Limits,
        clock: Callable[[], float],
        random: Random,
        report: Report = unheard,
    ) -> None:
        self.id = name
        self.limits = limits
        self._clock = clock
        self._random = random
        self._report = report
        self.fails = 0
        self.opens = 0
        self.until = 0.0
        self.cooling = False
        self.probing = False
        self.failed_at = 0.0
        self.reason = ""
        self.refusals = 0
        self.yields = 0.0
        self._good = [0] * _BUCKETS
        self._bad = [0] * _BUCKETS
        self._turn = 0

    def closed(self, now: float) -> bool:
        """Whether anything may be sent."""
        return not self.opens and self.until <= now

    def half_open(self, now: float) -> bool:
        """Whether a probe is due, and none is in flight."""
        return self.opens > 0 and self.until <= now and not self.probing

    def succeeded(self, *, decides: bool) -> None:
        """Record a success. ``decides``: the attempt began with the breaker open, as the probe or in panic."""
        self._bucket()
        self._good[self._turn % _BUCKETS] += 1
        if self.fails:
            self.fails = 0
            if not self.opens:
                self._report("well", self)
        if self.opens and decides:
            self.close()
            self._report("close", self)
            if self.cooling:
                self._report("cool", self)

    def failed(self, reason: str, *, decides: bool) -> None:
        """Record a failure. One that began before the breaker opened does not extend the time."""
        now = self._clock()
        self.failed_at, self.reason = now, reason
        self._bucket()
        self._bad[self._turn % _BUCKETS] += 1
        self.fails += 1
        if self.opens:
            if decides and self.until <= now:
                self._open(now)
        elif self.fails >= self.limits.allowed_fails or self._mostly_bad():
            self._open(now)
        else:
            self._report("fail", self)

    def cool(self, seconds: float) -> None:
        """Wait as long as the upstream asks for; never shortens a longer wait."""
        now = self._clock()
        self.failed_at, self.reason = now, "rate_limited"
        if now + seconds > self.until:
            self.until = now + seconds
            self.cooling = True
            self._report("cool", self)

    def refused(self) -> None:
        """Record a rate limit error without a time: others come first for a second, doubled each time in a row."""
        now = self._clock()
        self.failed_at, self.reason = now, "rate_limited"
        if now >= self.yields:  # otherwise the attempt was sent before the last one was recorded
            self.yields = now + min(self.limits.cooldown, _YIELD * 2**self.refusals)
            self.refusals = min(self.refusals + 1, 16)

    def shut(self, reason: str) -> None:
        """Open at once: the credential was rejected, the account is empty, or its checks fail."""
        now = self._clock()
        self.failed_at, self.reason = now, reason
        self.until = now + self.limits.key_cooldown
        self.cooling = False
        self.opens += 1
        self._report("open", self)

    def _open(self, now: float) -> None:
        limits = self.limits
        spread = 0.8 + 0.4 * self._random.random()  # so that replicas and deployments do not return at the same time
        until = now + min(limits.max_cooldown, limits.cooldown * 2**self.opens) * spread
        self.opens += 1
        if self._asked_for(until):
            self._report("cool", self)
            return
        self.until, self.cooling = until, False
        self._report("open", self)

    def close(self) -> None:
        """Reset all failures. A wait that the upstream asked for is kept."""
        self.fails = self.opens = self.refusals = 0
        self.yields = 0.0
        if not self._asked_for(self._clock()):
            self.until = 0.0
            self.cooling = False
        self._good = [0] * _BUCKETS
        self._bad = [0] * _BUCKETS

    def _asked_for(self, moment: float) -> bool:
        """Whether the upstream asked for a wait beyond this second."""
        return self.cooling and self.until > moment

    def follows(self, other: Breaker) -> None:
        """Take over the state of the same deployment before a reload, except for its probe."""
        self.fails, self.opens, self.until = other.fails, other.opens, other.until
        self.cooling, self.failed_at, self.reason = other.cooling, other.failed_at, other.reason
        self.refusals, self.yields = other.refusals, other.yields

    def heard(self, event: str, *, opens: int = 0, until: float = 0.0, reason: str = "") -> None:
        """Apply another replica's report, without reporting it further."""
        if event == "fail":
            self.fails += 1
            self.failed_at, self.reason = self._clock(), reason
        elif event == "well":
            self.fails = 0
        elif event == "close":
            self.close()
        elif until > self.until or opens > self.opens:
            self.opens = max(self.opens, opens)
            if until > self.until:
                self.until, self.cooling = until, event == "cool"
            self.failed_at, self.reason = self._clock(), reason

    def _bucket(self) -> None:
        turn = int(self._clock() * _BUCKETS / self.limits.failure_window)
        for stale in range(max(self._turn, turn - _BUCKETS) + 1, turn + 1):
            self._good[stale % _BUCKETS] = self._bad[stale % _BUCKETS] = 0
        self._turn = turn

    def _mostly_bad(self) -> bool:
        bad = sum(self._bad)
        total = bad + sum(self._good)
        return total >= self.limits.failure_samples and bad > self.limits.failure_rate * total


class Latency:
    """Seconds to the first content: a moving average, and the 95th percentile of the last 128 samples.

    Attributes:
        passed: number of choices since the last sample; see :meth:`Planner.fastest`.
    """

    __slots__ = ("_next", "_p95", "_samples", "average", "count", "passed")
    STALE = 100

    @property
    def known(self) -> bool:
        """Whether there are samples, and not only outdated ones."""
        return self.count > 0 and self.passed < self.STALE

    def __init__(self) -> None:
        self.average = 0.0
        self.count = self.passed = 0
        self._samples: list[float] = []
        self._next = 0
        self._p95 = 0.0

    def add(self, seconds: float) -> None:
        """Add a sample."""
        self.average = self.average + _ALPHA * (seconds - self.average) if self.known else seconds
        self.passed = 0
        if len(self._samples) < _KEPT:
            self._samples.append(seconds)
        else:
            self._samples[self.count % _KEPT] = seconds
        self.count += 1

    def p95(self) -> float | None:
        """The 95th percentile; ``None`` below 20 samples. Computed again after every 16 samples."""
        if self.count < 20:
            return None
        if self.count >= self._next:
            ordered = sorted(self._samples)
            self._p95 = ordered[int(len(ordered) * 0.95)]
            self._next = self.count + _REFRESH
        return self._p95


class Window:
    """Usage of a rate: 12 slices of its period; the oldest is counted in full, so the rate is never exceeded.

    Amounts may be corrected later. ``others`` is the usage of other replicas, ``pending`` our usage not yet shared.
    """

    __slots__ = ("_clock", "_slice", "_turn", "_used", "amount", "others", "pending", "per")
    SLICES = 12

    def __init__(self, amount: int, per: float, clock: Callable[[], float]) -> None:
        self.amount = amount
        self.per = per
        self._clock = clock
        self._slice = per / self.SLICES
        self._turn = 0
        self._used = [0] * (self.SLICES + 1)
        self.others = 0
        self.pending = 0

    def used(self) -> int:
        """Usage in the period that ends now, including other replicas."""
        return self.own() + self.others

    def own(self) -> int:
        """Usage of this process in the period that ends now."""
        self._advance()
        return sum(self._used)

    def add(self, amount: int) -> None:
        """Add usage; a negative amount corrects it."""
        self._advance()
        self._used[self._turn % len(self._used)] += amount
        self.pending += amount

    def follows(self, other: Window) -> None:
        """Take over the counts of the window before a reload, if the period is the same."""
        if other.per == self.per:
            self._turn, self._used = other._turn, list(other._used)

    def free_in(self, amount: int) -> float:
        """Seconds until ``amount`` of the usage has expired, at the earliest: when others' usage expires is unknown."""
        amount -= self.others
        self._advance()
        seconds = self._slice - self._clock() % self._slice
        for turn in range(self._turn + 1, self._turn + len(self._used)):  # the oldest first
            amount -= self._used[turn % len(self._used)]
            if amount <= 0:
                break
            seconds += self._slice
        return seconds

    def _advance(self) -> None:
        turn, kept = int(self._clock() / self._slice), len(self._used)
        for stale in range(max(self._turn, turn - kept) + 1, turn + 1):
            self._used[stale % kept] = 0
        self._turn = turn
