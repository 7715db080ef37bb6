"""``anthropic.messages``. Source: Anthropic's API reference and OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from gwcore.dialect import Document, InBandError, Meter, ModelInfo, Opening, Returned, Route
from gwcore.errors import GatewayError, Refused, Untranslatable
from gwcore.knobs import Knobs
from gwcore.usage import Usage
from gwcore.wire.sse import encode
from gwcore_providers import returned
from gwcore_providers.anthropic.codec import MessagesCodec
from gwcore_providers.base import BaseDialect, status_of
from gwcore_providers.crossing import OVERFLOW
from gwcore_providers.listing import limits
from gwcore_providers.meter import FINAL, HEARD, Facts, JsonMeter, StreamMeter
from gwcore_providers.usage import anthropic_usage

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def _gather(document: Mapping[str, Any], facts: Facts) -> None:
    message = document.get("message")
    usage = message.get("usage") if isinstance(message, dict) else document.get("usage")
    if isinstance(usage, dict):
        # message_delta is cumulative, and omits counts that have not changed since message_start
        facts.update((key, value) for key, value in usage.items() if value is not None)
        if document.get("type") == "message_start":
            facts[HEARD] = True
        delta = document.get("delta")
        if isinstance(delta, dict) and delta.get("stop_reason"):
            facts[FINAL] = True


def _total(facts: Facts) -> Usage | None:
    return anthropic_usage(facts) if facts else None


_KNOBS: Knobs = {
    "max_tokens": (("max_tokens",),),
    "stop": (("stop_sequences",),),
    "user": (("metadata", "user_id"),),
    **{name: ((name,),) for name in ("temperature", "top_p", "top_k", "service_tier")},
}
# thinking excludes sampling parameters: https://docs.claude.com/en/docs/build-with-claude/extended-thinking
_KNOBS_THINKING: Knobs = {
    name: places for name, places in _KNOBS.items() if name not in {"temperature", "top_p", "top_k"}
}
_KNOBS_COMPLETIONS: Knobs = {**_KNOBS, "max_tokens": (("max_tokens_to_sample",),)}
_EMPTY = frozenset({"message_start", "ping", "content_block_stop", "message_stop"})
_VERSION = "anthropic-version"
_TOO_LONG = "prompt is too long"


class AnthropicMessages(BaseDialect):
    """Messages, token counts, message batches, files, and the old text completions."""

    name = "anthropic.messages"
    chat = MessagesCodec()
    forward = ("anthropic-", "x-stainless-", "x-claude-code-", "x-app")
    keepalive = encode(b'{"type": "ping"}', "ping")
    end_mark = re.compile(rb'message_stop|event: ?error|"stop_reason"\s*:\s*"|\[DONE\]')
    last_mark = re.compile(rb'^event: ?(?:message_stop|error)|"type"\s*:\s*"message_stop"', re.MULTILINE)
    fail_mark = re.compile(rb"^event: ?error", re.MULTILINE)
    routes = (
        Route("POST", "/messages", "chat", stream="body"),
        Route("POST", "/messages/count_tokens", "count_tokens"),
        Route("POST", "/messages/batches", "batches", model="none"),
        Route("GET", "/messages/batches", "batches", model="none", body="none"),
        Route("GET", "/messages/batches/{id}", "batches", model="none", body="none"),
        Route("DELETE", "/messages/batches/{id}", "batches", model="none", body="none"),
        Route("POST", "/messages/batches/{id}/cancel", "batch_cancel", model="none", body="none"),
        Route("GET", "/messages/batches/{id}/results", "batch_results", model="none", body="none"),
        Route("POST", "/complete", "completions", stream="body"),
        # OpenAI's files have the same addresses
        Route("GET", "/files", "files", model="none", body="none", header=_VERSION),
        Route("POST", "/files", "files", model="none", body="raw", header=_VERSION),
        Route("GET", "/files/{id}", "files", model="none", body="none", header=_VERSION),
        Route("DELETE", "/files/{id}", "files", model="none", body="none", header=_VERSION),
        Route("GET", "/files/{id}/content", "file_content", model="none", body="none", header=_VERSION),
        Route("GET", "/models", "models", local=True, model="none", body="none", header=_VERSION),
        Route("GET", "/models/{model}", "models", local=True, model="none", body="none", header=_VERSION),
    )

    def returned(self, _raw: bytes, document: Document, _model: str) -> Returned | None:
        """See :mod:`gwcore_providers.returned`."""
        return returned.messages(document)

    def knobs(self, operation: str, document: Document, _model: str) -> Knobs:
        """Top-level keys; no sampling parameters together with thinking."""
        if operation == "chat":
            thinking = document.get("thinking")
            thinks = isinstance(thinking, dict) and thinking.get("type") != "disabled"
            return _KNOBS_THINKING if thinks else _KNOBS
        return _KNOBS_COMPLETIONS if operation == "completions" else {}

    def meter(self, operation: str, _document: Document | None, *, stream: bool) -> Meter | None:
        """``message_start`` has the input tokens, ``message_delta`` the rest."""
        if operation != "chat":
            return None
        return StreamMeter(_gather, _total, "usage") if stream else JsonMeter(_gather, _total, judge=self.void)

    def judge(self, document: dict[str, Any]) -> Opening:
        """``message_start``, ``ping``, the start of an empty block and a normal end are not content."""
        kind = document.get("type")
        if kind in _EMPTY or (kind == "content_block_start" and _bare(document)):
            return "wait"
        if kind == "message_delta" and document["delta"].get("stop_reason") in {None, "end_turn"}:
            return "wait"
        if kind == "error":
            error = document.get("error")
            return InBandError(status_of(error if isinstance(error, dict) else {}), orjson.dumps(document))
        return "go"

    def bare(self, document: dict[str, Any]) -> bool:
        """Whether all blocks are empty text blocks; a block of any other type counts as content."""
        return all(block["type"] == "text" and not block["text"] for block in document["content"])

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """Anthropic's error object."""
        default = "invalid_request_error" if error.status < 500 else "api_error"
        shown: dict[str, Any] = {
            "type": _TYPES.get(error.status, default),
            "message": error.message,
            "code": error.code,
        }
        if isinstance(error, Untranslatable) and error.what == "thread":
            # the tool runner of Anthropic's SDKs keeps its history at the vendor; on this code it sends all of it
            shown["details"] = {"error_code": "thread_unsupported_request"}
        if isinstance(error, Refused):
            shown["code"] = error.said.get("code") or error.said.get("type") or error.code
            if shown["code"] == OVERFLOW and _TOO_LONG not in error.message:
                # clients of this API recognize by these words that they must compact
                shown |= {"type": "invalid_request_error", "message": f"{_TOO_LONG}: {error.message}"}
        return orjson.dumps({"type": "error", "error": shown, "request_id": request_id})

    def error_event(self, error: GatewayError, request_id: str, _operation: str, _head: bytes = b"") -> bytes:
        """``event: error``."""
        return encode(self.error_body(error, request_id), "error")

    def models_body(self, models: Sequence[ModelInfo], wanted: str | None, _operation: str = "models") -> bytes | None:
        """``GET /v1/models`` with ``anthropic-version``."""
        shown = [
            {
                "type": "model",
                "id": m.id,
                "display_name": m.id,
                "created_at": datetime.fromtimestamp(m.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                **(limits(m.card, "max_input_tokens", "max_tokens")),
            }
            for m in models
        ]
        if wanted is not None:
            return next((orjson.dumps(model) for model in shown if model["id"] == wanted), None)
        ends = {"first_id": shown[0]["id"] if shown else None, "last_id": shown[-1]["id"] if shown else None}
        return orjson.dumps({"data": shown, "has_more": False, **ends})


def _bare(document: dict[str, Any]) -> bool:
    """Whether a text or thinking block starts that is still empty."""
    block = document.get("content_block")
    if not isinstance(block, dict) or block.get("type") not in {"text", "thinking"}:
        return False
    return not (block.get("text") or block.get("thinking"))
