"""How deployments and credentials fare: breaker, cool-down, latency. Pure; clock and chance are given.

A breaker is closed, open until a time, or half-open: then exactly one attempt goes through as a probe, and decides. A
cool-down is no failure: the upstream said when to come back, and nothing is sent before that, whatever calls that were
under way by then make of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

_BUCKETS = 6
_ALPHA = 0.2  # EWMA: the last ten samples make nine tenths of it
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
"""Told of ``fail``, ``well`` (after fails), ``open``, ``close`` and ``cool``: what other replicas should know."""


def unheard(_event: str, _breaker: Breaker) -> None:
    """Nobody else to tell."""


class Breaker:
    """One deployment with one credential.

    Attributes:
        fails: in a row.
        opens: how often it opened in a row; 0 is closed.
        until: monotonic second before which nothing is sent; of an open breaker, when it becomes half-open.
        cooling: ``until`` is a time that the upstream named.
        probing: an attempt is under way as the probe.
        failed_at: monotonic second of the latest failure; 0 before the first.
        reason: kind of the latest failure.
        refusals: how often in a row it was at its rate limit and named no time.
        yields: monotonic second before which it is asked after all others, for that.
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
        """Whether a probe is due, and none is under way."""
        return self.opens > 0 and self.until <= now and not self.probing

    def succeeded(self, *, decides: bool) -> None:
        """An attempt answered. ``decides`` if it began with the breaker open: the probe, or one sent in panic."""
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
        """An attempt failed. One that began before the breaker opened says nothing new."""
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
        """The upstream named a time; a shorter one does not shorten it."""
        now = self._clock()
        self.failed_at, self.reason = now, "rate_limited"
        if now + seconds > self.until:
            self.until = now + seconds
            self.cooling = True
            self._report("cool", self)

    def refused(self) -> None:
        """At its rate limit, and it named no time: others come first for a second, twice as long each time in a row."""
        now = self._clock()
        self.failed_at, self.reason = now, "rate_limited"
        if now >= self.yields:  # else one that was sent before
            self.yields = now + min(self.limits.cooldown, _YIELD * 2**self.refusals)
            self.refusals = min(self.refusals + 1, 16)

    def shut(self, reason: str) -> None:
        """One failure is enough: a credential that was refused, or an account that is empty."""
        now = self._clock()
        self.failed_at, self.reason = now, reason
        self.until = now + self.limits.key_cooldown
        self.cooling = False
        self.opens += 1
        self._report("open", self)

    def _open(self, now: float) -> None:
        limits = self.limits
        spread = 0.8 + 0.4 * self._random.random()  # so that replicas and deployments do not come back in step
        until = now + min(limits.max_cooldown, limits.cooldown * 2**self.opens) * spread
        self.opens += 1
        if self._asked_for(until):
            self._report("cool", self)
            return
        self.until, self.cooling = until, False
        self._report("open", self)

    def close(self) -> None:
        """Forget every failure. A wait that the upstream asked for is none."""
        self.fails = self.opens = self.refusals = 0
        self.yields = 0.0
        if not self._asked_for(self._clock()):
            self.until = 0.0
            self.cooling = False
        self._good = [0] * _BUCKETS
        self._bad = [0] * _BUCKETS

    def _asked_for(self, moment: float) -> bool:
        """Whether the upstream asked to be left alone until after that second."""
        return self.cooling and self.until > moment

    def follows(self, other: Breaker) -> None:
        """Go on where that one is, of the same deployment before a reload. A probe of its is not ours."""
        self.fails, self.opens, self.until = other.fails, other.opens, other.until
        self.cooling, self.failed_at, self.reason = other.cooling, other.failed_at, other.reason
        self.refusals, self.yields = other.refusals, other.yields

    def heard(self, event: str, *, opens: int = 0, until: float = 0.0, reason: str = "") -> None:
        """What another replica reported; nothing is reported on."""
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
    """Time to the first content: a moving average, and the 95th percentile of the last samples. Seconds.

    Attributes:
        passed: how often others were chosen since the last sample.
    """

    __slots__ = ("_next", "_p95", "_samples", "average", "count", "passed")
    STALE = 100

    @property
    def known(self) -> bool:
        """Whether there are samples, and not of a time that is over."""
        return self.count > 0 and self.passed < self.STALE

    def __init__(self) -> None:
        self.average = 0.0
        self.count = self.passed = 0
        self._samples: list[float] = []
        self._next = 0
        self._p95 = 0.0

    def add(self, seconds: float) -> None:
        """One more sample."""
        self.average = self.average + _ALPHA * (seconds - self.average) if self.known else seconds
        self.passed = 0
        if len(self._samples) < _KEPT:
            self._samples.append(seconds)
        else:
            self._samples[self.count % _KEPT] = seconds
        self.count += 1

    def p95(self) -> float | None:
        """``None`` below 20 samples; sorted anew every 16th."""
        if self.count < 20:
            return None
        if self.count >= self._next:
            ordered = sorted(self._samples)
            self._p95 = ordered[int(len(ordered) * 0.95)]
            self._next = self.count + _REFRESH
        return self._p95


class Window:
    """How much of a rate is used up: 12 slices of its period, the oldest counted whole, so never more than the rate.

    Amounts may be corrected later; ``others`` is what other replicas used, slice by slice.
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
        """In the period that ends now, other replicas included."""
        return self.own() + self.others

    def own(self) -> int:
        """In the period that ends now, of this process."""
        self._advance()
        return sum(self._used)

    def add(self, amount: int) -> None:
        """Use some; negative to correct."""
        self._advance()
        self._used[self._turn % len(self._used)] += amount
        self.pending += amount

    def follows(self, other: Window) -> None:
        """Go on counting where that one is, if it counts in the same slices."""
        if other.per == self.per:
            self._turn, self._used = other._turn, list(other._used)

    def free_in(self, amount: int) -> float:
        """Seconds until so much of what is used has left it, at the earliest: nobody knows when what others used does."""
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
