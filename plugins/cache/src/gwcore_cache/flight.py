"""Coalesces equal calls of a worker: one asks the upstream, the others wait for its result."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gwcore.errors import GatewayError, Refused
from gwcore.outcomes import ending
from gwcore_cache.ask import Ask, fails
from gwcore_cache.entry import Entry

_SHARED = frozenset({"request", "context_window", "content_policy"})
_ENOUGH = 2
"""Upstream failures after which a call no longer waits for others: otherwise many would fail one after another."""


@dataclass(slots=True)
class Landed:
    """How a flight ended.

    Attributes:
        entry: the answer; ``None`` if there is none to share.
        error: an upstream's rejection that every waiting call would get.
        again: the leader left or failed: another call may try.
        failed: the upstream failed; ``entry`` is then an older answer, to be used if it is not too old.
    """

    entry: Entry | None = None
    error: GatewayError | None = None
    again: bool = False
    failed: bool = False


@dataclass(slots=True)
class Flight:
    """A call in flight. It keeps its place until its answer is in the store."""

    landed: Landed | None = None
    waiters: list[asyncio.Future[Landed]] = field(default_factory=list)

    def land(self, landed: Landed) -> None:
        """Pass the result to all waiting calls; later ones get it at once."""
        if self.landed is None:
            self.landed = landed
            for waiter in self.waiters:
                if not waiter.done():
                    waiter.set_result(landed)
            self.waiters.clear()

    async def join(self, seconds: float) -> Landed | None:
        """Returns the result; ``None`` if there is none within ``seconds``."""
        if self.landed is not None:
            return self.landed
        waiter: asyncio.Future[Landed] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                return await waiter
        except TimeoutError:
            return None


def lost(error: BaseException, old: Entry | None = None) -> Landed:
    """Returns the result of a flight whose leader failed; ``old``: an earlier answer."""
    refusal = shared(error)
    if refusal is not None:
        return Landed(error=refusal)
    return Landed(old, again=True, failed=fails(error))


def waits(ask: Ask, landed: Landed) -> bool:
    """Whether a call that waited should wait or lead again; otherwise it asks the upstream on its own."""
    ask.failures += landed.failed
    return landed.again and ask.failures < _ENOUGH


def shared(error: BaseException) -> GatewayError | None:
    """Returns a copy of a rejection caused by the request itself; ``None`` for errors that only the leader gets."""
    if not isinstance(error, Refused) or ending(error).kind not in _SHARED:
        return None
    return Refused(
        error.message, status=error.status, body=error.body, headers=list(error.raw_headers), dialect=error.dialect
    )
