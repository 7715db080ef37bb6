"""``Provider``: one vendor's addresses, keys and manners. ``Upstream``: a provider as configured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel

from gwcore.wire.transport import Headers, Origin, Timeouts, Transport


@dataclass(slots=True)
class Upstream:
    """One entry of ``upstreams``, compiled: what every request to it shares.

    Attributes:
        base_path: path of ``base_url`` without trailing slash.
        headers: credential and configured headers; sent to ``origin`` and nowhere else. Never logged.
        models: names this upstream declares, for ``GET /models``.
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


class Provider(Protocol):
    """One vendor. A plain object registered through the ``gwcore_providers`` hook; keeps no state.

    Attributes:
        name: the word after ``provider:`` in the stack file.
        base_url: default, as the vendor's own SDK takes it; ``None`` when it must be configured.
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
        self, upstream: Upstream, dialect: str, operation: str, model: str, params: Mapping[str, str]
    ) -> tuple[str, bool] | None:
        """The path below the origin, percent-encoded, with its ``?query`` if any; and whether the body names the model.

        Client query parameters are appended by the dispatcher. ``None`` when this vendor does not serve ``operation``
        in ``dialect``.
        """
        ...

    def credential(self, api_key: str | None, options: BaseModel | None) -> Headers:
        """The headers that authenticate; made once, at assembly."""
        ...

    def transport(self, options: BaseModel | None) -> Transport | None:
        """A transport of its own (the offline demo has one); ``None`` for the gateway's."""
        ...


def options_of(upstream: Upstream, kind: type[Any]) -> Any:
    """The upstream's options, which assembly validated as ``kind``."""
    assert isinstance(upstream.options, kind)
    return upstream.options
