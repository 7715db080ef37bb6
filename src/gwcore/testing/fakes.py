"""Fakes for testing a plugin alone: a call, a reply that records, the inner side of a layer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any

import orjson
from pydantic import BaseModel

from gwcore.call import Attempt, Call, Outcome, Target
from gwcore.dialect import Document, Meter, ModelInfo, Opening, Route
from gwcore.errors import BadRequest, GatewayError
from gwcore.knobs import Knobs
from gwcore.lists import UpstreamListCodec
from gwcore.models import Models
from gwcore.plugin import Plugin, Setup
from gwcore.provider import Upstream
from gwcore.reply import Reply
from gwcore.resources import Lease, Resources
from gwcore.usage import Usage
from gwcore.wire.transport import Origin, Request, Response, Timeouts, Transport

_KNOBS: Knobs = {
    "max_tokens": (("max_tokens",), ("max_completion_tokens",), ("settings", "max_tokens")),
    "n": (("n",),),
    "temperature": (("temperature",),),
    "top_p": (("settings", "top_p"),),
}


class FakeDialect:
    """A dialect of one route, JSON in and out, events as ``data:`` lines."""

    name = "fake.chat"
    routes: Sequence[Route] = (Route("POST", "/fake", "chat", stream="body"),)
    unique = frozenset({"model", "stream"})
    forward: tuple[str, ...] = ("fake-",)
    keepalive = b": ping\n\n"
    comments = True
    chat = None
    lists: Mapping[str, UpstreamListCodec] = MappingProxyType({})

    def shape(self, _document: Document) -> str | None:
        """No other dialect's shape."""
        return None

    def model_of(self, _route: Route, document: Document | None, _params: object) -> str | None:
        """The document's ``model``."""
        model = (document or {}).get("model")
        if not isinstance(model, str):
            raise BadRequest("model is missing")
        return model

    def knobs(self, _operation: str, _document: Document, _model: str) -> Knobs:
        """Top-level and nested members."""
        return _KNOBS

    def demand_usage(self, _operation: str, raw: bytes, _document: Document) -> bytes:
        """Unchanged: usage is always sent."""
        return raw

    def returned(self, _raw: bytes, _document: Document, _model: str) -> None:
        """Nothing to do: there are no signatures."""
        return

    def opening(self, _operation: str, _buffer: bytes) -> Opening:
        """Everything is content."""
        return "go"

    def ended(self, _operation: str, tail: bytes) -> bool:
        """The last frame says done."""
        return b"data: done" in tail

    def closed(self, operation: str, tail: bytes) -> bool:
        """As :meth:`ended`: nothing follows it."""
        return self.ended(operation, tail)

    def failed(self, _operation: str, tail: bytes) -> bool:
        """The last frame says error."""
        return b"data: error" in tail

    def meter(self, _operation: str, _document: Document | None, *, stream: bool) -> Meter | None:  # noqa: ARG002
        """Nothing is metered."""
        return None

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """Code, message and request id."""
        return orjson.dumps({"error": {"code": error.code, "message": error.message, "id": request_id}})

    def error_event(self, error: GatewayError, request_id: str, _operation: str, _head: bytes = b"") -> bytes:
        """The error body as one frame."""
        return b"data: " + self.error_body(error, request_id) + b"\n\n"

    def models_body(self, models: Sequence[ModelInfo], wanted: str | None, _operation: str = "models") -> bytes | None:
        """The names."""
        names = [model.id for model in models]
        return None if wanted is not None and wanted not in names else orjson.dumps(names)


class FakeProvider:
    """A vendor that serves the fake dialect at ``/up``."""

    name = "fake"
    base_url: str | None = "http://127.0.0.1:1"
    env_key: str | None = None
    Options: type[BaseModel] | None = None

    def address(
        self,
        upstream: Upstream,
        _dialect: str,
        _operation: str,
        _model: str,
        _params: object,
        *,
        stream: bool,  # noqa: ARG002
    ) -> tuple[str, bool] | None:
        """One address for everything."""
        return f"{upstream.base_path}/up", True

    def quirks(self, _upstream: Upstream, _model: str) -> frozenset[str]:
        """None."""
        return frozenset()

    def credential(self, api_key: str | None, _options: object) -> list[tuple[bytes, bytes]]:
        """A bearer token."""
        return [(b"authorization", f"Bearer {api_key}".encode())] if api_key else []

    def transport(self, gateway: Transport, _api_key: str | None, _options: object) -> Transport:
        """The gateway's transport."""
        return gateway


