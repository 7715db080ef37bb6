"""Complete ``anthropic.messages`` replies and stop reasons, in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gwcore.chat import (
    ChatReply,
    Choice,
    Citation,
    Finish,
    FinishReason,
    Media,
    Opaque,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)
from gwcore.codec import Complaint, Crossing
from gwcore.errors import Malformed
from gwcore.usage import Usage
from gwcore_providers.anthropic.read import DIALECT, content
from gwcore_providers.crossing import complaint_of, fit_id, parsed, rest, shown_id, unsaid, with_thought
from gwcore_providers.thinking import block_of
from gwcore_providers.usage import anthropic_usage

_REASONS: Mapping[str, FinishReason] = {
    "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls",
    "pause_turn": "pause", "refusal": "refusal", "model_context_window_exceeded": "context_window",
}  # fmt: skip
# an incomplete answer must never get ``end_turn``
_WORDS: Mapping[FinishReason, str] = {
    "stop": "end_turn", "length": "max_tokens", "context_window": "model_context_window_exceeded",
    "tool_calls": "tool_use", "content_filter": "refusal", "refusal": "refusal", "pause": "pause_turn",
    "error": "max_tokens", "unknown": "max_tokens",
}  # fmt: skip
_READ = frozenset({"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"})
_ID = re.compile(r"[a-zA-Z0-9_-]+")


def finish_of(word: Any, sequence: Any) -> Finish:
    """Reads ``stop_reason`` and ``stop_sequence``."""
    reason = _REASONS.get(word, "unknown") if isinstance(word, str) else "unknown"
    return Finish(reason, word if isinstance(word, str) else None, sequence if isinstance(sequence, str) else None)


def word_of(finish: Finish) -> str:
    """Returns the ``stop_reason``."""
    return "stop_sequence" if finish.reason == "stop" and finish.sequence is not None else _WORDS[finish.reason]


def usage_document(usage: Usage) -> dict[str, Any]:
    """Usage as this dialect counts it: input excludes cached tokens, output includes reasoning."""
    return {
        "input_tokens": usage.total_in - usage.cached - usage.cache_write,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.total_out,
        "service_tier": usage.service_tier if usage.service_tier in {"priority", "batch"} else "standard",
    }


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_reply(document: Any) -> ChatReply:
    """See :meth:`gwcore.codec.ChatCodec.read_reply`."""
    if not isinstance(document, dict) or not isinstance(document.get("content"), list):
        raise Malformed("the upstream's answer has no content")
    usage = document.get("usage")
    usage = usage if isinstance(usage, dict) else None
    finish = finish_of(document.get("stop_reason"), document.get("stop_sequence"))
    return ChatReply(
        DIALECT,
        str(document.get("id") or ""),
        str(document.get("model") or ""),
        [Choice([*content(document["content"], "content"), *beside(document)], finish)],
        anthropic_usage(usage) if usage else None,
        service_tier=usage.get("service_tier") if usage else None,
        extra=rest(document, *_READ),
    )


def beside(document: dict[str, Any]) -> list[Opaque]:
    """Returns the fields of a message, or of its last delta, that have no equivalent in other dialects."""
    return unsaid(document, _READ)


def read_error(_status: int, body: bytes) -> Complaint:
    """See :meth:`gwcore.codec.ChatCodec.read_error`."""
    return complaint_of(body)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_reply(reply: ChatReply, crossing: Crossing) -> dict[str, Any]:
    """See :meth:`gwcore.codec.ChatCodec.write_reply`."""
    if len(reply.choices) > 1:
        crossing.drop("choices after the first")
    choice = reply.choices[0] if reply.choices else Choice([], Finish("unknown"))
    if choice.logprobs:
        crossing.drop("logprobs")
    blocks = [block for part in choice.parts for block in written(part, crossing)]
    return {
        "id": message_id(reply.id),
        "type": "message",
        "role": "assistant",
        "model": crossing.asked,
        "content": blocks,
        "stop_reason": word_of(choice.finish),
        "stop_sequence": choice.finish.sequence,
        "usage": usage_document(reply.usage or Usage()),
    }


def message_id(id: str) -> str:  # noqa: A002 - the field's standard name
    """Returns the id with the prefix that clients of this API expect."""
    return id if id.startswith("msg_") else f"msg_{fit_id(id, _ID, 60) if id else '0'}"


def call_id(call: ToolCall) -> str:
    """Returns a tool call's id in this API's alphabet, followed by the signature of its thought."""
    return with_thought(ToolCall(shown_id(call.id or call.name, _ID), call.name, signature=call.signature))


def written(part: Part, crossing: Crossing) -> list[dict[str, Any]]:
    """Returns the blocks of one part; a part that this dialect cannot express is dropped, and reported as such."""
    if isinstance(part, Text):
        if not part.text:
            return []
        out: dict[str, Any] = {"type": "text", "text": part.text}
        if part.citations:
            out["citations"] = [citation(one) for one in part.citations]
        return [out]
    if isinstance(part, Reasoning):
        return [block_of(part)]
    if isinstance(part, ToolCall):
        given = {"input": part.arguments} if part.custom else parsed(part.arguments)
        return [{"type": "tool_use", "id": call_id(part), "name": part.name, "input": given}]
    if isinstance(part, Opaque) and part.dialect == DIALECT:
        return [part.doc]
    crossing.drop(part.kind if isinstance(part, Opaque | Media) else ToolResult.__name__)
    return []


def citation(cited: Citation) -> dict[str, Any]:
    """Returns a citation object of this dialect."""
    if cited.dialect == DIALECT and cited.doc:
        return dict(cited.doc)
    return {
        "type": "web_search_result_location",
        "cited_text": cited.quote or "",
        "encrypted_index": "",
        "title": cited.title,
        "url": cited.url or "",
    }
