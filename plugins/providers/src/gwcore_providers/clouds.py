"""What stands between the gateway's transport and a cloud: its credentials, and answers in a shape of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from gwcore.errors import Malformed
from gwcore.wire.transport import Headers, Request, Response, Transport
from gwcore_providers.expiring import Expiring

T = TypeVar("T")

WHOLE_CAP = 1 << 20


class CloudTransport(Generic[T]):
    """A transport before the gateway's.

    Args:
        gateway: sends what was signed; not ours to close.
        credential: ``None`` where the upstream's fixed headers authenticate.
    """

    def __init__(self, gateway: Transport, credential: Expiring[T] | None) -> None:
        self._gateway = gateway
        self._credential = credential

    async def sign(self, request: Request, credential: T) -> None:
        """Authenticate the request in place."""
        raise NotImplementedError

    async def answer(self, request: Request, response: Response) -> Response:  # noqa: ARG002 - for overriding
        """The answer as its clients know it."""
        return response

    async def send(self, request: Request) -> Response:
        """As :meth:`gwcore.wire.transport.Transport.send`; ``Unreachable`` also where there is no credential."""
        if self._credential is not None:
            await self.sign(request, await self._credential.get())
        response = await self._gateway.send(request)
        try:
            return await self.answer(request, response)
        except BaseException:
            response.close()
            raise

    @property
    def in_use(self) -> int:
        """Of the gateway's own."""
        return self._gateway.in_use

    async def aclose(self) -> None:
        """Fetch no more credentials."""
        if self._credential is not None:
            await self._credential.aclose()


class _Whole:
    """An answer that has been read."""

    framed = True

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self._body = body

    async def read(self) -> bytes:
        """The body, once."""
        body, self._body = self._body, b""
        return body

    def close(self) -> None:
        """Nothing is open."""


def renamed(headers: Headers, **values: bytes | None) -> Headers:
    """The headers with these set, or taken out (``None``); ``_`` stands for ``-``."""
    changed = {name.replace("_", "-").encode(): value for name, value in values.items()}
    kept = [(name, value) for name, value in headers if name not in changed]
    return kept + [(name, value) for name, value in changed.items() if value is not None]


async def whole(response: Response, change: Callable[[bytes], bytes]) -> Response:
    """The answer with its whole body changed. Raises ``Malformed`` for one over the cap."""
    parts: list[bytes] = []
    size = 0
    while chunk := await response.read():
        parts.append(chunk)
        size += len(chunk)
        if size > WHOLE_CAP:
            raise Malformed(f"an answer of the upstream that has to be read whole is over {WHOLE_CAP} bytes")
    response.close()
    headers = renamed(response.headers, content_type=b"application/json", content_length=None)
    return _Whole(response.status, headers, change(b"".join(parts)))
