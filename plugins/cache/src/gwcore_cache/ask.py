"""A call with its cache settings and key."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass

from gwcore.call import Call
from gwcore.errors import GatewayError, Refused, UpstreamError
from gwcore.service import Service
from gwcore_cache.config import Settings
from gwcore_cache.control import Control
from gwcore_cache.entry import Entry


class NotCached(GatewayError):
    """504: the request may only be answered from the cache (``only-if-cached``), which has no answer."""

    code = "not_cached"
    status = 504


@dataclass(slots=True)
class Question:
    """The text of a question; see :mod:`gwcore_cache.semantic`.

    Attributes:
        partition: key of the index of comparable questions.
        vector: embedding of length 1; ``None`` until needed.
    """

    partition: bytes
    text: str
    vector: array[float] | None = None


@dataclass(slots=True)
class Ask:
    """A call being answered.

    Attributes:
        failures: upstream failures of other calls for which it waited.
    """

    call: Call
    inner: Service[Call]
    settings: Settings
    control: Control
    scope: str
    key: bytes
    question: Question | None = None
    failures: int = 0

    def ttl(self, most: float) -> float:
        """Seconds for which its answer is fresh; the request may set them, up to ``most``."""
        return self.settings.ttl if self.control.ttl is None else min(self.control.ttl, most)


def usable(ask: Ask, entry: Entry | None, now: int, *, stale_for: float | None = None) -> str | None:
    """Returns ``hit`` or ``stale``; ``None`` if this call may not use the entry at ``now`` (milliseconds).

    ``stale_for``: seconds after its freshness for which it may be used; by default ``stale_while_revalidate``.
    """
    if entry is None:
        return None
    control = ask.control
    if control.max_age is not None and now - entry.made > control.max_age * 1000:
        return None
    if now < entry.fresh:
        return "hit"
    behind = ask.settings.stale_while_revalidate if stale_for is None else stale_for
    return "stale" if now < entry.fresh + behind * 1000 else None


def fails(error: BaseException) -> bool:
    """Whether an older answer is better than this error: caused by the upstream, not by the request or a policy."""
    if isinstance(error, Refused):
        return error.status >= 500 or error.status == 429
    return isinstance(error, UpstreamError)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
