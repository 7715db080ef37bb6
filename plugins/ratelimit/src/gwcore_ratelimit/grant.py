"""What a call or an attempt was charged, until it is over; and what its client is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from gwcore.call import Attempt, Call, Key
from gwcore.wire.transport import Headers
from gwcore_ratelimit.counting import HEADER, Tally
from gwcore_ratelimit.gcra import Reading, Verdict
from gwcore_ratelimit.headers import Telling, told
from gwcore_ratelimit.rules import Bound

_NONE: Final[dict[int, int]] = {}


class Grant:
    """It does not know its call: those that are over are in no circle.

    Attributes:
        bound: the limits.
        charges: what they are charged at first.
        counted: tokens that charges come to, by their place among them; ``told``: the same by manner of counting.
        size: of the text that tokens were estimated for; ``None`` where none count.
        attempts: all of a call, or one: whose tokens count.
        verdict: of the limiter.
    """

    __slots__ = ("_tally", "attempts", "bound", "charges", "counted", "size", "told", "verdict")

    def __init__(self, bound: Bound, attempts: Sequence[Attempt]) -> None:
        self.bound = bound
        self.charges = [*bound.charges]
        self.attempts = attempts
        self.counted: dict[int, int] = _NONE
        self.told: dict[str, int]
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

    def count(self, *, final: bool) -> Tally:
        """Of what has been used; what was so as the head left is so in the end, if nothing was tried since or went wrong."""
        tally = self._tally
        if tally is not None and final and tally.attempts == len(self.attempts):
            return tally
        tally = self._tally = Tally(self.attempts)
        self.counted, self.told = {}, {}
        for n in self.bound.tokens:
            limit, _, cost = self.charges[n]
            self.counted[n] = self.told[limit.manner] = tally.charged(limit, cost)
        return tally

    def header(self, call: Call) -> Headers:
        """What was counted of an answer that is complete as its head leaves; of any other, and of an attempt, nothing."""
        attempts = self.attempts
        if self.size is None or attempts is not call.attempts or self.verdict.refused >= 0 or call.reply.waiting:
            return []
        for attempt in attempts:
            if attempt.usage is None and attempt.error is None:
                return []
        self.count(final=False)
        return [(HEADER, self.bound.counted % tuple(self.told.values()))]


_TOLD: Final = Key("ratelimit.told", list[Grant])


def _said(call: Call, grants: list[Grant]) -> Headers:
    """Asked as the head leaves: until then a later rule may have less left."""
    least: dict[str, tuple[Telling, Reading]] = {}
    for grant in grants:
        readings = grant.verdict.readings
        for telling in grant.bound.told:
            reading, kind = readings[telling[0]], telling[1]
            if reading is not None and (kind not in least or reading[0] < least[kind][1][0]):
                least[kind] = telling, reading
    headers: Headers = []
    for telling, reading in least.values():
        headers += told(telling, reading)
    for grant in grants:
        headers += grant.header(call)
    return headers
