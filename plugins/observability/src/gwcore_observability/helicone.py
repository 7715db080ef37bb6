"""``helicone``: Helicone's asynchronous log, one POST per call; the traffic itself does not go through Helicone.

Shape: ``POST {base_url}/{oai|anthropic|custom}/v1/log``, https://docs.helicone.ai/getting-started/integration-method/custom.
A call sent twice has the same ``Helicone-Request-Id``, and is one request there. Helicone calculates costs itself; ours
are in the properties ``cost_nano_usd`` and ``price_version``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import orjson
from pydantic import BaseModel, Field, SecretStr

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin, Setup
from gwcore_observability.content import Content
from gwcore_observability.plugin import SinkPlugin
from gwcore_observability.record import Record, error_of
from gwcore_observability.settings import Address, SinkConfig
from gwcore_observability.sink import Delivery, HttpSender, Sink
from gwcore_observability.spill import Item

_KINDS: Final = {"openai.chat": "oai", "anthropic.messages": "anthropic"}
"""Dialects whose documents Helicone parses itself."""


class HeliconeConfig(SinkConfig):
    """Settings of ``helicone``."""

    api_key: SecretStr = Field(description="API key of Helicone (`sk-helicone-…`).", repr=False)
    base_url: Address = Field(
        default="https://api.worker.helicone.ai",
        description="Address of Helicone's log endpoint, or of your own server.",
        pattern="^https?://",
    )
    properties: dict[str, str] = Field(
        default={}, description="Custom properties of every call, sent as `Helicone-Property-<name>`."
    )


class HeliconeSink(HttpSender):
    """The sink."""

    def __init__(self, config: HeliconeConfig, setup: Setup) -> None:
        key = config.api_key.get_secret_value().encode()
        headers = [(b"authorization", b"Bearer " + key), (b"content-type", b"application/json")]
        super().__init__(setup.transport(), config.base_url.rstrip("/"), headers, config.outbox.timeout)
        self._properties = config.properties

    def encode(self, record: Record, content: Content | None) -> Item:
        """The kind of log, a line feed, and the JSON body."""
        kind = _KINDS.get(record.dialect, "custom") if content is not None else "custom"
        request = content.request if content is not None else {"model": record.served_model or record.model}
        response = content.response if content is not None and content.response is not None else _answer(record)
        document = {
            "providerRequest": {
                "url": f"gwcore://{record.upstream or 'none'}{record.route}",
                "json": request if isinstance(request, dict) else {"body": request},
                "meta": self._meta(record),
            },
            "providerResponse": {
                "json": response if isinstance(response, dict) else {"body": response},
                "status": record.status or 499,  # the client disconnected before the response
                "headers": {},
            },
            "timing": _timing(record),
        }
        return Item(record.event, kind.encode() + b"\n" + orjson.dumps(document, default=str))

    def _meta(self, record: Record) -> dict[str, str]:
        properties = {
            **self._properties,
            "upstream": record.upstream, "asked_model": record.model, "state": record.state, "error": error_of(record),
            "cache": record.cache, "team": record.team, "key": record.key_name or record.key,
            "organisation": record.organisation, "tags": ",".join(record.tags), "attempts": len(record.attempts),
            "cost_nano_usd": record.cost_nano, "price_version": record.cost_version,
        }  # fmt: skip
        meta = {f"Helicone-Property-{name}": str(said) for name, said in properties.items() if said not in {None, ""}}
        meta["Helicone-Request-Id"] = record.event
        if user := record.end_user or record.user:
            meta["Helicone-User-Id"] = user
        if record.session:
            meta["Helicone-Session-Id"] = record.session
            meta["Helicone-Session-Path"] = record.agent.get("helicone-session-path", f"/{record.operation}")
            meta["Helicone-Session-Name"] = record.agent.get("helicone-session-name", record.key_name or "gwcore")
        return meta

    def pack(self, items: Sequence[Item]) -> Sequence[Delivery]:
        """One request per call: the endpoint takes no batches."""
        deliveries = []
        for one in items:
            kind, _, body = one.body.partition(b"\n")
            deliveries.append(Delivery([one], body, target=f"{self._path.rstrip('/')}/{kind.decode()}/v1/log"))
        return deliveries


def _answer(record: Record) -> dict[str, Any]:
    """What Helicone counts if the response itself is not sent."""
    usage = {"prompt_tokens": record.total_in, "completion_tokens": record.total_out}
    return {
        "id": record.id,
        "model": record.served_model or record.model,
        "usage": {
            **usage,
            "total_tokens": sum(usage.values()),
            **({"details": dict(record.tokens)} if record.tokens else {}),
        },
        **({"error": {"code": record.error, "type": record.error_class}} if record.error else {}),
    }


def _timing(record: Record) -> dict[str, Any]:
    timing: dict[str, Any] = {"startTime": _at(record.started_ns), "endTime": _at(record.ended_ns)}
    if record.first_token_s is not None:
        timing["timeToFirstToken"] = round(record.first_token_s * 1000)
    return timing


def _at(ns: int) -> dict[str, int]:
    return {"seconds": ns // 10**9, "milliseconds": ns % 10**9 // 10**6}


class Helicone(SinkPlugin):
    """Sends each call as a log to Helicone."""

    name = "helicone"
    Config: ClassVar[type[BaseModel]] = HeliconeConfig

    @property
    def where(self) -> str:
        """The server."""
        base_url: str = self.config.base_url
        return base_url

    def sink(self) -> Sink:
        """The sink."""
        return HeliconeSink(self.config, self.setup)


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """For the stack file."""
    return [Helicone]
