"""A stack's background work that no client waits for, such as a cache refresh. It ends before the stack does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from gwcore.call import Call, Outcome
from gwcore.errors import GatewayError, PluginFault
from gwcore.service import Service
from gwcore.taps import Taps, tell


class Detached:
    """One per stack. When the stack drains, tasks are waited for along with the clients' calls, then cancelled.

    Attributes:
        taps: of the stack: they fire for these calls as for any other.
    """

    def __init__(self) -> None:
        self.taps = Taps()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def running(self) -> int:
        """Number of running tasks."""
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run it in the background. Its exceptions are ignored here."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # mark as retrieved, so that the loop does not warn

    async def call(self, call: Call, service: Service[Call]) -> Outcome:
        """Run one call without a client. Its error is in the outcome, and reported only to the taps."""
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
            call.part(outcome)
        return outcome

    async def drain(self, timeout: float | None) -> None:  # noqa: ASYNC109 - a deadline of the stack's own, in seconds
        """Wait up to ``timeout`` seconds for running tasks, then cancel them."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
