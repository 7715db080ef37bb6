"""``FakeUpstream``: an HTTP/1.1 server on a free loopback port that gives scripted answers, including faults.

::

    async with FakeUpstream() as up:
        up.script(Answer(503), Answer(body=chat_stream("Hel", "lo"), cut_after=40))
        ...                                     # two calls to up.url
        assert up.requests[0].document["model"] == "m"
        await up.requests[1].gone()             # until the client has closed that connection

It serves as a test's oracle: it records what the gateway really sent.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import cycle
from typing import Any, Literal, Self

import orjson

from gwcore.wire.sse import encode

_HEAD_LIMIT = 256 * 1024
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER without time to linger: close() sends RST


@dataclass(slots=True, frozen=True)
class Answer:
    """One answer, with its faults.

    Attributes:
        status: of the response.
        headers: of the response. Framing is added, and a content-type: JSON for a ``body`` of bytes, else SSE.
        body: the whole body, or its pieces (each is one socket write and, if chunked, one chunk).
        delay_head: seconds before the head, or an event to wait for; ``math.inf`` never answers.
        delay_first: seconds between the head and the first piece, or an event.
        gap: seconds between two pieces, or an event.
        cut_after: bytes of the body after which the connection is closed, regardless of the framing.
        stall_after: bytes of the body after which nothing more is sent, but the connection stays open.
        reset: close the connection with RST: at ``cut_after``, or without it, in place of the head.
        framing: how the end of the body is marked; ``close`` only by closing the connection. By default,
            ``length`` for a ``body`` of bytes, else ``chunked``.
        split: sizes of the pieces, repeated as needed, or a function that cuts the body into pieces.
        raw: sent in place of head and body, then the connection is closed: non-HTTP bytes, or (``b""``) nothing.
        hang_up: close the connection after the answer without notice, so that a pool holds a stale connection.
    """

    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | Sequence[bytes] = b""
    delay_head: float | asyncio.Event = 0.0
    delay_first: float | asyncio.Event = 0.0
    gap: float | asyncio.Event = 0.0
    cut_after: int | None = None
    stall_after: int | None = None
    reset: bool = False
    framing: Literal["length", "chunked", "close"] | None = None
    split: Sequence[int] | Callable[[bytes], Iterable[bytes]] | None = None
    raw: bytes | None = None
    hang_up: bool = False

    def __post_init__(self) -> None:
        if not callable(self.split) and min(self.split or (1,)) < 1:
            raise ValueError("a piece has at least one byte")

    def pieces(self) -> list[bytes]:
        """The pieces of the body as written, without empty ones."""
        pieces: Iterable[bytes] = (self.body,) if isinstance(self.body, bytes) else self.body
        if callable(self.split):
            pieces = self.split(b"".join(pieces))
        elif self.split:
            pieces = _cut(b"".join(pieces), self.split)
        return [piece for piece in pieces if piece]

    def framed_by(self) -> str:
        """``length``, ``chunked`` or ``close``."""
        return self.framing or ("length" if isinstance(self.body, bytes) else "chunked")

    def head(self, size: int) -> bytes:
        """Status line and headers for a body of ``size`` bytes."""
        reason = _REASONS.get(self.status, "Unassigned")
        headers = list(self.headers)
        if "content-type" not in {name.lower() for name, _ in headers}:
            headers.append(
                ("content-type", "application/json" if isinstance(self.body, bytes) else "text/event-stream")
            )
        if not self.bodyless:
            headers.append(
                {
                    "length": ("content-length", str(size)),
                    "chunked": ("transfer-encoding", "chunked"),
                    "close": ("connection", "close"),
                }[self.framed_by()]
            )
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{name}: {value}" for name, value in headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    @property
    def bodyless(self) -> bool:
        """Whether the status forbids a body (RFC 9110 §6.4.1)."""
        return self.status in {204, 304}


def _cut(whole: bytes, sizes: Sequence[int]) -> Iterable[bytes]:
    at = 0
    for size in cycle(sizes):
        if at >= len(whole):
            return
        yield whole[at : at + size]
        at += size


@dataclass(slots=True)
class Seen:
    """A received request.

    Attributes:
        method: as sent.
        target: path and query as sent.
        headers: as sent, in order, including duplicates.
        body: the whole body; chunks are joined.
        at: when it was complete, in seconds of the loop's clock.
        closed_at: when the client closed its connection (same clock); ``None`` if it did not.
    """

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    at: float
    closed_at: float | None = None
    _gone: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def document(self) -> Any:
        """The body, parsed as JSON."""
        return orjson.loads(self.body)

    def header(self, name: str) -> str | None:
        """The first value of a header, case-insensitively."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    async def gone(self, within: float = 5.0) -> float:
        """Wait until the client has closed the connection; returns when. Raises ``TimeoutError`` after ``within`` s."""
        async with asyncio.timeout(within):
            await self._gone.wait()
        assert self.closed_at is not None
        return self.closed_at

    def close(self) -> None:
        """Record that the client has closed the connection; further calls have no effect."""
        if self.closed_at is None:
            self.closed_at = asyncio.get_running_loop().time()
            self._gone.set()


