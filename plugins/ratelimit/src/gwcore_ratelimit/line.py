"""A queue in front of a limiter: calls that would be refused wait their turn instead, for a bounded time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from gwcore_ratelimit.gcra import PARALLEL, SECOND, Charge, Reading, Verdict

_LOOK: Final = 0.05
"""Seconds between two looks at a limit that does not say when it will admit."""

Admit = Callable[[Sequence[Charge], str], Awaitable[Verdict]]


@dataclass(slots=True, eq=False)
class _Queue:
    """Who waits for one key; ``wait`` is what the first of them was told last, in microseconds."""

    wait: int
    turns: deque[asyncio.Future[None]] = field(default_factory=deque)


class Line:
    """First come, first served per key that is short of room; a call that leaves is out of the line at once.

    Args:
        admit: of the limiter.
        wait: most seconds in the line.
        most: calls that may stand in all lines together.
    """

    def __init__(self, admit: Admit, *, wait: float, most: int) -> None:
        self._admit = admit
        self._wait = wait
        self._most = most
        self._queues: dict[str, _Queue] = {}
        self.waiting = 0

    async def admit(self, charges: Sequence[Charge], lease: str) -> Verdict:
        """As the limiter's own, once it is this call's turn; its last refusal when the time is over."""
        index = next((n for n, (_, key, _) in enumerate(charges) if key in self._queues), -1)
        if index >= 0:  # nobody overtakes
            _, key, _ = charges[index]
            wait = self._queues[key].wait
            readings: list[Reading | None] = [None] * len(charges)
            readings[index] = 0, wait, 0
            verdict, pause = Verdict(index, wait, readings), 0.0
        else:
            verdict = await self._admit(charges, lease)
            if verdict.refused < 0:
                return verdict
            (_, key, _), pause = charges[verdict.refused], self._pause(charges, verdict)
        if self.waiting >= self._most:
            return verdict
        return await self._stand(key, charges, lease, verdict, pause)

    async def _stand(self, key: str, charges: Sequence[Charge], lease: str, verdict: Verdict, pause: float) -> Verdict:
        queue = self._queues.setdefault(key, _Queue(verdict.wait))
        turn = asyncio.get_running_loop().create_future()
        queue.turns.append(turn)
        self.waiting += 1
        if queue.turns[0] is turn:
            turn.set_result(None)
        try:
            async with asyncio.timeout(self._wait):
                await turn
                while True:
                    await asyncio.sleep(pause)
                    verdict = await self._admit(charges, lease)
                    if verdict.refused < 0:
                        return verdict
                    queue.wait, pause = verdict.wait, self._pause(charges, verdict)
        except TimeoutError:
            return verdict
        finally:
            self._leave(key, queue, turn)

    @staticmethod
    def _pause(charges: Sequence[Charge], verdict: Verdict) -> float:
        pause = verdict.wait / SECOND
        return min(pause, _LOOK) if charges[verdict.refused][0].kind == PARALLEL else pause

    def _leave(self, key: str, queue: _Queue, turn: asyncio.Future[None]) -> None:
        self.waiting -= 1
        queue.turns.remove(turn)
        if not queue.turns:
            del self._queues[key]
        elif not queue.turns[0].done():
            queue.turns[0].set_result(None)
