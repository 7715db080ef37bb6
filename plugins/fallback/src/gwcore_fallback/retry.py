"""When and how often to retry.

:mod:`gwcore.outcomes` defines which failures are worth a retry; this module has the rest: back-off, the waits that
upstreams ask for, and the retry budget of a failing upstream.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from random import Random

from gwcore.errors import GatewayError, Refused
from gwcore.outcomes import LONGEST_WAIT, told_after, told_wait
from gwcore.units import parse_duration

_SPAN = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")


def backoff(tries: int, base: float, cap: float, random: Random) -> float:
    """Full jitter: uniform between 0 and ``min(cap, base * 2**tries)`` seconds."""
    return random.uniform(0.0, min(cap, base * 2**tries))


def retry_after(error: GatewayError, wall: Callable[[], float]) -> float | None:
    """Seconds after which the upstream accepts a retry, if it says so; ``wall`` is the time of day.

    The first of: ``retry-after-ms``, ``retry-after`` (seconds or an HTTP date), the latest reset of an exhausted
    ``x-ratelimit-*`` or ``*-ratelimit-*`` pair, Google's ``RetryInfo``. At most ``LONGEST_WAIT``.
    """
    if not isinstance(error, Refused):
        return error.retry_after
    headers = {name.decode("latin-1"): value.decode("latin-1").strip() for name, value in error.raw_headers}
    found = _number(headers.get("retry-after-ms"), 0.001)
    if found is None:
        found = told_after(headers.get("retry-after", ""), wall)
    if found is None:
        found = _reset(headers, wall)
    if found is None:
        found = told_wait(error.body)
    return None if found is None else min(max(found, 0.0), LONGEST_WAIT)


def _number(text: str | None, unit: float = 1.0) -> float | None:
    return float(text) * unit if text and re.fullmatch(r"\d{1,12}(?:\.\d+)?", text) else None


def _moment(text: str, wall: Callable[[], float]) -> float | None:
    """Seconds until a reset, which vendors write as ``6m0s``, seconds, epoch seconds or RFC 3339."""
    if _SPAN.fullmatch(text):
        return parse_duration(text)
    number = _number(text)
    if number is not None:
        return number - wall() if number > 1e9 else number
    try:
        return datetime.fromisoformat(text).timestamp() - wall()
    except ValueError:
        return None


def _reset(headers: dict[str, str], wall: Callable[[], float]) -> float | None:
    found = []
    for name, value in headers.items():
        if "ratelimit-" in name and "remaining" in name and _number(value) == 0.0:
            moment = headers.get(name.replace("remaining", "reset"))
            seconds = _moment(moment, wall) if moment else None
            if seconds is not None:
                found.append(seconds)
    return max(found, default=None)


class Budget:
    """Retry budget of one upstream: a share of its requests, plus a reserve.

    As in Finagle: a request deposits ``share``, a retry takes 1, and the balance starts at ``reserve``, which is also
    its maximum. So a failing upstream gets at most ``1 + share`` times its requests in the long run, and occasional
    failures are always retried. A budget that starts ``empty`` never exceeds its share.
    """

    __slots__ = ("_balance", "_reserve", "_share")

    def __init__(self, share: float, reserve: int, *, empty: bool = False) -> None:
        self._share = share
        self._reserve = float(reserve)
        self._balance = 0.0 if empty else float(reserve)

    def request(self) -> None:
        """Count a request that is not a retry."""
        self._balance = min(self._reserve, self._balance + self._share)

    @property
    def left(self) -> bool:
        """Whether one more retry is allowed."""
        return self._balance >= 1.0

    def take(self) -> bool:
        """Whether one more retry is allowed; if so, count it."""
        if not self.left:
            return False
        self._balance -= 1.0
        return True
