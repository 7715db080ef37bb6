"""What a call or an attempt was charged, until it is over; and what its client is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from gwcore.call import Attempt, Call, Key
from gwcore.wire.transport import Headers
from gwcore_ratelimit.counting import HEADER, Tally
from gwcore_ratelimit.gcra import Verdict
from gwcore_ratelimit.headers import tightest
from gwcore_ratelimit.rules import Bound


class Grant:
    """It is in no circle with its call.

    Attributes:
        bound: the limits.
        charges: what they are charged at first.
        size: of the text that tokens were estimated for; ``None`` where none count.
        attempts: all of a call, or one: whose tokens count.
        verdict: of the limiter.
    """

    __slots__ = ("_tally", "attempts", "bound", "charges", "size", "verdict")

    def __init__(self, bound: Bound, attempts: Sequence[Attempt]) -> None:
        self.bound = bound
        self.charges = [*bound.charges]
        self.attempts = attempts
        self.size: tuple[int, int] | None = None
        self._tally: Tally | None = None
        self.verdict: Verdict

    def tell(self, call: Call) -> None:
        """Add the headers: of each kind, those of the limit with the least left, of all rules of both rings."""
        if call.reply.committed:  # an attempt that continues an answer
            return
        grants = call.get(_TOLD)
        if grants is None:
            grants = call[_TOLD] = []
            call.reply.add_headers(partial(_said, call, grants))
        grants.append(self)

    def tally(self, *, final: bool) -> Tally:
        """What has been used; what was so as the head left is so in the end, if nothing was tried since or went wrong."""
        tally = self._tally
        if tally is None or not final or tally.attempts != len(self.attempts):
            tally = self._tally = Tally(self.attempts)
        return tally

    def counted(self, call: Call) -> Headers:
        """The header of an answer that is complete as its head leaves; none of any other, and none of an attempt."""
        attempts = self.attempts
        if self.size is None or attempts is not call.attempts or self.verdict.refused >= 0 or call.reply.waiting:
            return []
        for attempt in attempts:
            if attempt.usage is None and attempt.error is None:
                return []
        tally = self.tally(final=False)
        told = {}
        for n in self.bound.tokens:
            limit, _, cost = self.charges[n]
            told[limit.manner] = tally.charged(limit, cost)
        return [(HEADER, ", ".join([f"{name}={tokens}" for name, tokens in told.items()]).encode())]


_TOLD: Final = Key("ratelimit.told", list[Grant])


def _said(call: Call, grants: list[Grant]) -> Headers:
    """Asked as the head leaves: until then a later rule may have less left."""
    headers = tightest([(grant.bound.told, grant.verdict.readings) for grant in grants])
    for grant in grants:
        headers += grant.counted(call)
    return headers
