"""What a call or an attempt was charged, until it is over; and what its client is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from gwcore.call import Attempt, Call, Key
from gwcore.usage import Usage
from gwcore.wire.transport import Headers
from gwcore_ratelimit import counting
from gwcore_ratelimit.gcra import Reading, Verdict
from gwcore_ratelimit.headers import Telling, told
from gwcore_ratelimit.rules import Bound


class Grant:
    """It does not know its call: those that are over are in no circle.

    Attributes:
        bound: the limits.
        charges: what they are charged at first.
        size: of the text that tokens were estimated for; ``None`` where none count.
        attempts: all of a call, or one: whose tokens count.
        verdict: of the limiter.
        used, known: what :meth:`count` found reported, and whether that is all.
        counted: the tokens that charges come to, by their place among them; ``told``: the same by manner of counting.
    """

    __slots__ = ("_seen", "attempts", "bound", "charges", "counted", "known", "size", "told", "used", "verdict")

    def __init__(self, bound: Bound, attempts: Sequence[Attempt]) -> None:
        self.bound = bound
        self.charges = [*bound.charges]
        self.attempts = attempts
        self.size: tuple[int, int] | None = None
        self.verdict: Verdict
        self.used: list[Usage]
        self.known: bool
        self.counted: dict[int, int]
        self.told: dict[str, int]
        self._seen = -1

    def tell(self, call: Call) -> None:
        """Add the headers: of each kind, those of the limit with the least left, of all rules of both rings."""
        if call.reply.committed:  # an attempt that continues an answer
            return
        grants = call.get(_TOLD)
        if grants is None:
            grants = call[_TOLD] = []
            call.reply.add_headers(partial(_said, call, grants))
        grants.append(self)

    def count(self, *, final: bool) -> None:
        """What has been used; what was so as the head left is so in the end, if nothing was tried since or went wrong.

        A charge comes to less than it was at first only where all that was used is known.
        """
        attempts = self.attempts
        if final and self._seen == len(attempts):
            return
        self._seen = len(attempts)
        self.used, self.known = counting.reported(attempts)
        self.counted, self.told = {}, {}
        for n in self.bound.tokens:
            limit, _, cost = self.charges[n]
            tokens = 0
            for usage in self.used:
                tokens += counting.counted(limit, usage)
            self.counted[n] = self.told[limit.manner] = tokens if self.known else max(tokens, cost)

    def header(self, call: Call) -> Headers:
        """What was counted of an answer that is complete as its head leaves; of any other, and of an attempt, nothing."""
        attempts = self.attempts
        if self.size is None or attempts is not call.attempts or self.verdict.refused >= 0 or call.reply.waiting:
            return []
        for attempt in attempts:
            if attempt.usage is None and attempt.error is None:
                return []
        self.count(final=False)
        return [(counting.HEADER, self.bound.counted % tuple(self.told.values()))]


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
