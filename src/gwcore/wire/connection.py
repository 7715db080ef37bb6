"""One HTTP/1.1 connection and the answer received on it. See :mod:`gwcore.wire.http1` for the overview."""

from __future__ import annotations

import asyncio
from math import inf
from typing import cast

import httptools
from httptools import HttpParserError, HttpParserUpgrade

from gwcore.errors import Broken, Malformed, UpstreamError, UpstreamTimeout
from gwcore.wire.pool import Pool
from gwcore.wire.transport import Headers, Request

HIGH = 256 * 1024  # back-pressure: unread bytes of a body above which reading from the socket is paused
SLICE = 256 * 1024  # bytes of a request body handed to the socket at once
INFORMATIONAL = 16  # 1xx answers accepted before the real one
_EARLY = 0.001  # a timer may fire this early (uvloop has millisecond resolution)


class Answer:
    """A :class:`~gwcore.wire.transport.Response` on a :class:`Connection`. ``conn`` is ``None`` once it is over."""

    __slots__ = (
        "conn",
        "ended",
        "error",
        "framed",
        "headers",
        "method",
        "pieces",
        "size",
        "status",
        "timeouts",
        "total",
        "waiter",
    )

    def __init__(self, request: Request, total: float) -> None:
        self.status = 0
        self.headers: Headers = []
        self.framed = True
        self.method = request.method
        self.timeouts = request.timeouts
        self.total = total
        self.conn: Connection | None = None
        self.ended = False
        self.error: UpstreamError | None = None
        self.pieces: list[bytes] = []
        self.size = 0
        self.waiter: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        """The next chunk; see :meth:`gwcore.wire.transport.Response.read`. One reader at a time."""
        if not self.pieces and (conn := self.conn) is not None:
            idle = self.timeouts.idle
            conn.expect(self.total if idle is None else min(self.total, conn.loop.time() + idle))
            try:
                while not self.pieces and self.conn is not None:
                    await self.wait(conn)
            except BaseException:
                self.close()
                raise
        if pieces := self.pieces:
            chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self.pieces = []
            self.size = 0
            if self.conn is not None:
                self.conn.resume()
            return chunk
        if self.error is not None:
            raise self.error
        return b""

    def wait(self, conn: Connection) -> asyncio.Future[None]:
        """A future that is done at the next event on the connection."""
        self.waiter = waiter = conn.loop.create_future()
        return waiter

    def wake(self) -> None:
        """Wake the reader after an event."""
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def close(self) -> None:
        """Inside the body: close the socket, so that further reads raise. After its end: a no-op."""
        if self.conn is not None:
            self.pieces = []
            self.conn.close(Broken("the answer was closed before its end"))


