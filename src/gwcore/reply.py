"""``Reply``: the one way out. Idle → (held →) committed → ended; anything else is a bug with a name.

A keep-alive comment may leave before any answer is known: then the head is gone, but no content, and another target can
still be tried (``waiting``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

from gwcore.errors import Malformed
from gwcore.wire.transport import Headers

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

IDLE, COMMITTED, ENDED = "idle", "committed", "ended"


_ENDS = b"\r\n\0"
_EVENTS = b"text/event-stream"


class ReplyMisuse(RuntimeError):
    """A second commit, bytes before a commit or after the end. The traceback names the plugin."""


class Gate(Protocol):
    """What a router puts before a reply: it learns of the commit, and may change what follows."""

    def commit(self) -> None:
        """Told just before a commit. Raising refuses it."""
        ...

    def write(self, chunk: bytes) -> bytes:
        """What leaves in place of a piece of the body; ``b""`` is its end."""
        ...


class Tee(Protocol):
    """What a layer puts beside a reply: it sees what leaves, as the layer's inner side wrote it."""

    def commit(self, status: int, headers: Headers) -> None:
        """Told just before a commit; may add to ``headers``. Where a layer further out holds, a second answer may begin."""
        ...

    def write(self, chunk: bytes) -> None:
        """A piece of the body; ``b""`` is its end."""
        ...


class Copy:
    """The first bytes of what leaves, kept for those who watch. ``size`` counts all of them."""

    __slots__ = ("left", "parts", "size")

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.parts: list[bytes] = []
        self.size = 0

    @property
    def truncated(self) -> bool:
        """Whether something is missing at the end."""
        return self.left < 0

    def add(self, chunk: bytes) -> None:
        """A piece of the body."""
        self.size += len(chunk)
        if self.left > 0:
            self.parts.append(chunk if len(chunk) <= self.left else chunk[: self.left])
        self.left -= len(chunk)


class Held:
    """What a layer kept back. :meth:`release` lets it go, unchanged or with what the layer put in its place.

    Attributes:
        status: of the answer; 0 while nothing came.
        headers: its headers; a ``content-length`` among them is made right when a whole body is released.
        body: its bytes, in pieces: JSON, or frames of events where ``call.stream`` says so; never compressed.
        ended: that is all of it.
    """

    __slots__ = ("_outer", "_reply", "_task", "body", "ended", "headers", "status")

    def __init__(self, reply: Reply, outer: Held | None) -> None:
        self._reply = reply
        self._outer = outer
        self._task = asyncio.current_task()
        self.status = 0
        self.headers: Headers = []
        self.body: list[bytes] = []
        self.ended = False

    async def release(self) -> None:
        """Send what was held, or give it to a layer further out that holds; from here on the reply flows. A no-op when nothing was committed."""
        reply = self._reply
        if reply._held is not self:  # noqa: SLF001 - one class in two parts
            return
        reply._held = self._outer  # noqa: SLF001
        if self.status:
            body = b"".join(self.body)
            if self.ended:  # the body may be another than the upstream's
                size = b"%d" % len(body)
                self.headers = [(name, size if name == b"content-length" else value) for name, value in self.headers]
            await reply.commit(self.status, self.headers)
            if self.ended:
                await reply.end(body)
            elif body:
                await reply.write(body)


