"""Complete ``gemini.generate`` replies and finish reasons, in both directions."""

from __future__ import annotations

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
)
from gwcore.codec import Complaint, Crossing
from gwcore.errors import Malformed
from gwcore.usage import Usage
from gwcore_providers.crossing import complaint_of, parsed, unsaid
from gwcore_providers.gemini import logprobs
from gwcore_providers.gemini.read import DIALECT, AnswerCalls, camel, parts_of
from gwcore_providers.gemini.thoughts import closed
from gwcore_providers.usage import gemini_usage

_FILTERS = (
    "SAFETY RECITATION LANGUAGE BLOCKLIST PROHIBITED_CONTENT SPII IMAGE_SAFETY IMAGE_PROHIBITED_CONTENT IMAGE_RECITATION "
    "MODEL_ARMOR JAILBREAK"
)
_FAULTS = (
    "MALFORMED_FUNCTION_CALL UNEXPECTED_TOOL_CALL TOO_MANY_TOOL_CALLS MALFORMED_RESPONSE MISSING_THOUGHT_SIGNATURE"
)
_REASONS: Mapping[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(_FILTERS.split(), "content_filter"),
    **dict.fromkeys(_FAULTS.split(), "error"),
}
# an incomplete answer must never get ``STOP``
_WORDS: Mapping[FinishReason, str] = {
    "stop": "STOP", "length": "MAX_TOKENS", "context_window": "MAX_TOKENS", "tool_calls": "STOP",
    "content_filter": "SAFETY", "refusal": "SAFETY", "pause": "OTHER", "error": "OTHER", "unknown": "OTHER",
}  # fmt: skip


def finish_of(word: Any, *, calls: bool) -> Finish:
    """Reads ``finishReason``; this API sends ``STOP`` also if the model calls functions."""
    reason = _REASONS.get(word, "unknown") if isinstance(word, str) else "unknown"
    if reason == "stop" and calls:
        reason = "tool_calls"
    return Finish(reason, word if isinstance(word, str) else None)


def word_of(finish: Finish) -> str:
    """Returns the ``finishReason``."""
    return _WORDS[finish.reason]


def usage_document(usage: Usage) -> dict[str, Any]:
    """Usage as this dialect counts it: the prompt includes cached tokens, candidates exclude thoughts."""
    out = {
        "promptTokenCount": usage.total_in,
        "candidatesTokenCount": usage.total_out - usage.reasoning,
        "totalTokenCount": usage.total,
    }
    if usage.cached:
        out["cachedContentTokenCount"] = usage.cached
    if usage.reasoning:
        out["thoughtsTokenCount"] = usage.reasoning
    return out


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def usage_of(document: Mapping[str, Any]) -> Usage | None:
    """Returns the usage of a reply or chunk."""
    usage = document.get("usageMetadata")
    return gemini_usage(usage) if isinstance(usage, dict) else None


def read_reply(document: Any) -> ChatReply:
    """See :meth:`gwcore.codec.ChatCodec.read_reply`."""
    if not isinstance(document, dict):
        raise Malformed("the upstream's answer is no object")
    candidates = [one for one in document.get("candidates") or [] if isinstance(one, dict)]
    if not candidates and "promptFeedback" not in document and "usageMetadata" not in document:
        raise Malformed("the upstream's answer has no candidates")
    answer = document.get("responseId")
    choices = [_choice(one, AnswerCalls(answer, at)) for at, one in enumerate(candidates)] or [
        Choice([], blocked(document))
    ]
    return ChatReply(
        DIALECT,
        str(document.get("responseId") or ""),
        str(document.get("modelVersion") or ""),
        choices,
        usage_of(document),
    )


def blocked(document: Mapping[str, Any]) -> Finish:
    """Returns the reason why there is no candidate."""
    feedback = document.get("promptFeedback")
    reason = feedback.get("blockReason") if isinstance(feedback, dict) else None
    return Finish("content_filter" if reason else "unknown", reason)


def _choice(candidate: dict[str, Any], calls: AnswerCalls) -> Choice:
    content = candidate.get("content")
    listed = content.get("parts") if isinstance(content, dict) else None
    parts: list[Part] = []
    for at, item in enumerate(listed or []):
        for part in parts_of(camel(item), f"parts[{at}]", calls):
            last = parts[-1] if parts else None
            if isinstance(part, Text) and isinstance(last, Text):
                last.text += part.text
            elif isinstance(part, Reasoning) and isinstance(last, Reasoning) and not last.signature and part.text:
                last.text += part.text
                last.signature = part.signature
            else:
                parts.append(part)
    said = next((part for part in parts if isinstance(part, Text)), None)
    if said is not None:
        said.citations += citations(candidate)
    called = any(isinstance(part, ToolCall) for part in parts)
    return Choice(
        [*parts, *beside(candidate)],
        finish_of(candidate.get("finishReason"), calls=called),
        logprobs.read(candidate.get("logprobsResult")) or None,
    )


