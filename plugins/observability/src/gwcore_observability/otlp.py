"""OTLP/HTTP with protobuf: spans as durable bytes, a batch as one request. Shared by ``otel`` and ``langfuse``.

An item is a serialized ``ScopeSpans`` that holds the spans of one call; a batch is their concatenation, which protobuf
defines as their merge. Ids are made of the call's id, so a span that is sent twice is one span.

Specification: OTLP 1.x, https://opentelemetry.io/docs/specs/otlp/ - a 200 may refuse some spans (``partial_success``); 429,
502, 503 and 504 are to be tried again.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from gwcore.wire.transport import Headers
from gwcore_observability.record import Record
from gwcore_observability.sink import Delivery, HttpSender, Verdict, judge
from gwcore_observability.spill import Item

SERVER, CLIENT, INTERNAL = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_INTERNAL
SCOPE = InstrumentationScope(name="gwcore")
_PROTOBUF: Headers = [(b"content-type", b"application/x-protobuf"), (b"content-encoding", b"gzip")]


def value(of: Any) -> AnyValue:
    """A Python value as OTLP's. Raises ``TypeError`` for what has no place there."""
    match of:
        case str():
            return AnyValue(string_value=of)
        case bool():
            return AnyValue(bool_value=of)
        case int():
            return AnyValue(int_value=of)
        case float():
            return AnyValue(double_value=of)
        case tuple() | list():
            return AnyValue(array_value=ArrayValue(values=[value(one) for one in of]))
    raise TypeError(f"no OTLP value: {type(of).__name__}")


def attributes(of: Mapping[str, Any]) -> list[KeyValue]:
    """Attributes; those that are ``None`` or empty are left out."""
    return [KeyValue(key=key, value=value(one)) for key, one in of.items() if one is not None and one != ()]


def span(
    record: Record,
    ids: tuple[str, str | None],
    name: str,
    kind: Span.SpanKind.ValueType,
    times: tuple[int, int],
    *,
    of: Mapping[str, Any],
    error: str | None,
) -> Span:
    """One span of a call.

    Args:
        record: whose trace it belongs to.
        ids: the span's and its parent's, 16 hex digits each.
        name: shown by every tool; of few different values.
        kind: as OpenTelemetry has it.
        times: start and end in nanoseconds since the epoch.
        of: its attributes.
        error: one word for what went wrong, or ``None``.
    """
    id_, parent = ids
    status = Status(code=Status.STATUS_CODE_ERROR, message=error) if error else Status()
    return Span(
        trace_id=bytes.fromhex(record.trace),
        span_id=bytes.fromhex(id_),
        parent_span_id=bytes.fromhex(parent) if parent else b"",
        flags=0x100 | (0x200 if parent and parent == record.parent else 0) | int(record.sampled is not False),
        name=name,
        kind=kind,
        start_time_unix_nano=times[0],
        end_time_unix_nano=max(times),
        attributes=attributes(of),
        status=status,
    )


def item(record: Record, spans: Iterable[Span]) -> Item:
    """The spans of one call as an item of the outbox."""
    return Item(record.event, ScopeSpans(spans=spans).SerializeToString())


class OtlpSender(HttpSender):
    """Sends items made by :func:`item`, under one resource."""

    resource: Resource

    def pack(self, items: Sequence[Item]) -> Sequence[Delivery]:
        """One request."""
        merged = ScopeSpans.FromString(b"".join([one.body for one in items]))
        merged.scope.CopyFrom(SCOPE)
        request = ExportTraceServiceRequest(
            resource_spans=[ResourceSpans(resource=self.resource, scope_spans=[merged])]
        )
        return [Delivery(items, gzip.compress(request.SerializeToString(), 1), list(_PROTOBUF))]

    def verdict(self, _delivery: Delivery, status: int, headers: Headers, body: bytes) -> Verdict:
        """A refusal of some does not say which: halves of the batch tell, down to the single call."""
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
