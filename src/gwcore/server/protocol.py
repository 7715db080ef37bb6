"""The edge: uvicorn's httptools protocol with the deadlines and caps that no stock ASGI server has.

One sweep per worker and second checks connections with an incomplete request, and those whose client does not read what
is written to it. A stream that is being read is never checked, however long. So a request costs no timer.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import unquote

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gwcore.server.cycle import EdgeCycle

DISCONNECT = "gwcore.disconnect"
_HEAD = 16 * 1024  # bytes searched for an Upgrade header; one beyond is rejected
_VERSIONS = frozenset({"1.1", "1.0"})
_UPGRADE = re.compile(rb"\r\nupgrade(?=[ \t]*:)", re.IGNORECASE)


@dataclass(slots=True, frozen=True)
class EdgeLimits:
    """Limits of a connection. Times in seconds.

    Attributes:
        header_timeout: from the connect, or the first byte of a further request, to the end of its head.
        body_timeout: from the end of the head to the end of the body; exceeded only at ``min_body_rate`` bytes per
            second.
        write_timeout: how long the write buffer may stay full or, on a closing connection, non-empty; exceeded only if
            it empties at ``min_body_rate``.
    """

    header_timeout: float = 10.0
    body_timeout: float = 30.0
    write_timeout: float = 30.0
    min_body_rate: int = 10_000
    max_headers: int = 100
    max_header_bytes: int = 32 * 1024
    max_connections: int = 20_000
    max_connections_per_ip: int | None = None


def _without_upgrade(data: bytes) -> bytes:
    """Hide a request's Upgrade header, which Java's client sends to offer HTTP/2 and a server may ignore."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-grade", head) + end + rest


