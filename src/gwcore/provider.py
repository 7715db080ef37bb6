"""``Provider``: one vendor's addresses, credentials and quirks. ``Upstream``: a provider as configured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

from gwcore.wire.transport import Headers, Origin, Request, Timeouts, Transport


@dataclass(slots=True)
class Upstream:
    """One entry of ``upstreams``, compiled: what all requests to it share.

    Attributes:
        base_path: path of ``base_url`` without trailing slash.
        headers: credential and configured headers; sent to ``origin`` and nowhere else. Never logged.
        models: names this upstream declares, for ``GET /models``.
        prepare: the provider's :meth:`Preparing.prepare`, if it has one.
        key: index of this credential among several, from ``1``; 0 if there is only one. Never the credential.
        weight: this credential's share of the calls.
        dialect: always speak this one to it; ``None``: the client's own if it is served.
        keys: with several credentials, one upstream per credential, this one first; a router may choose. Else empty.
    """

    name: str
    provider: Provider
    origin: Origin
    base_path: str
    headers: Headers = field(repr=False)
    timeouts: Timeouts
    transport: Transport
    options: BaseModel | None = None
    models: tuple[str, ...] = ()
    prepare: Callable[..., None] | None = None
    key: int = 0
    weight: int = 1
    dialect: str | None = None
    keys: tuple[Upstream, ...] = field(default=(), repr=False)


@dataclass(slots=True, frozen=True)
class Target:
    """One upstream and the model's name there."""

    upstream: Upstream
    model: str

    def __str__(self) -> str:
        return f"{self.upstream.name}/{self.model}"


class Provider(Protocol):
    """One vendor. A plain object registered through the ``gwcore_providers`` hook; keeps no state.

    Attributes:
        name: its name after ``provider:`` in the stack file.
        base_url: default, in the form the vendor's own SDK takes; ``None`` if it must be configured. ``{.name}`` in it
            stands for an attribute of the upstream's options.
        env_key: environment variable that usually holds the key.
        Options: model of provider-specific keys of an upstream's entry, or ``None``.
    """

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def base_url(self) -> str | None:
        """Its default address."""
        ...

    @property
    def env_key(self) -> str | None:
        """Its usual environment variable."""
        ...

    @property
    def Options(self) -> type[BaseModel] | None:  # noqa: N802 - a class, as in ``Plugin.Config``
        """Model of its own keys."""
        ...

    def address(
        self, upstream: Upstream, dialect: str, operation: str, model: str, params: Mapping[str, str], *, stream: bool
    ) -> tuple[str, bool] | None:
        """The path below the origin, percent-encoded, with ``?query`` if any; and whether the body names the model.

        Client query parameters are appended by the dispatcher. ``None`` when this vendor does not serve ``operation``
        in ``dialect``.
        """
        ...

    def quirks(self, upstream: Upstream, model: str) -> frozenset[str]:
        """How a model here deviates from its dialect's owner, as flags that codecs know."""
        ...

    def credential(self, api_key: str | None, options: BaseModel | None) -> Headers:
        """The authentication headers; made once, at assembly."""
        ...

    def transport(self, gateway: Transport, api_key: str | None, options: BaseModel | None) -> Transport:
        """The transport for requests: ``gateway`` itself, or one that wraps it.

        A wrapper is for what fixed headers and unchanged bytes cannot do: credentials that expire, request signatures,
        answers in a framing that clients do not read. Called at assembly: no side effects. The gateway closes the
        wrapper (not ``gateway``); a reload that changes none of the arguments keeps it, so ``options`` must be
        hashable.
        """
        ...


@runtime_checkable
class Preparing(Protocol):
    """A provider whose requests deviate from the dialect's, e.g. a body key dropped, or sent for a header."""

    def prepare(self, upstream: Upstream, request: Request, dialect: str, operation: str, *, stream: bool) -> None:
        """Change the request in place. Its body is what would have been sent; its target is from ``address``."""
        ...


def options_of(upstream: Upstream, kind: type[Any]) -> Any:
    """The upstream's options, validated as ``kind`` at assembly."""
    assert isinstance(upstream.options, kind)
    return upstream.options
