"""The response object of ``openai.responses``, and its output items."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from gwcore.chat import Citation, Finish, FinishReason, Media, Opaque, Reasoning, Text, ToolCall
from gwcore.codec import Crossing
from gwcore.usage import Usage
from gwcore_providers.crossing import seal, with_thought
from gwcore_providers.openai.responses_read import DIALECT
from gwcore_providers.openai.responses_write import kind_of
from gwcore_providers.usage import openai_usage, output_fees

Document = dict[str, Any]

# ── why an answer ended ──────────────────────────────────────────────────────────────────────────────────────────────

_INCOMPLETE: Mapping[str, FinishReason] = {"max_output_tokens": "length", "content_filter": "content_filter"}
# finish reason → status and, if incomplete, its reason, of which this dialect has only two
_STATUS: Mapping[FinishReason, tuple[str, str | None]] = {
    "stop": ("completed", None), "tool_calls": ("completed", None), "refusal": ("completed", None),
    "length": ("incomplete", "max_output_tokens"), "context_window": ("incomplete", "max_output_tokens"),
    "content_filter": ("incomplete", "content_filter"), "pause": ("incomplete", None), "unknown": ("incomplete", None),
    "error": ("failed", None),
}  # fmt: skip


def finish_of(response: Mapping[str, Any], *, calls: bool, refused: bool) -> Finish:
    """Why an answer ended, from its status and content."""
    status = response.get("status")
    if status == "completed":
        return Finish("tool_calls" if calls else "refusal" if refused else "stop", "completed")
    if status == "incomplete":
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        return Finish(_INCOMPLETE.get(str(reason), "unknown"), str(reason or status))
    return Finish("error" if status == "failed" else "unknown", str(status) if status else None)


def ended(finish: Finish, *, refused: bool) -> Document:
    """``status`` and the keys that go with it. ``refused``: the output contains the text of a refusal."""
    status, reason = _STATUS[finish.reason]
    if finish.reason == "refusal" and not refused:  # the output does not show it
        status, reason = "incomplete", "content_filter"
    if status == "completed":
        return {"status": status, "error": None, "incomplete_details": None}
    if status == "failed":
        return failed("server_error", "the model's answer ended in an error")
    details = {"reason": reason} if reason is not None else {}
    if finish.native not in {None, reason}:
        details["native_reason"] = finish.native  # show the vendor's own reason
    return {"status": status, "error": None, "incomplete_details": details}


def failed(code: str, message: str) -> Document:
    """``status`` and related keys of an answer that ended with an error."""
    return {"status": "failed", "error": {"code": code, "message": message}, "incomplete_details": None}


# ── usage ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def usage_of(response: Mapping[str, Any], output: Any = None) -> Usage | None:
    """The usage of a response object; calls of server tools are counted in its output, else in ``output``."""
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return None
    found = openai_usage(usage, response.get("service_tier"))
    if not found.fees:
        found.fees = output_fees(response.get("output") or output) or found.fees
    return found


def usage_document(usage: Usage) -> Document:
    """Usage in this dialect's form: the input includes cached tokens, the output includes reasoning."""
    return {
        "input_tokens": usage.total_in,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.total_out,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }


# ── the object ───────────────────────────────────────────────────────────────────────────────────────────────────────

_ECHO: Mapping[str, Any] = {
    "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "metadata": {}, "parallel_tool_calls": True,
    "previous_response_id": None, "prompt_cache_key": None, "prompt_cache_retention": None, "safety_identifier": None,
    "temperature": None, "tool_choice": "auto", "top_logprobs": 0, "top_p": None, "truncation": "disabled", "user": None,
}  # fmt: skip


TIERS = frozenset({"auto", "default", "flex", "priority", "scale", "fast", "ultrafast"})


