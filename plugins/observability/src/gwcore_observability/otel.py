"""``otel``: traces and metrics by OpenTelemetry's conventions for generative AI, over OTLP/HTTP.

A call is a server span, a child of the client's ``traceparent`` if it sends one; each attempt is a client span below.
The upstream receives a ``traceparent`` with the attempt's span. Spans follow the sampling decision of their parent.
Names: semantic conventions for GenAI 1.42 (all still in development),
https://github.com/open-telemetry/semantic-conventions-genai; attributes not defined there begin with ``gwcore.``.
"""

from __future__ import annotations

import gzip
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final
from uuid import uuid4

import orjson
import structlog
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span
from pydantic import BaseModel, Field, SecretStr

from gwcore.call import Attempt
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin, Setup
from gwcore.usage import OUT
from gwcore.wire.transport import Headers, Origin
from gwcore_observability.content import Content
from gwcore_observability.ids import span_id, trace_id
from gwcore_observability.otlp import CLIENT, SCOPE, SERVER, OtlpSender, add_span, describe, item, resource
from gwcore_observability.plugin import SinkPlugin
from gwcore_observability.record import AttemptRecord, Record, error_of, traceparent, tracestate
from gwcore_observability.settings import Address, SinkConfig
from gwcore_observability.sink import Delivery, Sink, Verdict
from gwcore_observability.spill import Item

_OPERATIONS: Final = {"chat": "chat", "completions": "text_completion", "embeddings": "embeddings"}
_PROVIDERS: Final = {"gemini": "gcp.gemini", "vertex": "gcp.vertex_ai", "bedrock": "aws.bedrock", "bedrock-mantle": "aws.bedrock",
                     "azure": "azure.ai.openai", "mistral": "mistral_ai", "xai": "x_ai"}  # fmt: skip
_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS: Final = tuple(float(4**n) for n in range(14))
_DURATION = "gen_ai.client.operation.duration"
_FIRST = "gen_ai.client.operation.time_to_first_chunk"
_USAGE = "gen_ai.client.token.usage"
_METRICS: Final = {
    _DURATION: ("s", _SECONDS, "Time from the request to the end of the answer."),
    _FIRST: ("s", _SECONDS, "Time from the request to the first content of a stream."),
    _USAGE: ("{token}", _TOKENS, "Tokens read and written."),
}
_NO_METRICS: Final = frozenset({"http_401", "http_403", "http_404", "http_501"})
"""A collector that accepts spans and answers metrics so does not support metrics (Jaeger): do not resend the spans."""
_log = structlog.get_logger("gwcore.observability")
_LABELS: Final = (
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "server.address",
    "server.port",
    "gwcore.upstream",
    "error.type",
)


Labels = tuple[tuple[str, str | int], ...]


class OtelConfig(SinkConfig):
    """Settings of ``otel``."""

    endpoint: Address = Field(
        default="http://127.0.0.1:4318",
        description="Base URL of the OTLP/HTTP receiver; `/v1/traces` and `/v1/metrics` are appended.",
        pattern="^https?://",
    )
    headers: dict[str, SecretStr] = Field(
        default={}, description="Additional request headers, such as `authorization`.", repr=False
    )
    service: str = Field(default="gwcore", description="Resource attribute `service.name`.")
    resource: dict[str, str] = Field(
        default={}, description="Further resource attributes, such as `deployment.environment.name`."
    )
    metrics: bool = Field(default=True, description="Whether metrics are sent, too, with delta temporality.")
    propagate: bool = Field(
        default=True,
        description="Whether upstreams receive the trace: a `traceparent` header on every attempt, with the client's "
        "`tracestate`.",
    )
    sample: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share (0 to 1) of the traces that begin in this gateway whose spans are sent. A trace that a "
        "client began follows the client's decision.",
    )


def call_attributes(record: Record) -> dict[str, Any]:
    """Attributes of a call's span."""
    return {
        "gen_ai.operation.name": _OPERATIONS.get(record.operation, record.operation),
        "gen_ai.request.model": record.model,
        "gen_ai.conversation.id": record.session,
        "http.request.method": record.method,
        "http.route": record.route,
        "http.response.status_code": record.status or None,
        "error.type": record.error,
        "enduser.id": record.end_user or record.user,
        "user_agent.original": record.user_agent,
        "gwcore.request.id": record.id,
        "gwcore.dialect": record.dialect,
        "gwcore.state": record.state,
        "gwcore.stream": record.stream,
        "gwcore.key.id": record.key,
        "gwcore.key.name": record.key_name,
        "gwcore.team": record.team,
        "gwcore.user": record.user,
        "gwcore.organisation": record.organisation,
        "gwcore.tags": record.tags,
        "gwcore.cache": record.cache,
        "gwcore.cost.nano_usd": record.cost_nano,
        "gwcore.saved.nano_usd": record.saved_nano,
        "gwcore.overhead": record.overhead_s,
        "gwcore.retries": record.retries,
    }


