"""A queue in front of a limiter: calls that would be refused wait their turn instead, for a bounded time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from gwcore_ratelimit.gcra import PARALLEL, SECOND, Charge, Reading, Verdict

_LOOK: Final = 0.05
"""Seconds between two tries of a parallel limit, which cannot say when it will admit."""

Admit = Callable[[Sequence[Charge], str], Awaitable[Verdict]]


@dataclass(slots=True, eq=False)
class _Queue:
    """The calls that wait for one key; ``wait``: microseconds, from the first one's last refusal."""

    wait: int
    turns: deque[asyncio.Future[None]] = field(default_factory=deque)


class Line:
    """First come, first served per exhausted key; a cancelled call leaves the queue at once.

    Args:
        admit: the limiter's.
        wait: maximum seconds in the queue.
        most: maximum calls in all queues together.
    """

    def __init__(self, admit: Admit, *, wait: float, most: int) -> None:
        self._admit = admit
        self._wait = wait
        self._most = most
        self._queues: dict[str, _Queue] = {}
        self.waiting = 0

    async def admit(self, charges: Sequence[Charge], lease: str) -> Verdict:
        """The limiter's verdict once it is this call's turn; the last refusal if time is up or the queues are full."""
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
