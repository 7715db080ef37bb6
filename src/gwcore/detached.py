"""Work of a stack that no client waits for: calls of its own, such as a cache's refresh. It ends before the stack does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from gwcore.call import Call, Outcome
from gwcore.errors import GatewayError, PluginFault
from gwcore.service import Service
from gwcore.taps import Taps, tell


class Detached:
    """One per stack. When the stack drains, what runs is waited for with the clients' calls, then cancelled.

    Attributes:
        taps: of the stack: they are told of these calls as of any other.
    """

    def __init__(self) -> None:
        self.taps = Taps()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def running(self) -> int:
        """Tasks under way."""
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run it beside the calls. What it raises is its own affair."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: a failure without a client is no warning of the loop's

    async def call(self, call: Call, service: Service[Call]) -> Outcome:
        """The life of one call without a client. Its error is in the outcome; nobody is told but the taps."""
        outcome = Outcome(0)
        if self.taps.call_started:
            tell(self.taps.call_started, call)
        try:
            outcome = await service(call)
        except asyncio.CancelledError:
            outcome = Outcome(call.reply.status, cancelled=True)
            raise
        except Exception as error:  # as the Gateway does for a client's call
            named = error if isinstance(error, GatewayError) else PluginFault()
            outcome = Outcome(named.status, named)
        finally:
            call.left = True
            if self.taps.call_ended:
                tell(self.taps.call_ended, call, outcome)
        return outcome

    async def drain(self, timeout: float | None) -> None:  # noqa: ASYNC109 - a deadline of the stack's own, in seconds
        """Wait for what runs, at most ``timeout`` seconds, then cancel it."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