def response(id: str, created: int | None, crossing: Crossing, service_tier: str | None) -> Document:  # noqa: A002
    """The response object at its start, with what the API repeats from the request. Nothing is stored."""
    asked = crossing.request
    text = asked.get("text")
    reasoning = asked.get("reasoning")
    out: Document = {
        "id": id if id.startswith("resp_") else f"resp_{id or 'gw'}",
        "object": "response",
        "created_at": created or int(time.time()),
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": crossing.asked,
        "output": [],
    }
    for key, usual in _ECHO.items():
        value = asked.get(key)
        out[key] = usual if value is None else value
    out["reasoning"] = {"effort": None, "summary": None, **(reasoning if isinstance(reasoning, dict) else {})}
    out["text"] = {"format": {"type": "text"}, **(text if isinstance(text, dict) else {})}
    out["tools"] = [_shown(tool) for tool in asked.get("tools") or ()]
    out["store"] = False
    out["service_tier"] = service_tier if service_tier in TIERS else None
    out["usage"] = None
    return out


def _shown(tool: Document) -> Document:
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}


_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,40}")


def stem_of(id: str) -> str:  # noqa: A002
    """The common stem of a response's item ids."""
    stem = id.removeprefix("resp_")
    return stem if _PLAIN.fullmatch(stem) else hashlib.sha256(stem.encode("utf-8", "surrogatepass")).hexdigest()[:32]


# ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def annotation(citation: Citation, length: int, crossing: Crossing) -> Document | None:
    """A citation in this dialect's form; dropped, ``None``, if it has no URL."""
    if citation.dialect == DIALECT and citation.doc:
        return dict(citation.doc)
    if citation.url is None:
        crossing.drop("citations")
        return None
    return {
        "type": "url_citation",
        "url": citation.url,
        "title": citation.title or citation.url,
        "start_index": citation.start or 0,
        "end_index": length if citation.end is None else citation.end,
    }


def shown_citations(cited: Iterable[Citation], length: int, crossing: Crossing) -> list[Document]:
    """All citations that this dialect can express."""
    return [shown for one in cited if (shown := annotation(one, length, crossing)) is not None]


def text_piece(part: Text, logprobs: Any, crossing: Crossing) -> Document:
    """One content part of a message."""
    if part.refusal:
        return {"type": "refusal", "refusal": part.text}
    cited = shown_citations(part.citations, len(part.text), crossing) if part.citations else []
    return {"type": "output_text", "annotations": cited, "logprobs": logprobs or [], "text": part.text}


def message(id: str, content: list[Document], status: str = "completed") -> Document:  # noqa: A002
    """A message item."""
    return {"id": id, "type": "message", "status": status, "role": "assistant", "content": content}


def call_item(id: str, call: ToolCall, given: str, status: str) -> Document:  # noqa: A002
    """A tool call's item. ``given``: its arguments or free text."""
    kind = kind_of(call)
    out = {"id": id, "type": kind, "call_id": with_thought(call), "name": call.name}
    out["input" if kind == "custom_tool_call" else "arguments"] = given
    if kind == "function_call":
        out["status"] = status
    return {**out, **call.extra, "status": status} if call.dialect == DIALECT and call.extra else out


def reasoning_item(id: str, text: str, part: Reasoning | None) -> Document:  # noqa: A002
    """A thought for the client to show and to send back unchanged: sealed, including its vendor's signature."""
    summary = [{"type": "summary_text", "text": text}] if text else []
    sealed = seal(replace(part, text=text) if part is not None else Reasoning(text))
    return {"id": id, "type": "reasoning", "summary": summary, "encrypted_content": sealed}


def whole_item(id: str, part: Media | Opaque, crossing: Crossing) -> Document | None:  # noqa: A002
    """The item of a part that comes in one piece; dropped by name, ``None``, if this dialect has none for it."""
    if isinstance(part, Opaque):
        if part.dialect == DIALECT:
            return dict(part.doc)
    elif part.kind == "image":
        made = {"type": "image_generation_call", "id": id, "status": "completed", "result": part.data or part.url}
        return {**made, **part.extra} if "id" in part.extra else made
    crossing.drop(part.kind)
    return None
