"""Names that clients may have written, fit to be shown to people."""

from __future__ import annotations

import re

LONGEST = 100
"""Characters that are shown."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(name: str) -> str:
    """On one line, without what moves a cursor or turns a line around."""
    return _UNPRINTABLE.sub("?", name)[:LONGEST]
