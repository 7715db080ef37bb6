"""Work that is done to its end, whoever cancels meanwhile: half of it would be lost, or go on behind somebody's back."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def whole(work: Coroutine[Any, Any, T], within: float | None = None) -> T:
    """What ``work`` returns. Who is cancelled is so when it has ended, or ``within`` seconds later; its result is lost then."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=within)
        raise
