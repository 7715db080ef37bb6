"""``Slices``: long work on the event loop, in slices that leave the rest of the time to calls."""

from __future__ import annotations

import asyncio
import time

SLICE = 0.0001
"""Seconds of work before yielding to the event loop."""
SHARE = 8
"""A busy event loop yields back late: then the work takes one part in so many of its time, or it would fall behind for good."""


class Slices:
    """One run of such work, from its first slice on."""

    def __init__(self) -> None:
        self._allowed = SLICE
        self._began = time.monotonic()

    async def breathe(self) -> None:
        """Yield to the event loop if the slice is over; the next one is as long as the loop's turn allows."""
        if (now := time.monotonic()) - self._began > self._allowed:
            await asyncio.sleep(0)
            self._began = time.monotonic()
            self._allowed = max(SLICE, (self._began - now) / SHARE)
