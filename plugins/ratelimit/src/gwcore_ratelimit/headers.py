"""What a client is told of its limits, under the names of its dialect.

OpenAI: ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}``, the reset as a duration. Anthropic:
``anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}``, the reset as a time (RFC 3339). In both the reset is
when the limit is as if never used. Other dialects have none of their own and get OpenAI's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Final

from gwcore.call import Call, Key
from gwcore.wire.transport import Headers
from gwcore_ratelimit.gcra import PARALLEL, SECOND, Charge, Reading, Verdict

_OPENAI: Final = {
    kind: tuple(f"x-ratelimit-{what}-{kind}".encode() for what in ("limit", "remaining", "reset"))
    for kind in ("requests", "tokens")
}
_ANTHROPIC: Final = {
    kind: tuple(f"anthropic-ratelimit-{kind}-{what}".encode() for what in ("limit", "remaining", "reset"))
    for kind in ("requests", "tokens")
}


_Tightest = dict[str, tuple[int, Reading]]
_TOLD: Final = Key("ratelimit.told", _Tightest)


def tell(call: Call, charges: Sequence[Charge], verdict: Verdict) -> None:
    """Add the headers: of each kind, those of the limit with the least left, of all rules of both rings."""
    if call.reply.committed:  # an attempt that continues an answer
        return
    tightest = call.get(_TOLD)
    if tightest is None:
        tightest = call[_TOLD] = {}
        call.reply.add_headers(partial(_said, call, tightest))
    for (limit, _, _), reading in zip(charges, verdict.readings, strict=True):
        kind = limit.kind
        if reading is None or limit.shadow or kind == PARALLEL:
            continue
        known = tightest.get(kind)
        if known is None or reading.remaining < known[1].remaining:
            tightest[kind] = (limit.amount, reading)


def _said(call: Call, tightest: _Tightest) -> Headers:
    """Asked as the head leaves: until then a later rule may have less left."""
    anthropic = call.dialect.name.startswith("anthropic")
    headers: Headers = []
    for kind, (amount, (remaining, reset, _)) in tightest.items():
        names = (_ANTHROPIC if anthropic else _OPENAI)[kind]
        values = b"%d" % amount, b"%d" % remaining, (instant if anthropic else duration)(reset)
        headers += zip(names, values, strict=True)
    return headers


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
