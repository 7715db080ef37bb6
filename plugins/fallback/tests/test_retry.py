"""Back-off, Retry-After in all its spellings, the retry budget."""

from datetime import UTC, datetime
from email.utils import format_datetime
from random import Random

import pytest

from gwcore.errors import RateLimited, Refused, Unreachable
from gwcore_fallback.retry import Budget, backoff, retry_after

NOW = 1_800_000_000.0


def refused(body=b"", **headers):
    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Refused("no", status=429, body=body, headers=listed)


def at(seconds):
    return datetime.fromtimestamp(NOW + seconds, UTC)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (refused(retry_after="7"), 7.0),
        (refused(retry_after="1.5"), 1.5),
        (refused(retry_after=format_datetime(at(7), usegmt=True)), 7.0),
        (refused(retry_after=format_datetime(at(-7), usegmt=True)), 0.0),
        (refused(retry_after="7", retry_after_ms="250"), 0.25),
        (refused(x_ratelimit_remaining_tokens="0", x_ratelimit_reset_tokens="6m0s"), 360.0),
        (refused(x_ratelimit_remaining_tokens="0", x_ratelimit_reset_tokens="250ms"), 0.25),
        (refused(x_ratelimit_remaining_requests="0", x_ratelimit_reset_requests=str(int(NOW) + 9)), 9.0),
        (
            refused(anthropic_ratelimit_requests_remaining="0", anthropic_ratelimit_requests_reset=at(5).isoformat()),
            5.0,
        ),
        (refused(x_ratelimit_remaining_tokens="12", x_ratelimit_reset_tokens="6m0s"), None),
        (refused(b'{"error": {"details": [{"@type": "x"}, {"retryDelay": "17s"}]}}'), 17.0),
        (refused(b'[{"error": {"details": [{"retryDelay": "1.5s"}]}}]'), 1.5),
        (refused(b'{"error": {"details": "retryDelay"}}'), None),
        (refused(b"retryDelay"), None),
        (refused(retry_after="soon"), None),
        (refused(retry_after="Mon, 01 Jan 99999999999999999999 00:00:00 GMT"), None),
        (refused(retry_after="Mon, 01 Jan 2030 00:00:00 +99999999999999999999"), None),
        (refused(retry_after="99999999999"), 86400.0),
        (refused(), None),
        (RateLimited("x", retry_after=3), 3),
        (Unreachable("x"), None),
    ],
)
def test_what_upstreams_say_about_time(error, seconds):
    assert retry_after(error, lambda: NOW) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(("tries", "top"), [(0, 0.2), (2, 0.8), (10, 4.0)])
def test_back_off_is_uniform_up_to_its_cap(tries, top):
    """Kolmogorov-Smirnov at p = 0.01: the largest distance from a straight line stays below 1.63 / sqrt(n)."""
    random = Random(7)
    samples = sorted(backoff(tries, 0.2, 4.0, random) / top for _ in range(2000))
    distance = max(abs(value - (at + 0.5) / len(samples)) for at, value in enumerate(samples))
    assert samples[-1] <= 1.0 and distance < 1.63 / len(samples) ** 0.5


def test_control_equal_jitter_is_not_uniform():
    random = Random(7)
    samples = sorted(0.5 + random.random() / 2 for _ in range(2000))
    assert max(abs(value - (at + 0.5) / len(samples)) for at, value in enumerate(samples)) > 1.63 / 2000**0.5


def test_the_budget_allows_a_share_and_a_few():
    budget, allowed = Budget(0.2, 10), 0
    for _ in range(1000):
        budget.request()
        allowed += budget.take() + budget.take()
    assert 200 <= allowed <= 210
    empty = Budget(0.05, 10, empty=True)
    assert not empty.take()
    for _ in range(20):
        empty.request()
    assert empty.take() and not empty.take()