class Connection(asyncio.Protocol):
    """One socket, at most one request at a time. It leaves its pool as soon as it cannot serve another."""

    def __init__(
        self, pool: Pool[Connection], loop: asyncio.AbstractEventLoop, keepalive: float, max_head: int
    ) -> None:
        self.pool = pool
        self.loop = loop
        self.keepalive = keepalive
        self.max_head = max_head
        self.transport: asyncio.Transport
        self.parser = httptools.HttpResponseParser(self)
        self.answer: Answer | None = None
        self.owns_slot = False
        self.heard = False  # a byte has been received since the last request was written
        self.reusable = False  # the answer's head allows another request
        self.surplus = False  # bytes were received after the end of the answer
        self.uploading = False
        self.choked = False  # the transport has paused writing
        self.paused = False
        self.barren = 0  # bytes since the last body byte: bounds heads, trailers and chunk extensions
        self.head_size = 0
        self.informational = 0
        self.deadline = inf
        self.due = inf  # when the timer fires
        self.timer: asyncio.TimerHandle | None = None

    # ---- the request

    async def exchange(self, answer: Answer, head: bytes, body: bytes) -> None:
        """Write a request and wait for the head of its answer. Raises :class:`UpstreamError`; closes on cancellation."""
        self.answer = answer
        answer.conn = self
        self.pool.busy += 1
        self.heard = self.surplus = self.reusable = False
        self.barren = self.head_size = self.informational = 0
        try:
            if len(body) <= SLICE:
                self.transport.write(head + body)
            else:
                await self._upload(answer, head, body)
            first = answer.timeouts.first_byte
            self.expect(answer.total if first is None else min(answer.total, self.loop.time() + first))
            while not answer.status and answer.conn is not None:
                await answer.wait(self)
        except BaseException:
            answer.close()
            raise
        if not answer.status:
            raise answer.error or Broken("the connection was closed without an answer")

    async def _upload(self, answer: Answer, head: bytes, body: bytes) -> None:
        """Write slice by slice, with back-pressure from the socket; stop if the answer arrives early.

        Each slice has the ``idle`` timeout to be written.
        """
        self.uploading = True
        idle = answer.timeouts.idle
        self.transport.write(head)
        view = memoryview(body)
        for start in range(0, len(body), SLICE):
            self.transport.write(view[start : start + SLICE])
            self.expect(answer.total if idle is None else min(answer.total, self.loop.time() + idle))
            while self.choked and not answer.status and answer.conn is not None:
                await answer.wait(self)
            if answer.status or answer.conn is None:
                return
        self.uploading = False

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's only has the same shape
        self.pool.live.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse, then wake the reader once per socket read."""
        answer = self.answer
        if answer is None:  # unsolicited data
            self.close()
            return
        self.heard = True
        size = answer.size
        try:
            self.parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if answer.conn is None:  # a callback has already failed it
                return
            if not answer.ended:
                self.close(Malformed(f"not HTTP/1.1: {error}"))
                return
            self.surplus = True
        if answer.conn is None:
            return
        if answer.ended:
            self._complete(answer)
        elif answer.size != size:
            self.barren = 0
            if answer.size > HIGH and not self.paused:
                self.paused = True
                self.transport.pause_reading()
        else:
            self.barren += len(data)
            if self.barren > self.max_head:
                self.close(Malformed(f"more than {self.max_head} bytes of head, trailer or chunk extension"))
                return
        answer.wake()

    def eof_received(self) -> None:
        """The end of a close-delimited body, or of the connection."""
        self._lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._lost(exc)
        self.pool.live.discard(self)

    def pause_writing(self) -> None:
        """The socket's write buffer is full."""
        self.choked = True

    def resume_writing(self) -> None:
        """The socket accepts writes again."""
        self.choked = False
        if self.answer is not None:
            self.answer.wake()

    # ---- httptools

    def on_message_begin(self) -> None:
        """The first byte of an answer: the expected one, or an unsolicited one."""
        if self.answer is None or self.answer.ended:
            self.surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """A complete header; trailers are dropped."""
        answer = self.answer
        if answer is None or answer.status or answer.ended:  # a trailer
            return
        self.head_size += len(name) + len(value) + 4
        name = name.lower()
        if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            self.close(Malformed("a transfer-encoding other than chunked"))
            return
        answer.headers.append((name, value.rstrip()))

    def on_headers_complete(self) -> None:
        """Check the head."""
        answer = self.answer
        if answer is None or answer.ended:
            return
        status = self.parser.get_status_code()
        if self.head_size > self.max_head:
            self.close(Malformed(f"a head of more than {self.max_head} bytes"))
        elif self.parser.get_http_version() not in {"1.1", "1.0"}:
            self.close(Malformed("not HTTP/1.1"))
        elif status == 101:
            self.close(Malformed("an upgrade nobody asked for"))
        elif status < 200:
            answer.headers = []
            self.informational += 1
            if self.informational > INFORMATIONAL:
                self.close(Malformed(f"more than {INFORMATIONAL} informational answers"))
        else:
            self.reusable = self.parser.should_keep_alive() and not self.uploading
            if answer.method == "HEAD":
                answer.ended = True
                # The old parser expects the body that the head announces (and is on the stack).
                self.parser = httptools.HttpResponseParser(self)
            elif not self.reusable and status not in {204, 304}:
                answer.framed = any(name in {b"content-length", b"transfer-encoding"} for name, _ in answer.headers)
            answer.status = status

    def on_body(self, piece: bytes) -> None:
        """A piece of the body, transfer-encoding removed."""
        answer = self.answer
        if answer is None or answer.ended:
            self.surplus = True
            return
        answer.pieces.append(piece)
        answer.size += len(piece)

    def on_message_complete(self) -> None:
        """The end of the message by its framing; 1xx answers have one, too."""
        if self.answer is not None and self.answer.status:
            self.answer.ended = True

    # ---- ends

    def _complete(self, answer: Answer) -> None:
        """The last byte of the answer has been received, read or not: the connection is free."""
        self.answer = answer.conn = None
        self.pool.busy -= 1
        if not self.reusable or self.surplus or self.transport.is_closing():
            self.close()
            return
        self.resume()  # otherwise a close by the peer would go unnoticed
        self.expect(self.loop.time() + self.keepalive)
        self.pool.put(self)

    def _lost(self, exc: Exception | None) -> None:
        answer = self.answer
        if answer is None:
            self.close()
        elif answer.status and not answer.framed and exc is None:
            answer.ended = True
            self.reusable = False
            self._complete(answer)
            answer.wake()
        else:
            self.close(Broken(f"the connection ended {'inside' if self.heard else 'without'} an answer"))

    def close(self, error: UpstreamError | None = None) -> None:
        """Close the socket at once, leave the pool, and fail the request in flight, if any. Idempotent."""
        answer = self.answer
        if answer is not None:
            self.answer = answer.conn = None
            self.pool.busy -= 1
            answer.error = error or Broken("the connection was closed by the gateway")
            answer.wake()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.deadline = self.due = inf
        if self.owns_slot:
            self.owns_slot = False
            self.pool.drop(self)
        self.transport.abort()

    def usable(self, now: float) -> bool:
        """Whether another request may be written at loop time ``now``."""
        return self.owns_slot and now < self.deadline and not self.transport.is_closing()

    def resume(self) -> None:
        """Resume reading from the socket."""
        if self.paused:
            self.paused = False
            self.transport.resume_reading()

    # ---- time

    def expect(self, deadline: float) -> None:
        """Set the ``deadline`` (loop time) of the next event. A timer that fires earlier anyway is left as it is."""
        self.deadline = deadline
        if deadline < self.due:
            if self.timer is not None:
                self.timer.cancel()
            self.due = deadline
            self.timer = self.loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self.timer = None
        self.due = inf
        answer = self.answer
        now = self.loop.time() + _EARLY
        if answer is not None and answer.waiter is None and now < answer.total:
            self.expect(answer.total)  # nobody is waiting for the upstream: a slow reader is not its fault
        elif now < self.deadline:
            self.expect(self.deadline)
        elif answer is None:
            self.close()
        else:
            phase = "total" if now >= answer.total else "idle" if answer.status or self.uploading else "first_byte"
            self.close(UpstreamTimeout(f"the upstream ran into the {phase} timeout", phase=phase))
