"""The arithmetic of a rate limit: exact, in integers; no clock, no store.

GCRA ("generic cell rate algorithm", ITU-T I.371) keeps one number per key, the *theoretical arrival time* (TAT): the
moment at which the key is as if never used. A charge of ``cost`` units advances it by ``cost * period / amount`` and
is allowed if it is then at most ``burst * period / amount`` ahead. Thus at most ``burst + amount * t / period`` units
pass in any time ``t``. Times are whole microseconds; a TAT is microseconds and a remainder in ``1/amount`` of one, so
nothing is rounded. The Redis store does the same arithmetic in Lua, whose doubles hold each part exactly.

A *strict window* counts in twelve buckets per period, and counts the expiring bucket in full: at most ``amount`` units
pass in any window of length ``period``; up to a twelfth of them is refused early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from gwcore_ratelimit.table import DATA, UNTIL

REQUESTS: Final = "requests"
TOKENS: Final = "tokens"
PARALLEL: Final = "parallel"
BUCKETS: Final = 12
SECOND: Final = 1_000_000
"""Microseconds."""

Kind = Literal["requests", "tokens", "parallel"]

Span = tuple[int, int]
"""A time: whole microseconds, and a remainder in ``1/amount`` of one."""


@dataclass(slots=True, frozen=True)
class Limit:
    """One limit of one rule.

    Attributes:
        id: key of its state: what it counts and over which period, but not the amount, whose change keeps the state.
        amount: units per ``period``; for ``parallel``, concurrent calls.
        period: microseconds; 0 for ``parallel``.
        burst: units that may be used at once.
        width: microseconds of a bucket of a strict window; 0 for GCRA.
        scopes: its rule's ``per``.
        owing: units by which a correction may exceed the burst; 0 means ``burst``. Of a share: the whole limit's burst.
        gcra: whether its state is a TAT.
        unit: how far a charge of one unit moves the TAT.
        full: how far ahead a charge may move the TAT, in ``1/amount`` of a microsecond.
        room: ``full`` as a span; ``most``, ``debt``: likewise, how far ahead a correction may move it.
        largest: the largest cost that can ever be admitted.
        manner: which tokens it counts, as one word: ``total``, ``input-uncached``.
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
    owing: int = 0
    gcra: bool = field(init=False, repr=False, compare=False)
    unit: Span = field(init=False, repr=False, compare=False)
    full: int = field(init=False, repr=False, compare=False)
    most: int = field(init=False, repr=False, compare=False)
    room: Span = field(init=False, repr=False, compare=False)
    debt: Span = field(init=False, repr=False, compare=False)
    largest: int = field(init=False, repr=False, compare=False)
    manner: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gcra", self.period > 0 and not self.width)
        object.__setattr__(self, "unit", divmod(self.period, self.amount or 1))
        object.__setattr__(self, "full", self.burst * self.period)
        object.__setattr__(self, "room", divmod(self.full, self.amount or 1))
        object.__setattr__(self, "most", self.full + (self.owing or self.burst) * self.period)
        object.__setattr__(self, "debt", divmod(self.most, self.amount or 1))
        object.__setattr__(self, "largest", self.amount if self.width else self.burst)
        object.__setattr__(self, "manner", self.count if self.count_cached else f"{self.count}-uncached")

    def share(self, workers: int, rank: int) -> Limit:
        """The limit of one of ``workers`` on its own, so that all together stay within this limit.

        Rates, parallel calls and strict windows are divided exactly; a burst is at least 1.
        """
        if workers == 1:
            return self
        part = self.amount * (rank + 1) // workers - self.amount * rank // workers
        if self.kind == PARALLEL or self.width:
            return replace(self, amount=part, burst=part)
        return replace(self, period=self.period * workers, burst=max(1, self.burst // workers), owing=self.burst)


Charge = tuple[Limit, str, int]
"""A limit, a key, and a cost in units; ``parallel`` ignores the cost: a call takes one place."""

TAT: Final = UNTIL
REST: Final = DATA
"""Cells of a rate's row: its TAT in whole microseconds, and the remainder."""

Change = tuple[Limit, str, int, int]
"""Correction of a charge: limit, key, units (below 0: refund; ``parallel``: always the end), the charge's ``stamp``."""

Reading = tuple[int, int, int]
"""State of a key: whole units available now; microseconds until it is as if never used, 0 for ``parallel``; and a
stamp: for a strict window the bucket that was charged, else 0."""


@dataclass(slots=True)
class Verdict:
    """The decision on a call's charges.

    Attributes:
        refused: index of the charge that must wait longest; -1 if all were admitted. Only then were they charged,
            except those of shadow limits that would have refused.
        wait: microseconds until that charge is admissible, if nothing else is admitted.
        readings: one per charge, after the decision; ``None`` if not known.
        shadowed: indices of shadow limits that would have refused.
        local: decided by this worker alone, because the store was unreachable.
    """

    refused: int
    wait: int
    readings: list[Reading | None]
    shadowed: tuple[int, ...] = ()
    local: bool = False


def refunds(charges: Sequence[Charge], verdict: Verdict) -> list[Change]:
    """Corrections that refund everything charged."""
    return [
        (limit, key, -cost, reading[2])
        for n, ((limit, key, cost), reading) in enumerate(zip(charges, verdict.readings, strict=True))
        if reading is not None and n not in verdict.shadowed
    ]


def reading_of(limit: Limit, lead: int, rest: int) -> Reading:
    """The reading for a TAT ``lead`` microseconds and ``rest`` ahead; a TAT in the past means never used."""
    if lead < 0:
        return limit.burst, 0, 0
    left = limit.full - lead * limit.amount - rest
    return left // limit.period if left > 0 else 0, lead + (rest > 0), 0


def window_wait(counts: list[int], cost: int, limit: Limit, now: int, bucket: int) -> int:
    """Microseconds until ``cost`` fits; ``counts``: of the buckets up to ``bucket``, oldest first."""
    total = sum(counts) + cost
    for n, count in enumerate(counts):
        if total <= limit.amount:
            break
        total -= count
        leaves = (bucket + n + 1) * limit.width
    return leaves - now
