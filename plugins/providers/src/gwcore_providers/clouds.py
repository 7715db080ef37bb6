"""The layer between the gateway's transport and a cloud: credentials, and conversion of the cloud's answer formats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from gwcore.wire.transport import Headers, Request, Response, Transport
from gwcore_providers.expiring import Expiring

T = TypeVar("T")

WHOLE_CAP = 1 << 20


class CloudTransport(Generic[T]):
    """A transport that wraps the gateway's.

    Args:
        gateway: sends the signed requests; not closed with this one.
        credential: ``None`` if the upstream's fixed headers authenticate.
    """

    def __init__(self, gateway: Transport, credential: Expiring[T] | None) -> None:
        self._gateway = gateway
        self._credential = credential

    async def sign(self, request: Request, credential: T) -> None:
        """Authenticate the request in place."""
        raise NotImplementedError

    def secrets(self, credential: T) -> Iterable[bytes]:
        """Secrets to redact from error bodies."""
        raise NotImplementedError

    async def answer(self, request: Request, response: Response) -> Response:  # noqa: ARG002 - for overriding
        """Convert a successful response to the format its clients expect."""
        return response

    def error(self, request: Request, response: Response, body: bytes) -> bytes:  # noqa: ARG002 - for overriding
        """Convert an error's body to the format its clients expect."""
        return body

    async def send(self, request: Request) -> Response:
        """See :meth:`gwcore.wire.transport.Transport.send`; raises ``Unreachable`` also if there is no credential."""
        secrets: Iterable[bytes] = ()
        if self._credential is not None:
            credential = await self._credential.get()
            secrets = self.secrets(credential)
            await self.sign(request, credential)
        response = await self._gateway.send(request)
        try:
            if response.status < 400:
                return await self.answer(request, response)
            if response.status in {401, 403} and self._credential is not None:
                self._credential.doubt()
            body = await read(response)
            for secret in secrets:
                body = body.replace(secret, b"[redacted]")
            shown = self.error(request, response, body)
            return Whole(response, shown, json=shown is not body)
        except BaseException:
            response.close()
            raise

    @property
    def in_use(self) -> int:
        """See :attr:`gwcore.wire.transport.Transport.in_use`."""
        return self._gateway.in_use

    async def aclose(self) -> None:
        """Stop fetching credentials."""
        if self._credential is not None:
            await self._credential.aclose()


class Whole:
    """A response that has been read; ``json``: its body was replaced with JSON."""

    framed = True

    def __init__(self, response: Response, body: bytes, *, json: bool) -> None:
        self.status = response.status
        self.headers = renamed(response.headers, content_length=None)
        if json:
            self.headers = renamed(self.headers, content_type=b"application/json")
        self._body = body

    async def read(self) -> bytes:
        """The body, once."""
        body, self._body = self._body, b""
        return body

    def close(self) -> None:
        """Nothing to close."""


def renamed(headers: Headers, **values: bytes | None) -> Headers:
    """The headers with these set, or removed (``None``); ``_`` stands for ``-``."""
    changed = {name.replace("_", "-").encode(): value for name, value in values.items()}
    kept = [(name, value) for name, value in headers if name not in changed]
    return kept + [(name, value) for name, value in changed.items() if value is not None]


async def read(response: Response) -> bytes:
    """The first MiB of the body. Closes the response."""
    parts: list[bytes] = []
    size = 0
    while size < WHOLE_CAP and (chunk := await response.read()):
        parts.append(chunk)
        size += len(chunk)
    response.close()
    return b"".join(parts)
