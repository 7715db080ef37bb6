"""``Feed``: how a worker learns what others changed.

The store's own list of changes is the truth, read every ``refresh`` seconds; a push (PostgreSQL's NOTIFY, a Redis channel) only
says "read now", so a push that is lost costs ``refresh`` and nothing else. While reading works, what is cached is good; when it
has not worked for ``ttl`` seconds, nothing cached is, and calls are refused with a 503 until it works again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog

from gwcore.errors import BadConfig, GatewayError
from gwcore.resources import Store, redis_client
from gwcore.sql import driver_arguments
from gwcore_auth.book import CHANNEL, Book, Mark

_log = structlog.get_logger("gwcore.auth")
Subjects = Iterable[tuple[str, str]]
_RETRY = 2.0
_TELL = 60.0  # seconds between two lines of the log that say the same


class Feed:
    """One per worker and stack; runs inside :meth:`run`.

    Attributes:
        good_until: ``time.monotonic()`` up to which cached grants hold.
        failing: the last reading failed.
    """

    def __init__(
        self, book: Book, changed: Callable[[Subjects | None], None], *, refresh: float, ttl: float, push: Store | None
    ) -> None:
        """``changed`` is told the subjects that changed, or ``None`` for "anything may have"."""
        self.good_until = 0.0
        self.failing = False
        self._book = book
        self._changed = changed
        self._refresh = refresh
        self._ttl = ttl
        self._push = push
        self._since: Mark | None = None
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Read the clock, then follow. Raises ``StoreUnavailable``."""
        if self._push is not None and self._push.scheme != "redis":
            raise BadConfig("auth.push names a store that cannot push; use one with a redis: URL")
        await self._read()
        followers: list[Coroutine[Any, Any, None]] = [self._follow()]
        if self._book.store.scheme == "postgresql":
            followers.append(self._again(self._listen))
        if self._push is not None:
            followers.append(self._again(self._subscribe))
        self._tasks = [asyncio.create_task(follower) for follower in followers]

    async def stop(self) -> None:
        """End what was started."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def tell(self) -> None:
        """Push: something was committed. Never fails; the others read on their own soon enough."""
        if self._push is not None:
            try:
                url = self._push.url
                await self._push.once("auth.push", lambda: redis_client(url, 0.2)).publish(CHANNEL, b"")
            except Exception as error:  # a push is a hint: whatever ails it, the write stands
                _log.warning("push failed", error=type(error).__name__)

    async def _read(self) -> None:
        began = time.monotonic()
        last, subjects = await self._book.changes(self._since)
        if self._since is not None and (subjects is None or subjects):
            self._changed(subjects)
        self._since = last
        self.failing = False
        self.good_until = began + self._ttl  # of when the answer was asked for, not of when it came

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._refresh)
            self._wake.clear()
            try:
                await self._read()
            except GatewayError:
                self.failing = True
            except Exception as error:  # whatever it is, cached grants run out by themselves
                self.failing = True
                _log.error("cannot follow changes", error=type(error).__name__)

    async def _again(self, once: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Keep a push connection up. What happened while it was down is read, so nothing is lost."""
        told = -_TELL
        while True:
            try:
                await once()
            except Exception as error:
                if time.monotonic() - told >= _TELL:  # not at each try
                    told = time.monotonic()
                    _log.warning("push is down; reading goes on", error=type(error).__name__)
            self._wake.set()
            await asyncio.sleep(_RETRY)

    async def _listen(self) -> None:
        import asyncpg  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional driver

        connection = await asyncpg.connect(**driver_arguments(self._book.store.url), timeout=_RETRY)
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, lambda *_: self._wake.set())
            self._wake.set()
            await lost.wait()
        finally:
            connection.terminate()

    async def _subscribe(self) -> None:
        assert self._push is not None
        # of its own: the socket timeout of a client that asks would end one that listens
        client = redis_client(self._push.url, None, within=_RETRY)
        async with client, client.pubsub() as channel:
            await channel.subscribe(CHANNEL)
            self._wake.set()
            async for _ in channel.listen():
                self._wake.set()
