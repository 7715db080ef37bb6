"""Events → ``openai.responses`` streams.

Every event names its item by id and index, items open and close around their deltas, and the last event repeats the
whole answer, so its pieces are kept until then. Text and thoughts are written one item at a time, because clients assign
a delta to the item that opened last; calls may overlap. Exactly one event ends the stream, even if the answer failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from gwcore.chat import Citation, Finish, Reasoning, Text, ToolCall
from gwcore.codec import Crossing
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
from gwcore.usage import Usage
from gwcore_providers.openai.namespaces import apart, spaces
from gwcore_providers.openai.responses_object import (
    TIERS,
    Document,
    annotation,
    call_item,
    ended,
    failed,
    message,
    reasoning_item,
    response,
    stem_of,
    text_piece,
    usage_document,
    whole_item,
)
from gwcore_providers.openai.responses_read import DIALECT

_BROKEN = "the model's answer broke off"
_OF_CALLS = frozenset({ToolCallStarted, ToolCallDelta})


class _Words:
    """A content part of the open message."""

    __slots__ = ("cited", "logprobs", "pieces", "place", "refusal")

    def __init__(self, place: int, *, refusal: bool) -> None:
        self.place = place
        self.refusal = refusal
        self.pieces: list[str] = []
        self.cited: list[Citation] = []
        self.logprobs: list[Any] = []


class _Open:
    """An item that was added but is not done. ``head``: the members by which a delta names it."""

    __slots__ = ("call", "content", "head", "id", "index", "part", "pieces", "sealed")

    def __init__(self, kind: str, stem: str, index: int, part: int) -> None:
        self.id = f"{kind}_{stem}_{index}"
        self.index = index
        self.part = part
        self.head = b'"item_id":"%s","output_index":%d' % (self.id.encode(), index)
        self.pieces: list[str] = []
        self.content: list[Document] = []
        self.sealed: Reasoning | None = None
        self.call: ToolCall | None = None


class ResponsesWriter:
    """See :class:`gwcore.codec.StreamWriter`."""

    def __init__(self, crossing: Crossing) -> None:
        self._crossing = crossing
        self._spaces = spaces(crossing.request)
        self._sequence = 0
        self._object: Document | None = None
        self._stem = ""
        self._items: dict[int, Document] = {}
        self._next = 0
        self._message: _Open | None = None
        self._words: _Words | None = None
        self._prefix = b""
        self._thought: _Open | None = None
        self._calls: dict[int, _Open] = {}
        self._waiting: list[Event] = []
        self._finish: Finish | None = None
        self._usage: Usage | None = None
        self._refused = False
        self._over = False
        self._handlers: dict[type, Callable[[Any, list[bytes]], None]] = {
            TextDelta: self._text,
            Cited: self._cite,
            ReasoningDelta: self._think,
            ToolCallStarted: self._call,
            ToolCallDelta: self._arguments,
            Whole: self._whole,
            PartEnded: self._part_ended,
        }

    def write(self, events: Iterable[Event]) -> bytes:
        """Frames."""
        out: list[bytes] = []
        for event in events:
            words = self._words
            if (
                type(event) is TextDelta
                and words is not None
                and self._message is not None
                and event.part == self._message.part
                and event.refusal is words.refusal
                and event.logprobs is None
            ):
                words.pieces.append(event.text)
                out.append(b'%s%s,"sequence_number":%d}\n\n' % (self._prefix, orjson.dumps(event.text), self._sequence))
                self._sequence += 1
            elif not self._over:
                self._rare(event, out)
        return b"".join(out)

    def close(self) -> bytes:
        """The last event, unless the attempt failed: then the gateway writes it."""
        out: list[bytes] = []
        if not self._over:
            if self._finish is None:
                self._end(failed("server_error", _BROKEN), "failed", out)
            else:
                self._settle(out)
                last = ended(self._finish, refused=self._refused)
                self._end(last, last["status"], out)
        return b"".join(out)

    # ── frames ──

    def _emit(self, kind: str, body: Document, out: list[bytes]) -> None:
        document = {"type": f"response.{kind}", "sequence_number": self._sequence, **body}
        self._sequence += 1
        out.append(b"event: response.%s\ndata: %s\n\n" % (kind.encode(), orjson.dumps(document)))

    def _about(self, kind: str, item: _Open, body: Document, out: list[bytes]) -> None:
        self._emit(kind, {"item_id": item.id, "output_index": item.index, **body}, out)

    # ── the response ──

    def _rare(self, event: Event, out: list[bytes]) -> None:
        if isinstance(event, Started):
            self._start(event, out)
            return
        if self._object is None:
            self._start(Started("", ""), out)
        if isinstance(event, Metered):
            self._usage = event.usage
        elif isinstance(event, Failed):
            self._over = True  # the gateway reports every failed attempt itself, as the dialect's error event
        elif event.choice:
            self._crossing.drop("n")
        elif isinstance(event, Finished):
            self._finish = event.finish
        else:
            self._place(event, out)

    def _start(self, event: Started, out: list[bytes]) -> None:
        if self._object is not None:
            return
        self._object = response(event.id, event.created, self._crossing, None)
        self._stem = stem_of(event.id or "gw")
        self._usage = event.usage
        self._emit("created", {"response": self._object}, out)
        self._emit("in_progress", {"response": self._object}, out)

    def _end(self, last: Document, kind: str, out: list[bytes]) -> None:
        if self._object is None:
            self._start(Started("", ""), out)
        assert self._object is not None
        self._settle(out)
        self._over = True
        whole = {**self._object, **last, "output": [self._items[at] for at in sorted(self._items)]}
        if kind == "completed":
            whole["completed_at"] = int(time.time())
        if self._usage is not None:
            whole["usage"] = usage_document(self._usage)
            tier = self._usage.service_tier
            whole["service_tier"] = tier if tier in TIERS else None
        self._emit(kind, {"response": whole}, out)

    def _settle(self, out: list[bytes]) -> None:
        """Close all open items."""
        for part in list(self._calls):
            self._call_done(part, out)
        self._resume(out)
        self._thought_done(out)
        self._message_done(out)

    # ── order of parts ──

    def _place(self, event: Event, out: list[bytes]) -> None:
        kind = type(event)
        if self._calls and kind not in _OF_CALLS and getattr(event, "part", None) not in self._calls:
            self._waiting.append(event)
        else:
            self._handlers[kind](event, out)

    def _part_ended(self, event: PartEnded, out: list[bytes]) -> None:
        if event.part in self._calls:
            self._call_done(event.part, out)
            self._resume(out)
        elif self._thought is not None and self._thought.part == event.part:
            self._thought_done(out)
        elif self._message is not None and self._message.part == event.part:
            self._words_done(out)

    def _resume(self, out: list[bytes]) -> None:
        if not self._calls and self._waiting:
            waiting, self._waiting = self._waiting, []
            for event in waiting:
                self._place(event, out)

    def _open(self, kind: str, part: int) -> _Open:
        made = _Open(kind, self._stem, self._next, part)
        self._next += 1
        return made

    def _add(self, item: _Open, shown: Document, out: list[bytes]) -> None:
        self._emit("output_item.added", {"output_index": item.index, "item": shown}, out)

    def _done(self, item: _Open, shown: Document, out: list[bytes]) -> None:
        self._items[item.index] = shown
        self._emit("output_item.done", {"output_index": item.index, "item": shown}, out)

    # ── text ──

    def _text(self, event: TextDelta, out: list[bytes]) -> None:
        words = self._begin_words(event.part, out, refusal=event.refusal)
        assert self._message is not None
        words.pieces.append(event.text)
        if words.refusal:
            out.append(b'%s%s,"sequence_number":%d}\n\n' % (self._prefix, orjson.dumps(event.text), self._sequence))
            self._sequence += 1
            return
        words.logprobs += event.logprobs or ()
        body = {"content_index": words.place, "delta": event.text, "logprobs": event.logprobs or []}
        self._about("output_text.delta", self._message, body, out)

    def _begin_words(self, part: int, out: list[bytes], *, refusal: bool = False) -> _Words:
        self._thought_done(out)
        if self._message is None:
            self._message = self._open("msg", part)
            self._add(self._message, message(self._message.id, [], "in_progress"), out)
        item, words = self._message, self._words
        if words is not None and item.part == part and words.refusal == refusal:
            return words
        self._words_done(out)
        item.part = part
        words = self._words = _Words(len(item.content), refusal=refusal)
        piece = text_piece(Text("", refusal=refusal), None, self._crossing)
        self._about("content_part.added", item, {"content_index": words.place, "part": piece}, out)
        kind, more = (b"refusal", b"") if refusal else (b"output_text", b'"logprobs":[],')
        self._prefix = b'event: response.%s.delta\ndata: {"type":"response.%s.delta",%s,"content_index":%d,%s"delta":' % (
            kind, kind, item.head, words.place, more,
        )  # fmt: skip
        return words

    def _cite(self, event: Cited, out: list[bytes]) -> None:
        words = self._begin_words(event.part, out)
        assert self._message is not None
        shown = annotation(event.citation, sum(map(len, words.pieces)), self._crossing)
        if shown is not None:
            body = {"content_index": words.place, "annotation_index": len(words.cited), "annotation": shown}
            self._about("output_text.annotation.added", self._message, body, out)
            words.cited.append(Citation(dialect="openai.responses", doc=shown))

    def _words_done(self, out: list[bytes]) -> None:
        words, item = self._words, self._message
        if words is None or item is None:
            return
        self._words = None
        text = "".join(words.pieces)
        piece = text_piece(Text(text, words.cited, refusal=words.refusal), words.logprobs, self._crossing)
        if words.refusal:
            self._refused = True
            self._about("refusal.done", item, {"content_index": words.place, "refusal": text}, out)
        else:
            body = {"content_index": words.place, "text": text, "logprobs": words.logprobs}
            self._about("output_text.done", item, body, out)
        self._about("content_part.done", item, {"content_index": words.place, "part": piece}, out)
        item.content.append(piece)

    def _message_done(self, out: list[bytes]) -> None:
        self._words_done(out)
        item = self._message
        if item is not None:
            self._message = None
            self._done(item, message(item.id, item.content), out)

    # ── thoughts ──

    def _think(self, event: ReasoningDelta, out: list[bytes]) -> None:
        item = self._thought
        if item is None or item.part != event.part:
            self._thought_done(out)
            self._message_done(out)
            item = self._thought = self._open("rs", event.part)
            self._add(item, {"id": item.id, "type": "reasoning", "summary": []}, out)
        if event.text:
            if not item.pieces:
                body = {"summary_index": 0, "part": {"type": "summary_text", "text": ""}}
                self._about("reasoning_summary_part.added", item, body, out)
            item.pieces.append(event.text)
            self._about("reasoning_summary_text.delta", item, {"summary_index": 0, "delta": event.text}, out)
        if event.sealed is not None:
            item.sealed = event.sealed

    def _thought_done(self, out: list[bytes]) -> None:
        item = self._thought
        if item is None:
            return
        self._thought = None
        text = "".join(item.pieces)
        if item.pieces:
            self._about("reasoning_summary_text.done", item, {"summary_index": 0, "text": text}, out)
            body = {"summary_index": 0, "part": {"type": "summary_text", "text": text}}
            self._about("reasoning_summary_part.done", item, body, out)
        self._done(item, reasoning_item(item.id, text, item.sealed), out)

    # ── calls and whole items ──

    def _call(self, event: ToolCallStarted, out: list[bytes]) -> None:
        self._thought_done(out)
        self._message_done(out)
        call = apart(event.call, self._spaces, DIALECT)
        if call.server:
            self._crossing.drop(f"the server tool {call.name}")
            return
        item = self._calls[event.part] = self._open("fc", event.part)
        item.call = call
        self._add(item, call_item(item.id, call, "", "in_progress"), out)
        if call.arguments:
            self._arguments(ToolCallDelta(event.part, call.arguments), out)

    def _arguments(self, event: ToolCallDelta, out: list[bytes]) -> None:
        item = self._calls.get(event.part)
        if item is None or not event.arguments:
            return
        item.pieces.append(event.arguments)
        assert item.call is not None
        kind = b"custom_tool_call_input" if item.call.custom else b"function_call_arguments"
        frame = b'event: response.%s.delta\ndata: {"type":"response.%s.delta",%s,"delta":%s,"sequence_number":%d}\n\n'
        out.append(frame % (kind, kind, item.head, orjson.dumps(event.arguments), self._sequence))
        self._sequence += 1

    def _call_done(self, part: int, out: list[bytes]) -> None:
        item = self._calls[part]
        call = item.call
        assert call is not None
        if not item.pieces and not call.custom:
            self._arguments(ToolCallDelta(part, "{}"), out)
        del self._calls[part]
        given = "".join(item.pieces)
        if call.custom:
            self._about("custom_tool_call_input.done", item, {"input": given}, out)
        else:
            self._about("function_call_arguments.done", item, {"name": call.name, "arguments": given}, out)
        self._done(item, call_item(item.id, call, given, "completed"), out)

    def _whole(self, event: Whole, out: list[bytes]) -> None:
        shown = whole_item(f"ig_{self._stem}_{self._next}", event.value, self._crossing)
        if shown is None:
            return
        self._thought_done(out)
        self._message_done(out)
        item = self._open("ig", event.part)
        self._add(item, shown, out)
        self._done(item, shown, out)
