"""Makes names that clients may have written safe to display."""

from __future__ import annotations

import re

LONGEST = 100
"""Characters displayed."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(name: str) -> str:
    """The name on one line, without control and bidirectional formatting characters."""
    return _UNPRINTABLE.sub("?", name)[:LONGEST]
