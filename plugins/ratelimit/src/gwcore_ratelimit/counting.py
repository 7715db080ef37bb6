"""How many tokens a call has used, as each limit counts them, and where that can be read.

A whole answer says it in ``x-gwcore-counted-tokens``; of a stream, and of everything else, the call's record has it under the fact
``counted_tokens``. Both name the ways of counting that bind the call: ``total=360``, ``input-uncached=110``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from gwcore.call import Attempt, Call
from gwcore.errors import ClientError, LimitError
from gwcore.outcomes import ending
from gwcore.usage import Usage
from gwcore.wire.transport import Headers
from gwcore_ratelimit.gcra import TOKENS, Charge, Limit

HEADER: Final = b"x-gwcore-counted-tokens"
FACT: Final = "counted_tokens"


def manner(limit: Limit) -> str:
    """What a limit counts, in a word: ``total``, ``input-uncached``."""
    return limit.count if limit.count_cached else f"{limit.count}-uncached"


def counted(limit: Limit, used: Tally | Usage) -> int:
    """How many of the used tokens the limit counts."""
    if limit.count == "output":
        return used.total_out
    read = used.total_in if limit.count_cached else used.total_in - used.cached
    return read if limit.count == "input" else read + used.total_out


def dispatched(attempt: Attempt) -> bool:
    """Whether an upstream was asked."""
    if attempt.status is not None:
        return True
    return attempt.error is not None and not isinstance(attempt.error, (LimitError, ClientError))


class Tally:
    """What attempts have used, so far.

    Attributes:
        total_in, cached, total_out: tokens, as of :class:`gwcore.usage.Usage`.
        used: what reported it, one per attempt that did.
        known: that is all of it. What an upstream refused, or was never sent, used nothing; an answer that broke or was left
            may have used more than it told.
    """

    __slots__ = ("cached", "known", "total_in", "total_out", "used")

    def __init__(self, attempts: Iterable[Attempt]) -> None:
        self.total_in = self.cached = self.total_out = 0
        self.used: list[Usage] = []
        self.known = True
        for attempt in attempts:
            usage = attempt.meter.usage if attempt.meter is not None else None
            error = attempt.error
            if usage is not None:
                self.total_in += usage.total_in
                self.cached += usage.cached
                self.total_out += usage.total_out
                self.used.append(usage)
                self.known &= error is None
            elif error is not None:
                self.known &= ending(error).money == "void"
            else:
                self.known &= not dispatched(attempt)

    def charged(self, charge: Charge) -> int:
        """What the limit is charged in the end: less than it was at first only where all that was used is known."""
        tokens = counted(charge.limit, self)
        return tokens if self.known else max(tokens, charge.cost)


def whole(call: Call, charges: Sequence[Charge]) -> Headers:
    """The header of an answer that is complete as its head leaves; none of any other."""
    attempts = call.attempts
    if call.reply.waiting:
        return []
    for attempt in attempts:
        if attempt.usage is None and attempt.error is None:
            return []
    tally = Tally(attempts)
    told = {manner(charge.limit): tally.charged(charge) for charge in charges if charge.limit.kind == TOKENS}
    return [(HEADER, ", ".join([f"{name}={tokens}" for name, tokens in told.items()]).encode())]
