"""OTLP/HTTP with protobuf: spans as durable bytes, a batch as one request. Shared by ``otel`` and ``langfuse``.

An item is a serialized ``ScopeSpans`` with the spans of one call; a batch is their concatenation, which protobuf
defines as their merge. Ids are derived from the call's id, so a span sent twice is one span.

Specification: OTLP 1.x, https://opentelemetry.io/docs/specs/otlp/ - a 200 may reject some spans (``partial_success``);
429, 502, 503 and 504 are to be retried.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, Status

from gwcore.wire.transport import Headers
from gwcore_observability.record import Record
from gwcore_observability.sink import ACCEPTED, Delivery, HttpSender, Verdict, judge
from gwcore_observability.spill import Item

SERVER, CLIENT, INTERNAL = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_INTERNAL
SCOPE = InstrumentationScope(name="gwcore")
_PROTOBUF: Headers = [(b"content-type", b"application/x-protobuf"), (b"content-encoding", b"gzip")]


def put(value: AnyValue, of: Any) -> None:
    """Write a Python value to an OTLP value. Raises ``TypeError`` for an unsupported type."""
    if isinstance(of, str):
        value.string_value = of
    elif isinstance(of, bool):
        value.bool_value = of
    elif isinstance(of, int):
        value.int_value = of
    elif isinstance(of, float):
        value.double_value = of
    elif isinstance(of, tuple | list):
        for one in of:
            put(value.array_value.values.add(), one)
    else:
        raise TypeError(f"no OTLP value: {type(of).__name__}")


def describe(what: Resource | Span | HistogramDataPoint, of: Mapping[str, Any]) -> None:
    """Add attributes; ``None`` and empty tuples are left out.

    They are created in place: passing a message to another's constructor copies it, which takes four times as long.
    """
    add = what.attributes.add
    for key, one in of.items():
        if one is not None and one != ():
            put(add(key=key).value, one)


def resource(of: Mapping[str, Any]) -> Resource:
    """The resource (source) of spans and metrics."""
    made = Resource()
    describe(made, of)
    return made


def add_span(
    spans: ScopeSpans,
    record: Record,
    ids: tuple[str, str | None],
    name: str,
    kind: Span.SpanKind.ValueType,
    *,
    times: tuple[int, int],
    of: Mapping[str, Any],
    error: str | None,
) -> None:
    """Add one span of a call.

    Args:
        spans: of the call; receives the new span.
        record: the call to whose trace the span belongs.
        ids: the span's and its parent's, 16 hex digits each.
        name: shown by every tool; low cardinality.
        kind: as OpenTelemetry defines it.
        times: start and end in nanoseconds since the epoch.
        of: its attributes.
        error: one word for what went wrong, or ``None``.
    """
    id_, parent = ids
    made = spans.spans.add(
        trace_id=bytes.fromhex(record.trace),
        span_id=bytes.fromhex(id_),
        parent_span_id=bytes.fromhex(parent) if parent else b"",
        trace_state=record.trace_state,
        flags=0x100 | (0x200 if parent and parent == record.parent else 0) | int(record.sampled is not False),
        name=name,
        kind=kind,
        start_time_unix_nano=times[0],
        end_time_unix_nano=max(times),
    )
    describe(made, of)
    made.status.SetInParent()
    if error:
        made.status.code, made.status.message = Status.STATUS_CODE_ERROR, error


def item(record: Record, spans: ScopeSpans) -> Item:
    """The spans of one call as an item of the outbox."""
    return Item(record.event, spans.SerializeToString())


class OtlpSender(HttpSender):
    """Sends items made by :func:`item`, under one resource."""

    resource: Resource

    def pack(self, items: Sequence[Item]) -> Sequence[Delivery]:
        """One request."""
        request = ExportTraceServiceRequest()
        of_resource = request.resource_spans.add(resource=self.resource)
        merged = of_resource.scope_spans.add(scope=SCOPE)
        merged.MergeFromString(b"".join([one.body for one in items]))
        self.choose(merged)
        if not merged.spans:
            return [Delivery(items, headers=list(_PROTOBUF))]
        return [Delivery(items, gzip.compress(request.SerializeToString(), 1), list(_PROTOBUF))]

    def choose(self, spans: ScopeSpans) -> None:
        """Remove spans that are not to be sent."""

    async def send(self, delivery: Delivery) -> Verdict:
        """One POST; none if the body is empty."""
        return await super().send(delivery) if delivery.body else ACCEPTED

    def verdict(self, _delivery: Delivery, status: int, headers: Headers, body: bytes) -> Verdict:
        """A partial rejection does not name the spans: the batch is halved until they are found."""
        judged = judge(status, headers)
        if judged.kind != "accepted" or not body:
            return judged
        try:
            said = ExportTraceServiceResponse.FromString(body)
        except DecodeError:
            return judged  # some backends answer JSON
        if not said.partial_success.rejected_spans:
            return judged
        return Verdict("refused", "rejected_spans")