def attempt_attributes(record: Record, attempt: AttemptRecord) -> dict[str, Any]:
    """Attributes of an attempt's span. Input and output tokens are totals, as the conventions require."""
    tokens = attempt.tokens
    out = sum(tokens.get(bucket, 0) for bucket in OUT)
    return {
        "gen_ai.operation.name": _OPERATIONS.get(record.operation, record.operation),
        "gen_ai.provider.name": _PROVIDERS.get(attempt.provider, attempt.provider),
        "gen_ai.request.model": attempt.model or None,
        "gen_ai.usage.input_tokens": sum(tokens.values()) - out if tokens else None,
        "gen_ai.usage.output_tokens": out if tokens else None,
        "gen_ai.usage.cache_read.input_tokens": tokens.get("cache_read"),
        "gen_ai.usage.cache_creation.input_tokens": tokens.get("cache_write_5m", 0) + tokens.get("cache_write_1h", 0)
        or None,
        "gen_ai.usage.reasoning.output_tokens": tokens.get("reasoning"),
        "gen_ai.response.time_to_first_chunk": _first(record, attempt),
        "gwcore.upstream": attempt.upstream,
        "http.response.status_code": attempt.status,
        "error.type": attempt.error,
        "gwcore.reason": attempt.reason,
        "gwcore.upstream.request_id": attempt.upstream_id,
        "gwcore.upstream.key": attempt.key or None,
        "gwcore.cost.nano_usd": attempt.cost_nano,
        "gwcore.cost.source": attempt.cost_source,
        "gwcore.cost.version": attempt.cost_version,
    }


def _first(record: Record, attempt: AttemptRecord) -> float | None:
    if not record.stream or attempt.first_ns is None:
        return None
    return (attempt.first_ns - attempt.started_ns) / 1e9


def _add_attempt(spans: ScopeSpans, record: Record, attempt: AttemptRecord, at: Origin | None) -> None:
    said = attempt_attributes(record, attempt)
    if at is not None:
        said["server.address"], said["server.port"] = at.host, at.port
    name = f"{said['gen_ai.operation.name']} {attempt.model}".rstrip()
    times = (attempt.started_ns, attempt.ended_ns)
    add_span(spans, record, (attempt.span, record.span), name, CLIENT, times=times, of=said, error=attempt.failed)


class OtelSink(OtlpSender):
    """The sink."""

    def __init__(self, config: OtelConfig, setup: Setup) -> None:
        headers: Headers = [(k.lower().encode(), v.get_secret_value().encode()) for k, v in config.headers.items()]
        super().__init__(setup.transport(), config.endpoint.rstrip("/") + "/v1/traces", headers, config.outbox.timeout)
        # one identity per worker: sums from several writers with the same identity look like one going back in time
        own = {"service.name": config.service, "service.instance.id": str(uuid4())}
        self.resource = resource({**own, **config.resource})
        self._measured_until = 0
        self._share = config.sample
        self._told = False
        self._upstreams = setup.models.upstreams
        self._metrics = self._path.removesuffix("/v1/traces") + "/v1/metrics" if config.metrics else ""

    def encode(self, record: Record, content: Content | None) -> Item | None:
        """The call's span and a child for each attempt; for a trace not sampled they only serve the metrics."""
        told = sampled(record.sampled, record.trace, self._share)
        if not told and not self._metrics:
            return None
        if not told and record.sampled is None:
            record = replace(record, sampled=False)
        said = call_attributes(record)
        if content is not None and told:
            said["gwcore.request"] = orjson.dumps(content.request, default=str).decode()
            said["gwcore.response"] = orjson.dumps(content.response, default=str).decode()
        name = f"{said['gen_ai.operation.name']} {record.served_model or ''}".rstrip()
        times = (record.started_ns, record.ended_ns)
        # a server span's 4xx is the client's fault, not an error (semantic conventions for HTTP)
        failed = None if 400 <= record.status < 500 else error_of(record) or None
        spans = ScopeSpans()
        add_span(spans, record, (record.span, record.parent), name, SERVER, times=times, of=said, error=failed)
        for attempt in record.attempts:
            at = self._upstreams.get(attempt.upstream)
            _add_attempt(spans, record, attempt, at.origin if at is not None else None)
        return item(record, spans)

    def choose(self, spans: ScopeSpans) -> None:
        """Keep the sampled ones; metrics count all."""
        if not all(one.flags & 1 for one in spans.spans):
            kept = [one for one in spans.spans if one.flags & 1]
            del spans.spans[:]
            spans.spans.extend(kept)

    async def send(self, delivery: Delivery) -> Verdict:
        """Send spans, then, once accepted, metrics: receivers deduplicate spans that are resent, but not metrics."""
        verdict = await super().send(delivery)
        if verdict.kind != "accepted" or not self._metrics:
            return verdict
        spans = ScopeSpans.FromString(b"".join([one.body for one in delivery.items])).spans
        now = time.time_ns()
        said = _measured(self.resource, spans, (self._measured_until, now))
        body = gzip.compress(said.SerializeToString(), 1)
        measured = await super().send(Delivery((), body, delivery.headers, self._metrics))
        if measured.kind == "later" and measured.reason not in _NO_METRICS:
            return measured
        self._measured_until = now
        if measured.kind != "accepted" and not self._told:
            self._told = True
            _log.warning(
                "the collector takes no metrics", sink="otel", reason=measured.reason, mend="set otel.metrics: false"
            )
        return verdict


