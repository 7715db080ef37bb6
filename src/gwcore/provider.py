"""``Provider``: one vendor's addresses, keys and manners. ``Upstream``: a provider as configured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

from gwcore.wire.transport import Headers, Origin, Request, Timeouts, Transport


@dataclass(slots=True)
class Upstream:
    """One entry of ``upstreams``, compiled: what every request to it shares.

    Attributes:
        base_path: path of ``base_url`` without trailing slash.
        headers: credential and configured headers; sent to ``origin`` and nowhere else. Never logged.
        models: names this upstream declares, for ``GET /models``.
        prepare: the provider's :meth:`Preparing.prepare`, if it has one.
        key: which of several credentials this is, ``1`` and up; 0 where there is one. Never the credential.
        weight: this credential's share of the calls.
        dialect: the one to speak, whatever the client's; ``None``: the client's own where it is served.
        keys: with several credentials, one upstream for each, this one first; a router may choose. Else empty.
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
        name: the word after ``provider:`` in the stack file.
        base_url: default, as the vendor's own SDK takes it; ``None`` when it must be configured. ``{.name}`` in it
            stands for an attribute of the upstream's options.
        env_key: environment variable that usually holds the key.
        Options: model of provider-specific keys of an upstream's entry, or ``None``.
    """

    @property
    def name(self) -> str:
        """Its word."""
        ...

    @property
    def base_url(self) -> str | None:
        """Its default address."""
        ...

    @property
    def env_key(self) -> str | None:
        """Its customary variable."""
        ...

    @property
    def Options(self) -> type[BaseModel] | None:  # noqa: N802 - a class, as in ``Plugin.Config``
        """Its own keys."""
        ...

    def address(
        self, upstream: Upstream, dialect: str, operation: str, model: str, params: Mapping[str, str], *, stream: bool
    ) -> tuple[str, bool] | None:
        """The path below the origin, percent-encoded, with its ``?query`` if any; and whether the body names the model.

        Client query parameters are appended by the dispatcher. ``None`` when this vendor does not serve ``operation``
        in ``dialect``.
        """
        ...

    def quirks(self, upstream: Upstream, model: str) -> frozenset[str]:
        """What a model here does otherwise than its dialect's owner, in words that codecs know."""
        ...

    def credential(self, api_key: str | None, options: BaseModel | None) -> Headers:
        """The headers that authenticate; made once, at assembly."""
        ...

    def transport(self, gateway: Transport, api_key: str | None, options: BaseModel | None) -> Transport:
        """What requests go through: ``gateway``'s own transport, or one that stands before it.

        That is the place for what a fixed header and the bytes as they come cannot do: credentials that expire,
        signatures over the request, answers in a framing that clients do not read. Called at assembly: no side
        effects. The gateway closes it, ``gateway`` apart; a reload that changes none of the arguments keeps it, hence
        ``options`` that are hashable.
        """
        ...


@runtime_checkable
class Preparing(Protocol):
    """A provider that wants another request than the dialect's: a key less in the body, a header that is a key there."""

    def prepare(self, upstream: Upstream, request: Request, dialect: str, operation: str, *, stream: bool) -> None:
        """Change the request in place. Its body is the one that would have been sent, its target that of ``address``."""
        ...


def options_of(upstream: Upstream, kind: type[Any]) -> Any:
    """The upstream's options, which assembly validated as ``kind``."""
    assert isinstance(upstream.options, kind)
    return upstream.options
