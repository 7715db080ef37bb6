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


def counted(limit: Limit, usage: Usage) -> int:
    """How many of the used tokens the limit counts."""
    if limit.count == "output":
        return usage.total_out
    read = usage.total_in if limit.count_cached else usage.total_in - usage.cached
    return read if limit.count == "input" else read + usage.total_out


def dispatched(attempt: Attempt) -> bool:
    """Whether an upstream was asked."""
    if attempt.status is not None:
        return True
    return attempt.error is not None and not isinstance(attempt.error, (LimitError, ClientError))


class Tally:
    """What attempts have used, so far.

    Attributes:
        attempts: how many they were.
        used: what reported it, one per attempt that did.
        known: that is all of it. What an upstream refused, or was never sent, used nothing; an answer that broke or was left
            may have used more than it told.
    """

    __slots__ = ("attempts", "known", "used")

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        self.attempts = len(attempts)
        self.used: list[Usage] = []
        self.known = True
        for attempt in attempts:
            usage = attempt.meter.usage if attempt.meter is not None else None
            error = attempt.error
            if usage is not None:
                self.used.append(usage)
            if error is not None:
                self.known &= usage is None and ending(error).money == "void"
            elif usage is None:
                self.known &= not dispatched(attempt)

    def charged(self, limit: Limit, cost: int) -> int:
        """What the limit is charged in the end: less than ``cost``, as at first, only where all that was used is known."""
        tokens = 0
        for usage in self.used:
            tokens += counted(limit, usage)
        return tokens if self.known else max(tokens, cost)
