"""``gemini.generate`` streams: chunks → events, events → chunks. A chunk has the shape of a complete reply."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from gwcore.chat import Citation, Finish, Media, Opaque, Reasoning, Text, ToolCall
from gwcore.codec import Crossing
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
from gwcore.usage import Usage
from gwcore.wire.sse import Frame
from gwcore_providers.base import status_of
from gwcore_providers.crossing import complaint
from gwcore_providers.gemini import logprobs
from gwcore_providers.gemini.read import AnswerCalls, camel, parts_of
from gwcore_providers.gemini.reply import (
    beside,
    blocked,
    citations,
    finish_of,
    grounded,
    thought,
    usage_document,
    usage_of,
    word_of,
    written,
)


class _Lane:
    """State of one candidate of a stream being read."""

    __slots__ = ("beside", "calls", "cited", "kind", "part", "reason", "said", "thought")

    def __init__(self, answer: Any, number: int) -> None:
        self.part: int | None = None
        self.kind = ""
        self.said: int | None = None
        self.thought: list[str] = []
        self.calls = AnswerCalls(answer, number)
        self.cited: list[Citation] = []
        self.beside: dict[str, Opaque] = {}
        self.reason: Any = None


class GeminiReader:
    """See :class:`gwcore.codec.StreamReader`."""

    def __init__(self) -> None:
        self._lanes: dict[int, _Lane] = {}
        self._parts = 0
        self._started = False
        self._called: set[int] = set()
        self._blocked: Finish | None = None

    def read(self, frame: Frame) -> Sequence[Event]:
        """Read one chunk."""
        if not frame.data:
            return ()
        try:
            document = orjson.loads(frame.data)
        except orjson.JSONDecodeError:
            raise Malformed("an event of the upstream's stream is not JSON") from None
        if not isinstance(document, dict):
            raise Malformed("an event of the upstream's stream is no object")
        return self.events(document)

    def events(self, document: dict[str, Any]) -> Sequence[Event]:
        """Returns the events of a chunk's document."""
        error = document.get("error")
        if error:
            said = complaint(document, b"")
            return (Failed(status_of(error if isinstance(error, dict) else {}), said.code or "upstream", said.message),)
        events: list[Event] = []
        if not self._started:
            self._started = True
            events.append(Started(str(document.get("responseId") or ""), str(document.get("modelVersion") or "")))
        for candidate in document.get("candidates") or ():
            self._candidate(candidate, document.get("responseId"), events)
        if "promptFeedback" in document and not document.get("candidates"):
            self._blocked = blocked(document)
        usage = usage_of(document)
        if usage is not None:
            events.append(Metered(usage))
        return events

    def _candidate(self, candidate: dict[str, Any], answer: Any, events: list[Event]) -> None:
        number = candidate.get("index") or 0
        lane = self._lanes.get(number)
        if lane is None:
            lane = self._lanes[number] = _Lane(answer, number)
        content = candidate.get("content")
        began = len(events)
        for item in (content.get("parts") if isinstance(content, dict) else None) or ():
            for part in parts_of(camel(item), "parts", lane.calls):
                self._part(part, number, lane, events)
        if "logprobsResult" in candidate:
            said = next((event for event in events[began:] if isinstance(event, TextDelta)), None)
            if said is not None:
                said.logprobs = logprobs.read(candidate["logprobsResult"]) or None
        lane.cited += citations(candidate)
        for one in beside(candidate):
            lane.beside.setdefault(one.kind, one)
        # the last one counts: with code execution, a candidate continues after a finishReason
        lane.reason = candidate.get("finishReason") or lane.reason

    def _part(self, part: Any, number: int, lane: _Lane, events: list[Event]) -> None:
        if isinstance(part, Text):
            at = self._into("text", number, lane, events)
            lane.said = at
            if part.text:
                events.append(TextDelta(at, part.text, number))
        elif isinstance(part, Reasoning):
            self._thought(part, number, lane, events)
        else:
            self._close(number, lane, events)
            at = self._next()
            if isinstance(part, ToolCall):
                self._called.add(number)
                events.append(ToolCallStarted(at, part, number))
            elif isinstance(part, Media | Opaque):
                events.append(Whole(at, part, number))
            events.append(PartEnded(at, number))

    def _thought(self, part: Reasoning, number: int, lane: _Lane, events: list[Event]) -> None:
        at = self._into("thought", number, lane, events)
        lane.thought.append(part.text)
        if part.text:
            events.append(ReasoningDelta(at, part.text, number, part.summary))
        if part.signature or part.encrypted:
            part.text = "".join(lane.thought)  # the signature is for the whole thought
            events.append(ReasoningDelta(at, "", number, part.summary, part))
            self._close(number, lane, events)

    def _into(self, kind: str, number: int, lane: _Lane, events: list[Event]) -> int:
        if lane.kind != kind:
            self._close(number, lane, events)
            lane.kind, lane.part, lane.thought = kind, self._next(), []
        assert lane.part is not None
        return lane.part

    def _close(self, number: int, lane: _Lane, events: list[Event]) -> None:
        if lane.part is not None:
            events.append(PartEnded(lane.part, number))
        lane.part, lane.kind, lane.thought = None, "", []

    def _next(self) -> int:
        self._parts += 1
        return self._parts - 1

    def _end(self, number: int, lane: _Lane, events: list[Event]) -> None:
        if lane.cited and lane.said is not None and lane.kind != "text":
            lane.part, lane.kind = self._next(), "text"
            lane.said = lane.part
        if lane.said is not None:
            events += [Cited(lane.said, one, number) for one in lane.cited]
        self._close(number, lane, events)
        events += [Whole(self._next(), part, number) for part in lane.beside.values()]
        events.append(Finished(finish_of(lane.reason, calls=number in self._called), number))

    def close(self) -> Sequence[Event]:
        """Report the finish of every candidate, or of a blocked prompt."""
        events: list[Event] = []
        for number, lane in self._lanes.items():
            self._end(number, lane, events)
        if not self._lanes:
            events.append(Finished(self._blocked or Finish("unknown")))
        return events


