"""How many tokens a call has used, as each limit counts them, and where that can be read.

A whole answer says it in ``x-gwcore-counted-tokens``; of a stream, and of everything else, the call's record has it under the fact
``counted_tokens``. Both name the ways of counting that bind the call: ``total=360``, ``input-uncached=110``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gwcore.call import Attempt
from gwcore.errors import ClientError, LimitError
from gwcore.outcomes import ending
from gwcore.usage import Usage
from gwcore_ratelimit.gcra import Limit

HEADER: Final = b"x-gwcore-counted-tokens"
FACT: Final = "counted_tokens"


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
        attempts: how many they were.
        total_in, cached, total_out: tokens, as of :class:`gwcore.usage.Usage`.
        used: what reported it, one per attempt that did.
        known: that is all of it. What an upstream refused, or was never sent, used nothing; an answer that broke or was left
            may have used more than it told.
    """

    __slots__ = ("attempts", "cached", "known", "total_in", "total_out", "used")

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        self.attempts = len(attempts)
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

    def charged(self, limit: Limit, cost: int) -> int:
        """What the limit is charged in the end: less than ``cost``, as at first, only where all that was used is known."""
        tokens = counted(limit, self)
        return tokens if self.known else max(tokens, cost)
