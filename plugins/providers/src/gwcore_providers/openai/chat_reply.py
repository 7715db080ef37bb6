"""Complete ``openai.chat`` replies, in both directions; finish reasons."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
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
)
from gwcore.codec import Complaint, Crossing
from gwcore.errors import Malformed
from gwcore.usage import Usage
from gwcore_providers.crossing import complaint_of, data_url, from_url, rest, seal, unsaid, with_thought, words
from gwcore_providers.openai.chat_read import DIALECT, call, content, listed_thoughts
from gwcore_providers.openai.chat_write import detail
from gwcore_providers.thinking import block_of, wants_blocks
from gwcore_providers.usage import openai_usage

# the vendors' finish reasons → ours
_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop", "eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop", "complete": "stop",
    "length": "length", "max_tokens": "length", "model_length": "context_window",
    "tool_calls": "tool_calls", "function_call": "tool_calls", "tool_use": "tool_calls",
    "content_filter": "content_filter", "safety": "content_filter", "refusal": "refusal",
    "error": "error", "insufficient_system_resource": "error",
}  # fmt: skip
# our finish reason → one that every client of this dialect knows. An incomplete answer never gets ``stop``.
_WORDS: Mapping[FinishReason, str] = {
    "stop": "stop", "length": "length", "context_window": "length", "tool_calls": "tool_calls",
    "content_filter": "content_filter", "refusal": "content_filter", "pause": "length", "error": "length",
    "unknown": "length",
}  # fmt: skip


def finish_of(word: Any, native: Any, *, calls: bool) -> Finish:
    """Why a choice ended. Several vendors send ``stop`` although the model called tools."""
    reason = _REASONS.get(str(word).lower(), "unknown") if word is not None else "unknown"
    if reason == "stop" and calls:
        reason = "tool_calls"
    return Finish(reason, str(native or word) if native or word else None)


def word_of(finish: Finish) -> str:
    """``finish_reason``."""
    return _WORDS[finish.reason]


def usage_of(document: Mapping[str, Any]) -> Usage | None:
    """The usage in a reply or a chunk."""
    usage = document.get("usage")
    if not isinstance(usage, dict):
        groq = document.get("x_groq")
        usage = groq.get("usage") if isinstance(groq, dict) else None
    if not isinstance(usage, dict):
        return None
    return openai_usage(usage, document.get("service_tier") or usage.get("service_tier"))


def usage_document(usage: Usage) -> dict[str, Any]:
    """Usage in this dialect's form: the prompt includes cached tokens, the completion includes reasoning."""
    prompt: dict[str, Any] = {"cached_tokens": usage.cached, "audio_tokens": usage.audio_in + usage.audio_cache_read}
    if usage.cache_write:
        prompt["cache_write_tokens"] = usage.cache_write
    return {
        "prompt_tokens": usage.total_in,
        "completion_tokens": usage.total_out,
        "total_tokens": usage.total,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning, "audio_tokens": usage.audio_out},
    }


# keys that are read, and those not about the answer itself: how it was routed and served, its timing, the account
_TOP = frozenset({
    "id", "object", "created", "model", "choices", "usage", "service_tier", "x_groq", "system_fingerprint", "provider",
    "timings", "time_info", "request_id", "copilot_usage", "cost", "generationId", "metadata", "usage_breakdown",
    "venice_parameters", "prompt_filter_results", "obfuscation", "p", "error", "detail", "nvext",
})  # fmt: skip
_CHOICE = frozenset({
    "index", "message", "delta", "finish_reason", "native_finish_reason", "logprobs", "content_filter_results",
    "content_filter_offsets", "stop_reason",
})  # fmt: skip
_MESSAGE = frozenset({
    "role", "content", "reasoning", "reasoning_content", "reasoning_details", "thinking_blocks", "annotations", "refusal", "images",
    "audio", "tool_calls", "function_call", "padding", "channel", "provider_metadata",
})  # fmt: skip
_LOGPROBS = frozenset({"content"})
_URL = "url_citation"


def beside(document: Mapping[str, Any]) -> list[Opaque]:
    """Values outside the choices of a reply or a chunk that no other dialect can express."""
    return unsaid(document, _TOP)


