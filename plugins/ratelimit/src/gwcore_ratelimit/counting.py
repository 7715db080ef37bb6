"""How many tokens a call has used, as each limit counts them, and where that can be read.

A whole answer says it in ``x-gwcore-counted-tokens``; of a stream, and of everything else, the call's record has it under the fact
``counted_tokens``. Both name the ways of counting that bind the call: ``total=360``, ``input-uncached=110``.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def counted(limit: Limit, usage: Usage) -> int:
    """How many of the used tokens the limit counts."""
    read = usage.total_in if limit.count_cached else usage.total_in - usage.cached
    if limit.count == "input":
        return read
    return usage.total_out if limit.count == "output" else read + usage.total_out


def dispatched(attempt: Attempt) -> bool:
    """Whether an upstream was asked."""
    if attempt.status is not None:
        return True
    return attempt.error is not None and not isinstance(attempt.error, (LimitError, ClientError))


def account(attempt: Attempt, used: list[Usage]) -> bool:
    """Add what the attempt used; whether that is all of it.

    What an upstream refused, or was never sent, used nothing; an answer that broke or was left may have used more than it
    told.
    """
    usage = attempt.meter.usage if attempt.meter is not None else None
    if usage is not None:
        used.append(usage)
        return attempt.error is None
    return ending(attempt.error).money == "void" if attempt.error is not None else not dispatched(attempt)


def correction(limit: Limit, cost: int, used: Sequence[Usage], *, known: bool) -> int:
    """What the limit is still to be charged beyond ``cost``; below 0 is given back, which needs all to be known."""
    more = sum(counted(limit, usage) for usage in used) - cost
    return more if known else max(0, more)


def whole(call: Call, charges: Sequence[Charge]) -> Headers:
    """The header of an answer that is complete as its head leaves; none of any other."""
    if call.reply.waiting or any(a.usage is None and a.error is None for a in call.attempts):
        return []
    used: list[Usage] = []
    known = True
    for attempt in call.attempts:
        known &= account(attempt, used)
    told = {}
    for limit, _, cost in charges:
        if limit.kind == TOKENS:
            told[manner(limit)] = cost + correction(limit, cost, used, known=known)
    return [(HEADER, ", ".join(f"{name}={tokens}" for name, tokens in told.items()).encode())]
