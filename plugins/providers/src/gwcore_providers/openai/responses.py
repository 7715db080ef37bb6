"""``openai.responses``: the Responses API. Source: OpenAI's API reference and OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gwcore.dialect import Document, InBandError, Meter, ModelInfo, Opening, Returned, Route
from gwcore.errors import GatewayError
from gwcore.knobs import Knobs
from gwcore.usage import Usage
from gwcore.wire.sse import encode
from gwcore_providers import returned
from gwcore_providers.base import BaseDialect, status_of
from gwcore_providers.meter import FINAL, Facts, JsonMeter, StreamMeter
from gwcore_providers.openai.chat import error_body, everywhere, models_body
from gwcore_providers.openai.models import responses_knobs
from gwcore_providers.openai.responses_codec import ResponsesCodec
from gwcore_providers.usage import openai_usage, output_fees

_LIFECYCLE = frozenset({"response.created", "response.in_progress", "response.queued", "keepalive"})


def _gather(document: Mapping[str, Any], facts: Facts) -> None:
    response = document.get("response")
    response = response if isinstance(response, dict) else document
    if isinstance(response.get("usage"), dict) and response.get("status") not in _UNDER_WAY:
        facts["usage"] = response["usage"]
        facts["tier"] = response.get("service_tier")
        facts["output"] = response.get("output")
        if response.get("status") in _OVER:
            facts[FINAL] = True


def _total(facts: Facts) -> Usage | None:
    usage = facts.get("usage")
    if usage is None:
        return None
    found = openai_usage(usage, facts.get("tier"))
    if not found.fees:
        found.fees = output_fees(facts.get("output")) or found.fees
    return found


_OVER = frozenset({"completed", "incomplete", "failed"})
_UNDER_WAY = frozenset({"queued", "in_progress"})
"""Status of an unfinished answer (``background``): its final usage is not known yet."""
_ID = re.compile(rb'"id"\s*:\s*"(resp[\w-]*)"')


class OpenAIResponses(BaseDialect):
    """Stateful at vendors that store responses; all routes are forwarded."""

    name = "openai.responses"
    chat = ResponsesCodec()
    unique = frozenset({"model", "stream", "input", "tools", "max_output_tokens", "service_tier"})
    forward = ("openai-", "x-stainless-", "x-codex-", "session_id", "conversation_id", "originator")
    # the last event's type may be many kilobytes before its end; only the last event contains usage
    end_mark = last_mark = re.compile(
        rb'response\.(?:completed|incomplete|failed)|\[DONE\]|"type"\s*:\s*"error"|"total_tokens"\s*:\s*\d'
    )
    fail_mark = re.compile(rb'^data: ?\{[^\n]{0,200}?"type"\s*:\s*"(?:response\.failed|error)"', re.MULTILINE)
    routes = everywhere(
        Route("POST", "/responses", "chat", stream="body"),
        Route("POST", "/responses/compact", "compact"),
        Route("POST", "/responses/input_tokens", "count_tokens"),
        Route("GET", "/responses/{id}", "responses", model="none", body="none"),
        Route("DELETE", "/responses/{id}", "responses", model="none", body="none"),
        Route("POST", "/responses/{id}/cancel", "response_cancel", model="none", body="none"),
        Route("GET", "/responses/{id}/input_items", "response_items", model="none", body="none"),
    )

    def returned(self, raw: bytes, document: Document, _model: str) -> Returned | None:
        """See :mod:`gwcore_providers.returned`."""
        return returned.responses(raw, document)

    def knobs(self, operation: str, _document: Document, model: str) -> Knobs:
        """Top-level members, except ``text``."""
        if operation not in {"chat", "compact"}:
            return {}
        return responses_knobs(model)

    def meter(self, operation: str, _document: Document | None, *, stream: bool) -> Meter | None:
        """Usage is in the response object, which the last event of a stream contains."""
        if operation not in {"chat", "compact"}:
            return None
        return (
            StreamMeter(_gather, _total, "usage")
            if stream
            else JsonMeter(_gather, _total, judge=self.void if operation == "chat" else None)
        )

    def judge(self, document: dict[str, Any]) -> Opening:
        """Before any output, ``response.failed`` is an error. A complete response that failed is an answer with an id."""
        kind = document.get("type")
        if document.get("object") == "response":
            return "go"
        if kind in _LIFECYCLE or _bare(document):
            return "wait"
        if kind == "response.completed" and self.bare(document["response"]):
            return "wait"
        if kind == "response.failed":
            response = document.get("response")
            error = response.get("error") if isinstance(response, dict) else None
            error = error if isinstance(error, dict) else {}
            return InBandError(status_of(error), orjson.dumps({"error": error}))
        if kind == "error":
            error = document.get("error") if isinstance(document.get("error"), dict) else document
            assert isinstance(error, dict)
            return InBandError(status_of(error), orjson.dumps({"error": error}))
        return super().judge(document)

    def bare(self, document: dict[str, Any]) -> bool:
        """Whether all items are messages and thoughts without text."""
        return all(map(_mute, document["output"]))

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """OpenAI's error object."""
        return error_body(error, request_id)

    def error_event(self, error: GatewayError, request_id: str, _operation: str, head: bytes = b"") -> bytes:
        """``response.failed``, the only failure event every client of this API knows, with the begun response's id."""
        begun = _ID.search(head)
        response: dict[str, Any] = {
            "id": begun.group(1).decode() if begun else f"resp_{request_id}",
            "object": "response",
            "created_at": 0,
            "status": "failed",
            "error": {"code": "server_error", "message": error.message},
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": "",
            "output": [],
            "parallel_tool_calls": True,
            "temperature": None,
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
        }
        # the gateway does not count the events it relays; this number is above theirs, so the order holds
        event = {"type": "response.failed", "sequence_number": 1_000_000_000, "response": response}
        return encode(orjson.dumps(event), "response.failed")

    def models_body(self, models: Sequence[ModelInfo], wanted: str | None, operation: str = "models") -> bytes | None:
        """The same list as in ``openai.chat``."""
        return models_body(models, wanted, operation)


def _bare(document: dict[str, Any]) -> bool:
    """Whether an event begins or ends a message or thought that has no text."""
    kind = document.get("type")
    if kind == "response.output_text.done":
        return not document.get("text")
    if kind in {"response.output_item.added", "response.output_item.done"}:
        return _mute(document.get("item"))
    return kind in {"response.content_part.added", "response.content_part.done"} and _mute(document.get("part"))


def _mute(item: Any) -> bool:
    """Whether an item, or a part of one, is a message or a thought without text."""
    if not isinstance(item, dict) or item.get("type") not in {"message", "reasoning", "output_text"}:
        return False
    if item.get("summary") or item.get("encrypted_content") or item.get("text"):
        return False
    return all(map(_mute, item.get("content") or ()))
