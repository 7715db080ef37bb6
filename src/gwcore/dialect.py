"""``Dialect``: how one wire format is addressed, peeked into, metered, and how errors are written in it.

A dialect is a plain object registered through the ``gwcore_dialects`` hook. It is shared by all calls and keeps no
state; what is stateful (:class:`Meter`) is made once per attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from gwcore.codec import UpstreamCodec
from gwcore.errors import GatewayError
from gwcore.knobs import Knobs
from gwcore.lists import UpstreamListCodec
from gwcore.prices import PriceCard
from gwcore.usage import Usage

Document = dict[str, Any]
Returned = tuple[Document, list[str]]
"""A document that was changed on its way back to its own vendor, and the names of what was left out of it."""


@dataclass(slots=True, frozen=True)
class Route:
    """One ingress address.

    Attributes:
        method: HTTP method.
        path: without prefix; ``{name}`` stands for one path segment (``{model}`` may contain slashes).
        operation: what is asked for: ``chat``, ``embeddings``, ``models`` … the same word in every dialect.
        prefixes: each is tried before ``path``; ``("", "/v1")`` by default.
        model: where the model's name stands; ``optional`` is in the body, if anywhere: without one, or with one that the stack
            does not know, the call goes where one without a model does.
        body: ``json`` is parsed once, ``form`` is multipart or, where its content-type says so, JSON; ``raw`` and ``none``
            are never looked into.
        stream: ``body`` reads the document's ``stream`` key; ``always`` and ``never`` speak for themselves.
        local: answered by the gateway itself (lists of models), never forwarded.
        header: serves only requests that carry this header; lets two dialects share one address.
    """

    method: str
    path: str
    operation: str
    prefixes: tuple[str, ...] = ("", "/v1")
    model: Literal["body", "path", "optional", "none"] = "body"
    body: Literal["json", "form", "raw", "none"] = "json"
    stream: Literal["body", "always", "never"] = "never"
    local: bool = False
    header: str | None = None


@dataclass(slots=True, frozen=True)
class Deployment:
    """One target behind a name: upstream, its provider, the model's name there, and what is known of it."""

    upstream: str
    provider: str
    model: str
    card: PriceCard | None = None

    @property
    def id(self) -> str:
        """``upstream/model``."""
        return f"{self.upstream}/{self.model}"


@dataclass(slots=True, frozen=True)
class ModelInfo:
    """One name a client may ask for, as ``GET /models`` lists it."""

    id: str
    owner: str = "gwcore"
    created: int = 0
    deployments: tuple[Deployment, ...] = ()

    @property
    def card(self) -> PriceCard | None:
        """Limits and prices of the first deployment."""
        return self.deployments[0].card if self.deployments else None

    def only(self, id_: str) -> ModelInfo:
        """The same name with just the deployment of that id, or with none."""
        return replace(self, deployments=tuple(one for one in self.deployments if one.id == id_))


class Verdict:
    """What the first bytes of a stream are: nothing to show yet, content, or an error that came as a 200."""

    WAIT: Literal["wait"] = "wait"
    GO: Literal["go"] = "go"


@dataclass(slots=True, frozen=True)
class InBandError:
    """An error inside a 200 stream, before any content: the status it stands for and its document."""

    status: int
    body: bytes


Opening = Literal["wait", "go"] | InBandError


class Meter(Protocol):
    """Reads usage out of the bytes that pass; one per attempt."""

    @property
    def usage(self) -> Usage | None:
        """What the bytes said so far; ``None`` where they said nothing. A new object each time it is asked for."""
        ...

    def feed(self, chunk: bytes) -> bytes:
        """A chunk of a stream; returns what the client shall see of it (all of it, but for a frame it did not ask for)."""
        ...

    def finish(self) -> bytes:
        """What was held back when the stream ended."""
        ...

    def whole(self, body: bytes) -> None:
        """A complete reply."""
        ...

    @property
    def heard(self) -> bool:
        """Whether the tokens read are told, all of them, while the answer is still written."""
        ...

    @property
    def final(self) -> bool:
        """Whether the usage of a stream is all there will be, however the stream ends."""
        ...

    @property
    def void(self) -> bool:
        """Whether the complete reply is a chat's answer that says nothing, and not why (:attr:`gwcore.chat.ChatReply.void`)."""
        ...