def beside_words(choice: Mapping[str, Any], message: Mapping[str, Any]) -> list[Opaque]:
    """Values in a choice, besides text, thoughts and calls, that no other dialect can express."""
    found = unsaid(choice, _CHOICE) + unsaid(message, _MESSAGE)
    for item in message.get("annotations") or ():
        if isinstance(item, dict) and item.get("type", _URL) != _URL:
            found.append(Opaque("", f"annotations.{item['type']}", item))
    logprobs = choice.get("logprobs")
    return found + unsaid(logprobs, _LOGPROBS, "logprobs.") if logprobs else found


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_reply(document: Any) -> ChatReply:
    """See :meth:`gwcore.codec.ChatCodec.read_reply`."""
    if not isinstance(document, dict) or not isinstance(document.get("choices"), list):
        raise Malformed("the upstream's answer has no choices")
    choices = [_choice(choice) for choice in document["choices"] if isinstance(choice, dict)]
    if choices:
        choices[0].parts += beside(document)
    return ChatReply(
        DIALECT,
        str(document.get("id") or ""),
        str(document.get("model") or ""),
        choices,
        usage_of(document),
        document.get("created"),
        document.get("service_tier"),
        rest(document, "id", "object", "created", "model", "choices", "usage", "service_tier", "x_groq"),
    )


def _choice(choice: dict[str, Any]) -> Choice:
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    parts = [*thoughts(message), *content(message.get("content"), "message")]
    said = next((part for part in parts if isinstance(part, Text)), None)
    cited = citations(message.get("annotations"))
    if cited and said is not None:
        said.citations = cited
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        parts.append(Text(message["refusal"], refusal=True))
    parts += images(message.get("images"))
    parts += spoken(message.get("audio"))
    calls = [call(one, "tool_calls") for one in message.get("tool_calls") or []]
    legacy = message.get("function_call")
    if isinstance(legacy, dict):
        name = str(legacy.get("name") or "")
        calls.append(ToolCall(name, name, str(legacy.get("arguments") or ""), extra={"legacy": True}))
    finish = finish_of(choice.get("finish_reason"), choice.get("native_finish_reason"), calls=bool(calls))
    # with a tool call or a thought, an empty string means no text in this dialect
    kept = [part for part in parts if not (isinstance(part, Text) and not part.text and not part.citations)]
    logprobs = choice.get("logprobs")
    more = beside_words(choice, message)
    return Choice([*kept, *calls, *more], finish, logprobs.get("content") if isinstance(logprobs, dict) else None)


def thoughts(message: Mapping[str, Any]) -> list[Part]:
    """The model's thoughts: from their list, preceded by the plain string if that contains no text."""
    said = message.get("reasoning_content") or message.get("reasoning")
    text = said if isinstance(said, str) else ""
    read: list[Part] = [*listed_thoughts(message)]
    told = "".join(part.text for part in read if isinstance(part, Reasoning))
    if text and not told:
        return [Reasoning(text, dialect=DIALECT), *read]
    return read


def citations(annotations: Any) -> list[Citation]:
    """The ``url_citation`` annotations."""
    if not isinstance(annotations, list):
        return []
    found = []
    for item in annotations:
        if isinstance(item, dict) and item.get("type", _URL) == _URL:
            inner = item.get("url_citation")
            inner = inner if isinstance(inner, dict) else item
            url, title, quote = (inner.get(key) for key in ("url", "title", "content"))
            start, end = inner.get("start_index"), inner.get("end_index")
            found.append(Citation(url, title, quote, start, end, DIALECT, item))
    return found


def images(items: Any) -> list[Part]:
    """Images that the model generated, in the form of OpenRouter's ``images``."""
    found: list[Part] = []
    for item in items if isinstance(items, list) else []:
        address = item.get("image_url") if isinstance(item, dict) else None
        address = address.get("url") if isinstance(address, dict) else address
        if isinstance(address, str):
            mime, data, url = from_url(address)
            found.append(Media("image", mime, data, url))
    return found


def spoken(audio: Any) -> list[Part]:
    """Speech: its transcript as text, and the sound."""
    if not isinstance(audio, dict):
        return []
    parts: list[Part] = [Text(audio["transcript"])] if isinstance(audio.get("transcript"), str) else []
    if isinstance(audio.get("data"), str):
        parts.append(Media("audio", None, audio["data"], file_id=audio.get("id"), extra=rest(audio, "data", "id")))
    return parts


