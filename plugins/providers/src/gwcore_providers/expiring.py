"""A credential that expires: fetched at its first use, renewed in the background before it expires."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

from gwcore.errors import Unreachable

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds a request waits for the first credential."""

DOUBT = 60.0
"""Least seconds between a fetch and a renewal that a rejection by the upstream triggers."""

_SOONEST = 1.0
_LONGEST_PAUSE = 30.0

_log = structlog.get_logger("gwcore")


class Expiring(Generic[T]):
    """Keeps the newest value in memory for requests.

    A single task fetches, so a client that disconnects cancels no fetch. A failed renewal is retried while the old
    value is valid; without a valid value, requests are rejected at once until a try succeeds.

    Args:
        what: name for messages, such as ``AWS credentials``.
        fetch: returns the value and its expiry in Unix time; ``math.inf``: never. Any exception is a failed try.
        margin: seconds before the expiry at which to renew.
    """

    def __init__(self, what: str, fetch: Callable[[], Awaitable[tuple[T, float]]], margin: float) -> None:
        self._what = what
        self._fetch = fetch
        self._margin = margin
        self._value: T | None = None
        self._expires = 0.0
        self._problem: str | None = None
        self._settled = asyncio.Event()  # a try has ended; cleared before the next if the value has expired
        self._wake = asyncio.Event()
        self._fetched = -math.inf  # of the loop's clock
        self._task: asyncio.Task[None] | None = None

    async def get(self) -> T:
        """A valid value. Raises ``Unreachable``: nothing was sent to this upstream, so another may be tried."""
        if self._value is None or time.time() >= self._expires:
            await self._first()
        value = self._value
        if value is None or time.time() >= self._expires:
            raise Unreachable(f"no {self._what}: {self._problem or 'none arrived in time'}")
        return value

    async def _first(self) -> None:
        # The task sleeps although its value has expired: the machine slept, or the value had expired when fetched.
        overslept = self._settled.is_set() and self._problem is None
        if self._task is None or overslept:
            if self._task is not None:
                self._task.cancel()
            self._settled.clear()
            self._task = asyncio.create_task(self._keep())
        try:
            async with asyncio.timeout(PATIENCE):
                await self._settled.wait()
        except TimeoutError:
            return

    async def _keep(self) -> None:
        failures = 0
        while True:
            try:
                self._value, self._expires = await self._fetch()
                self._problem, failures = None, 0
                self._fetched = asyncio.get_running_loop().time()
            except Exception as error:  # of a vendor's library, a broken file, the network: each is a failed try
                failures += 1
                self._problem = str(error) if isinstance(error, Unavailable) else type(error).__name__
                _log.warning("credential not renewed", credential=self._what, problem=self._problem, tries=failures)
            self._settled.set()
            if failures:
                pause = random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE, 2.0**failures)  # noqa: S311 - jitter
            elif self._expires == math.inf:
                return
            else:
                pause = max(_SOONEST, self._expires - self._margin - time.time())
            await self._rest(pause)
            if time.time() >= self._expires:
                self._settled.clear()

    async def _rest(self, pause: float) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            return

    def doubt(self) -> None:
        """The upstream rejected the value: fetch a new one in the background, at most once a minute."""
        if asyncio.get_running_loop().time() - self._fetched > DOUBT:
            self._wake.set()

    async def aclose(self) -> None:
        """Stop fetching."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


class Unavailable(Exception):
    """A source has no credential; the message says why. It contains no secret and may be shown to clients."""
