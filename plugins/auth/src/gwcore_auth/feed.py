"""``Feed``: how a worker learns what others changed.

The list of changes in the store is authoritative and read every ``refresh`` seconds; a push (PostgreSQL's NOTIFY, a
Redis channel) only means "read now", so a lost push costs a delay of ``refresh`` and nothing else. While reading works,
cached grants are valid; after ``ttl`` seconds without a successful read they are not, and calls that need the store get
a 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog

from gwcore.errors import BadConfig, GatewayError
from gwcore.patience import patience
from gwcore.resources import Store, redis_client
from gwcore.sql import driver_arguments
from gwcore_auth.book import CHANNEL, Book, Mark

_log = structlog.get_logger("gwcore.auth")
Subjects = Iterable[tuple[str, str]]
_RETRY = 2.0
_PUSH = 0.2  # limit of seconds for telling a change
_TELL = 60.0  # seconds between two equal log lines


class Feed:
    """One per worker and stack; runs from :meth:`start` to :meth:`stop`.

    Attributes:
        good_until: ``time.monotonic()`` until which cached grants are valid.
        failing: whether the last read failed.
    """

    def __init__(
        self, book: Book, changed: Callable[[Subjects | None], None], *, refresh: float, ttl: float, push: Store | None
    ) -> None:
        """``changed`` is called with the subjects that changed, or ``None`` if anything may have changed."""
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
        """Read the current position, then follow changes in tasks. Raises ``StoreUnavailable`` and ``BadConfig``."""
        if self._push is not None and self._push.scheme != "redis":
            raise BadConfig("auth.push must name a store with a redis: URL")
        await self._read()
        followers: list[Coroutine[Any, Any, None]] = [self._follow()]
        if self._book.store.scheme == "postgresql":
            followers.append(self._again(self._listen))
        if self._push is not None:
            followers.append(self._again(self._subscribe))
        self._tasks = [asyncio.create_task(follower) for follower in followers]

    async def stop(self) -> None:
        """End the tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def tell(self) -> None:
        """Push after a commit. Never fails; without it, the other workers read at their next refresh."""
        if self._push is not None:
            try:
                url = self._push.url
                client = self._push.once("auth.push", lambda: redis_client(url, _PUSH))
                async with patience(_PUSH):
                    await client.publish(CHANNEL, b"")
            except Exception as error:  # a push is only a hint: the write is committed
                _log.warning("push failed", error=type(error).__name__)

    async def _read(self) -> None:
        began = time.monotonic()
        last, subjects = await self._book.changes(self._since)
        if self._since is not None and (subjects is None or subjects):
            self._changed(subjects)
        self._since = last
        self.failing = False
        self.good_until = began + self._ttl  # counted from the request, not from the answer

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._refresh)
            self._wake.clear()
            try:
                await self._read()
            except GatewayError:
                self.failing = True
            except Exception as error:  # whatever the cause, cached grants expire by themselves
                self.failing = True
                _log.error("cannot follow changes", error=type(error).__name__)

    async def _again(self, once: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Keep a push connection open. Changes made while it is down are read from the store, so none is lost."""
        told = -_TELL
        while True:
            try:
                await once()
            except Exception as error:
                if time.monotonic() - told >= _TELL:  # not on every attempt
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
        # a client of its own: the socket timeout of the publishing one would end a subscription
        client = redis_client(self._push.url, None, within=_RETRY)
        async with client, client.pubsub() as channel:
            await channel.subscribe(CHANNEL)
            self._wake.set()
            async for _ in channel.listen():
                self._wake.set()
