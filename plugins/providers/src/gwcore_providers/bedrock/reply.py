"""Answers of Converse and ConverseStream. Source: the Bedrock API reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gwcore.chat import ChatReply, Choice, Citation, Finish, FinishReason, Part, Reasoning, Text, ToolCall
from gwcore.codec import Complaint
from gwcore.errors import Malformed
from gwcore.events import Cited, Event, Failed, Finished, Metered, Started, ToolCallDelta, ToolCallStarted
from gwcore.wire.sse import Frame
from gwcore_providers import native
from gwcore_providers.bedrock.framing import STATUS
from gwcore_providers.bedrock.write import DIALECT
from gwcore_providers.crossing import complaint_of, spelled
from gwcore_providers.usage import bedrock_usage

_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter", "content_filtered": "content_filter",
    "model_context_window_exceeded": "context_window", "malformed_model_output": "error", "malformed_tool_use": "error",
}  # fmt: skip


def _finish(word: Any) -> Finish:
    return Finish(_REASONS.get(str(word), "unknown"), str(word) if word else None)


def _citation(item: dict[str, Any]) -> Citation:
    location = item.get("location") or {}
    web = location.get("web") or {}
    quote = "".join(str(one.get("text") or "") for one in item.get("sourceContent") or ())
    return Citation(web.get("url"), item.get("title"), quote or None, None, None, DIALECT, item)


def _part(block: dict[str, Any]) -> Part | None:
    if "text" in block:
        return Text(block["text"]) if block["text"] else None
    if "toolUse" in block:
        use = block["toolUse"]
        return ToolCall(str(use["toolUseId"]), str(use["name"]), spelled(use.get("input")), dialect=DIALECT)
    if "reasoningContent" in block:
        thought = block["reasoningContent"]
        if "redactedContent" in thought:
            return Reasoning(encrypted=thought["redactedContent"], redacted=True, dialect=DIALECT)
        said = thought.get("reasoningText") or {}
        return Reasoning(said.get("text") or "", said.get("signature"), dialect=DIALECT)
    if "citationsContent" in block:
        cited = block["citationsContent"]
        words = "".join(str(one.get("text") or "") for one in cited.get("content") or ())
        return Text(words, [_citation(one) for one in cited.get("citations") or ()])
    return None


def read_reply(document: Any) -> ChatReply:
    """See :meth:`gwcore.codec.UpstreamCodec.read_reply`."""
    if not isinstance(document, dict) or not isinstance(document.get("output"), dict):
        raise Malformed("the upstream's answer has no output")
    blocks = document["output"]["message"].get("content") or ()
    parts = [part for part in map(_part, blocks) if part is not None]
    tier = (document.get("serviceTier") or {}).get("type")
    usage = document.get("usage")
    return ChatReply(
        DIALECT,
        native.new_id("converse-"),
        "",
        [Choice(parts, _finish(document.get("stopReason")))],
        bedrock_usage(usage, tier) if isinstance(usage, dict) else None,
    )


def read_error(_status: int, body: bytes) -> Complaint:
    """See :meth:`gwcore.codec.UpstreamCodec.read_error`."""
    return complaint_of(body)


class ConverseReader:
    """See :class:`gwcore.codec.StreamReader`. Blocks do not overlap; a text block begins with its first delta."""

    def __init__(self) -> None:
        self._parts = native.Parts()
        self._call: int | None = None

    def read(self, frame: Frame) -> Sequence[Event]:
        """Read one message, whose type is the event's name."""
        document = native.document_of(frame)
        if document is None:
            return ()
        kind, events = frame.event, list[Event]()
        if kind == "contentBlockDelta":
            self._delta(document["delta"], events)
        elif kind == "messageStart":
            events.append(Started(native.new_id("converse-"), ""))
        elif kind == "contentBlockStart":
            if "toolUse" in document["start"]:
                use = document["start"]["toolUse"]
                self._call = self._parts.begin(events)
                events.append(
                    ToolCallStarted(self._call, ToolCall(str(use["toolUseId"]), str(use["name"]), dialect=DIALECT))
                )
        elif kind == "contentBlockStop":
            self._parts.close(events)
            self._call = None
        elif kind == "messageStop":
            self._parts.close(events)
            events.append(Finished(_finish(document.get("stopReason"))))
        elif kind == "metadata":
            events.append(Metered(bedrock_usage(document["usage"], (document.get("serviceTier") or {}).get("type"))))
        elif kind in STATUS or kind.endswith("Exception"):
            events.append(Failed(STATUS.get(kind, 500), kind, str(document.get("message") or kind)))
        return events

    def _delta(self, delta: dict[str, Any], events: list[Event]) -> None:
        if "text" in delta:
            if delta["text"]:
                self._parts.text(delta["text"], events)
        elif "toolUse" in delta:
            assert self._call is not None
            events.append(ToolCallDelta(self._call, str(delta["toolUse"].get("input") or "")))
        elif "reasoningContent" in delta:
            self._thought(delta["reasoningContent"], events)
        elif "citation" in delta:
            events.append(Cited(self._parts.text("", events), _citation(delta["citation"])))

    def _thought(self, thought: dict[str, Any], events: list[Event]) -> None:
        if "redactedContent" in thought:
            sealed = Reasoning(encrypted=thought["redactedContent"], redacted=True, dialect=DIALECT)
            self._parts.thought("", events, sealed)
        elif "signature" in thought:
            self._parts.thought("", events, Reasoning(signature=thought["signature"], dialect=DIALECT))
        elif thought.get("text"):
            self._parts.thought(thought["text"], events)

    def close(self) -> Sequence[Event]:
        """Nothing is left: the finish and the usage came as messages."""
        return ()
