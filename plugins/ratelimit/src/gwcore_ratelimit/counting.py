"""How many tokens a call has used, as each limit counts them, and where that can be read.

A whole answer says it in ``x-gwcore-counted-tokens``; of a stream, and of everything else, the call's record has it under the fact
``counted_tokens``. Both name the ways of counting that bind the call: ``total=360``, ``input-uncached=110``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gwcore.call import Attempt
from gwcore.errors import ClientError, LimitError
from gwcore.outcomes import ending
from gwcore_ratelimit.gcra import Limit

HEADER: Final = b"x-gwcore-counted-tokens"
FACT: Final = "counted_tokens"


def counted(limit: Limit, read: int, cached: int, written: int) -> int:
    """How many of the used tokens the limit counts; the ``cached`` ones are among those that were ``read``."""
    if limit.count == "output":
        return written
    if not limit.count_cached:
        read -= cached
    return read if limit.count == "input" else read + written


def dispatched(attempt: Attempt) -> bool:
    """Whether an upstream was asked."""
    if attempt.status is not None:
        return True
    return attempt.error is not None and not isinstance(attempt.error, (LimitError, ClientError))


def reported(attempts: Iterable[Attempt]) -> tuple[int, int, int, int, bool]:
    """How many attempts have reported usage so far, its tokens read, cached and written, and whether that is all that was used.

    What an upstream refused, or was never sent, used nothing; an answer that broke or was left may have used more than it told.
    """
    reports = read = cached = written = 0
    known = True
    for attempt in attempts:
        usage = attempt.meter.usage if attempt.meter is not None else None
        error = attempt.error
        if usage is not None:
            reports += 1
            read += usage.total_in
            cached += usage.cached
            written += usage.total_out
        if error is not None:
            known &= usage is None and ending(error).money == "void"
        elif usage is None:
            known &= not dispatched(attempt)
    return reports, read, cached, written, known
