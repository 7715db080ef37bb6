"""Ids of calls: unique and ordered by time, so that sorted indexes are appended to instead of written in random places.

Like UUID version 7 (RFC 9562 §5.7): 48 bits of milliseconds since 1970, then random bits. Ids are not secrets: the
random bits come from a generator in this process, seeded by the system, because a system call for each would release
the GIL.
"""

from __future__ import annotations

import os
import time
from random import Random

_random = Random()  # noqa: S311 - see above
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """``gw-``, 12 digits of time and 16 random ones, in lower-case hexadecimal."""
    return f"gw-{time.time_ns() // 1_000_000:012x}{_random.getrandbits(64):016x}"
