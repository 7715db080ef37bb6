"""``Transport``: sends a request to an origin, returns a status and chunks.

It has two implementations: :mod:`gwcore.wire.http1` (asyncio + httptools, the default) and
:mod:`gwcore.wire.httpx` (httpx2, for proxies and HTTP/2). Both raise only :mod:`gwcore.errors`.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

Headers = list[tuple[bytes, bytes]]


class Origin(NamedTuple):
    """Where connections go: the unit of pooling, and what a credential is bound to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of an absolute http(s) URL; raises ``ValueError`` for anything else."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"not an http(s) URL: {url!r}")
        if parts.username or parts.password:
            raise ValueError("credentials do not belong into a URL")
        return cls(parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))

    @property
    def authority(self) -> str:
        """``host[:port]`` as in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"


@dataclass(slots=True, frozen=True)
class Timeouts:
    """Seconds; ``None`` waits for ever. ``total`` is off by default, since streams may be long.

    ``first_byte`` runs from the last request byte to the response head, ``idle`` between two reads of a body.
    """

    connect: float | None = 5.0
    first_byte: float | None = 600.0
    idle: float | None = 300.0
    total: float | None = None


@dataclass(slots=True)
class Request:
    """One HTTP request.

    Attributes:
        method: upper-case.
        origin: where to.
        target: path and query as on the request line, percent-encoded.
        headers: lower-case names. The transport adds ``host`` and ``content-length`` and rejects CR, LF and NUL.
        body: complete; never streamed, since a retry needs it.
    """

    method: str
    origin: Origin
    target: str
    headers: Headers
    body: bytes = b""
    timeouts: Timeouts = field(default_factory=Timeouts)


class Response(Protocol):
    """An answer whose head has arrived. Either read it to the end or :meth:`close` it."""

    status: int
    headers: Headers
    framed: bool
    """Whether framing marks the end of the body; ``False`` if only the close of the connection does."""

    async def read(self) -> bytes:
        """The data of the next socket reads, as one chunk; ``b""`` at the end, and ever after.

        Content-encodings are left in place, transfer-encodings removed.

        Raises:
            Broken: the connection closed before the end of the body.
            UpstreamTimeout: ``idle`` or ``total`` fired.
            Malformed: the bytes are not HTTP.
        """
        ...

    def close(self) -> None:
        """Release the connection: to the pool if the body has ended, else close it at once. Idempotent."""
        ...


class Transport(Protocol):
    """Sends requests. One per worker; owns the pool."""

    async def send(self, request: Request) -> Response:
        """Send and wait for the head.

        A cancelled ``send`` closes its connection. If a kept-alive connection turns out to be closed before any byte of
        an answer has arrived, it is replaced once, provided the request was provably not processed.

        Raises:
            Unreachable: nothing was sent.
            UpstreamTimeout: ``connect`` (``sent=False``), ``first_byte`` or ``total``.
            Broken: sent, and the connection closed without an answer.
            Malformed: the head is not HTTP/1.1, or over its caps.
        """
        ...

    @property
    def in_use(self) -> int:
        """Number of connections with a request in flight."""
        ...

    async def aclose(self) -> None:
        """Close every connection, idle or not."""
        ...


@dataclass(slots=True, frozen=True)
class Tls:
    """How an https origin is verified.

    Attributes:
        ca_file: PEM bundle that replaces the system's trust store.
        verify: ``False`` accepts any certificate; ``gwcore check`` rejects it unless the origin is loopback.
    """

    ca_file: str | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """A client context; raises ``OSError`` if ``ca_file`` cannot be read."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        return context
