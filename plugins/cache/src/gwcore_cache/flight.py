"""One call of a worker asks for a key; the others that want it wait for what it finds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gwcore.errors import GatewayError, Refused
from gwcore.outcomes import ending
from gwcore_cache.ask import Ask, fails
from gwcore_cache.entry import Entry

_SHARED = frozenset({"request", "context_window", "content_policy"})
_ENOUGH = 2
"""Failures of the upstream after which nobody waits for another's answer: else many calls would fail one after the other."""


@dataclass(slots=True)
class Landed:
    """How a flight ended.

    Attributes:
        entry: what was found; ``None``: nothing that others may have.
        error: a refusal that every one of them would meet.
        again: the leader left or failed: the next one may try.
        failed: it was the upstream that failed; ``entry`` is then what is better than that, if it is not too old.
    """

    entry: Entry | None = None
    error: GatewayError | None = None
    again: bool = False
    failed: bool = False


@dataclass(slots=True)
class Flight:
    """Under way. It stays in its place until what it found can be found in the store."""

    landed: Landed | None = None
    waiters: list[asyncio.Future[Landed]] = field(default_factory=list)

    def land(self, landed: Landed) -> None:
        """Tell all who wait; those who come later are told at once."""
        if self.landed is None:
            self.landed = landed
            for waiter in self.waiters:
                if not waiter.done():
                    waiter.set_result(landed)
            self.waiters.clear()

    async def join(self, seconds: float) -> Landed | None:
        """What was found; ``None`` if not within ``seconds``."""
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
    """How a flight ended whose leader met an error; ``old``: an answer from before."""
    refusal = shared(error)
    if refusal is not None:
        return Landed(error=refusal)
    return Landed(old, again=True, failed=fails(error))


def waits(ask: Ask, landed: Landed) -> bool:
    """Whether a call that waited should wait, or lead, once more; if not, it asks by itself, beside all others."""
    ask.failures += landed.failed
    return landed.again and ask.failures < _ENOUGH


def shared(error: BaseException) -> GatewayError | None:
    """A copy of a refusal that lies in the request itself; ``None`` for every other error: it was the leader's own."""
    if not isinstance(error, Refused) or ending(error).kind not in _SHARED:
        return None
    return Refused(
        error.message, status=error.status, body=error.body, headers=list(error.raw_headers), dialect=error.dialect
    )
