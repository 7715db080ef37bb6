"""Which lines of a budget an account has told of: marks in its ``told``."""

from __future__ import annotations

SOFT_TOLD, LIMIT_TOLD = 1, 2
SOFT_KNOWN, LIMIT_KNOWN = 1 | 4, 2 | 8
"""Or told by another slice of a rolling window."""

Lines = tuple[int | None, int | None]
"""Soft limit and limit."""


def still_told(told: int, before: Lines, now: Lines) -> int:
    """The marks that stay: a line that was raised, or taken away, is another one, and told of when that is met."""
    for mark, old, new in zip((SOFT_TOLD, LIMIT_TOLD), before, now, strict=True):
        if old is not None and (new is None or new > old):
            told &= ~mark
    return told
