"""Base classes of the dialects: reading the model name, classifying a stream's first frames, errors in a stream."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import orjson

from gwcore.codec import UpstreamCodec
from gwcore.dialect import Document, InBandError, Meter, ModelInfo, Opening, Returned, Route
from gwcore.errors import MISSHAPEN, BadRequest, GatewayError
from gwcore.knobs import Knobs
from gwcore.lists import UpstreamListCodec
from gwcore.wire.sse import scan

OPENING_CAP = 64 * 1024

# type or code of an error inside a 200 stream → the status it should have had
_STATUS_OF = {
    "overloaded_error": 529,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "invalid_request_error": 400,
    "invalid_prompt": 400,
    "context_length_exceeded": 400,
    "request_too_large": 413,
    "timeout_error": 504,
    "api_error": 500,
    "server_error": 500,
}


def status_of(error: Mapping[str, Any]) -> int:
    """The HTTP status that an in-band error should have had; 502 if it does not say."""
    for key in ("code", "status", "http_status", "status_code", "type"):
        value = error.get(key)
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
        if isinstance(value, str) and value in _STATUS_OF:
            return _STATUS_OF[value]
    return 502


class BaseDialect:
    """Defaults of all dialects; each overrides what differs."""

    name = ""
    routes: Sequence[Route] = ()
    unique: frozenset[str] = frozenset(
        {"model", "stream", "max_tokens", "n", "tools", "service_tier", "container", "requests"}
    )
    forward: tuple[str, ...] = ()
    keepalive = b": ping\n\n"
    comments = True
    chat: UpstreamCodec | None = None
    lists: Mapping[str, UpstreamListCodec] = MappingProxyType({})
    end_mark: re.Pattern[bytes]
    last_mark = re.compile(rb"(?!)")  # of the last event; matches nothing by default
    fail_mark = re.compile(rb'^data: ?\{"error"\s*:\s*\{|"finish_reason"\s*:\s*"error"', re.MULTILINE)

    def shape(self, _document: Document) -> str | None:
        """``None``: its own shape."""
        return None

    def model_of(self, route: Route, document: Document | None, params: Mapping[str, str]) -> str | None:
        """The model in the body or the path; raises ``BadRequest`` if it is missing, not a string or too long."""
        model = params.get("model") if route.model == "path" else (document or {}).get("model")
        if not isinstance(model, str) or not model:
            raise BadRequest("model is missing: name the model as a string")
        if len(model) > 500:
            raise BadRequest("model is longer than 500 characters")
        return model

    def knobs(self, _operation: str, _document: Document, _model: str) -> Knobs:
        """No knobs by default."""
        return {}

    def demand_usage(self, _operation: str, raw: bytes, _document: Document) -> bytes:
        """``raw`` unchanged: this API reports usage without being asked."""
        return raw

    def returned(self, _raw: bytes, _document: Document, _model: str) -> Returned | None:
        """``None``: nothing to remove."""
        return None

    def opening(self, _operation: str, buffer: bytes) -> Opening:
        """``wait`` for frames without content, ``go`` at the first content; an error before it gets its status."""
        if len(buffer) > OPENING_CAP:
            return "go"
        for frame in scan(buffer):
            if frame.comment or not frame.data or frame.data == b"[DONE]":
                continue
            try:
                document = orjson.loads(frame.data)
            except orjson.JSONDecodeError:
                return "go"
            if not isinstance(document, dict):
                return "go"
            try:
                verdict = self.judge(document)
            except MISSHAPEN:
                return "go"  # unknown shape: do not judge it
            if verdict != "wait":
                return verdict
        return "wait"

    def judge(self, document: dict[str, Any]) -> Opening:
        """Classify one frame's document."""
        error = document.get("error")
        if isinstance(error, dict):
            return InBandError(status_of(error), orjson.dumps({"error": error}))
        if isinstance(error, str) and error:
            return InBandError(status_of(document), orjson.dumps(document))
        return "go"

    def void(self, document: dict[str, Any]) -> bool:
        """Whether a complete chat answer has neither content nor reason. It is parsed only if it looks :meth:`bare`."""
        try:
            return self.chat is not None and self.bare(document) and self.chat.read_reply(document).void
        except (GatewayError, *MISSHAPEN):
            return False  # unknown shape: do not judge it

    def bare(self, _document: dict[str, Any]) -> bool:
        """Whether an answer seems to have neither text nor tool calls. A cheap check; only ``False`` is certain."""
        return False

    def ended(self, _operation: str, tail: bytes) -> bool:
        """Whether the last bytes mark the answer as complete."""
        search = self.end_mark.search  # the mark is nearly always at the very end
        return search(tail, max(0, len(tail) - 64)) is not None or search(tail) is not None

    def closed(self, _operation: str, tail: bytes) -> bool:
        """Whether the last bytes are the complete last event."""
        return tail.endswith((b"\n\n", b"\r\n\r\n")) and self.last_mark.search(tail) is not None

    def failed(self, _operation: str, tail: bytes) -> bool:
        """Whether the last bytes contain an error event."""
        # every mark contains one of these words, and finding them is far faster than matching the mark
        return (tail.find(b"error") >= 0 or tail.find(b"failed") >= 0) and self.fail_mark.search(tail) is not None

    def meter(self, _operation: str, _document: Document | None, *, stream: bool) -> Meter | None:  # noqa: ARG002
        """No usage by default."""
        return None

    def error_event(self, error: GatewayError, request_id: str, _operation: str, _head: bytes = b"") -> bytes:
        """The error body as one data frame."""
        return b"data: " + self.error_body(error, request_id) + b"\n\n"

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """Overridden by each dialect."""
        raise NotImplementedError


class UpstreamDialect(BaseDialect):
    """A dialect that no client speaks: it has no routes, and errors are written in the client's dialect."""

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """A minimal body, not normally used."""
        return orjson.dumps({"message": error.message, "request_id": request_id})

    def models_body(
        self, _models: Sequence[ModelInfo], _wanted: str | None, _operation: str = "models"
    ) -> bytes | None:
        """No list."""
        return None
