"""HTTP/1.1 and HTTP/2 to an upstream, also through a proxy, on httpx2: a :class:`~gwcore.wire.transport.Transport`.

Twenty to seventy times more expensive per hop than :mod:`gwcore.wire.http1`; for networks that the default cannot
cross. One ``httpx2.AsyncHTTPTransport`` (the pool below ``AsyncClient``) serves a transport object for its whole life:
the client above it would add default headers, a cookie jar that tenants share, and a log line with the whole URL.

Unlike the default it never sends a request twice: httpx2 does not tell whether a connection was fresh. And over HTTP/2
an answer that is closed early is not reset (httpcore2 sends no RST_STREAM): the upstream may write on, and what it wrote
unread counts against the connection's window.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib.util import find_spec

import httpx2

from gwcore.errors import BadConfig, Broken, Malformed, Unreachable, UpstreamError, UpstreamTimeout
from gwcore.wire.http1 import SYSTEM, TRANSPORT_HEADERS, build_head
from gwcore.wire.pool import unconnected
from gwcore.wire.transport import Headers, Request, Tls

_FAILURES = (httpx2.RequestError, httpx2.StreamError, httpx2.InvalidURL, OSError, ValueError)
# What httpcore2 says when the peer closed; its other remote protocol errors are bad HTTP.
_ENDED = ("Server disconnected", "peer closed", "<ConnectionTerminated", "ConnectionTerminated", "<StreamReset")


def named(error: Exception, where: str, phase: str) -> UpstreamError:
    """Map an httpx2 exception to one of our errors.

    Anything not known to happen before the first byte counts as sent. The exception's own text, which may hold a URL
    or a proxy's credentials, is not repeated.

    Args:
        error: what httpx2 raised.
        where: the origin's authority, for the message.
        phase: which timeout a read waits under: ``first_byte`` or ``idle``.
    """
    kind = type(error).__name__
    match error:
        case httpx2.ConnectTimeout() | httpx2.PoolTimeout():
            return UpstreamTimeout(f"no connection to {where} in time", phase="connect", sent=False)
        case httpx2.TimeoutException():
            phase = "idle" if isinstance(error, httpx2.WriteTimeout) else phase
            return UpstreamTimeout(f"{where} ran into the {phase} timeout", phase=phase)
        case httpx2.ConnectError() | httpx2.ProxyError() | httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
            return unconnected(f"cannot connect to {where}: {kind}")
        case httpx2.RemoteProtocolError() if not str(error).startswith(_ENDED):
            return Malformed(f"{where} does not speak HTTP: {kind}")
        case httpx2.DecodingError() | httpx2.SSEError():
            return Malformed(f"{where} sent what cannot be read: {kind}")
        case _:
            return Broken(f"the connection to {where} ended: {kind}")


class Answer:
    """A :class:`~gwcore.wire.transport.Response` of httpx2."""

    def __init__(
        self, transport: Httpx2Transport, request: Request, response: httpx2.Response, total: float | None
    ) -> None:
        self.status = response.status_code
        self.headers: Headers = [(name.lower(), value) for name, value in response.headers.raw]
        names = {name for name, _ in self.headers}
        self.framed = (
            response.extensions.get("http_version") == b"HTTP/2"
            or request.method == "HEAD"
            or self.status in {204, 304}
            or not names.isdisjoint({b"content-length", b"transfer-encoding"})
        )
        self._transport = transport
        self._where = request.origin.authority
        self._total = total
        self._response = response
        self._chunks: AsyncIterator[bytes] = response.aiter_raw()
        self._error: UpstreamError | None = None
        self._over = False

    async def read(self) -> bytes:
        """The next chunk; see :meth:`gwcore.wire.transport.Response.read`."""
        if self._error is not None:
            raise self._error
        if self._over:
            return b""
        try:
            async with asyncio.timeout_at(self._total):
                async for chunk in self._chunks:
                    if chunk:
                        return chunk
        except TimeoutError as error:
            raise self._fail(UpstreamTimeout(f"{self._where} exceeded the total timeout", phase="total")) from error
        except _FAILURES as error:
            raise self._fail(named(error, self._where, "idle")) from error
        except BaseException:
            self.close()
            raise
        self._finish()
        return b""

    def close(self) -> None:
        """Give the connection up. The socket is closed by a task of the transport, in the next tick of the loop."""
        if not self._over:
            self._fail(Broken("the answer was closed before its end"))

    def _fail(self, error: UpstreamError) -> UpstreamError:
        if self._error is None:  # else a close() came first
            self._error = error
        self._finish()
        return self._error

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._transport.ended(self, self._response)


class Httpx2Transport:
    """The seam on httpx2. No redirects, no environment, no cookies, no decoding.

    Args:
        proxy: ``http://``, ``https://`` or ``socks5://`` URL, credentials included; ``None`` for a direct connection.
        http2: offer HTTP/2 by ALPN to https origins.
        tls: how https origins, and an https proxy, are verified. Its ``ca_file`` is read here: ``OSError``.

    Raises:
        BadConfig: a proxy URL that is none, or an optional package of httpx2 that is missing.
    """

    def __init__(self, proxy: str | None = None, http2: bool = False, tls: Tls = SYSTEM) -> None:
        if http2 and find_spec("h2") is None:
            raise BadConfig("HTTP/2 needs the package h2: pip install 'httpx2[http2]'")
        context = tls.context()
        try:
            via = None if proxy is None else httpx2.Proxy(proxy, ssl_context=context if proxy[:6] == "https:" else None)
            self._client = httpx2.AsyncHTTPTransport(
                verify=context,
                trust_env=False,
                http2=http2,
                limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=1000, keepalive_expiry=30.0),
                proxy=via,
            )
        except ImportError as error:
            raise BadConfig("a SOCKS proxy needs the package socksio: pip install 'httpx2[socks]'") from error
        except (ValueError, httpx2.InvalidURL):  # whose text repeats the URL, with its password
            raise BadConfig("the proxy is not an http, https or socks5 URL") from None
        self._live: set[Answer] = set()
        self._sending = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def in_use(self) -> int:
        """Number of requests in flight: equals connections, except with HTTP/2, which shares them."""
        return self._sending + len(self._live)

    async def send(self, request: Request) -> Answer:
        """Send and wait for the head; see :meth:`gwcore.wire.transport.Transport.send`. Raises also ``BadRequest``."""
        build_head(request)  # rejects whatever the default transport rejects
        if self._closed:
            raise Unreachable("the transport is closed")
        limits, origin = request.timeouts, request.origin
        total = None if limits.total is None else asyncio.get_running_loop().time() + limits.total
        waits = {"connect": limits.connect, "pool": limits.connect, "write": limits.idle, "read": limits.first_byte}
        self._sending += 1
        try:
            async with asyncio.timeout_at(total):
                response = await self._client.handle_async_request(
                    httpx2.Request(
                        request.method,
                        httpx2.URL(f"{origin.scheme}://{origin.authority}").copy_with(raw_path=request.target.encode()),
                        headers=[(k, v) for k, v in request.headers if k.lower() not in TRANSPORT_HEADERS],
                        content=request.body or None,
                        extensions={"timeout": waits},
                    )
                )
        except TimeoutError as error:
            raise UpstreamTimeout(f"{origin.authority} exceeded the total timeout", phase="total") from error
        except _FAILURES as error:
            raise named(error, origin.authority, "first_byte") from error
        finally:
            self._sending -= 1
        waits["read"] = limits.idle  # httpcore2 looks it up anew before it reads the body
        answer = Answer(self, request, response, total)
        self._live.add(answer)
        return answer

    def ended(self, answer: Answer, response: httpx2.Response) -> None:
        """An answer is over: close its stream in a task that :meth:`aclose` waits for."""
        self._live.discard(answer)
        if not response.is_closed:
            task = asyncio.get_running_loop().create_task(_close(response))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close every connection, idle or not."""
        self._closed = True
        for answer in list(self._live):
            answer.close()
        if self._closing:
            await asyncio.wait(self._closing)
        await self._client.aclose()


async def _close(response: httpx2.Response) -> None:
    try:
        await response.aclose()
    except _FAILURES:
        pass  # it is closed all the same
