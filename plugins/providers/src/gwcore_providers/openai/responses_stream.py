"""``openai.responses`` streams → events.

Nearly all events are a few characters of text, read by one look-up. A closing event repeats what its deltas contained;
if there were none (some vendors omit them), it is read as a delta. If the two differ, the deltas count: they are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from gwcore.chat import Media, Opaque, Part, Reasoning, Text, ToolCall
from gwcore.errors import Malformed
from gwcore.events import (
    Cited,
    Event,
    Failed,
    Finished,
    Metered,
    PartEnded,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Whole,
)
from gwcore.wire.sse import Frame
from gwcore_providers.base import status_of
from gwcore_providers.crossing import complaint
from gwcore_providers.openai.responses_object import finish_of, usage_of
from gwcore_providers.openai.responses_read import citation
from gwcore_providers.openai.responses_reply import parts_of
from gwcore_providers.openai.responses_writer import ResponsesWriter

__all__ = ["ResponsesReader", "ResponsesWriter"]

Document = dict[str, Any]
_ITEM = -1  # in place of a content index, for items that have none
_DONE = b"[DONE]"


class _Part:
    """A part being read: whether events of it were emitted, whether a call's arguments were, how many citations.

    ``summary``, ``at``: of a thought, whether it is read from its summary, and the index of the summary's last part.
    """

    __slots__ = ("at", "begun", "cited", "number", "open", "summary", "told")

    def __init__(self, number: int) -> None:
        self.number = number
        self.begun = False
        self.open = True
        self.told = False
        self.cited = 0
        self.summary: bool | None = None
        self.at: Any = None


class ResponsesReader:
    """See :class:`gwcore.codec.StreamReader`."""

    def __init__(self) -> None:
        self._parts: dict[tuple[Any, int], _Part] = {}
        self._started = False
        self._over = False
        self._calls = False
        self._refused = False
        self._docs: list[Document] = []
        self._read: dict[str, Callable[[Document, list[Event]], None]] = {
            "response.created": self._begin,
            "response.in_progress": self._begin,
            "response.queued": self._begin,
            "response.output_item.added": self._added,
            "response.output_text.delta": self._text,
            "response.output_text.done": self._text_done,
            "response.refusal.delta": self._text,
            "response.refusal.done": self._text_done,
            "response.output_text.annotation.added": self._cited,
            "response.content_part.done": self._piece_done,
            "response.reasoning_summary_text.delta": self._thought,
            "response.reasoning_text.delta": self._thought,
            "response.function_call_arguments.delta": self._arguments,
            "response.function_call_arguments.done": self._arguments_done,
            "response.custom_tool_call_input.delta": self._arguments,
            "response.custom_tool_call_input.done": self._arguments_done,
            "response.output_item.done": self._done,
            "response.completed": self._end,
            "response.incomplete": self._end,
            "response.cancelled": self._end,
            "response.failed": self._failed,
            "error": self._failed,
        }

    def read(self, frame: Frame) -> Sequence[Event]:
        """One event of the API; those that only report the progress of a server tool are ignored."""
        data = frame.data
        if frame.comment or not data or data == _DONE:
            return ()
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise Malformed("an event of the upstream's stream is not JSON") from None
        if not isinstance(document, dict):
            raise Malformed("an event of the upstream's stream is no object")
        kind = document.get("type")
        read = self._read.get(kind) if isinstance(kind, str) else None
        if read is None:
            if "error" in document and kind is None:
                read = self._failed
            else:
                return ()
        events: list[Event] = []
        if not self._started:
            self._begin(document, events)
        if not self._over:
            read(document, events)
        return events

    def close(self) -> Sequence[Event]:
        """End the open parts; an answer without its last event has no finish reason."""
        events: list[Event] = []
        self._close(events)
        return events

    # ── beginning and end ──

    def _begin(self, document: Document, events: list[Event]) -> None:
        if self._started:
            return
        self._started = True
        response = document.get("response")
        response = response if isinstance(response, dict) else {}
        created = response.get("created_at")
        created = int(created) if isinstance(created, int | float) else None
        events.append(Started(str(response.get("id") or ""), str(response.get("model") or ""), created))

    def _end(self, document: Document, events: list[Event]) -> None:
        response = document.get("response")
        if not isinstance(response, dict):
            raise Malformed("the last event of the upstream's stream has no response")
        if not self._parts:  # a vendor that sends only the last event
            for at, item in enumerate(response.get("output") or ()):
                self._done({"output_index": at, "item": item}, events)
        self._over = True
        self._close(events)
        events.append(Finished(finish_of(response, calls=self._calls, refused=self._refused)))
        usage = usage_of(response, self._docs)
        if usage is not None:
            events.append(Metered(usage))

    def _failed(self, document: Document, events: list[Event]) -> None:
        response = document.get("response")
        error = (response if isinstance(response, dict) else document).get("error")
        error = error if isinstance(error, dict) else document
        said = complaint(error, b"the upstream's answer failed")
        self._over = True
        self._close(events)
        usage = usage_of(response) if isinstance(response, dict) else None
        if usage is not None:
            events.append(Metered(usage))
        events.append(Failed(status_of(error), said.code or "server_error", said.message))

    def _close(self, events: list[Event]) -> None:
        for part in self._parts.values():
            if part.open and part.begun:
                self._shut(part, events)

    def _shut(self, part: _Part, events: list[Event]) -> None:
        part.open = False
        events.append(PartEnded(part.number))

    def _part(self, document: Document, content: int = _ITEM) -> _Part:
        """The part that an event belongs to, created by its first event."""
        at = document.get("output_index")
        key = (document.get("item_id") if at is None else at, content)
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = _Part(len(self._parts))
        return part

    # ── text ──

    def _text(self, document: Document, events: list[Event]) -> None:
        part = self._part(document, document.get("content_index", 0))
        text = document.get("delta")
        if not isinstance(text, str):
            raise Malformed("a delta of the upstream's stream is no text")
        part.begun = True
        refusal = document["type"] == "response.refusal.delta"
        self._refused |= refusal
        events.append(TextDelta(part.number, text, 0, refusal, document.get("logprobs") or None))

    def _text_done(self, document: Document, events: list[Event]) -> None:
        refusal = document["type"] == "response.refusal.done"
        said = document.get("refusal" if refusal else "text")
        part = self._part(document, document.get("content_index", 0))
        if isinstance(said, str):
            self._words(part, Text(said, refusal=refusal), document.get("logprobs"), events)

    def _words(self, part: _Part, text: Text, logprobs: Any, events: list[Event]) -> None:
        """Emit what a closing event adds to its deltas: the text if there were none, and citations."""
        if not part.begun:
            part.begun = True
            events.append(TextDelta(part.number, text.text, 0, text.refusal, logprobs or None))
            self._refused |= text.refusal
        for one in text.citations[part.cited :]:
            part.cited += 1
            events.append(Cited(part.number, one))

    def _cited(self, document: Document, events: list[Event]) -> None:
        part = self._part(document, document.get("content_index", 0))
        shown = document.get("annotation")
        if isinstance(shown, dict):
            part.cited += 1
            events.append(Cited(part.number, citation(shown)))

    def _piece_done(self, document: Document, events: list[Event]) -> None:
        piece = document.get("part")
        if not isinstance(piece, dict) or piece.get("type") not in {"output_text", "refusal"}:
            return
        item = {"type": "message", "content": [piece]}
        part = self._part(document, document.get("content_index", 0))
        for text in parts_of(item):
            if isinstance(text, Text):
                self._words(part, text, piece.get("logprobs"), events)
        if part.open:
            self._shut(part, events)

    # ── thoughts ──

    def _thought(self, document: Document, events: list[Event]) -> None:
        part = self._part(document)
        summary = document["type"] == "response.reasoning_summary_text.delta"
        if part.summary is None:
            part.summary = summary
        text = document.get("delta")
        if part.summary is not summary or not isinstance(text, str):
            return  # if a thought comes both as a summary and in full, only the first form is read
        at = document.get("summary_index" if summary else "content_index")
        if summary and part.begun and at != part.at:
            text = "\n\n" + text
        part.at = at
        part.begun = True
        events.append(ReasoningDelta(part.number, text, 0, summary))

    def _thought_done(self, part: _Part, thought: Reasoning, events: list[Event]) -> None:
        sealed = thought if thought.encrypted is not None else None
        if sealed or not part.begun:
            events.append(ReasoningDelta(part.number, "" if part.begun else thought.text, 0, thought.summary, sealed))
            part.begun = True

    # ── calls ──

    def _added(self, document: Document, events: list[Event]) -> None:
        item = document.get("item")
        if isinstance(item, dict) and item.get("type") in {"function_call", "custom_tool_call"}:
            for call in parts_of(item):
                if isinstance(call, ToolCall):
                    self._call(document, call, events)
        elif isinstance(item, dict) and item.get("type") == "reasoning":
            self._part(document)  # it precedes what follows, even if its text comes late

    def _call(self, document: Document, call: ToolCall, events: list[Event]) -> _Part:
        part = self._part(document)
        if not part.begun:
            part.begun = self._calls = True
            call.arguments = ""
            call.extra = {key: value for key, value in call.extra.items() if key != "status"}
            events.append(ToolCallStarted(part.number, call))
        return part

    def _arguments(self, document: Document, events: list[Event]) -> None:
        part, text = self._part(document), document.get("delta")
        if isinstance(text, str) and part.begun:
            part.told = part.told or bool(text)
            events.append(ToolCallDelta(part.number, text))

    def _arguments_done(self, document: Document, events: list[Event]) -> None:
        part = self._part(document)
        said = document.get("arguments", document.get("input"))
        if part.begun and isinstance(said, str):
            self._more(part, said, events)

    def _more(self, part: _Part, arguments: str, events: list[Event]) -> None:
        if arguments and not part.told:
            part.told = True
            events.append(ToolCallDelta(part.number, arguments))

    # ── whole items ──

    def _done(self, document: Document, events: list[Event]) -> None:
        item = document.get("item")
        if not isinstance(item, dict):
            return
        at = document.get("output_index", item.get("id"))
        for content, value in enumerate(parts_of(item)):
            key = {"output_index": at}
            if isinstance(value, Text):
                part = self._part(key, content)
                self._words(part, value, value.extra.get("logprobs"), events)
            else:
                part = self._item(key, item, value, events)
            if part.open:
                self._shut(part, events)

    def _item(self, key: Document, item: Document, value: Part, events: list[Event]) -> _Part:
        if isinstance(value, ToolCall):
            arguments = value.arguments
            part = self._call(key, value, events)
            self._more(part, arguments, events)
            return part
        part = self._part(key)
        if isinstance(value, Reasoning):
            if part.open:
                self._thought_done(part, value, events)
        elif isinstance(value, Media | Opaque) and part.open:
            self._docs.append(item)
            events.append(Whole(part.number, value))
        return part
