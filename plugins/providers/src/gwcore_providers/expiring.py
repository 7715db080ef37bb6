"""A credential that expires: fetched at its first use, renewed in the background before it ends."""

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
"""Seconds between two renewals that refusals of the upstream ask for."""

_SOONEST = 1.0
_LONGEST_PAUSE = 30.0

_log = structlog.get_logger("gwcore")


class Expiring(Generic[T]):
    """Holds the newest value; a request takes it from memory.

    One task fetches, whoever asks: a client that leaves ends nobody's fetch. A renewal that fails is tried again while
    the old value is valid; without a valid one, requests are refused at once until a try succeeds.

    Args:
        what: for messages, such as ``AWS credentials``.
        fetch: the value and the epoch second at which it ends; ``math.inf`` never. Whatever it raises is a failure.
        margin: seconds before the end at which to renew.
    """

    def __init__(self, what: str, fetch: Callable[[], Awaitable[tuple[T, float]]], margin: float) -> None:
        self._what = what
        self._fetch = fetch
        self._margin = margin
        self._value: T | None = None
        self._expires = 0.0
        self._problem: str | None = None
        self._settled = asyncio.Event()  # a try has ended, and the next has not begun
        self._wake = asyncio.Event()
        self._fetched = -math.inf  # of the loop's clock
        self._task: asyncio.Task[None] | None = None

    async def get(self) -> T:
        """A valid value. Raises ``Unreachable``: nothing was sent to the upstream, another one may be tried."""
        if self._value is None or time.time() >= self._expires:
            await self._first()
        value = self._value
        if value is None or time.time() >= self._expires:
            raise Unreachable(f"no {self._what}: {self._problem or 'none arrived in time'}")
        return value

    async def _first(self) -> None:
        # The task sleeps although its value has ended: the machine slept, or the value came with no time left.
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
            except Exception as error:  # a vendor's library, a broken file, a network: each is a try that failed
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
        """The upstream refused the value: fetch another in the background, once a minute at most."""
        if asyncio.get_running_loop().time() - self._fetched > DOUBT:
            self._wake.set()

    async def aclose(self) -> None:
        """Fetch no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


class Unavailable(Exception):
    """A source has no credential; the text says why, and may be shown to clients: it holds no secret."""