def read_error(_status: int, body: bytes) -> Complaint:
    """See :meth:`gwcore.codec.ChatCodec.read_error`."""
    return complaint_of(body)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_reply(reply: ChatReply, crossing: Crossing) -> dict[str, Any]:
    """See :meth:`gwcore.codec.ChatCodec.write_reply`."""
    out: dict[str, Any] = {
        "id": reply.id or "chatcmpl",
        "object": "chat.completion",
        "created": reply.created or int(time.time()),
        "model": crossing.asked,
        "choices": [_written(choice, at, crossing) for at, choice in enumerate(reply.choices)],
    }
    if reply.usage is not None:
        out["usage"] = usage_document(reply.usage)
    if reply.service_tier is not None:
        out["service_tier"] = reply.service_tier
    return out


def _written(choice: Choice, at: int, crossing: Crossing) -> dict[str, Any]:
    parts = choice.parts
    said = [part for part in parts if isinstance(part, Text) and not part.refusal]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": words(said) if said else None,
        "refusal": words(part for part in parts if isinstance(part, Text) and part.refusal) or None,
    }
    if cited := [annotation(one) for part in said for one in part.citations]:
        message["annotations"] = cited
    if calls := [written_call(part) for part in parts if isinstance(part, ToolCall)]:
        message["tool_calls"] = calls
    if inner := [part for part in parts if isinstance(part, Reasoning)]:
        message |= reasoning_fields(inner)
        if wants_blocks(crossing):
            message["thinking_blocks"] = [block_of(part) for part in inner]
    if drawn := [image(part, crossing) for part in parts if isinstance(part, Media) and part.kind == "image"]:
        message["images"] = drawn
    for part in parts:
        if isinstance(part, Opaque) or (isinstance(part, Media) and part.kind != "image"):
            crossing.drop(part.kind)
    logprobs = {"content": choice.logprobs, "refusal": None} if choice.logprobs else None
    out = {"index": at, "message": message, "logprobs": logprobs, "finish_reason": word_of(choice.finish)}
    if choice.finish.native not in {None, out["finish_reason"]}:
        out["native_finish_reason"] = choice.finish.native
    return out


def annotation(citation: Citation) -> dict[str, Any]:
    """A citation in this dialect's form."""
    if citation.dialect == DIALECT and citation.doc:
        return dict(citation.doc)
    body = {"url": citation.url or "", "title": citation.title or "", "start_index": citation.start or 0,
            "end_index": citation.end or 0}  # fmt: skip
    if citation.quote:
        body["content"] = citation.quote
    return {"type": "url_citation", "url_citation": body}


def written_call(part: ToolCall) -> dict[str, Any]:
    """One of ``tool_calls``; a thought's signature is also put into the id, which every client sends back."""
    kind, key = ("custom", "input") if part.custom else ("function", "arguments")
    out: dict[str, Any] = {"id": with_thought(part), "type": kind, kind: {"name": part.name, key: part.arguments}}
    if not part.custom and not part.arguments:
        out[kind][key] = "{}"
    if part.signature is not None:
        out["extra_content"] = {"google": {"thought_signature": part.signature}}
    return out


def reasoning_fields(inner: Iterable[Reasoning]) -> dict[str, Any]:
    """Thoughts for a client to show (``reasoning_content``) and to send back (``reasoning_details``)."""
    listed = list(inner)
    text = "".join(part.text for part in listed)
    out: dict[str, Any] = {"reasoning_content": text} if text else {}
    if any(part.signature or part.encrypted for part in listed):
        out["reasoning_details"] = [sealed_detail(part, at) for at, part in enumerate(listed)]
    return out


def sealed_detail(part: Reasoning, at: int) -> dict[str, Any]:
    """One of ``reasoning_details``; sealed if its fields cannot carry the thought exactly."""
    shown = detail(part)
    if part.signature or part.encrypted:
        plain = part.signature is not None and not part.encrypted and "signature" in shown
        if not plain:
            shown = {**shown, "type": "reasoning.encrypted", "data": seal(part)}
            shown.pop("text", None)
    return {**shown, "index": at}


def image(media: Media, _crossing: Crossing) -> dict[str, Any]:
    """An image that the model generated."""
    address = data_url(media) if media.data is not None else media.url or ""
    return {"type": "image_url", "image_url": {"url": address}}
