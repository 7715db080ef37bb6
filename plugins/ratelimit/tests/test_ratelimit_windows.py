"""Acceptance L3: what passes in any window, under an adversary that knows where the edges are."""

import math
import random

import pytest
from ratelimit_homes import HOMES, START, Charge, MemoryUnderTest, limit

from gwcore_ratelimit import memory

MINUTE = 60_000_000


def most_in_a_window(passed, period):
    """The largest sum over any window [t, t + period), by two pointers."""
    most = total = left = 0
    for at, cost in passed:
        total += cost
        while passed[left][0] <= at - period:
            total -= passed[left][1]
            left += 1
        most = max(most, total)
    return most


def edge_trace(seed, lim):
    """Bursts around the edges of windows and buckets: the worst an adversary can time."""
    random_ = random.Random(seed)
    width = lim.width or lim.period // 12
    at, trace = START - START % lim.period, []
    for _ in range(60):
        edge = random_.choice([lim.period, width, width // 2, 1])
        at += max(1, edge + random_.choice([-1, 0, 1, -width // 7]))
        trace.extend((at, random_.randint(1, 20)) for _ in range(random_.randint(1, 8)))
    return trace


def worst_of(home, lim, traces):
    worst = 0
    try:
        for seed in range(traces):
            passed = []
            for at, cost in edge_trace(seed, lim):
                home.advance(at + seed * 1000 * lim.period - home.now)
                if home.admit([Charge(lim, f"k{seed}", cost)]).refused < 0:
                    passed.append((at, cost))
            worst = max(worst, most_in_a_window(passed, lim.period))
    finally:
        home.close()
    return worst


@pytest.mark.parametrize(("name", "traces"), [("memory", 1000), ("redis", 8)])
def test_a_strict_window_never_passes_more_than_its_amount(name, traces, request):
    lim = limit("requests", 60, MINUTE, strict=True)
    home = HOMES[name](request.getfixturevalue("redis_url") if name == "redis" else None)
    assert 0.8 * lim.amount <= worst_of(home, lim, traces) <= lim.amount


class ForgetsOldest(memory.Memory):
    """Mutant: the bucket that is being left is not counted."""

    def _window(self, at, limit, now):
        return [0, *super()._window(at, limit, now)[1:]]


def test_negative_control_without_the_oldest_bucket_a_window_overflows():
    home = type("Mutant", (MemoryUnderTest,), {"kind": ForgetsOldest})()
    assert worst_of(home, limit("requests", 60, MINUTE, strict=True), 300) > 60


def test_gcra_passes_at_most_its_burst_and_its_rate():
    """reliability.md §3.1: burst + amount in any window; with a burst of a tenth, 1.1 times the amount."""
    lim = limit("requests", 600, MINUTE, burst=60)
    assert worst_of(MemoryUnderTest(), lim, 200) <= math.ceil(1.1 * lim.amount)
