"""How many tokens a call has used, as each limit counts them, and where that can be read.

A whole answer says it in ``x-gwcore-counted-tokens``; of a stream, and of everything else, the call's record has it under the fact
``counted_tokens``. Both name the ways of counting that bind the call: ``total=360``, ``input-uncached=110``.
"""

from __future__ import annotations

from typing import Final

from gwcore.call import Attempt
from gwcore.errors import ClientError, LimitError
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
