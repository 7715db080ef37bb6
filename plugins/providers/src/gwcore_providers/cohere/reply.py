"""Answers of Cohere's ``/v2/chat``, complete and streamed. Source: https://docs.cohere.com/docs/streaming."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gwcore.chat import ChatReply, Choice, Citation, Finish, FinishReason, Part, Reasoning, Text, ToolCall
from gwcore.codec import Complaint
from gwcore.errors import Malformed
from gwcore.events import Cited, Event, Failed, Finished, Metered, Started, ToolCallDelta, ToolCallStarted
from gwcore.usage import Usage
from gwcore.wire.sse import Frame
from gwcore_providers import native
from gwcore_providers.cohere.write import DIALECT
from gwcore_providers.crossing import complaint_of
from gwcore_providers.usage import cohere_usage

_REASONS: dict[str, FinishReason] = {
    "COMPLETE": "stop", "STOP_SEQUENCE": "stop", "MAX_TOKENS": "length", "TOOL_CALL": "tool_calls",
    "ERROR": "error", "TIMEOUT": "error", "ERROR_TOXIC": "content_filter", "ERROR_LIMIT": "context_window",
}  # fmt: skip
_CALLS = {"tool-call-start", "tool-call-delta", "tool-call-end"}
# error types inside a stream → HTTP status of the same error outside of a stream
_STATUS = {"INVALID_TOOL_GENERATION": 422, "TIMEOUT": 504}


def _finish(word: Any) -> Finish:
    return Finish(_REASONS.get(str(word), "unknown"), str(word) if word else None)


def _usage(document: Any) -> Usage | None:
    return cohere_usage(document) if isinstance(document, dict) and document else None


def _citation(item: dict[str, Any]) -> Citation:
    sources = [one for one in item.get("sources") or () if isinstance(one, dict)]
    documents = [one["document"] for one in sources if isinstance(one.get("document"), dict)]
    url, title = (next((str(one[key]) for one in documents if key in one), None) for key in ("url", "title"))
    return Citation(url, title, item.get("text"), item.get("start"), item.get("end"), DIALECT, item)


def _call(item: dict[str, Any]) -> ToolCall:
    body = item["function"]
    return ToolCall(
        str(item.get("id") or native.new_id("call_")), str(body["name"]), body.get("arguments") or "", dialect=DIALECT
    )


def read_reply(document: Any) -> ChatReply:
    """See :meth:`gwcore.codec.UpstreamCodec.read_reply`."""
    if not isinstance(document, dict) or not isinstance(document.get("message"), dict):
        raise Malformed("the upstream's answer has no message")
    message = document["message"]
    parts: list[Part] = []
    if message.get("tool_plan"):
        parts.append(Reasoning(message["tool_plan"], dialect=DIALECT))
    for block in message.get("content") or ():
        if block.get("type") == "thinking":
            parts.append(Reasoning(block["thinking"], dialect=DIALECT))
        elif block.get("text"):
            parts.append(Text(block["text"]))
    cited = [_citation(item) for item in message.get("citations") or ()]
    words = next((part for part in parts if isinstance(part, Text)), None)
    if cited and words is not None:
        words.citations = cited
    calls = [_call(item) for item in message.get("tool_calls") or ()]
    logprobs = [token for item in document.get("logprobs") or () for token in _logprobs(item)]
    return ChatReply(
        DIALECT,
        str(document.get("id") or ""),
        "",
        [Choice([*parts, *calls], _finish(document.get("finish_reason")), logprobs or None)],
        _usage(document.get("usage")),
    )


def _logprobs(item: Any) -> list[dict[str, Any]]:
    """Cohere sends probabilities per piece of text; only those of a single-token piece can be assigned to a token."""
    values = item.get("logprobs") if isinstance(item, dict) else None
    if not values or len(values) != 1:
        return []
    text = str(item.get("text") or "")
    return [{"token": text, "logprob": values[0], "bytes": list(text.encode()), "top_logprobs": []}]


def read_error(_status: int, body: bytes) -> Complaint:
    """See :meth:`gwcore.codec.UpstreamCodec.read_error`."""
    return complaint_of(body)


class CohereReader:
    """See :class:`gwcore.codec.StreamReader`. Parts do not overlap; citations come after the text they belong to."""

    def __init__(self) -> None:
        self._parts = native.Parts()
        self._call: int | None = None
        self._words: int | None = None

    def read(self, frame: Frame) -> Sequence[Event]:
        """Read one event."""
        document = native.document_of(frame)
        if document is None:
            return ()
        kind, events = document.get("type"), list[Event]()
        delta = document.get("delta") or {}
        message = delta.get("message") or {}
        if kind == "content-delta":
            self._said(message["content"], _logprobs(document.get("logprobs")), events)
        elif kind == "tool-plan-delta":
            self._parts.thought(message["tool_plan"], events)
        elif kind == "message-start":
            events.append(Started(str(document.get("id") or ""), ""))
        elif kind == "citation-start":
            self._cite(message["citations"], events)
        elif kind == "content-end":
            self._parts.close(events)
        elif kind in _CALLS:
            self._called(str(kind), message.get("tool_calls") or {}, events)
        elif kind == "message-end":
            self._end(delta, events)
        return events

    def _said(self, content: dict[str, Any], logprobs: Any, events: list[Event]) -> None:
        if content.get("thinking"):
            self._parts.thought(content["thinking"], events)
        if content.get("text"):
            self._words = self._parts.text(content["text"], events, logprobs)

    def _called(self, kind: str, item: dict[str, Any], events: list[Event]) -> None:
        if kind == "tool-call-start":
            self._call = self._parts.begin(events)
            events.append(ToolCallStarted(self._call, _call(item)))
        elif kind == "tool-call-delta" and self._call is not None:
            events.append(ToolCallDelta(self._call, item["function"]["arguments"]))
        else:
            self._parts.close(events)
            self._call = None

    def _cite(self, item: Any, events: list[Event]) -> None:
        for one in item if isinstance(item, list) else [item]:
            if self._words is None:
                self._words = self._parts.text("", events)
            events.append(Cited(self._words, _citation(one)))

    def _end(self, delta: dict[str, Any], events: list[Event]) -> None:
        self._parts.close(events)
        usage = _usage(delta.get("usage"))
        if usage is not None:
            events.append(Metered(usage))
        if delta.get("error"):
            kind = str(delta.get("error_type") or "error")
            events.append(Failed(_STATUS.get(kind, 502), kind, str(delta["error"])))
        else:
            events.append(Finished(_finish(delta.get("finish_reason"))))

    def close(self) -> Sequence[Event]:
        """Nothing is left: ``message-end`` has the finish and the usage."""
        return ()