Script = Answer | Callable[[Seen], Answer]


class FakeUpstream:
    """The server; an async context manager, which on exit raises errors of scripts and of invalid HTTP requests.

    Args:
        *script: answers for the first requests; see :meth:`script`.
        tls: serves https with this context.

    Attributes:
        url: base address, e.g. ``http://127.0.0.1:41234``; set while the context is open.
        default: answers after the script is used up.
        requests: received requests, in order.
        accepted: number of connections so far.
    """

    def __init__(self, *script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.url = ""
        self.default: Script = Answer(body=b"{}")
        self.requests: list[Seen] = []
        self.accepted = 0
        self._script = deque(script)
        self._tls = tls
        self._connections: set[_Connection] = set()
        self._failures: list[Exception] = []
        self._arrived = asyncio.Event()
        self._server: asyncio.Server | None = None

    def script(self, *answers: Script) -> None:
        """Append answers, one per request in order of arrival; a function takes the request and returns an answer."""
        self._script.extend(answers)

    @property
    def open(self) -> int:
        """Number of open connections."""
        return len(self._connections)

    async def received(self, count: int = 1, within: float = 5.0) -> None:
        """Wait until ``count`` requests have been received. Raises ``TimeoutError`` after ``within`` seconds."""
        async with asyncio.timeout(within):
            while len(self.requests) < count:
                self._arrived.clear()
                await self._arrived.wait()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        assert self._server is not None
        self._server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.end(reset=True)
        for connection in connections:
            await connection.ended.wait()
        await self._server.wait_closed()
        if self._failures and error is None:
            raise self._failures[0]

    def _accept(self) -> _Connection:
        self.accepted += 1
        return _Connection(self._connections, self._take, self._failures)

    def _take(self, seen: Seen) -> Answer:
        self.requests.append(seen)
        self._arrived.set()
        chosen = self._script.popleft() if self._script else self.default
        return chosen if isinstance(chosen, Answer) else chosen(seen)


class _Connection(asyncio.StreamReaderProtocol):
    """One connection: a task serves its requests, and ends as soon as the client disconnects."""

    def __init__(self, register: set[_Connection], take: Callable[[Seen], Answer], failures: list[Exception]) -> None:
        super().__init__(asyncio.StreamReader(limit=_HEAD_LIMIT), self._start)
        self.ended = asyncio.Event()
        self._register = register
        self._take = take
        self._failures = failures
        self._seen: list[Seen] = []
        self._ours = False  # whether we closed the connection

    def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._register.add(self)
        # Makes drain() wait until the kernel has everything: a cut or a stall must come after it, not instead of it.
        # (Not 0: asyncio's TLS transport would pause for ever.)
        writer.transport.set_write_buffer_limits(1, 0)
        self._writer = writer
        self._serving = asyncio.create_task(self._serve(reader))

    def eof_received(self) -> bool | None:
        """The client has closed the connection, or its write side, which our clients only do when closing."""
        self._gone()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket was closed, by either side."""
        self._gone()
        self._register.discard(self)
        super().connection_lost(exc)
        self.ended.set()

    def _gone(self) -> None:
        if not self._ours:
            for seen in self._seen:
                seen.close()
        self._serving.cancel()

    def end(self, *, reset: bool = False) -> None:
        """Close the connection from our side: orderly, or at once with RST."""
        self._ours = True
        if reset:
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._writer.transport.abort()
        else:
            self._writer.close()

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        reset = False
        try:
            while True:
                seen = await _read(reader, self._writer)
                self._seen.append(seen)
                answer = self._take(seen)
                if not await self._answer(answer, seen.method):
                    reset = answer.reset
                    break
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            pass  # the client disconnected, or the test is over; nothing awaits this task
        except Exception as error:  # an error of a script, or an invalid HTTP request: raised at the end of the test
            self._failures.append(error)
        self.end(reset=reset)

    async def _answer(self, answer: Answer, method: str) -> bool:
        """Send an answer; returns whether the connection stays open."""
        await _pause(answer.delay_head)
        if answer.raw is not None:
            await self._write(answer.raw)
            return False
        if answer.reset and answer.cut_after is None:
            return False
        pieces = answer.pieces()
        await self._write(answer.head(sum(map(len, pieces))))
        if not answer.bodyless and method != "HEAD":
            await self._body(answer, pieces)
            if answer.cut_after is not None or answer.framed_by() == "close":
                return False
        return not answer.hang_up

    async def _body(self, answer: Answer, pieces: list[bytes]) -> None:
        chunked = answer.framed_by() == "chunked"
        stops = [stop for stop in (answer.cut_after, answer.stall_after) if stop is not None]
        left = min(stops, default=sum(map(len, pieces)))
        pause = answer.delay_first
        for piece in pieces:
            await _pause(pause)
            pause = answer.gap
            if not left:
                break
            part = piece[:left]
            left -= len(part)
            whole = len(part) == len(piece)
            await self._write(b"%x\r\n%b%b" % (len(piece), part, b"\r\n" * whole) if chunked else part)
        if answer.stall_after is not None and answer.stall_after == min(stops):
            await _pause(math.inf)
        if chunked and not stops:
            await self._write(b"0\r\n\r\n")

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


async def _pause(until: float | asyncio.Event) -> None:
    if until == math.inf:
        until = asyncio.Event()
    if isinstance(until, asyncio.Event):
        await until.wait()
    else:
        await asyncio.sleep(until)


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Seen:
    """The next request. Raises ``IncompleteReadError`` if there is none, ``ValueError`` if it is not HTTP/1.1."""
    head = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1")
    first, *lines = head.split("\r\n")
    method, target, version = first.split(" ")
    if version != "HTTP/1.1":
        raise ValueError(f"not HTTP/1.1: {version!r}")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    fields = {name.lower(): value for name, value in headers}
    if fields.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = b""
    if fields.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readline()).partition(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        while (await reader.readline()).strip():  # trailers
            pass
    else:
        body = await reader.readexactly(int(fields.get("content-length", 0)))
    return Seen(method, target, headers, body, asyncio.get_running_loop().time())


def sse(*frames: object) -> list[bytes]:
    """Frames of an event stream, each a separate piece.

    A ``str`` or ``bytes`` is used as data unchanged, a pair is an event's name and data, anything else becomes JSON.
    """
    pieces = []
    for frame in frames:
        event, data = frame if isinstance(frame, tuple) else (None, frame)
        if isinstance(data, str):
            data = data.encode()
        pieces.append(encode(data if isinstance(data, bytes) else orjson.dumps(data), event))
    return pieces


def chat_stream(
    *texts: str,
    model: str = "fake",
    finish: str | None = "stop",
    usage: tuple[int, int] | None = (7, 3),
    usage_first: bool = False,
    done: bool = True,
) -> list[bytes]:
    """A streamed chat completion, one frame per text.

    Args:
        *texts: the pieces of the answer.
        model: model name in the answer.
        finish: finish reason; ``None`` omits its frame.
        usage: prompt and completion tokens; ``None`` omits their frame.
        usage_first: whether usage precedes the finish reason instead of following it.
        done: whether ``[DONE]`` ends the stream.
    """
    common = {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": model}

    def choice(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        return {**common, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    frames: list[object] = [
        choice({"role": "assistant", "content": ""}),
        *(choice({"content": text}) for text in texts),
    ]
    end: list[object] = [choice({}, finish)] if finish else []
    if usage:
        counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        end.insert(0 if usage_first else len(end), {**common, "choices": [], "usage": counts})
    return sse(*frames, *end, *(["[DONE]"] if done else []))
