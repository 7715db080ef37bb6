"""A connection pool per origin, and RFC 8305 dialling.

uvloop's ``create_connection`` tries addresses one after the other, each until the kernel gives up, so a host with a dead
IPv6 route would use up the whole connect timeout. :func:`dial` races them instead, on any loop.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections import deque
from itertools import chain, zip_longest
from typing import Any, Generic, Protocol, TypeVar

import structlog

from gwcore.errors import Exhausted, Unreachable

_TELL_EVERY = 10.0  # minimum seconds between two identical log lines
_STAGGER = 0.25  # seconds between two attempts: RFC 8305 §5, "Connection Attempt Delay"


_told = -_TELL_EVERY
_log = structlog.get_logger("gwcore")


class Pooled(Protocol):
    """What a pool requires of a connection."""

    def usable(self, now: float) -> bool:
        """Whether another request may be written at loop time ``now``."""
        ...

    def close(self) -> None:
        """Close the socket and :meth:`Pool.drop` itself."""
        ...


C = TypeVar("C", bound=Pooled)


class Pool(Generic[C]):
    """Connections to one origin: idle ones, newest first, and a queue of waiters for when the cap is reached.

    A claim holds one of ``cap`` slots until the connection is dropped or the slot vacated. While there are waiters,
    nothing is idle and no slot is free, so a newcomer cannot overtake.

    Attributes:
        size: slots taken: connections that are idle, in use or being opened.
        busy: number of connections with a request in flight.
        live: connections whose socket is not yet gone, including those being closed.
    """

    __slots__ = ("_waiters", "busy", "cap", "idle", "live", "size")

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.size = 0
        self.busy = 0
        self.live: set[C] = set()
        self.idle: list[C] = []
        self._waiters: deque[asyncio.Future[C | None]] = deque()

    def take(self, now: float) -> C | None:
        """The most recently idle usable connection, if any. Closes stale ones on the way."""
        while self.idle:
            conn = self.idle.pop()
            if conn.usable(now):
                return conn
            conn.close()
        return None

    async def claim(self) -> C | None:
        """A connection just released by another request; or ``None``: open one, in the slot now held."""
        if self.size < self.cap:
            self.size += 1
            return None
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[C | None] = loop.create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            # cancelled in the tick after it was served: pass on what it was given, or the slot leaks
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                given = waiter.result()
                if given is None:
                    self.vacate()
                elif given.usable(loop.time()):
                    self.put(given)
                else:
                    given.close()
            raise

    def put(self, conn: C) -> None:
        """Hand a connection to the longest waiter, else keep it idle."""
        waiter = self._next()
        if waiter is None:
            self.idle.append(conn)
        else:
            waiter.set_result(conn)

    def vacate(self) -> None:
        """Hand a slot to the longest waiter, else free it."""
        waiter = self._next()
        if waiter is None:
            self.size -= 1
        else:
            waiter.set_result(None)

    def drop(self, conn: C) -> None:
        """Remove a closed connection that held a slot."""
        if conn in self.idle:
            self.idle.remove(conn)
        self.vacate()

    def evict(self) -> None:
        """Close the oldest idle connection if there is no free slot."""
        if self.idle and self.size >= self.cap:
            self.idle[0].close()

    def refuse(self, error: Exception) -> None:
        """Fail all waiters."""
        while (waiter := self._next()) is not None:
            waiter.set_exception(error)

    def _next(self) -> asyncio.Future[C | None] | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                return waiter
        return None


async def dial(host: str, port: int) -> socket.socket:
    """A connected TCP socket to the first address of ``host`` that answers (RFC 8305).

    Raises:
        OSError: there is no address, or none answers; the error is the first address's.
        UnicodeError: IDNA cannot encode the name.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families: dict[int, list[Any]] = {}
    for info in found:
        families.setdefault(info[0], []).append(info)
    infos = [info for info in chain.from_iterable(zip_longest(*families.values())) if info is not None]
    if len(infos) == 1:
        return await _connect(loop, infos[0])
    return await _race(loop, infos)


def unconnected(message: str) -> Unreachable:
    """The error for a failed connect: the upstream's fault, or, as a test socket shows, this process's limit of files.

    The original error does not tell: name look-ups and certificates use file descriptors, too.
    """
    global _told  # noqa: PLW0603 - the limit is the process's
    try:
        socket.socket().close()
    except OSError as error:
        if error.errno not in {errno.EMFILE, errno.ENFILE}:
            return Unreachable(message)
    else:
        return Unreachable(message)
    if time.monotonic() - _told >= _TELL_EVERY:
        _told = time.monotonic()
        _log.error(
            "no more connections can be opened",
            problem="too many open files",
            mend="raise the limit of open files (ulimit -n, LimitNOFILE)",
        )
    exhausted = Exhausted("the gateway may open no more connections")
    exhausted.retry_after = 1
    return exhausted


async def _race(loop: asyncio.AbstractEventLoop, infos: list[Any]) -> socket.socket:
    tasks: list[asyncio.Task[socket.socket]] = []
    won = None
    try:
        for index, info in enumerate(infos):
            tasks.append(loop.create_task(_connect(loop, info)))
            clock = loop.time() + _STAGGER
            last = index == len(infos) - 1
            while pending := [task for task in tasks if not task.done()]:
                left = None if last else max(clock - loop.time(), 0)
                done, _ = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                won = next((task for task in done if task.exception() is None), None)
                if won is not None:
                    return won.result()
                if not done:
                    break
        failure = tasks[0].exception() if tasks else None
        raise failure or OSError(f"no address for {infos!r}")
    finally:
        for task in tasks:
            if task is not won:
                task.add_done_callback(_discard)
                task.cancel()


def _discard(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connect(loop: asyncio.AbstractEventLoop, info: Any) -> socket.socket:
    family, kind, proto, _, address = info
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
