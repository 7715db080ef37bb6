"""``Dialect``: how one wire format is addressed, inspected and metered, and how errors are written in it.

A dialect is a plain object registered through the ``gwcore_dialects`` hook. It is shared by all calls and keeps no
state; stateful helpers (:class:`Meter`) are made once per attempt.
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
"""A document that was cleaned on its way back to its own vendor, and the names of what was dropped from it."""


@dataclass(slots=True, frozen=True)
class Route:
    """One ingress address.

    Attributes:
        method: HTTP method.
        path: without prefix; ``{name}`` stands for one path segment (``{model}`` may contain slashes).
        operation: ``chat``, ``embeddings``, ``models`` …; the same name in every dialect.
        prefixes: each is tried in front of ``path``; ``("", "/v1")`` by default.
        model: where the model name is; ``optional`` means in the body, if at all: if it is absent, or unknown to the
            stack, the call is routed as one without a model.
        body: ``json`` is parsed once, ``form`` is multipart or, if its content-type says so, JSON; ``raw`` and ``none``
            are never inspected.
        stream: ``body`` reads the document's ``stream`` key; ``always`` and ``never`` do not depend on the request.
        local: answered by the gateway itself (model lists), never forwarded.
        header: serves only requests with this header, so that two dialects can share one address.
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
    """One target behind a model name: upstream, its provider, the model's name there, and its price card."""

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
    """What the first bytes of a stream amount to: nothing to send yet, content, or an error sent with a 200."""

    WAIT: Literal["wait"] = "wait"
    GO: Literal["go"] = "go"


@dataclass(slots=True, frozen=True)
class InBandError:
    """An error inside a 200 stream, before any content: the status it should have had, and its document."""

    status: int
    body: bytes


Opening = Literal["wait", "go"] | InBandError


class Meter(Protocol):
    """Reads usage from the bytes passing through; one per attempt."""

    @property
    def usage(self) -> Usage | None:
        """Usage reported so far; ``None`` if nothing was. Read-only for callers: several plugins share the object."""
        ...

    def feed(self, chunk: bytes) -> bytes:
        """Read a chunk of a stream; returns what to send to the client: all but frames it did not ask for."""
        ...

    def finish(self) -> bytes:
        """The bytes still held back when the stream ended."""
        ...

    def whole(self, body: bytes) -> None:
        """Read a complete reply."""
        ...

    @property
    def heard(self) -> bool:
        """Whether all input tokens have been reported, while the answer is still being generated."""
        ...

    @property
    def final(self) -> bool:
        """Whether the usage of a stream is complete, however the stream ends."""
        ...

    @property
    def void(self) -> bool:
        """Whether the complete reply is a chat answer with neither content nor reason (see ``ChatReply.void``)."""
        ...


class Dialect(Protocol):
    """One wire format."""

    @property
    def name(self) -> str:
        """Its name in ``when`` and in logs."""
        ...

    @property
    def routes(self) -> Sequence[Route]:
        """Its ingress routes."""
        ...

    @property
    def unique(self) -> frozenset[str]:
        """Top-level keys that must not be repeated, since policy and upstream must read the same value."""
        ...

    @property
    def forward(self) -> tuple[str, ...]:
        """Prefixes of request headers that belong to this API and are forwarded to a same-dialect upstream."""
        ...

    @property
    def keepalive(self) -> bytes:
        """A small frame that every client ignores."""
        ...

    @property
    def comments(self) -> bool:
        """Whether every client skips comments in an event stream, as the standard requires."""
        ...

    @property
    def chat(self) -> UpstreamCodec | None:
        """Codec of its chat operation: a ``ChatCodec`` if it has routes; ``None`` if it only passes through."""
        ...

    @property
    def lists(self) -> Mapping[str, UpstreamListCodec]:
        """Codecs of its list operations, by operation: a ``ListCodec`` if it has routes for it."""
        ...

    def shape(self, document: Document) -> str | None:
        """The dialect whose shape a chat document sent to this one's address has; ``None`` if its own.

        For clients known to mix up two dialects. Such a document is always translated, never forwarded unchanged.
        """
        ...

    def model_of(self, route: Route, document: Document | None, params: Mapping[str, str]) -> str | None:
        """The requested model; ``None`` if the operation has none. Raises ``BadRequest`` if it is missing."""
        ...

    def knobs(self, operation: str, document: Document, model: str) -> Knobs:
        """Where this document sets, or would set, its output limit and its sampling parameters.

        Args:
            operation: of the route.
            document: a knob that conflicts with its contents has no place.
            model: its name at the upstream; a knob it is known to reject has no place. ``max_tokens`` and ``n`` are
                read from the same places for all models, but the first place, where they are written, may differ.
        """
        ...

    def demand_usage(self, operation: str, raw: bytes, document: Document) -> bytes:
        """The request body, changed so that its stream will report usage; ``raw`` itself if it already does."""
        ...

    def returned(self, raw: bytes, document: Document, model: str) -> Returned | None:
        """A chat without another vendor's leftovers that this API rejects; ``None``, almost always, if it has none."""
        ...

    def opening(self, operation: str, buffer: bytes) -> Opening:
        """Classify the first bytes of an event stream. Called with all bytes so far until ``go`` or an error."""
        ...

    def ended(self, operation: str, tail: bytes) -> bool:
        """Whether the last bytes of an event stream mark the answer as complete."""
        ...

    def closed(self, operation: str, tail: bytes) -> bool:
        """Whether the last bytes of an event stream are its complete last event, so that nothing can be missing."""
        ...

    def failed(self, operation: str, tail: bytes) -> bool:
        """Whether the last bytes of an event stream show that it ended with an error."""
        ...

    def meter(self, operation: str, document: Document | None, *, stream: bool) -> Meter | None:
        """A meter for one attempt; ``None`` where the operation reports no usage."""
        ...

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """The error as a response body."""
        ...

    def error_event(self, error: GatewayError, request_id: str, operation: str, head: bytes = b"") -> bytes:
        """The error as the terminal frame(s) of an event stream; ``head`` is the beginning of the stream."""
        ...

    def models_body(self, models: Sequence[ModelInfo], wanted: str | None, operation: str = "models") -> bytes | None:
        """The model list, or one model; ``None`` if ``wanted`` is not in it.

        Args:
            models: those the client may use.
            wanted: the name in the path, or ``None`` for all.
            operation: of the local route requested.
        """
        ...
