"""``Reply``: the only way out. Idle → (held →) committed → ended; anything else raises :class:`ReplyMisuse`.

A keep-alive comment may be sent before any answer is known: then the head has left but no content, and another target
can still be tried (``waiting``).
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
    """A second commit, or bytes before the commit or after the end. The traceback names the plugin."""


class Gate(Protocol):
    """A router's filter in front of a reply: it is notified of the commit, and may change what follows."""

    def commit(self) -> None:
        """Called just before a commit; raising rejects it."""
        ...

    def write(self, chunk: bytes) -> bytes:
        """Return what to send in place of this piece of the body; ``b""`` is its end."""
        ...


class Tee(Protocol):
    """A layer's observer of a reply: it sees what the layer's inner side writes."""

    def commit(self, status: int, headers: Headers) -> None:
        """Called just before a commit; may add to ``headers``. If an outer layer holds, another answer may follow."""
        ...

    def write(self, chunk: bytes) -> None:
        """Observe a piece of the body; ``b""`` is its end."""
        ...


class Copy:
    """The first bytes of the body sent, kept for watchers. ``size`` counts all bytes."""

    __slots__ = ("left", "parts", "size")

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.parts: list[bytes] = []
        self.size = 0

    @property
    def truncated(self) -> bool:
        """Whether the end is missing."""
        return self.left < 0

    def add(self, chunk: bytes) -> None:
        """Add a piece of the body."""
        self.size += len(chunk)
        if self.left > 0:
            self.parts.append(chunk if len(chunk) <= self.left else chunk[: self.left])
        self.left -= len(chunk)


class Held:
    """An answer that a layer holds back. :meth:`release` sends it, unchanged or as the layer has altered it.

    Attributes:
        status: of the answer; 0 while nothing has arrived.
        headers: of the answer; a ``content-length`` is corrected when a whole body is released.
        body: its bytes, in pieces: JSON, or event frames if ``call.stream``; never compressed.
        ended: the answer is complete.
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
        """Send what was held, or pass it to an outer layer that holds; from here on the reply is not held here.

        Nothing is sent if nothing was committed.
        """
        reply = self._reply
        if reply._held is not self:  # noqa: SLF001 - one class in two parts
            return
        reply._held = self._outer  # noqa: SLF001
        if self.status:
            body = b"".join(self.body)
            if self.ended:  # the layer may have replaced the upstream's body
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
        sent: number of body bytes handed to the server; ``head`` is the first piece sent, ``last`` the latest.
        before_commit: called with the headers just before they are sent, so that the gateway can add its own.
        gate: a router's, or ``None``.
        headers: as sent; empty before.
        waiting: only the head and keep-alive comments have been sent so far.
        copy: a copy of what is sent; ``None`` unless a watcher asked for it, see :meth:`keep`.
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
        """Whether a layer is holding the answer back."""
        return self._held is not None

    @property
    def committed(self) -> bool:
        """Whether an answer has begun to be sent: no retry or fallback is possible after that."""
        return self.state != IDLE and not self.waiting

    def keep(self, limit: int) -> None:
        """Copy what is sent from now on, up to ``limit`` bytes; of several limits the largest counts."""
        if self.copy is None:
            self.copy = Copy(limit)
        else:
            self.copy.left = max(self.copy.left, limit - self.copy.size)

    def add_header(self, name: bytes, value: bytes) -> None:
        """Add a plugin's own response header, whoever writes the response; ``name`` in lower case.

        It replaces the upstream's headers of that name. Call it before ``await inner(…)``, or inside :meth:`hold`. If a
        keep-alive comment has already sent the head, the header is lost.

        Raises:
            TypeError: the name or the value is not bytes.
            ValueError: CR, LF or NUL in the value.
            ReplyMisuse: the answer has begun to be sent.
        """
        if not (isinstance(name, bytes) and isinstance(value, bytes)):
            raise TypeError(f"add_header takes bytes, here: {type(name).__name__}, {type(value).__name__}")
        if len(value.translate(None, _ENDS)) != len(value):  # would allow header injection
            raise ValueError("add_header takes no CR, LF or NUL")
        self._add((name, value))

    def add_headers(self, tell: Callable[[], Headers]) -> None:
        """As :meth:`add_header`, but ``tell`` runs as the head is sent: a whole answer's usage is known by then."""
        self._add(tell)

    def _add(self, extra: tuple[bytes, bytes] | Callable[[], Headers]) -> None:
        if self.committed:
            raise ReplyMisuse("add_header after the answer began to leave: call it before inner, or inside hold()")
        if self._extra is None:
            self._extra = []
        self._extra.append(extra)

    def added(self) -> Headers:
        """The headers that plugins add, evaluated now."""
        headers: Headers = []
        for extra in self._extra or ():
            headers += (extra,) if isinstance(extra, tuple) else extra()
        return headers

    async def commit(self, status: int, headers: Headers) -> None:
        """Send status and headers. The reply owns the list from here on.

        Raises ``Malformed`` if comments have been sent and this is not an event stream: clients would skip it, and take
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
        if held is not None:  # discard what was held of an upstream that broke: this is another one's answer
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
        """Drop the references to hooks of the exchange, which is over."""
        self.before_commit = self.gate = self._extra = None

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body: one write to the server, no buffering."""
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
        """Send the last piece of the body."""
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
        """Send a frame that is not content, preceded by a 200 with ``headers`` if nothing has been sent yet."""
        if self.state == IDLE:
            self.waiting = True
            await self._head(200, headers)
        self.sent += len(frame)
        self.last = frame
        await self._send({"type": "http.response.body", "body": frame, "more_body": True})

    @contextmanager
    def record(self, tee: Tee) -> Iterator[None]:
        """Let ``tee`` see what the inner side writes: ``with call.reply.record(tee): await inner(call)``.

        It sees what an outer layer holds and replaces as originally written, and what an inner layer holds as released.
        Several layers may record.
        """
        before = self._tees
        self._tees = ((tee, self._held), *before)
        try:
            yield
        finally:
            self._tees = before

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[Held]:
        """Inspect an answer before it is sent: ``async with call.reply.hold() as held: … await held.release()``.

        An unreleased answer is released when the block ends normally, and dropped on an exception. Several layers may
        hold; each gets what the next inner one releases.
        """
        outer = self._held
        held = Held(self, outer)
        # only one of several racing attempts may hold, or their bytes would mix
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
