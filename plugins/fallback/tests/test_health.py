"""Breaker, latency and windows, on a clock of the test's own."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwcore_fallback.health import Breaker, Latency, Limits, Window


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def made(**limits):
    clock, told = Clock(), []
    breaker = Breaker("x", Limits(**limits), clock, Random(1), lambda event, _: told.append(event))
    return breaker, clock, told


def fail(breaker, times, decides=False):
    for _ in range(times):
        breaker.failed("unavailable", decides=decides)


def test_five_failures_in_a_row_open_it():
    breaker, clock, told = made()
    fail(breaker, 4)
    breaker.succeeded(decides=False)
    fail(breaker, 4)
    assert breaker.closed(clock.now)
    fail(breaker, 1)
    assert not breaker.closed(clock.now) and 8 <= breaker.until - clock.now <= 12
    assert told == ["fail"] * 4 + ["well"] + ["fail"] * 4 + ["open"]


def test_more_than_half_of_twenty_open_it():
    breaker, clock, _ = made(allowed_fails=100)
    for _ in range(9):
        fail(breaker, 1)
        breaker.succeeded(decides=False)
    fail(breaker, 1)
    assert breaker.closed(clock.now)  # 10 of 19
    fail(breaker, 1)
    assert not breaker.closed(clock.now)


def test_old_failures_do_not_count():
    breaker, clock, _ = made(allowed_fails=100)
    fail(breaker, 19)
    clock.now += 31
    fail(breaker, 1)
    assert breaker.closed(clock.now)


def test_a_probe_decides_and_a_straggler_does_not():
    breaker, clock, _ = made()
    fail(breaker, 5)
    until = breaker.until
    fail(breaker, 3)  # they began before it opened
    assert breaker.until == until
    assert not breaker.half_open(clock.now)
    clock.now = until
    assert breaker.half_open(clock.now)
    breaker.succeeded(decides=False)
    assert breaker.opens == 1
    breaker.probing = True
    assert not breaker.half_open(clock.now)
    breaker.succeeded(decides=True)
    assert breaker.closed(clock.now) and breaker.fails == 0


def test_each_opening_in_a_row_is_twice_as_long_up_to_the_cap():
    breaker, clock, _ = made(max_cooldown=100.0)
    fail(breaker, 5)
    lengths = [breaker.until - clock.now]
    for _ in range(6):
        clock.now = breaker.until
        fail(breaker, 1, decides=True)
        lengths.append(breaker.until - clock.now)
    for length, nominal in zip(lengths, [10, 20, 40, 80, 100, 100, 100], strict=True):
        assert 0.8 * nominal <= length <= 1.2 * nominal


def test_a_cool_down_is_no_failure_and_no_shorter_one_ends_it():
    breaker, clock, told = made()
    breaker.cool(15)
    breaker.cool(3)
    assert breaker.until == clock.now + 15 and not breaker.opens and breaker.cooling and told == ["cool"]
    clock.now += 15
    assert breaker.closed(clock.now)


def test_a_wait_that_was_asked_for_outlasts_what_was_under_way():
    """Calls that began before the upstream said when to come back fail, or are answered, after it did."""
    breaker, clock, told = made()
    breaker.cool(60)
    fail(breaker, 6)
    assert breaker.until == clock.now + 60 and breaker.cooling and breaker.opens == 1
    breaker.succeeded(decides=True)
    assert breaker.until == clock.now + 60 and not breaker.opens
    assert told == ["cool", "fail", "fail", "fail", "fail", "cool", "close", "cool"]
    other, clock, _ = made()
    other.heard("cool", until=clock.now + 60)
    other.heard("open", opens=1, until=clock.now + 10)
    other.heard("close")
    assert other.until == clock.now + 60 and other.cooling and not other.opens


def test_one_at_its_limit_that_names_no_time_yields_for_longer_each_time():
    breaker, clock, _ = made(cooldown=5.0)
    spans = []
    for _ in range(5):
        breaker.refused()
        breaker.refused()  # one that was sent before
        spans.append(breaker.yields - clock.now)
        clock.now = breaker.yields
    assert spans == [1, 2, 4, 5, 5] and breaker.closed(clock.now)


def test_a_refused_credential_is_closed_at_once_for_a_minute():
    breaker, clock, _ = made()
    breaker.shut("credential")
    assert breaker.until == clock.now + 60 and not breaker.closed(clock.now + 61) and breaker.half_open(clock.now + 61)


def test_what_others_report_is_believed_and_not_repeated():
    breaker, clock, told = made()
    breaker.heard("fail", reason="x")
    breaker.heard("open", opens=2, until=clock.now + 20, reason="x")
    assert (breaker.opens, breaker.until) == (2, clock.now + 20)
    breaker.heard("open", opens=1, until=clock.now + 5, reason="x")
    assert (breaker.opens, breaker.until) == (2, clock.now + 20)
    breaker.heard("close")
    assert breaker.closed(clock.now) and told == []


def test_failures_of_others_count_toward_opening():
    breaker, clock, _ = made()
    for _ in range(4):
        breaker.heard("fail")
    assert breaker.closed(clock.now)
    fail(breaker, 1)
    assert not breaker.closed(clock.now)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("ok"), st.booleans()),
        st.tuples(st.just("fail"), st.booleans()),
        st.tuples(st.just("wait"), st.floats(0, 40)),
        st.tuples(st.just("cool"), st.floats(0, 20)),
        st.tuples(st.just("heard"), st.sampled_from(["fail", "well", "close"])),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(EVENTS)
def test_whatever_happens(events):
    """It is exactly one of closed, waiting and half-open; it stays open no longer than the longest time allowed."""
    breaker, clock, _ = made(max_cooldown=50.0)
    for kind, value in events:
        if kind == "ok":
            breaker.succeeded(decides=value)
        elif kind == "fail":
            breaker.failed("x", decides=value)
        elif kind == "wait":
            clock.now += value
        elif kind == "cool":
            breaker.cool(value)
        else:
            breaker.heard(value)
        assert breaker.closed(clock.now) + (breaker.until > clock.now) + breaker.half_open(clock.now) == 1
        assert breaker.until - clock.now <= 60.0
        if kind == "ok" and value:
            assert breaker.opens == 0


def test_latency():
    seen = Latency()
    assert seen.p95() is None
    for n in range(100):
        seen.add(1.0 if n % 10 else 5.0)
    assert seen.p95() == 5.0
    assert 1.0 < seen.average < 2.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 5)), max_size=80))
def test_no_period_holds_more_than_the_rate(steps):
    clock = Clock()
    window = Window(20, 60.0, clock)
    taken = []
    for wait, amount in steps:
        clock.now += wait
        if window.used() + amount <= window.amount:
            window.add(amount)
            taken.append((clock.now, amount))
        assert sum(n for at, n in taken if at > clock.now - 60.0) <= 20
    assert window.pending == sum(n for _, n in taken)


def test_a_window_says_when_enough_has_left_it():
    clock = Clock()  # at 1000: slices of 5 s
    window = Window(100, 60.0, clock)
    window.add(30)
    clock.now += 20
    window.add(50)
    assert (window.free_in(1), window.free_in(30), window.free_in(31), window.free_in(80)) == (45, 45, 65, 65)
    window.others = 10  # may leave at once
    assert window.free_in(10) == 5 and window.free_in(11) == 45


def test_a_window_frees_what_has_left_it():
    clock = Clock()
    window = Window(1, 60.0, clock)
    window.add(1)
    clock.now += 70
    assert window.used() == 0


@pytest.mark.parametrize("correction", [-3, 4])
def test_an_estimate_is_corrected(correction):
    window = Window(100, 60.0, Clock())
    window.add(10)
    window.add(correction)
    assert window.used() == 10 + correction
