"""The tokens a call has used, as each limit counts them, and where they are reported.

A reply that is complete when its head is sent has them in the header ``x-gwcore-counted-tokens``; the record of every
call, streams included, as the fact ``counted_tokens``. Both name the manner of counting: ``total=360``,
``input-uncached=110``.
"""

from __future__ import annotations

from typing import Final

from gwcore.call import Attempt
from gwcore.errors import ClientError, LimitError
from gwcore_ratelimit.gcra import Limit

HEADER: Final = b"x-gwcore-counted-tokens"
FACT: Final = "counted_tokens"


def counted(limit: Limit, read: int, cached: int, written: int) -> int:
    """How many of the used tokens the limit counts; ``read`` includes ``cached``."""
    if limit.count == "output":
        return written
    if not limit.count_cached:
        read -= cached
    return read if limit.count == "input" else read + written


def dispatched(attempt: Attempt) -> bool:
    """Whether an upstream was tried."""
    if attempt.status is not None:
        return True
    return attempt.error is not None and not isinstance(attempt.error, (LimitError, ClientError))
