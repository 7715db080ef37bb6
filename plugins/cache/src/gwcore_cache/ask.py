"""One call and what was found out about it."""

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
    """504: the request is to be answered from the cache (``only-if-cached``), and nothing there answers it."""

    code = "not_cached"
    status = 504


@dataclass(slots=True)
class Question:
    """One text among those it may be compared with; see :mod:`gwcore_cache.semantic`.

    Attributes:
        partition: key of what is known of them.
        vector: of length 1; ``None`` while nobody needs it.
    """

    partition: bytes
    text: str
    vector: array[float] | None = None


@dataclass(slots=True)
class Ask:
    """A call on its way.

    Attributes:
        failures: of the upstream that it saw while it waited for others to ask.
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
        """Seconds that its answer shall be fresh; a request's own wish up to ``most``."""
        return self.settings.ttl if self.control.ttl is None else min(self.control.ttl, most)


def usable(ask: Ask, entry: Entry | None, now: int, *, stale_for: float | None = None) -> str | None:
    """``hit`` or ``stale``, or ``None`` for what this call may not have at ``now`` (milliseconds).

    ``stale_for``: seconds behind its time that it may be used; the rule's ``stale_while_revalidate`` by default.
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
    """Whether an older answer is better than this error: the upstream's fault, not the request's or a policy's."""
    if isinstance(error, Refused):
        return error.status >= 500 or error.status == 429
    return isinstance(error, UpstreamError)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