# fields that are read, or say nothing about the answer: sizes, ratings too low to filter, the search widget
_CANDIDATE = frozenset({
    "content", "finishReason", "finishMessage", "index", "groundingMetadata", "logprobsResult", "avgLogprobs",
    "tokenCount", "safetyRatings",
})  # fmt: skip
_GROUNDING = frozenset({
    "groundingChunks", "groundingSupports", "searchEntryPoint", "webSearchQueries", "retrievalMetadata",
    "retrievalQueries",
})  # fmt: skip


def beside(candidate: dict[str, Any]) -> list[Opaque]:
    """Returns the fields of a candidate that have no equivalent in other dialects."""
    found = unsaid(candidate, _CANDIDATE)
    return found + unsaid(candidate.get("groundingMetadata"), _GROUNDING, "groundingMetadata.")


def citations(candidate: Mapping[str, Any]) -> list[Citation]:
    """Returns the grounding of a candidate: one citation per segment and source, without segments one per source."""
    grounding = candidate.get("groundingMetadata")
    if not isinstance(grounding, dict):
        return []
    chunks = [one for one in grounding.get("groundingChunks") or [] if isinstance(one, dict)]
    found = []
    for support in grounding.get("groundingSupports") or []:
        segment = support.get("segment") or {}
        for at in support.get("groundingChunkIndices") or []:
            if isinstance(at, int) and 0 <= at < len(chunks):
                source = chunks[at].get("web") or chunks[at].get("retrievedContext") or {}
                text, start, end = (segment.get(key) for key in ("text", "startIndex", "endIndex"))
                found.append(Citation(source.get("uri"), source.get("title"), text, start, end, DIALECT, chunks[at]))
    if found or not chunks:
        return found
    sources = [one.get("web") or one.get("retrievedContext") or {} for one in chunks]
    return [Citation(one.get("uri"), one.get("title"), dialect=DIALECT, doc=one) for one in sources]


def read_error(_status: int, body: bytes) -> Complaint:
    """See :meth:`gwcore.codec.ChatCodec.read_error`."""
    return complaint_of(body)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_reply(reply: ChatReply, crossing: Crossing) -> dict[str, Any]:
    """See :meth:`gwcore.codec.ChatCodec.write_reply`."""
    candidates = []
    for at, choice in enumerate(reply.choices):
        parts = [made for part in choice.parts for made in written(part, crossing)]
        content = {"role": "model", "parts": parts}
        one: dict[str, Any] = {"content": content, "finishReason": word_of(choice.finish), "index": at}
        if grounding := grounded(
            [cited for part in choice.parts if isinstance(part, Text) for cited in part.citations]
        ):
            one["groundingMetadata"] = grounding
        if choice.logprobs:
            one["logprobsResult"] = logprobs.written(choice.logprobs)
        if choice.finish.native not in {None, one["finishReason"]}:
            one["finishMessage"] = choice.finish.native
        candidates.append(one)
    out: dict[str, Any] = {"candidates": candidates, "modelVersion": crossing.asked, "responseId": reply.id}
    if reply.usage is not None:
        out["usageMetadata"] = usage_document(reply.usage)
    return out


def written(part: Part, crossing: Crossing) -> list[dict[str, Any]]:
    """Returns Google's parts for one part; a part that this dialect cannot express is dropped, and reported as such."""
    if isinstance(part, Text):
        return [{"text": part.text}] if part.text else []
    if isinstance(part, Reasoning):
        return thought(part)
    if isinstance(part, ToolCall):
        given = {"input": part.arguments} if part.custom else parsed(part.arguments)
        out: dict[str, Any] = {"functionCall": {"id": part.id or part.name, "name": part.name, "args": given}}
        if part.signature is not None:
            out["thoughtSignature"] = part.signature
        return [out]
    if isinstance(part, Media) and part.data is not None:
        mime = part.mime or {"image": "image/png", "audio": "audio/wav"}.get(part.kind, "application/octet-stream")
        return [{"inlineData": {"mimeType": mime, "data": part.data}}]
    if isinstance(part, Opaque) and part.dialect == DIALECT:
        return [part.doc]
    crossing.drop(part.kind if isinstance(part, Opaque | Media) else "tool_result")
    return []


def thought(part: Reasoning) -> list[dict[str, Any]]:
    """Returns a thought part. A thought that another vendor signed or encrypted is sealed in its signature."""
    signature = part.signature
    if part.dialect != DIALECT:
        signature = closed(part) if part.signature or part.encrypted else None
    out: dict[str, Any] = {"text": part.text, "thought": True}
    if signature:
        out["thoughtSignature"] = signature
    return [out] if part.text or signature else []


def grounded(cited: list[Citation]) -> dict[str, Any] | None:
    """Returns the ``groundingMetadata`` for citations; ``None`` without any."""
    if not cited:
        return None
    chunks = [{"web": {"uri": one.url or "", "title": one.title or ""}} for one in cited]
    supports = []
    for at, one in enumerate(cited):
        segment = {"startIndex": one.start or 0, "endIndex": one.end or 0, "text": one.quote or ""}
        supports.append({"segment": segment, "groundingChunkIndices": [at]})
    return {"groundingChunks": chunks, "groundingSupports": supports}