class Dialect(Protocol):
    """One wire format."""

    @property
    def name(self) -> str:
        """The word in ``when`` and in logs."""
        ...

    @property
    def routes(self) -> Sequence[Route]:
        """Its ingress addresses."""
        ...

    @property
    def unique(self) -> frozenset[str]:
        """Top-level keys that may stand only once, since policy and upstream must read the same value."""
        ...

    @property
    def forward(self) -> tuple[str, ...]:
        """Prefixes of request headers that belong to this API and reach a same-dialect upstream."""
        ...

    @property
    def keepalive(self) -> bytes:
        """A frame every client ignores; kept small."""
        ...

    @property
    def comments(self) -> bool:
        """Whether every client skips a comment in an event stream, as the standard has it."""
        ...

    @property
    def chat(self) -> UpstreamCodec | None:
        """How its chat operation is translated: a ``ChatCodec`` where it has routes; ``None`` where it only passes through."""
        ...

    @property
    def lists(self) -> Mapping[str, UpstreamListCodec]:
        """How its operations over lists are translated, by operation: a ``ListCodec`` where it has routes for it."""
        ...

    def shape(self, document: Document) -> str | None:
        """The dialect whose shape a chat document has that was sent to this one's address; ``None`` where it is its own.

        For clients that are known to mix two up. Such a document is read and written, never forwarded as it is.
        """
        ...

    def model_of(self, route: Route, document: Document | None, params: Mapping[str, str]) -> str | None:
        """The model asked for; ``None`` where the operation has none. Raises ``BadRequest`` when it is missing."""
        ...

    def knobs(self, operation: str, document: Document, model: str) -> Knobs:
        """Where this document says, or would say, how long its answer may be and how it is sampled.

        Args:
            operation: of the route.
            document: a knob that cannot stand beside what it says has no place.
            model: its name at the upstream; a knob that it is known to refuse has no place. Where ``max_tokens`` and ``n`` are
                read is the same for all models; where they are said first may differ.
        """
        ...

    def demand_usage(self, operation: str, raw: bytes, document: Document) -> bytes:
        """The request body changed so that its stream will report usage; ``raw`` itself where it already does."""
        ...

    def returned(self, raw: bytes, document: Document, model: str) -> Returned | None:
        """A chat without what another vendor left in it and this API refuses; ``None`` where there is none, as almost always."""
        ...

    def opening(self, operation: str, buffer: bytes) -> Opening:
        """Judge the first bytes of an event stream. Called with all bytes so far until it says ``go`` or an error."""
        ...

    def ended(self, operation: str, tail: bytes) -> bool:
        """Whether the last bytes of an event stream say that the answer is complete."""
        ...

    def closed(self, operation: str, tail: bytes) -> bool:
        """Whether the last bytes of an event stream are its last event, whole: nothing can be missing behind it."""
        ...

    def failed(self, operation: str, tail: bytes) -> bool:
        """Whether the last bytes of an event stream say that it ended with an error."""
        ...

    def meter(self, operation: str, document: Document | None, *, stream: bool) -> Meter | None:
        """A meter for one attempt; ``None`` where the operation reports no usage."""
        ...

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """The error as a response body."""
        ...

    def error_event(self, error: GatewayError, request_id: str, operation: str, head: bytes = b"") -> bytes:
        """The error as the terminal frame(s) of an event stream; ``head`` is what the stream began with."""
        ...

    def models_body(self, models: Sequence[ModelInfo], wanted: str | None, operation: str = "models") -> bytes | None:
        """The list of models, or one of them; ``None`` when ``wanted`` is not among them.

        Args:
            models: those a client may ask for.
            wanted: the name in the path, or ``None`` for all.
            operation: of the local route that was asked.
        """
        ...
