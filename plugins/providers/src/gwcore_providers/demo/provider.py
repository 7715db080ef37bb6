"""``provider: demo``: answers offline, in every dialect that clients speak, from within this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson
from pydantic import BaseModel

from gwcore.provider import Upstream
from gwcore.wire.sse import encode
from gwcore.wire.transport import Headers, Request, Transport
from gwcore_providers.demo import openai, others
from gwcore_providers.vendors import Vendor

_WHOLE: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "openai.chat/chat": openai.chat,
    "openai.chat/completions": openai.completion,
    "openai.chat/embeddings": openai.embeddings,
    "openai.responses/chat": openai.responses,
    "anthropic.messages/chat": others.messages,
    "anthropic.messages/count_tokens": others.count_messages,
    "gemini.generate/chat": others.generate,
    "gemini.generate/count_tokens": others.count_contents,
    "gemini.generate/embeddings": others.embed,
    "gemini.generate/batch_embeddings": others.batch_embed,
}
_STREAMS: dict[str, Callable[[dict[str, Any]], Iterable[bytes]]] = {
    "openai.chat/chat": openai.chat_stream,
    "openai.responses/chat": openai.responses_stream,
    "anthropic.messages/chat": others.messages_stream,
}


class DemoResponse:
    """A response with a given body, in the pieces of its stream."""

    framed = True

    def __init__(self, status: int, content_type: bytes, chunks: Iterable[bytes]) -> None:
        self.status = status
        self.headers: Headers = [(b"content-type", content_type)]
        self._chunks = iter(chunks)

    async def read(self) -> bytes:
        """The next piece."""
        return next(self._chunks, b"")

    def close(self) -> None:
        """Nothing is open."""


class DemoTransport:
    """A transport that answers requests itself, without a network."""

    in_use = 0

    async def send(self, request: Request) -> DemoResponse:
        """Answer a request addressed by :meth:`Demo.address`."""
        path, _, query = request.target.partition("?")
        name, _, verb = path.strip("/").partition(":")
        document = orjson.loads(request.body) if request.body else {}
        if name == "gemini.generate/chat" and verb == "streamGenerateContent":
            return self._google_stream(document, sse="alt=sse" in query)
        if document.get("stream") and name in _STREAMS:
            return DemoResponse(200, b"text/event-stream", _STREAMS[name](document))
        return DemoResponse(200, b"application/json", [orjson.dumps(_WHOLE[name](document))])

    @staticmethod
    def _google_stream(document: dict[str, Any], *, sse: bool) -> DemoResponse:
        chunks = [orjson.dumps(chunk) for chunk in others.generate_stream(document)]
        if sse:
            return DemoResponse(200, b"text/event-stream", [encode(chunk) for chunk in chunks])
        return DemoResponse(200, b"application/json", [b"[" + b",\n".join(chunks) + b"]"])

    async def aclose(self) -> None:
        """Nothing is open."""


class Demo(Vendor):
    """The demo provider; needs no key and no network."""

    name = "demo"
    base_url = "http://demo.invalid"

    def address(
        self,
        _upstream: Upstream,
        dialect: str,
        operation: str,
        _model: str,
        params: Mapping[str, str],
        *,
        stream: bool,  # noqa: ARG002
    ) -> tuple[str, bool] | None:
        """The path consists of dialect and operation."""
        name = f"{dialect}/{operation}"
        if name not in _WHOLE:
            return None
        return f"/{name}:{params.get('verb', '')}", dialect != "gemini.generate"

    def transport(self, _gateway: Transport, _api_key: str | None, _options: BaseModel | None) -> Transport:
        """The demo's own, in this process."""
        return DemoTransport()