class Reply:
    """The client's side of one exchange.

    Attributes:
        status: committed status; 0 before.
        sent: body bytes handed to the server; ``head`` is the first piece of them, ``last`` the latest.
        before_commit: called with the headers just before they leave, so that the gateway can add its own.
        gate: a router's, or ``None``.
        headers: as they left; empty before.
        waiting: the head left with a keep-alive comment, and nothing else has.
        copy: keeps what leaves; ``None`` unless a watcher asked for it, see :meth:`keep`.
    """

    __slots__ = (
        "_extra", "_held", "_send", "_tees", "before_commit", "copy", "gate", "head", "headers", "last", "sent",
        "state", "status", "waiting",
    )  # fmt: skip

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: Held | None = None
        self._extra: list[tuple[bytes, bytes] | Callable[[], Headers]] | None = None
        self._tees: tuple[tuple[Tee, Held | None], ...] = ()
        self.state = IDLE
        self.status = 0
        self.sent = 0
        self.headers: Headers = []
        self.head = b""
        self.last = b""
        self.before_commit: Callable[[int, Headers], None] | None = None
        self.gate: Gate | None = None
        self.copy: Copy | None = None
        self.waiting = False

    @property
    def held(self) -> bool:
        """Whether a layer looks first."""
        return self._held is not None

    @property
    def committed(self) -> bool:
        """Whether an answer has begun to leave: no retry, no fallback after that."""
        return self.state != IDLE and not self.waiting

    def keep(self, limit: int) -> None:
        """From here on keep a copy of what leaves, of ``limit`` bytes at most; of several limits the largest counts."""
        if self.copy is None:
            self.copy = Copy(limit)
        else:
            self.copy.left = max(self.copy.left, limit - self.copy.size)

    def add_header(self, name: bytes, value: bytes) -> None:
        """A response header of a plugin's own, whoever writes the response; ``name`` in lower case.

        It takes the place of the upstream's headers of that name. Call it before ``await inner(…)``, or inside
        :meth:`hold`. Where a keep-alive comment took the head along already, the header is lost.

        Raises:
            TypeError: a name or a value that is not bytes.
            ValueError: CR, LF or NUL in the value.
            ReplyMisuse: the answer has begun to leave.
        """
        if not (isinstance(name, bytes) and isinstance(value, bytes)):
            raise TypeError(f"add_header takes bytes, here: {type(name).__name__}, {type(value).__name__}")
        if len(value.translate(None, _ENDS)) != len(value):  # another header would follow it
            raise ValueError("add_header takes no CR, LF or NUL")
        self._add((name, value))

    def add_headers(self, tell: Callable[[], Headers]) -> None:
        """As :meth:`add_header`, of what ``tell`` says as the head leaves: of a whole answer, the usage is known by then."""
        self._add(tell)

    def _add(self, extra: tuple[bytes, bytes] | Callable[[], Headers]) -> None:
        if self.committed:
            raise ReplyMisuse("add_header after the answer began to leave: call it before inner, or inside hold()")
        if self._extra is None:
            self._extra = []
        self._extra.append(extra)

    def added(self) -> Headers:
        """What plugins add, as they say it now."""
        headers: Headers = []
        for extra in self._extra or ():
            headers += (extra,) if isinstance(extra, tuple) else extra()
        return headers

    async def commit(self, status: int, headers: Headers) -> None:
        """Send status and headers. The list is the reply's from here on.

        Raises ``Malformed`` for what is no stream of events where comments have left: clients would read over it, and take
        the end for an empty answer.
        """
        if self.waiting and not next((v for k, v in headers if k == b"content-type"), _EVENTS).startswith(_EVENTS):
            raise Malformed("the upstream answered a stream with something that is no stream of events")
        if self.gate is not None:
            self.gate.commit()
        held = self._held
        for tee, beneath in self._tees:
            if held is beneath:
                tee.commit(status, headers)
        if held is not None:  # of an upstream that broke while it was held, nothing stays: another was asked
            held.status, held.headers, held.ended = status, headers, False
            held.body.clear()
            return
        if self.waiting:
            self.waiting = False
            return
        if self.state != IDLE:
            raise ReplyMisuse(f"commit of a reply that is {self.state}")
        await self._head(status, headers)

    async def _head(self, status: int, headers: Headers) -> None:
        self.state = COMMITTED
        self.status = status
        if self._extra is not None:
            told = self.added()
            ours = {name for name, _ in told}
            headers = [header for header in headers if header[0] not in ours]
            headers += told
        if self.before_commit is not None:
            self.before_commit(status, headers)
        self.headers = headers
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    def part(self) -> None:
        """Let go of those who had a say before it left: the exchange is over."""
        self.before_commit = self.gate = self._extra = None

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body; one write of the server, nothing is buffered."""
        if self.gate is not None:
            chunk = self.gate.write(chunk)
            if not chunk:
                return
        held = self._held
        for tee, beneath in self._tees:
            if chunk and held is beneath:
                tee.write(chunk)
        if held is not None:
            held.body.append(chunk)
            return
        if self.state != COMMITTED:
            raise ReplyMisuse(f"bytes into a reply that is {self.state}")
        if not self.head:
            self.head = chunk
        self.sent += len(chunk)
        self.last = chunk
        if self.copy is not None:
            self.copy.add(chunk)
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self, chunk: bytes = b"") -> None:
        """Send the last piece."""
        if self.gate is not None:
            chunk = (self.gate.write(chunk) if chunk else b"") + self.gate.write(b"")
        held = self._held
        for tee, beneath in self._tees:
            if held is beneath:
                if chunk:
                    tee.write(chunk)
                tee.write(b"")
        if held is not None:
            held.body.append(chunk)
            held.ended = True
            return
        if self.state != COMMITTED:
            raise ReplyMisuse(f"end of a reply that is {self.state}")
        self.state = ENDED
        self.sent += len(chunk)
        if self.copy is not None:
            self.copy.add(chunk)
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    async def comment(self, frame: bytes, headers: Headers) -> None:
        """Send a frame that is no content; where nothing has left yet, a 200 with ``headers`` before it."""
        if self.state == IDLE:
            self.waiting = True
            await self._head(200, headers)
        self.sent += len(frame)
        self.last = frame
        await self._send({"type": "http.response.body", "body": frame, "more_body": True})

    @contextmanager
    def record(self, tee: Tee) -> Iterator[None]:
        """Let ``tee`` see what the inner side writes: ``with call.reply.record(tee): await inner(call)``.

        What a layer further out holds and replaces is seen as it was written, what one further in holds as it was
        released. Several layers may record.
        """
        before = self._tees
        self._tees = ((tee, self._held), *before)
        try:
            yield
        finally:
            self._tees = before

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[Held]:
        """Look before anything leaves: ``async with call.reply.hold() as held: … await held.release()``.

        What was not released when the block ends without an exception is released then; with one, it is dropped.
        Several layers may hold, each what the one further in releases.
        """
        outer = self._held
        held = Held(self, outer)
        # of attempts that race, one holds: the bytes of two would meet
        if self.state != IDLE or (outer is not None and (outer.status or outer._task is not held._task)):  # noqa: SLF001
            raise ReplyMisuse("hold of a reply that is committed, or held by another attempt")
        self._held = held
        try:
            yield held
        except BaseException:
            if self._held is held:
                self._held = outer
            raise
        await held.release()
