"""Ids of calls: unique, and in the order of time, so that whoever keeps them sorted writes at the end and not everywhere.

As UUID version 7 (RFC 9562 §5.7): 48 bits of milliseconds since 1970, then random ones. They are names, not secrets: the random
bits come from a generator of this process, seeded by the system, since asking the system for each would let another thread in.
"""

from __future__ import annotations

import os
import time
from random import Random

_random = Random()  # noqa: S311 - see above
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """``gw-``, 12 digits of time and 16 of chance, in lower-case hexadecimal."""
    return f"gw-{time.time_ns() // 1_000_000:012x}{_random.getrandbits(64):016x}"
