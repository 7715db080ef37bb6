"""HTTP/1.1 to an upstream, on asyncio and httptools: the default :class:`~gwcore.wire.transport.Transport`.

Built for the hot hop: a request is one joined write, an answer one future for its head and one per read that has to
wait. No task, no queue and no timeout object is made per request or per chunk: each connection carries one timer, armed
lazily, that looks whether the deadline of the moment has passed.

**When a request is sent twice.** A server may close a kept-alive connection at the very moment a request is written to
it. That cannot be told apart from a request that was accepted and died, so it is guessed: a request is retried, once
and on a fresh connection, if the connection had been idle in the pool and closed without one byte of an answer; a
method that is not idempotent (RFC 9110 §9.2.2) only if that was within ``STALE`` seconds of the write. This is a
heuristic and no proof: an upstream that reads a POST, acts on it and dies within that second without a byte is sent it
twice.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
from functools import lru_cache
from math import inf

from gwcore.errors import BadRequest, Broken, Unreachable, UpstreamTimeout
from gwcore.wire.connection import Answer, Connection
from gwcore.wire.pool import Pool, dial, unconnected
from gwcore.wire.transport import Origin, Request, Tls

STALE = 1.0  # seconds, see above

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})  # RFC 9110 §9.2.2
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"})  # no content-length: 0 for these
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LINE = re.compile(r"[!-~]+ (?:/[!-~]*|\*)")
_VISIBLE = re.compile(r"[!-~]+")
# Framing and hop-by-hop fields (RFC 9110 §7.6.1) are the transport's own: dropped from what the caller gives.
TRANSPORT_HEADERS = frozenset(
    b"host content-length transfer-encoding connection keep-alive proxy-connection te trailer upgrade expect".split()
)
SYSTEM = Tls()
_names: dict[bytes, bytes] = {}  # header name -> b"name: ", or b"" for the transport's own


class Http1Transport:
    """HTTP/1.1 over kept-alive connections, pooled per origin. No redirects, no proxies, no cookies, no decoding.

    Args:
        tls: how https origins are verified. Its ``ca_file`` is read here: ``OSError`` when that fails.
        max_per_origin: connections per origin; further requests wait in order, within their ``connect`` timeout.
        keepalive: seconds an idle connection is kept.
        max_head: bytes that the head of an answer may have, and its trailers, and chunk extensions in a row.
    """

    def __init__(
        self, tls: Tls = SYSTEM, max_per_origin: int = 1000, keepalive: float = 30.0, max_head: int = 64 * 1024
    ) -> None:
        self._tls = tls
        # The system's trust store takes 20 ms to load: not for a stack that only speaks plain http.
        self._context: ssl.SSLContext | None = tls.context() if tls.ca_file else None
        self._max_per_origin = max_per_origin
        self._keepalive = keepalive
        self._max_head = max_head
        self._pools: dict[Origin, Pool[Connection]] = {}
        self._closed = False

    @property
    def in_use(self) -> int:
        """Number of connections with a request in flight."""
        return sum(pool.busy for pool in self._pools.values())

    async def send(self, request: Request) -> Answer:
        """Send and wait for the head; see :meth:`gwcore.wire.transport.Transport.send`.

        Raises:
            BadRequest: a method, target or header that cannot stand in an HTTP/1.1 head; names it, not its value.
            UpstreamError: as the seam says.
        """
        head = build_head(request)
        loop = asyncio.get_running_loop()
        start = loop.time()
        total = inf if request.timeouts.total is None else start + request.timeouts.total
        pool = self._pool(request.origin)
        conn = pool.take(start)
        reused = conn is not None
        if conn is None:
            conn, reused = await self._open(pool, request, total)
        answer = Answer(request, total)
        written = loop.time()
        try:
            await conn.exchange(answer, head, request.body)
        except Broken:
            in_time = request.method in _IDEMPOTENT or loop.time() - written < STALE
            if not reused or conn.heard or not in_time or self._closed:
                raise
        else:
            return answer
        pool = self._pool(request.origin)
        pool.evict()
        conn, _ = await self._open(pool, request, total)
        answer = Answer(request, total)
        await conn.exchange(answer, head, request.body)
        return answer

    async def aclose(self) -> None:
        """Close all connections. Requests in flight fail with ``Broken``, waiting ones with ``Unreachable``."""
        self._closed = True
        pools = list(self._pools.values())
        for pool in pools:
            pool.refuse(Unreachable("the transport is closed"))
            for conn in list(pool.live):
                conn.close()
        for _ in range(16):  # an aborted socket is gone a few ticks later, a TLS one last
            if not any(pool.live for pool in pools):
                break
            await asyncio.sleep(0)

    def _pool(self, origin: Origin) -> Pool[Connection]:
        pool = self._pools.get(origin)
        if pool is None:
            self._pools = {key: pool for key, pool in self._pools.items() if pool.size or pool.live}
            pool = self._pools[origin] = Pool(self._max_per_origin)
        return pool

    async def _open(self, pool: Pool[Connection], request: Request, total: float) -> tuple[Connection, bool]:
        """A connection, and whether it was in use before: only where the cap made this request wait for it."""
        loop = asyncio.get_running_loop()
        connect = request.timeouts.connect
        limit = min(total, inf if connect is None else loop.time() + connect)
        try:
            async with asyncio.timeout_at(None if limit == inf else limit):
                while (conn := await pool.claim()) is not None:
                    if conn.usable(loop.time()):
                        return conn, True
                    conn.close()
                try:
                    return await self._connect(pool, request.origin), False
                except BaseException:
                    pool.vacate()
                    raise
        except TimeoutError:
            phase = "total" if limit == total else "connect"
            where = request.origin.authority
            raise UpstreamTimeout(f"no connection to {where} in time", phase=phase, sent=False) from None

    async def _connect(self, pool: Pool[Connection], origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise Unreachable("the transport is closed")

        def protocol() -> Connection:
            return Connection(pool, loop, self._keepalive, self._max_head)

        try:
            secure = self._secure() if origin.scheme == "https" else None
            name = origin.host if secure else None
            if _is_address(origin.host):
                _, conn = await loop.create_connection(
                    protocol, origin.host, origin.port, ssl=secure, server_hostname=name
                )
            else:
                sock = await dial(origin.host, origin.port)
                _, conn = await loop.create_connection(protocol, sock=sock, ssl=secure, server_hostname=name)
        except (OSError, ValueError) as error:  # ValueError: a name that IDNA or the TLS library refuses
            reason = getattr(error, "strerror", None) or type(error).__name__
            if isinstance(error, ssl.SSLCertVerificationError):
                reason = f"certificate verify failed: {error.verify_message}"
            raise unconnected(f"cannot connect to {origin.authority}: {reason}") from error
        if self._closed or conn.transport.is_closing():
            conn.close()
            raise Unreachable(f"the connection to {origin.authority} was closed at once")
        conn.owns_slot = True
        return conn

    def _secure(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = self._tls.context()
        return self._context


def build_head(request: Request) -> bytes:
    """The request line and headers as they go on the wire, empty line included.

    ``host`` and ``content-length`` are added; framing and hop-by-hop headers of the caller are dropped.

    Raises:
        BadRequest: a part that could be read as something else by the upstream; names the part, not its value.
    """
    line = f"{request.method} {request.target}"
    if not _LINE.fullmatch(line):
        raise BadRequest("the method or target cannot stand on a request line")
    lines = [f"{line} HTTP/1.1".encode("ascii"), _host(request.origin)]
    for name, value in request.headers:
        prefix = _names.get(name)
        if prefix is None:
            prefix = _name(name)
        if prefix:
            lines.append(prefix + value)
    if request.body or request.method not in _BODILESS:
        lines.append(b"content-length: %d" % len(request.body))
    lines.append(b"\r\n")
    head = b"\r\n".join(lines)
    ends = 2 * len(lines)  # the joints and the empty line's
    if len(head) - len(head.translate(None, b"\r\n\0")) != ends:
        culprit = next((name for name, value in request.headers if re.search(rb"[\r\n\0]", value)), b"?")
        raise BadRequest(f"header {culprit.decode('latin-1')!r} holds CR, LF or NUL")
    return head


def _name(name: bytes) -> bytes:
    if not _TOKEN.fullmatch(name):
        raise BadRequest(f"not a header name: {name[:64].decode('latin-1')!r}")
    prefix = b"" if name.lower() in TRANSPORT_HEADERS else name + b": "
    if len(_names) < 1024:  # names come from clients, too
        _names[name] = prefix
    return prefix


@lru_cache(1024)
def _host(origin: Origin) -> bytes:
    host = origin.authority
    if not _VISIBLE.fullmatch(host):
        try:
            host = Origin(origin.scheme, origin.host.encode("idna").decode("ascii"), origin.port).authority
        except UnicodeError:
            host = ""
        if not _VISIBLE.fullmatch(host):
            raise BadRequest("the upstream's host name cannot stand in a header")
    return b"host: " + host.encode("ascii")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
