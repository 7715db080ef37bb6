"""Time since boot, and the host's clock compared with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

BOOT: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Also counts a machine's sleep, if the system has such a clock: what others did before it is then known to be old."""
JUMP: Final = 300.0
"""Seconds by which a clock may step against the boot clock; after more it opens no new period, and closes nothing."""


UNOPENED: Final = 0
"""The id of an account whose period is not opened because the clock has jumped."""


def boot() -> float:
    """Seconds since boot."""
    return time.clock_gettime(BOOT)


class Clock:
    """The wall clock, and whether it has jumped since the last look."""

    def __init__(self, wall: Callable[[], float] = time.time, boot: Callable[[], float] = boot) -> None:
        self._wall, self._boot = wall, boot
        self._apart = wall() - boot()

    def look(self) -> tuple[int, float]:
        """Milliseconds now, and seconds of a jump or 0. Small steps (NTP) are followed; a jump stays until undone."""
        wall = self._wall()
        apart = wall - self._boot()
        jump = apart - self._apart
        if abs(jump) <= JUMP:
            self._apart = apart
            jump = 0.0
        return int(wall * 1000), jump