class NoTransport:
    """For upstreams that must not be reached."""

    in_use = 0

    async def send(self, request: Request) -> Response:
        """Fail the test."""
        raise AssertionError(f"nothing may be sent to {request.origin}")

    async def aclose(self) -> None:
        """Nothing to close."""


def upstream(name: str = "fake") -> Upstream:
    """An upstream of the fake provider."""
    origin = Origin("http", "127.0.0.1", 1)
    return Upstream(name, FakeProvider(), origin, "", [], Timeouts(), NoTransport())


class RecordingSend:
    """An ASGI ``send`` that records what was sent."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.ended = False

    @property
    def body(self) -> bytes:
        """All chunks joined."""
        return b"".join(self.chunks)

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        await asyncio.sleep(0)
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
            assert all(isinstance(part, bytes) for pair in self.headers for part in pair), "headers are pairs of bytes"
        else:
            self.chunks.append(message["body"])
            self.ended = not message.get("more_body", False)


_NUMBERS = itertools.count(1)


def call(text: str = "hi", *, stream: bool = False, model: str = "fake/m", **fields: Any) -> Call:
    """A call as the gateway makes it; its reply is recorded by a :class:`RecordingSend`, see :func:`sent`."""
    document = {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}], **fields}
    dialect = FakeDialect()
    made = Call(
        id=f"gw-test-{next(_NUMBERS)}",
        dialect=dialect,
        route=dialect.routes[0],
        reply=Reply(RecordingSend()),
        headers=[(b"content-type", b"application/json")],
        raw=orjson.dumps(document),
        document=document,
        model=model,
        stream=stream,
    )
    made.targets = (Target(upstream(), model.partition("/")[2] or model),)
    return made


def sent(made: Call) -> RecordingSend:
    """The response recorded for a call made by :func:`call`."""
    send = made.reply._send  # noqa: SLF001 - the other half of the same fake
    assert isinstance(send, RecordingSend)
    return send


Step = Callable[[Call], Awaitable[Outcome]]


class Inner:
    """The inner side of a layer: answers every call or attempt, or raises, after ``awaits`` turns of the loop."""

    def __init__(self, *, error: BaseException | None = None, awaits: int = 3, usage: Usage | None = None) -> None:
        self.error = error
        self.awaits = awaits
        self.usage = usage
        self.seen: list[Call | Attempt] = []

    async def __call__(self, x: Call | Attempt) -> Outcome:
        self.seen.append(x)
        made = x.call if isinstance(x, Attempt) else x
        for _ in range(self.awaits):
            await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        await made.reply.commit(200, [(b"content-type", b"application/json")])
        if made.stream:
            await made.reply.write(b'data: {"delta":"ok"}\n\n')
            await made.reply.end(b"data: done\n\n")
        else:
            await made.reply.end(b'{"text":"ok"}')
        return Outcome(200, usage=self.usage)


def build(kind: type[Plugin], config: dict[str, Any] | None = None) -> Plugin:
    """An instance of a plugin, with in-memory stores named ``hot`` and ``book``, and models at the fake upstream."""
    setup = Setup(
        kind.name,
        Lease(Resources()),
        {"memory": "memory:", "hot": "memory://hot", "book": "memory://book"},
        {},
        models=Models({}, {"fake": upstream()}),
        dialects={FakeDialect.name: FakeDialect()},
    )
    return kind(kind.Config.model_validate(config or {}), setup)


async def release(plugin: Plugin) -> None:
    """Close the stores of a plugin made by :func:`build`, as the stack does after draining."""
    await plugin.setup._lease.release()  # noqa: SLF001 - the stack's own act
