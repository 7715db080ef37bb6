"""``anthropic.messages`` streams: this API's events → canonical events, and back.

Source: Anthropic's streaming documentation. Blocks never overlap: a part that begins while another is open is queued.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from gwcore.chat import Finish, Opaque, Reasoning, ToolCall
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
from gwcore.wire.sse import Frame, encode
from gwcore_providers.anthropic.read import DIALECT, block, citation
from gwcore_providers.anthropic.reply import (
    beside,
    call_id,
    finish_of,
    message_id,
    usage_document,
    word_of,
    written,
)
from gwcore_providers.anthropic.reply import citation as written_citation
from gwcore_providers.base import status_of
from gwcore_providers.thinking import block_of
from gwcore_providers.usage import anthropic_usage


class MessagesReader:
    """See :class:`gwcore.codec.StreamReader`."""

    def __init__(self) -> None:
        self._usage: dict[str, Any] = {}
        self._open: dict[int, Any] = {}
        """Block index → its part: a tool call, a thought, an opaque block, or ``None`` for text."""
        self._inputs: dict[int, list[str]] = {}
        """Block index → pieces of a thought's text, or of an opaque block's input."""
        self._finish = Finish("unknown")
        self._ended = False

    def read(self, frame: Frame) -> Sequence[Event]:
        """Read one event."""
        if not frame.data:
            return ()
        try:
            document = orjson.loads(frame.data)
        except orjson.JSONDecodeError:
            if frame.data == b"[DONE]":  # some vendors that imitate this API end with it
                return ()
            raise Malformed("an event of the upstream's stream is not JSON") from None
        kind = document.get("type") if isinstance(document, dict) else None
        if kind == "content_block_delta":
            return self._delta(document)
        read = getattr(self, f"_{kind}", None) if kind in _KINDS else None
        return () if read is None else read(document)

    def _delta(self, document: dict[str, Any]) -> Sequence[Event]:
        at, delta = document["index"], document["delta"]
        kind = delta.get("type")
        if kind == "text_delta":
            return (TextDelta(at, delta["text"]),)
        part = self._open.get(at)
        if kind == "input_json_delta":
            more = delta["partial_json"]
            if isinstance(part, ToolCall):
                return (ToolCallDelta(at, more),) if more else ()
            self._inputs.setdefault(at, []).append(more)
        elif kind == "thinking_delta":
            if isinstance(part, Reasoning):
                self._inputs.setdefault(at, [part.text]).append(delta["thinking"])
            return (ReasoningDelta(at, delta["thinking"]),)
        elif kind == "signature_delta" and isinstance(part, Reasoning):
            part.signature = (part.signature or "") + delta["signature"]
        elif kind == "citations_delta" and isinstance(delta.get("citation"), dict):
            return (Cited(at, citation(delta["citation"])),)
        return ()

    def _message_start(self, document: dict[str, Any]) -> Sequence[Event]:
        message = document["message"]
        self._meter(message.get("usage"))
        usage = anthropic_usage(self._usage) if self._usage else None
        return (Started(str(message.get("id") or ""), str(message.get("model") or ""), usage=usage),)

    def _meter(self, usage: Any) -> None:
        if isinstance(usage, dict):
            # cumulative; counts that have not changed since message_start are omitted
            self._usage.update((key, value) for key, value in usage.items() if value is not None)

    def _content_block_start(self, document: dict[str, Any]) -> Sequence[Event]:
        at, start = document["index"], document["content_block"]
        part = block(start, "content_block")
        if isinstance(part, ToolCall):
            if part.arguments == "{}":
                part.arguments = ""
            self._open[at] = part
            return (ToolCallStarted(at, part),)
        if isinstance(part, Reasoning):
            self._open[at] = part
            return (ReasoningDelta(at, part.text),) if part.text else ()
        if isinstance(part, Opaque):
            self._open[at] = part
            return ()
        self._open[at] = None
        text = start.get("text") or ""
        return (TextDelta(at, text),) if text else ()

    def _content_block_stop(self, document: dict[str, Any]) -> Sequence[Event]:
        at = document["index"]
        part = self._open.pop(at, None)
        events: list[Event] = []
        if isinstance(part, Reasoning):
            part.text = "".join(self._inputs.pop(at, (part.text,)))
        if isinstance(part, Reasoning) and (part.signature or part.encrypted):
            part.dialect = part.dialect or DIALECT
            events.append(ReasoningDelta(at, sealed=part))
        elif isinstance(part, Opaque):
            given = "".join(self._inputs.pop(at, ()))
            if given:
                try:
                    part.doc = {**part.doc, "input": orjson.loads(given)}
                except orjson.JSONDecodeError:
                    part.doc = {**part.doc, "input": {}}
            events.append(Whole(at, part))
        events.append(PartEnded(at))
        return events

    def _message_delta(self, document: dict[str, Any]) -> Sequence[Event]:
        delta = document.get("delta") or {}
        self._meter(document.get("usage"))
        events: list[Event] = [Metered(anthropic_usage(self._usage))] if self._usage else []
        events += [Whole(_BESIDE + at, part) for at, part in enumerate(beside(delta))]
        if delta.get("stop_reason") is not None:
            self._ended = True
            events.append(Finished(finish_of(delta["stop_reason"], delta.get("stop_sequence"))))
        return events

    def _error(self, document: dict[str, Any]) -> Sequence[Event]:
        error = document.get("error")
        error = error if isinstance(error, dict) else {}
        return (Failed(status_of(error), str(error.get("type") or "upstream"), str(error.get("message") or "")),)

    def close(self) -> Sequence[Event]:
        """Report an unknown finish if the stream had no stop reason."""
        return () if self._ended else (Finished(Finish("unknown")),)


_BESIDE = 1 << 20  # first number for parts that are not blocks: above any block index
_KINDS = frozenset({"message_start", "content_block_start", "content_block_stop", "message_delta", "error"})


class MessagesWriter:
    """See :class:`gwcore.codec.StreamWriter`."""

    def __init__(self, crossing: Crossing) -> None:
        self._crossing = crossing
        self._out: list[bytes] = []
        self._blocks = 0
        self._open: int | None = None
        self._kind = ""
        self._waiting: dict[int, list[Event]] = {}
        self._finish: Finish | None = None
        self._usage: Usage | None = None
        self._prefix = b""

    def write(self, events: Iterable[Event]) -> bytes:
        """Encode events as events of this API."""
        for event in events:
            if isinstance(event, Started):
                self._start(event)
            elif isinstance(event, Metered):
                self._usage = event.usage
            elif isinstance(event, Finished):
                if event.choice == 0:
                    self._finish = event.finish
            elif isinstance(event, Failed):
                pass
            elif event.choice:
                self._crossing.drop("choices after the first")
            else:
                self._arrange(event)
        made = b"".join(self._out)
        self._out.clear()
        return made

    def _put(self, kind: str, **body: Any) -> None:
        self._out.append(encode(orjson.dumps({"type": kind, **body}), kind))

    def _start(self, event: Started) -> None:
        self._usage = event.usage
        usage = event.usage or Usage(input=max(1, self._crossing.input_tokens))
        message: dict[str, Any] = {
            "id": message_id(event.id),
            "type": "message",
            "role": "assistant",
            "model": self._crossing.asked,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**usage_document(usage), "output_tokens": 1},
        }
        self._put("message_start", message=message)

    def _arrange(self, event: Any) -> None:
        """Write one block at a time: events of other parts are queued until the open part has ended."""
        part: int = event.part
        if self._open is None and not self._waiting:
            self._open = part
            self._kind = ""
        if part != self._open:
            self._waiting.setdefault(part, []).append(event)
            return
        if isinstance(event, PartEnded):
            self._stop()
            self._next()
        else:
            self._event(event)

    def _next(self) -> None:
        self._open = None
        while self._waiting and self._open is None:
            part = next(iter(self._waiting))
            self._open, self._kind = part, ""
            for event in self._waiting.pop(part):
                if isinstance(event, PartEnded):
                    self._stop()
                    self._open = None
                else:
                    self._event(event)

    def _begin(self, kind: str, content_block: dict[str, Any]) -> None:
        self._kind = kind
        self._put("content_block_start", index=self._blocks, content_block=content_block)
        self._prefix = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":'
            % self._blocks
        )

    def _stop(self) -> None:
        if self._kind:
            self._put("content_block_stop", index=self._blocks)
            self._blocks += 1
            self._kind = ""

    def _delta(self, kind: str, **body: Any) -> None:
        self._put("content_block_delta", index=self._blocks, delta={"type": kind, **body})

    def _event(self, event: Event) -> None:
        if isinstance(event, TextDelta | Cited):
            self._text(event)
        elif isinstance(event, ToolCallDelta):
            self._delta("input_json_delta", partial_json=event.arguments)
        elif isinstance(event, ToolCallStarted):
            self._call(event.call)
        elif isinstance(event, ReasoningDelta):
            self._thought(event)
        elif isinstance(event, Whole):
            for one in written(event.value, self._crossing):
                self._begin("whole", one)

    def _text(self, event: TextDelta | Cited) -> None:
        if isinstance(event, TextDelta) and not event.text:
            return  # no empty block
        if self._kind != "text":
            self._begin("text", {"type": "text", "text": ""})
        if isinstance(event, Cited):
            self._delta("citations_delta", citation=written_citation(event.citation))
        else:
            self._out.append(self._prefix + orjson.dumps(event.text) + b"}}\n\n")

    def _call(self, call: ToolCall) -> None:
        started = {"type": "tool_use", "id": call_id(call), "name": call.name, "input": {}}
        self._begin("tool_use", started)
        given = orjson.dumps({"input": call.arguments}).decode() if call.custom else call.arguments
        if given:
            self._delta("input_json_delta", partial_json=given)

    def _thought(self, event: ReasoningDelta) -> None:
        sealed = event.sealed
        if event.text:
            if self._kind != "thinking":
                self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            self._delta("thinking_delta", thinking=event.text)
        if sealed is not None:
            shown = block_of(sealed)
            if self._kind != "thinking" or shown["type"] == "redacted_thinking":
                self._stop()
                self._begin(
                    "redacted" if shown["type"] == "redacted_thinking" else "thinking",
                    {**shown, "signature": ""} if "signature" in shown else shown,
                )
            if shown.get("signature"):
                self._delta("signature_delta", signature=shown["signature"])

    def close(self) -> bytes:
        """Write queued parts, then the stop reason, the usage and the end."""
        if self._open is not None:
            self._stop()
            self._next()
        while self._waiting:  # parts without a ``PartEnded``
            self._stop()
            self._next()
        self._stop()
        finish = self._finish or Finish("unknown")
        usage = usage_document(self._usage or Usage(input=self._crossing.input_tokens))
        delta = {"stop_reason": word_of(finish), "stop_sequence": finish.sequence}
        self._put("message_delta", delta=delta, usage=usage)
        self._put("message_stop")
        made = b"".join(self._out)
        self._out.clear()
        return made
