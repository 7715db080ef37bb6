"""What a client is told of its limits, under the names of its dialect.

OpenAI: ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}``, the reset as a duration. Anthropic:
``anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}``, the reset as a time (RFC 3339). In both the reset is
when the limit is as if never used. Other dialects have none of their own and get OpenAI's.
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
"""Where a limit stands among those that bind a call, its kind, its first header, the names of the other two, and how the last
is written."""


def tellings(limits: Iterable[Limit], dialect: str) -> list[Telling]:
    """What of some limits the clients of a dialect are told."""
    anthropic = dialect.startswith("anthropic")
    said: list[Telling] = []
    for n, limit in enumerate(limits):
        if not limit.shadow and limit.kind != PARALLEL:
            first, left, again = (_ANTHROPIC if anthropic else _OPENAI)[limit.kind]
            said.append((n, limit.kind, (first, b"%d" % limit.amount), left, again, instant if anthropic else duration))
    return said


def duration(micros: int) -> bytes:
    """As Go writes it, and OpenAI: ``0s``, ``12ms``, ``1.5s``, ``6m0s``, ``1h0m0s``. Rounded up to a millisecond."""
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
    """That many microseconds from now, rounded up to a second."""
    return _written(-int(-(time.time() + micros / SECOND) // 1))


@lru_cache(4096)
def _written(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
