"""Response headers about a client's limits, with the names of its dialect.

OpenAI: ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}``, the reset as a duration. Anthropic:
``anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}``, the reset as a time (RFC 3339). In both, the reset is
when the limit is as if never used. Other dialects define none and get OpenAI's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from gwcore_ratelimit.gcra import PARALLEL, SECOND, Limit

_OPENAI: Final = {
    kind: tuple(f"x-ratelimit-{what}-{kind}".encode() for what in ("limit", "remaining", "reset"))
    for kind in ("requests", "tokens")
}
_ANTHROPIC: Final = {
    kind: tuple(f"anthropic-ratelimit-{kind}-{what}".encode() for what in ("limit", "remaining", "reset"))
    for kind in ("requests", "tokens")
}


Telling = tuple[int, str, tuple[bytes, bytes], bytes, bytes, Callable[[int], bytes]]
"""Index of a limit among those that apply to a call, its kind, its ``limit`` header, the names of ``remaining`` and
``reset``, and the function that formats the reset."""


def tellings(limits: Iterable[Limit], dialect: str) -> list[Telling]:
    """The headers of some limits in a dialect; none for shadow limits and parallel ones."""
    anthropic = dialect.startswith("anthropic")
    said: list[Telling] = []
    for n, limit in enumerate(limits):
        if not limit.shadow and limit.kind != PARALLEL:
            first, left, again = (_ANTHROPIC if anthropic else _OPENAI)[limit.kind]
            said.append((n, limit.kind, (first, b"%d" % limit.amount), left, again, instant if anthropic else duration))
    return said


def duration(micros: int) -> bytes:
    """As Go and OpenAI write it: ``0s``, ``12ms``, ``1.5s``, ``6m0s``, ``1h0m0s``. Rounded up to a millisecond."""
    millis = -(-micros // 1000)
    if millis == 0:
        return b"0s"
    if millis < 1000:
        return b"%dms" % millis
    minutes, millis = divmod(millis, 60_000)
    seconds = f"{millis / 1000:g}s" if millis % 1000 else f"{millis // 1000}s"
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes}m{seconds}" if minutes or hours else seconds
    return f"{hours}h{text}".encode() if hours else text.encode()


def instant(micros: int) -> bytes:
    """The time that many microseconds from now, rounded up to a second."""
    return _written(-int(-(time.time() + micros / SECOND) // 1))


@lru_cache(4096)
def _written(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
