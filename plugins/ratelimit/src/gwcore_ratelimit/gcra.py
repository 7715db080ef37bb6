"""The arithmetic of a rate limit: exact, in integers; no clock, no store.

GCRA ("generic cell rate algorithm", ITU-T I.371) keeps one number per key, the *theoretical arrival time* (TAT): the
moment at which the key is as if never used. A charge of ``cost`` units moves it ``cost * period / amount`` onwards and is
allowed if it is then at most ``burst * period / amount`` away. Thus at most ``burst + amount * t / period`` units pass in
any time ``t``. Times are whole microseconds; a TAT is microseconds and a remainder in ``1/amount`` of one, so that nothing
is ever rounded. The home in Redis does the same sums in Lua, whose doubles hold every such part exactly.

A *strict window* counts in twelve buckets per period and the one that is being left whole: at most ``amount`` units pass
in any window of length ``period``; up to a twelfth of it is refused early.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

REQUESTS: Final = "requests"
TOKENS: Final = "tokens"
PARALLEL: Final = "parallel"
BUCKETS: Final = 12
SECOND: Final = 1_000_000
"""Microseconds."""

Kind = Literal["requests", "tokens", "parallel"]


@dataclass(slots=True, frozen=True)
class Limit:
    """One limit of one rule.

    Attributes:
        id: names its state: what it counts and over which period, not how much; a changed amount keeps the state.
        amount: units per ``period``; of ``parallel``, calls at once.
        period: microseconds; 0 for ``parallel``.
        burst: units that may be used at once.
        width: microseconds of a bucket of a strict window; 0 for GCRA.
        scopes: its rule's ``per``.
    """

    id: str
    kind: Kind
    amount: int
    period: int
    burst: int
    width: int = 0
    scopes: tuple[str, ...] = ()
    shadow: bool = False
    on_store_error: Literal["local", "open", "closed"] = "local"
    count: Literal["input", "output", "total"] = "total"
    count_cached: bool = True

    @property
    def largest(self) -> int:
        """The largest cost that can ever be admitted."""
        return self.amount if self.width else self.burst

    def share(self, workers: int, rank: int) -> Limit:
        """What one of ``workers`` may use alone, so that all together stay within the limit.

        The rate is divided exactly, and so are calls at once and strict windows; a burst is at least 1.
        """
        if workers == 1:
            return self
        part = self.amount * (rank + 1) // workers - self.amount * rank // workers
        if self.kind == PARALLEL or self.width:
            return replace(self, amount=part, burst=part)
        return replace(self, period=self.period * workers, burst=max(1, self.burst // workers))


class Charge(NamedTuple):
    """``cost`` units of ``limit`` for ``key``. Of ``parallel`` the cost is one place, whatever it says."""

    limit: Limit
    key: str
    cost: int


class Reading(NamedTuple):
    """State of a key.

    Attributes:
        remaining: whole units that could be used now.
        reset: microseconds until it is as if never used; 0 for ``parallel``.
        stamp: of a strict window, the bucket that was charged.
    """

    remaining: int
    reset: int
    stamp: int = 0


class Verdict(NamedTuple):
    """What became of the charges of a call.

    Attributes:
        refused: index of the charge that must wait longest; -1 when all were admitted. Then, and only then, all were
            charged, except those of shadow limits that would have refused.
        wait: microseconds until that charge is admissible, if nothing else is admitted.
        readings: one per charge, after it; ``None`` where a limit was not looked at.
        shadowed: indices of shadow limits that would have refused.
        local: decided by this worker alone, since the store was unreachable.
    """

    refused: int
    wait: int
    readings: list[Reading | None]
    shadowed: tuple[int, ...] = ()
    local: bool = False


def reading_of(limit: Limit, lead: int) -> Reading:
    """Of a key whose TAT is ``lead / amount`` microseconds away; below 0 it is as if never used."""
    if lead <= 0:
        return Reading(limit.burst, 0)
    left = limit.burst * limit.period - lead
    return Reading(left // limit.period if left > 0 else 0, -(-lead // limit.amount))


def window_wait(counts: list[int], cost: int, limit: Limit, now: int, bucket: int) -> int:
    """Microseconds until ``cost`` fits; ``counts`` are those of the buckets up to ``bucket``, oldest first."""
    total = sum(counts) + cost
    for n, count in enumerate(counts):
        if total <= limit.amount:
            break
        total -= count
        leaves = (bucket + n + 1) * limit.width
    return leaves - now
