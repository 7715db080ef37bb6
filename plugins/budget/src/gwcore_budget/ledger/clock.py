"""Time since boot, and the host's clock beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

BOOT: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while a machine sleeps, where the system has such a clock: what others did meanwhile is then known to be long ago."""
JUMP: Final = 300.0
"""Seconds by which a clock may part from the boot clock before it opens no new period, and closes nothing."""


UNOPENED: Final = 0
"""Stands for the id of an account whose period is not opened: the clock has jumped."""


def boot() -> float:
    """Seconds since boot."""
    return time.clock_gettime(BOOT)


class Clock:
    """Wall-clock milliseconds, and whether the clock has jumped since the last look."""

    def __init__(self, wall: Callable[[], float] = time.time, boot: Callable[[], float] = boot) -> None:
        self._wall, self._boot = wall, boot
        self._apart = wall() - boot()

    def look(self) -> tuple[int, float]:
        """Now, and the seconds of a jump; small steps (NTP) are followed, a jump stays until the process ends."""
        wall = self._wall()
        apart = wall - self._boot()
        jump = apart - self._apart
        if abs(jump) <= JUMP:
            self._apart = apart
            jump = 0.0
        return int(wall * 1000), jump