class GeminiWriter:
    """See :class:`gwcore.codec.StreamWriter`. A call is sent in one piece, since its arguments are an object here."""

    def __init__(self, crossing: Crossing) -> None:
        self._crossing = crossing
        self._fixed: dict[str, Any] = {"modelVersion": crossing.asked}
        self._tail = orjson.dumps(self._fixed)[1:]
        self._calls: dict[int, ToolCall] = {}
        self._arguments: dict[int, list[str]] = {}
        self._cited: dict[int, list[Citation]] = {}
        self._usage: Usage | None = None
        self._finished: list[Finished] = []

    def write(self, events: Iterable[Event]) -> bytes:
        """Encode events as chunks."""
        out: list[bytes] = []
        for event in events:
            if isinstance(event, TextDelta):
                if event.logprobs:
                    shown = {"content": {"parts": [{"text": event.text}], "role": "model"}, "index": event.choice}
                    out.append(self._chunk([{**shown, "logprobsResult": logprobs.written(event.logprobs)}]))
                elif event.text:
                    out.append(
                        b'data: {"candidates":[{"content":{"parts":[{"text":%s}],"role":"model"},"index":%d}],%s\r\n\r\n'
                        % (orjson.dumps(event.text), event.choice, self._tail)
                    )
            elif isinstance(event, Started):
                self._start(event)
            elif isinstance(event, Metered):
                self._usage = event.usage
            elif isinstance(event, Finished):
                self._finished.append(event)
            else:
                self._rare(event, out)
        return b"".join(out)

    def _start(self, event: Started) -> None:
        self._fixed = {"modelVersion": self._crossing.asked, "responseId": event.id}
        self._tail = orjson.dumps(self._fixed)[1:]
        self._usage = event.usage

    def _rare(self, event: Event, out: list[bytes]) -> None:
        if isinstance(event, ToolCallStarted):
            self._calls[event.part] = event.call
            self._arguments[event.part] = [event.call.arguments]
        elif isinstance(event, ToolCallDelta):
            self._arguments[event.part].append(event.arguments)
        elif isinstance(event, PartEnded):
            self._call(event.part, event.choice, out)
        elif isinstance(event, ReasoningDelta):
            self._thought(event, out)
        elif isinstance(event, Cited):
            self._cited.setdefault(event.choice, []).append(event.citation)
        elif isinstance(event, Whole):
            self._parts(written(event.value, self._crossing), event.choice, out)

    def _call(self, part: int, choice: int, out: list[bytes]) -> None:
        call = self._calls.pop(part, None)
        if call is not None:
            call.arguments = "".join(self._arguments.pop(part))
            self._parts(written(call, self._crossing), choice, out)

    def _thought(self, event: ReasoningDelta, out: list[bytes]) -> None:
        if event.text:
            self._parts([{"text": event.text, "thought": True}], event.choice, out)
        if event.sealed is not None:
            shown = thought(event.sealed)
            if shown and "thoughtSignature" in shown[0]:
                # the text has been sent already
                self._parts([{**shown[0], "text": ""}], event.choice, out)

    def _parts(self, parts: list[dict[str, Any]], choice: int, out: list[bytes]) -> None:
        if parts:
            content = {"parts": parts, "role": "model"}
            out.append(self._chunk([{"content": content, "index": choice}]))

    def _chunk(self, candidates: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + orjson.dumps({"candidates": candidates, **more, **self._fixed}) + b"\r\n\r\n"

    def close(self) -> bytes:
        """Write the finish reason and the usage."""
        out: list[bytes] = []
        for part in list(self._calls):
            self._call(part, 0, out)
        candidates = []
        for event in self._finished or [Finished(Finish("unknown"))]:
            word = word_of(event.finish)
            one: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": word}
            one["index"] = event.choice
            if grounding := grounded(self._cited.get(event.choice, [])):
                one["groundingMetadata"] = grounding
            if event.finish.native not in {None, word}:
                one["finishMessage"] = event.finish.native
            candidates.append(one)
        usage = {"usageMetadata": usage_document(self._usage)} if self._usage is not None else {}
        return b"".join(out) + self._chunk(candidates, **usage)


class ListWriter:
    """The same chunks as elements of one JSON list, for a client that did not ask for ``alt=sse``."""

    def __init__(self, events: GeminiWriter) -> None:
        self._events = events
        self._before = b"["

    def write(self, events: Iterable[Event]) -> bytes:
        """Encode events as elements of the list."""
        return self._elements(self._events.write(events))

    def close(self) -> bytes:
        """Write the last elements and the end of the list."""
        last = self._elements(self._events.close())
        return last + (b"[]" if self._before == b"[" else b"]")

    def _elements(self, frames: bytes) -> bytes:
        out = b""
        for frame in frames.split(b"\r\n\r\n"):
            if frame:
                out += self._before + frame.removeprefix(b"data: ")
                self._before = b",\r\n"
        return out