def sampled(said: bool | None, trace: str, share: float) -> bool:
    """The client's decision; without one, by the trace id as OpenTelemetry's ``TraceIdRatioBased`` does."""
    return int(trace[16:], 16) < share * 2**64 if said is None else said


def _measured(resource: Resource, spans: Sequence[Span], times: tuple[int, int]) -> ExportMetricsServiceRequest:
    """Histograms of the attempts among ``spans``, as deltas since the last ones sent (0: since the first start).

    Calls overlap and end in any order; the intervals of a sum must not, or receivers that add them up drop some.
    """
    points: dict[str, dict[Labels, list[float]]] = {name: defaultdict(list) for name in _METRICS}
    attempts = [one for one in spans if one.kind == CLIENT]
    for one in attempts:
        said = {a.key: a.value for a in one.attributes}
        labels = tuple((key, said[key].string_value or said[key].int_value) for key in _LABELS if key in said)
        points[_DURATION][labels].append((one.end_time_unix_nano - one.start_time_unix_nano) / 1e9)
        if "gen_ai.response.time_to_first_chunk" in said:
            points[_FIRST][labels].append(said["gen_ai.response.time_to_first_chunk"].double_value)
        for kind in ("input", "output"):
            if (tokens := said.get(f"gen_ai.usage.{kind}_tokens")) is not None:
                points[_USAGE][(*labels, ("gen_ai.token.type", kind))].append(float(tokens.int_value))
    since, until = times
    since = since or min([one.start_time_unix_nano for one in attempts], default=until)
    metrics = [_metric(name, series, (min(since, until), until)) for name, series in points.items() if series]
    scope = ScopeMetrics(scope=SCOPE, metrics=metrics)
    return ExportMetricsServiceRequest(resource_metrics=[ResourceMetrics(resource=resource, scope_metrics=[scope])])


def _metric(name: str, series: Mapping[Labels, list[float]], times: tuple[int, int]) -> Metric:
    unit, bounds, description = _METRICS[name]
    points = []
    for labels, values in series.items():
        counts = [0] * (len(bounds) + 1)
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        point = HistogramDataPoint(
            start_time_unix_nano=times[0],
            time_unix_nano=times[1],
            count=len(values),
            sum=sum(values),
            min=min(values),
            max=max(values),
            explicit_bounds=bounds,
            bucket_counts=counts,
        )
        describe(point, dict(labels))
        points.append(point)
    delta = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
    return Metric(
        name=name,
        unit=unit,
        description=description,
        histogram=Histogram(data_points=points, aggregation_temporality=delta),
    )


class Otel(SinkPlugin):
    """Sends traces and metrics over OTLP/HTTP."""

    name = "otel"
    Config: ClassVar[type[BaseModel]] = OtelConfig

    @property
    def where(self) -> str:
        """The collector's address."""
        endpoint: str = self.config.endpoint
        return endpoint

    def sink(self) -> Sink:
        """The sink."""
        return OtelSink(self.config, self.setup)

    @hookimpl
    def attempt_started(self, attempt: Attempt) -> None:
        """Keep content if required, and give the attempt its traceparent."""
        super().attempt_started(attempt)
        if not self.config.propagate or any(name == b"traceparent" for name, _ in attempt.added or ()):
            return  # another ``otel`` entry may have added it
        call = attempt.call
        client, _, said = traceparent(call)
        trace = client or trace_id(call.id)
        flag = sampled(said, trace, self.config.sample)
        attempt.add_header(b"traceparent", f"00-{trace}-{span_id(attempt.id)}-0{flag:d}".encode())
        if client and (state := tracestate(call)):
            attempt.add_header(b"tracestate", state.encode("latin-1"))


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """For the stack file."""
    return [Otel]
