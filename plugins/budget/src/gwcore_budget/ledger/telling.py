"""Marks in an account's ``told``: for which limits of its budget an event was sent."""

from __future__ import annotations

SOFT_TOLD, LIMIT_TOLD = 1, 2
SOFT_KNOWN, LIMIT_KNOWN = 1 | 4, 2 | 8
"""Sent by this account, or by another slice of its rolling window."""

Lines = tuple[int | None, int | None]
"""Soft limit and limit."""


def still_told(told: int, before: Lines, now: Lines) -> int:
    """The marks that stay: after a limit is raised or removed, its event may be sent again."""
    for mark, old, new in zip((SOFT_TOLD, LIMIT_TOLD), before, now, strict=True):
        if old is not None and (new is None or new > old):
            told &= ~mark
    return told