class EdgeProtocol(HttpToolsProtocol):
    """One connection of a client."""

    limits: ClassVar[EdgeLimits] = EdgeLimits()
    waiting: ClassVar[set[EdgeProtocol]] = set()
    stalled: ClassVar[set[EdgeProtocol]] = set()
    per_ip: ClassVar[Counter[str]] = Counter()
    sweeper: ClassVar[asyncio.TimerHandle | None] = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.refused = self.coded = False
        self.head_bytes = self.header_bytes = self.body_bytes = self.framing_bytes = self.hosts = 0
        self.body_since: float | None = None
        self.idle_since = math.inf
        self.request_since: float | None = self.loop.time()
        self.on_disconnect: Callable[[], None] | None = None
        self.waiting.add(self)
        self._sweep_later()
        ip = self.client[0] if self.client else ""
        self.per_ip[ip] += 1
        limits = self.limits
        if len(self.connections) > limits.max_connections:
            self.refuse(503, "too many connections")
        elif limits.max_connections_per_ip is not None and self.per_ip[ip] > limits.max_connections_per_ip:
            self.refuse(503, "too many connections from this address")

    def connection_lost(self, exc: Exception | None) -> None:
        self.waiting.discard(self)
        self.stalled.discard(self)
        ip = self.client[0] if self.client else ""
        self.per_ip[ip] -= 1
        if self.per_ip[ip] <= 0:
            del self.per_ip[ip]
        pending = self.cycle is not None and not self.cycle.response_complete
        super().connection_lost(exc)
        left, self.on_disconnect = self.on_disconnect, None
        if pending and left is not None:
            left()
        # break reference cycles: for long-lived connections the GC would leave hundreds of megabytes uncollected
        self.cycle, self.scope = None, {}  # type: ignore[assignment, typeddict-item]
        self.pipeline.clear()

    # ── the request ──────────────────────────────────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        if self.request_since is None and self.cycle is not None and self.cycle.response_complete:
            self._begin()
        if self.body_since is None:
            self.head_bytes += len(data)
            if data.find(b"pgrade", 0, _HEAD) >= 0 or data.find(b"PGRADE", 0, _HEAD) >= 0:
                data = _without_upgrade(data)
        else:
            self.framing_bytes += len(data)
        super().data_received(data)
        most = self.limits.max_header_bytes + 65_536
        if self.body_since is None and self.head_bytes > most:
            self.refuse(431, "the request head is too large")
        elif self.framing_bytes > most:  # the parser buffers a trailer of any length
            self.refuse(431, "the request's trailers or chunk extensions are too large")

    def _unsupported_upgrade_warning(self) -> None:
        """No warning: a client that offers an upgrade accepts HTTP/1.1, too."""

    def _begin(self) -> None:
        self.idle_since, self.body_since = math.inf, None
        self.request_since = self.loop.time()
        self.waiting.add(self)
        self._sweep_later()

    def on_response_complete(self) -> None:
        """Start the next pipelined request, or become idle: the sweep closes idle connections, without a timer each."""
        self.server_state.total_requests += 1
        self.on_disconnect = None  # it has the call, and so its prompt: an idle connection would keep them
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.request_since is None:
            self.idle_since = self.loop.time()
            self.waiting.add(self)
            self._sweep_later()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.head_bytes = self.header_bytes = self.body_bytes = self.framing_bytes = self.hosts = 0
        self.body_since, self.coded = None, False
        self.scope["extensions"] = {DISCONNECT: self._register}  # type: ignore[dict-item]
        if self.request_since is None:
            self._begin()

    def _register(self, callback: Callable[[], None]) -> None:
        self.on_disconnect = callback

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.max_header_bytes:
            self.refuse(431, "the request line is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        # hot: replaces the base method, whose work it does itself
        name = name.lower()
        if name == b"host":
            self.hosts += 1
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        elif name == b"transfer-encoding":
            # the parser only looks at the last coding: a proxy in front may read "identity" and see no body where we do
            if value.lower() != b"chunked" or self.coded:
                self.refuse(400, "chunked, once, is the only transfer-encoding here")
                return
            self.coded = True
        headers = self.headers
        headers.append((name, value))
        self.header_bytes += len(name) + len(value)
        if len(headers) > self.limits.max_headers:
            self.refuse(431, "too many headers")

    def on_headers_complete(self) -> None:
        if self.refused:
            return
        if self.parser.should_upgrade():  # the parser would mistake the body for the next request
            self.refuse(400, "this server changes to no other protocol; send no Upgrade header")
            return
        if self.parser.get_http_version() not in _VERSIONS:  # the parser accepts a missing version, and 2.0
            self.refuse(400, "the HTTP version must be 1.1 or 1.0")
            return
        if self.hosts != 1:
            self.refuse(400, "exactly one Host header is required")
            return
        if not self.url.startswith(b"/") and not self._own_target():
            self.refuse(400, "the request target names another host")
            return
        if self.header_bytes > self.limits.max_header_bytes:
            self.refuse(431, "the request head is too large")
            return
        self.body_since = self.loop.time()
        self._start_request()
        # any further headers are trailers, which no proxy in front has inspected: discard them (RFC 9110 §6.5.1)
        self.headers = []

    def _start_request(self) -> None:
        """As the base, without websockets, access log and concurrency cap, and with our own cycle."""
        scope, version = self.scope, self.parser.get_http_version()
        scope["method"] = self.parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        raw_path, _, query = self.url.partition(b"?")
        if not raw_path.startswith(b"/"):
            parsed = httptools.parse_url(self.url)
            raw_path, query = parsed.path, parsed.query or b""
        path = raw_path.decode("ascii")
        scope["path"] = self.root_path + (unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        scope["query_string"] = query.partition(b"#")[0]
        previous = self.cycle
        self.cycle = cycle = EdgeCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if previous is None or previous.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:  # pipelined
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self._ended)
        self.tasks.add(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if self.transport.is_closing():  # closed by the cycle after the last response, or after a broken one
            self.close()

    def _own_target(self) -> bool:
        """An absolute-form target must name the host that the Host header names (RFC 9112 §3.2.2)."""
        try:
            parsed = httptools.parse_url(self.url)
        except httptools.HttpParserError:
            return False
        host = next(value for name, value in self.headers if name == b"host")
        authority = parsed.host or b""
        if parsed.port:
            authority += b":%d" % parsed.port
        return bool(parsed.path) and authority == host

    def on_chunk_header(self) -> None:
        """Called by the parser for each chunk."""
        self.framing_bytes = 0

    def on_body(self, body: bytes) -> None:
        if not self.refused:
            self.body_bytes += len(body)
            self.framing_bytes = 0
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.refused:
            return
        self.request_since = None
        self.waiting.discard(self)
        super().on_message_complete()

    # ── the response ─────────────────────────────────────────────────────────────────────────────────────────────

    def pause_writing(self) -> None:
        """Back-pressure: the write buffer is full, so writers wait."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """The client has read most of the buffer."""
        super().resume_writing()
        if not self.transport.is_closing():
            self.stalled.discard(self)

    def _watch(self) -> None:
        """From now on the client must read what is written."""
        left = self.transport.get_write_buffer_size()
        if left and self in self.connections and self not in self.stalled:
            self.full_since, self.full_bytes = self.loop.time(), left
            self.stalled.add(self)
            self._sweep_later()

    def unread(self, now: float) -> bool:
        """Whether the client has left the written data unread for too long."""
        limits, left = self.limits, self.transport.get_write_buffer_size()
        if self.full_bytes - left >= limits.write_timeout * limits.min_body_rate:
            self.full_since, self.full_bytes = now, left  # reading fast now earns no longer pause later
        return now - self.full_since > limits.write_timeout

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    def send_400_response(self, msg: str) -> None:
        """A request that is not HTTP."""
        self.refuse(400, msg)

    def refuse(self, status: int, message: str) -> None:
        """Answer with a JSON error, if nothing has been answered yet, and close."""
        if self.refused:
            return
        self.refused = True
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if cycle is not None and answering and not cycle.response_started and not self.pipeline:
            # the application waits for the rest of a body that will not arrive: report a disconnect to it
            cycle.disconnected = True
            cycle.message_event.set()
            answering = False
        answered = self.body_since is not None and cycle is not None and cycle.response_complete
        if not answering and not answered:
            error = {"message": message, "type": "invalid_request_error", "code": f"http_{status}"}
            body = orjson.dumps({"error": error})
            phrase = HTTPStatus(status).phrase
            later = "retry-after: 1\r\n" if status == 503 else ""
            head = (
                f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\n{later}"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.close()

    def close(self) -> None:
        """Close once the client has read what is written, for which it has ``write_timeout``."""
        self.waiting.discard(self)
        self.transport.close()
        self._watch()

    def shutdown(self) -> None:
        """The server stops: close after the response in flight, if there is one."""
        super().shutdown()
        if self.transport.is_closing():
            self.close()

    def overdue(self, now: float) -> str | None:
        """The part of the request that has exceeded its deadline, if any."""
        limits = self.limits
        if self.idle_since != math.inf:
            return None
        if self.body_since is None:
            since = self.request_since
            return "request head" if since is not None and now - since > limits.header_timeout else None
        taken = now - self.body_since
        allowed = max(limits.body_timeout, self.body_bytes / limits.min_body_rate)
        paused = self.flow is not None and self.flow.read_paused
        return "request body" if taken > allowed and not paused else None

    @classmethod
    def _sweep_later(cls) -> None:
        if cls.sweeper is None:
            limits = cls.limits
            shortest = min(limits.header_timeout, limits.body_timeout, limits.write_timeout)
            interval = max(0.05, min(1.0, shortest / 4))
            cls.sweeper = asyncio.get_running_loop().call_later(interval, cls._sweep)

    @classmethod
    def _sweep(cls) -> None:
        cls.sweeper = None
        now = asyncio.get_running_loop().time()
        for connection in list(cls.waiting):
            if now - connection.idle_since > connection.timeout_keep_alive:
                connection.close()
                continue
            late = connection.overdue(now)
            if late is not None:
                connection.refuse(408, f"the {late} took too long")
        for connection in list(cls.stalled):
            if connection.unread(now):
                connection.transport.abort()  # close() would wait for the buffer to drain
        if cls.waiting or cls.stalled:
            cls._sweep_later()


def edge_protocol(limits: EdgeLimits) -> type[EdgeProtocol]:
    """The protocol class of one server, with these limits and its own sweep."""
    own: dict[str, Any] = {"limits": limits, "waiting": set(), "stalled": set(), "per_ip": Counter(), "sweeper": None}
    return type("EdgeProtocol", (EdgeProtocol,), own)
