"""``langfuse``: a trace per call, a generation per attempt, through Langfuse's OpenTelemetry endpoint.

The attributes are those that the Langfuse SDK 5 writes (a test compares the names); its queue is not used, because its
contents are lost with the process. Server: Langfuse 3.22 and later,
https://langfuse.com/integrations/native/opentelemetry.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

import orjson
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
from pydantic import BaseModel, Field, SecretStr

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin, Setup
from gwcore.units import exact_usd
from gwcore.usage import Usage
from gwcore.wire.transport import Headers
from gwcore_observability.content import Content
from gwcore_observability.otlp import CLIENT, SERVER, OtlpSender, add_span, item, resource
from gwcore_observability.plugin import SinkPlugin
from gwcore_observability.record import AttemptRecord, Record, error_of
from gwcore_observability.settings import Address, SinkConfig
from gwcore_observability.sink import Sink
from gwcore_observability.spill import Item

_USAGE: Final = {
    "input": "input", "cache_read": "input_cache_read", "cache_write_5m": "input_cache_write_5m",
    "cache_write_1h": "input_cache_write_1h", "audio_in": "input_audio", "audio_cache_read": "input_audio_cache_read",
    "image_in": "input_image", "image_cache_read": "input_image_cache_read",
    "output": "output", "reasoning": "output_reasoning", "audio_out": "output_audio", "image_out": "output_image",
}  # fmt: skip
"""Disjoint buckets → usage types; Langfuse sums the types with ``input`` and those with ``output`` in their names."""
_PARAMETERS: Final = (
    "temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "max_output_tokens", "reasoning_effort", "seed",
)  # fmt: skip


class LangfuseConfig(SinkConfig):
    """Settings of ``langfuse``."""

    public_key: str = Field(description="Public key of the Langfuse project (`pk-lf-…`).")
    secret_key: SecretStr = Field(description="Secret key of the Langfuse project (`sk-lf-…`).", repr=False)
    base_url: Address = Field(
        default="https://cloud.langfuse.com",
        description="Address of your Langfuse region, or of your own server.",
        pattern="^https?://",
    )
    environment: str = Field(
        default="default",
        description="Environment of the traces; lower-case letters, digits, `-` and `_`.",
        pattern="^[a-z0-9_-]{1,40}$",
    )
    release: str | None = Field(default=None, description="Release of the traces.")


class LangfuseSink(OtlpSender):
    """The sink."""

    def __init__(self, config: LangfuseConfig, setup: Setup) -> None:
        pair = f"{config.public_key}:{config.secret_key.get_secret_value()}"
        headers: Headers = [
            (b"authorization", b"Basic " + base64.b64encode(pair.encode())),
            (b"x-langfuse-public-key", config.public_key.encode()),
            (b"x-langfuse-sdk-name", b"gwcore"),
            (b"x-langfuse-ingestion-version", b"4"),
        ]
        url = config.base_url.rstrip("/") + "/api/public/otel/v1/traces"
        super().__init__(setup.transport(), url, headers, config.outbox.timeout)
        self._prices = setup.prices
        self._all = {"langfuse.environment": config.environment, "langfuse.release": config.release}
        self.resource = resource({"service.name": "gwcore"})

    def encode(self, record: Record, content: Content | None) -> Item:
        """The span of the call, and a generation for each attempt."""
        trace = {**self._all, **_trace(record)}
        said, heard = _content(content)
        own = {
            **trace,
            "langfuse.internal.as_root": True,
            "langfuse.observation.type": "span",
            "langfuse.observation.level": _level(record.error),
            "langfuse.observation.status_message": error_of(record) or None,
            "langfuse.observation.input": said,
            "langfuse.observation.output": heard,
            **_metadata("langfuse.observation.metadata", _facts(record)),
        }
        times = (record.started_ns, record.ended_ns)
        failed = error_of(record) or None
        spans = ScopeSpans()
        add_span(spans, record, (record.span, record.parent), _name(record), SERVER, times=times, of=own, error=failed)
        for attempt in record.attempts:
            generation = {
                **trace,
                **_generation(record, attempt, self._costs(attempt)),
                "langfuse.observation.input": said,
                "langfuse.observation.output": heard if attempt.error is None else None,
                "langfuse.observation.model.parameters": _parameters(content),
            }
            times = (attempt.started_ns, attempt.ended_ns)
            name = f"{attempt.upstream}/{attempt.model}"
            add_span(
                spans,
                record,
                (attempt.span, record.span),
                name,
                CLIENT,
                times=times,
                of=generation,
                error=attempt.failed,
            )
        return item(record, spans)

    def _costs(self, attempt: AttemptRecord) -> str | None:
        """Dollars by usage type with the total; the total alone if it does not follow from the current prices."""
        if attempt.cost_nano is None:
            return None
        card = self._prices.known(attempt.upstream, attempt.model)
        counts: dict[str, Any] = {**attempt.tokens}
        used = Usage(**counts, fees=attempt.fees, service_tier=attempt.service_tier)
        parts = card.parts(used) if card is not None and card.version == attempt.cost_version else {}
        if sum(parts.values()) != attempt.cost_nano:  # the vendor's own figure
            parts = {}
        costs = {_USAGE.get(name, name): nano for name, nano in parts.items()} | {"total": attempt.cost_nano}
        return "{" + ",".join(f"{orjson.dumps(name).decode()}:{exact_usd(nano)}" for name, nano in costs.items()) + "}"


def _name(record: Record) -> str:
    return record.operation


def _trace(record: Record) -> dict[str, Any]:
    """Trace attributes, which Langfuse reads from any span of the trace."""
    facts = {
        "key": record.key, "key_name": record.key_name, "team": record.team, "organisation": record.organisation,
        "gateway_user": record.user, "request_id": record.id,
    }  # fmt: skip
    return {
        "langfuse.trace.name": _name(record),
        "user.id": record.end_user or record.user or record.key_name,
        "session.id": record.session[:200] if record.session else None,
        "langfuse.trace.tags": record.tags,
        **_metadata("langfuse.trace.metadata", facts),
    }


def _facts(record: Record) -> dict[str, Any]:
    return {
        "model": record.model, "state": record.state, "status": record.status, "cache": record.cache,
        "retries": record.retries, "overhead_s": record.overhead_s, "dialect": record.dialect, "stream": record.stream,
        "agent": dict(record.agent) or None, "user_agent": record.user_agent,
    }  # fmt: skip


def _metadata(prefix: str, facts: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{prefix}.{name}": one if isinstance(one, str) else orjson.dumps(one).decode()
        for name, one in facts.items()
        if one is not None
    }


def _generation(record: Record, attempt: AttemptRecord, costs: str | None) -> dict[str, Any]:
    kind = {"chat": "generation", "completions": "generation", "embeddings": "embedding"}.get(record.operation, "span")
    facts = {
        "upstream": attempt.upstream, "provider": attempt.provider, "upstream_request_id": attempt.upstream_id,
        "status": attempt.status, "cost_source": attempt.cost_source, "cost_version": attempt.cost_version,
        "unpriced": list(attempt.unpriced) or None, "fees": dict(attempt.fees) or None,
        "service_tier": attempt.service_tier,
    }  # fmt: skip
    usage = {_USAGE[bucket]: count for bucket, count in attempt.tokens.items()}
    return {
        "langfuse.observation.type": kind,
        "langfuse.observation.model.name": attempt.model,
        "langfuse.observation.level": _level(attempt.failed),
        "langfuse.observation.status_message": attempt.reason or attempt.error,
        "langfuse.observation.completion_start_time": _instant(attempt.first_ns) if record.stream else None,
        "langfuse.observation.usage_details": orjson.dumps(usage).decode() if usage else None,
        "langfuse.observation.cost_details": costs,
        **_metadata("langfuse.observation.metadata", facts),
    }


def _level(error: str | None) -> str:
    return "DEFAULT" if error is None else "ERROR"


def _instant(ns: int | None) -> str | None:
    """A JSON string of an ISO instant, as the SDK serialises one."""
    if ns is None:
        return None
    at = datetime.fromtimestamp(ns // 10**9, UTC).replace(microsecond=ns % 10**9 // 1000)
    return orjson.dumps(at.isoformat(timespec="milliseconds").replace("+00:00", "Z")).decode()


def _content(content: Content | None) -> tuple[str | None, str | None]:
    if content is None:
        return None, None
    return orjson.dumps(content.request, default=str).decode(), orjson.dumps(content.response, default=str).decode()


def _parameters(content: Content | None) -> str | None:
    if content is None or not isinstance(content.request, dict):
        return None
    said = {name: content.request[name] for name in _PARAMETERS if name in content.request}
    return orjson.dumps(said).decode() if said else None


class Langfuse(SinkPlugin):
    """Sends each call as a trace, and each attempt as a generation, to Langfuse."""

    name = "langfuse"
    Config: ClassVar[type[BaseModel]] = LangfuseConfig

    @property
    def where(self) -> str:
        """The server and the project."""
        return f"{self.config.base_url} {self.config.public_key}"

    def sink(self) -> Sink:
        """The sink."""
        return LangfuseSink(self.config, self.setup)


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """For the stack file."""
    return [Langfuse]
