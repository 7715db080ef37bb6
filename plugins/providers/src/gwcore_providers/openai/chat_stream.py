"""``openai.chat`` streams: chunks → events, events → chunks.

Nearly all chunks are a few bytes of text: they are written from a prefix built once, and read on a fast path.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from gwcore.chat import Finish, Media, Opaque, Reasoning, ToolCall
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
from gwcore_providers.crossing import complaint, words
from gwcore_providers.openai.chat_read import DIALECT, call, content, listed_thoughts
from gwcore_providers.openai.chat_reply import (
    annotation,
    beside,
    beside_words,
    citations,
    finish_of,
    image,
    images,
    sealed_detail,
    usage_document,
    usage_of,
    word_of,
    written_call,
)
from gwcore_providers.thinking import block_of, wants_blocks

_DONE = b"[DONE]"


class _Lane:
    """One choice of a stream being read."""

    __slots__ = ("audio", "calls", "finish", "native", "text", "thought")

    def __init__(self) -> None:
        self.text: int | None = None
        self.thought: int | None = None
        self.calls: dict[Any, int] = {}
        self.audio: dict[str, Any] | None = None
        self.finish: str | None = None
        self.native: str | None = None


class ChatReader:
    """See :class:`gwcore.codec.StreamReader`."""

    def __init__(self) -> None:
        self._lanes: dict[int, _Lane] = {}
        self._parts = 0
        self._started = False
        self._done = False
        self._over: set[int] = set()
        self._beside: dict[str, Opaque] = {}
        """What no other dialect can express, once per name; reported at the end, when no part is open."""

    def read(self, frame: Frame) -> Sequence[Event]:
        """One chunk."""
        data = frame.data
        if not data or frame.comment:
            return ()
        if data == _DONE:
            self._done = True
            return ()
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise Malformed("an event of the upstream's stream is not JSON") from None
        if not isinstance(document, dict):
            raise Malformed("an event of the upstream's stream is no object")
        error = document.get("error")
        if error:
            said = complaint(document, data)
            return (Failed(status_of(error if isinstance(error, dict) else {}), said.code or "upstream", said.message),)
        events: list[Event] = []
        if not self._started:
            self._started = True
            id, model = str(document.get("id") or ""), str(document.get("model") or "")  # noqa: A001
            events.append(Started(id, model, document.get("created")))
        self._note(beside(document))  # first: the last chunk may end the choices
        for choice in document.get("choices") or ():
            self._choice(choice, events)
        if document.get("usage") or "x_groq" in document:
            usage = usage_of(document)
            if usage is not None:
                events.append(Metered(usage))
        return events

    def _choice(self, choice: dict[str, Any], events: list[Event]) -> None:
        number = choice.get("index") or 0
        lane = self._lanes.get(number)
        if lane is None:
            lane = self._lanes[number] = _Lane()
        delta = choice.get("delta")
        if not isinstance(delta, dict):  # one vendor sends complete messages (recorded)
            delta = choice.get("message") or {}
        self._note(beside_words(choice, delta))
        text = delta.get("content")
        more = len(delta) > 1 or text is None
        if more:
            self._rare(delta, number, lane, events)
        if text:
            self._text(text, number, lane, choice.get("logprobs"), events)
        if more:  # after the text that may be in the same chunk, as in a complete message
            self._all_calls(delta, number, lane, events)
        reason = choice.get("finish_reason")
        if reason and number not in self._over:
            lane.finish, lane.native = reason, choice.get("native_finish_reason")
            self._end(number, lane, events)

    def _note(self, found: Iterable[Opaque]) -> None:
        for part in found:
            self._beside.setdefault(part.kind, part)

    def _text(self, text: Any, number: int, lane: _Lane, logprobs: Any, events: list[Event]) -> None:
        if not isinstance(text, str):
            parts = content(text, "delta")
            for part in parts:
                if isinstance(part, Reasoning):
                    self._thought(ReasoningDelta(0, part.text, number), number, lane, events)
            text = words(parts)
            if not text:
                return
        self._close_thought(number, lane, events)
        if lane.text is None:
            lane.text = self._next()
        listed = logprobs.get("content") if isinstance(logprobs, dict) else None
        events.append(TextDelta(lane.text, text, number, logprobs=listed))

    def _rare(self, delta: dict[str, Any], number: int, lane: _Lane, events: list[Event]) -> None:
        """Everything except plain text and tool calls."""
        self._thoughts(delta, number, lane, events)
        refusal = delta.get("refusal")
        if refusal:
            self._close_thought(number, lane, events)
            if lane.text is None:
                lane.text = self._next()
            events.append(TextDelta(lane.text, refusal, number, refusal=True))
        for one in citations(delta.get("annotations")):
            if lane.text is None:
                lane.text = self._next()
            events.append(Cited(lane.text, one, number))
        for drawn in images(delta.get("images")):
            assert isinstance(drawn, Media)
            events.append(Whole(self._next(), drawn, number))
        if isinstance(delta.get("audio"), dict):
            self._audio(delta["audio"], number, lane, events)

    def _all_calls(self, delta: dict[str, Any], number: int, lane: _Lane, events: list[Event]) -> None:
        for at, item in enumerate(delta.get("tool_calls") or ()):
            self._call(item, at, number, lane, events)
        legacy = delta.get("function_call")
        if isinstance(legacy, dict):
            self._call({"index": "legacy", "id": legacy.get("name"), "function": legacy}, 0, number, lane, events)

    def _thoughts(self, delta: dict[str, Any], number: int, lane: _Lane, events: list[Event]) -> None:
        text = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(text, str) and text:
            self._thought(ReasoningDelta(0, text, number), number, lane, events)
        for part in listed_thoughts(delta):
            said = "" if text else part.text
            sealed = part if part.signature or part.encrypted else None
            if said or sealed:
                self._thought(ReasoningDelta(0, said, number, part.summary, sealed), number, lane, events)

    def _thought(self, event: ReasoningDelta, number: int, lane: _Lane, events: list[Event]) -> None:
        if lane.text is not None and lane.thought is None:
            events.append(PartEnded(lane.text, number))
            lane.text = None
        if lane.thought is None:
            lane.thought = self._next()
        event.part = lane.thought
        events.append(event)
        if event.sealed is not None:  # complete: the next one is another thought
            self._close_thought(number, lane, events)

    def _close_thought(self, number: int, lane: _Lane, events: list[Event]) -> None:
        if lane.thought is not None:
            events.append(PartEnded(lane.thought, number))
            lane.thought = None

    def _audio(self, audio: dict[str, Any], number: int, lane: _Lane, events: list[Event]) -> None:
        if lane.audio is None:
            lane.audio = {"id": None, "data": []}
        lane.audio["id"] = audio.get("id") or lane.audio["id"]
        if isinstance(audio.get("data"), str):
            lane.audio["data"].append(audio["data"])
        if audio.get("transcript"):
            self._text(audio["transcript"], number, lane, None, events)

    def _call(self, item: Any, at: int, number: int, lane: _Lane, events: list[Event]) -> None:
        if not isinstance(item, dict):
            return
        key = item.get("index", at)
        body = item.get("function") or item.get("custom") or {}
        more = body.get("arguments") or body.get("input") or ""
        more = more if isinstance(more, str) else orjson.dumps(more).decode()
        known = lane.calls.get(key)
        # a new id begins another call, whatever the index: some vendors send all calls with index 0
        if known is not None and item.get("id") and body.get("name") and (key, item["id"]) not in lane.calls:
            known = None
        if known is None:
            if not body.get("name"):
                return
            self._close_thought(number, lane, events)
            if lane.text is not None:
                events.append(PartEnded(lane.text, number))
                lane.text = None
            made = (
                call({"type": "function", **item, "function": body}, "tool_calls")
                if "custom" not in item
                else call(item, "tool_calls")
            )
            made.arguments = more
            known = self._next()
            lane.calls[key] = lane.calls[key, item.get("id")] = known
            events.append(ToolCallStarted(known, made, number))
        elif more:
            events.append(ToolCallDelta(known, more, number))

    def _next(self) -> int:
        self._parts += 1
        return self._parts - 1

    def _end(self, number: int, lane: _Lane, events: list[Event]) -> None:
        self._over.add(number)
        self._close_thought(number, lane, events)
        if lane.text is not None:
            events.append(PartEnded(lane.text, number))
        events += [PartEnded(part, number) for part in sorted(set(lane.calls.values()))]
        if lane.audio is not None and lane.audio["data"]:
            sound = Media("audio", None, "".join(lane.audio["data"]), file_id=lane.audio["id"])
            events.append(Whole(self._next(), sound, number))
        self._tell(number, events)
        events.append(Finished(finish_of(lane.finish, lane.native, calls=bool(lane.calls)), number))

    def _tell(self, number: int, events: list[Event]) -> None:
        events += [Whole(self._next(), part, number) for part in self._beside.values()]
        self._beside.clear()

    def close(self) -> Sequence[Event]:
        """End choices without a finish reason: after the end mark they count as ``stop``."""
        events: list[Event] = []
        for number, lane in self._lanes.items():
            if number not in self._over:
                lane.finish = "stop" if self._done else None  # gpt-audio sends only the end mark
                self._end(number, lane, events)
        if self._lanes:
            self._tell(0, events)  # from chunks after the finish
        return events


class ChatWriter:
    """See :class:`gwcore.codec.StreamWriter`."""

    def __init__(self, crossing: Crossing) -> None:
        self._crossing = crossing
        self._head = b""
        self._fixed: dict[str, Any] = {}
        self._text_prefix: dict[int, bytes] = {}
        self._calls: dict[int, int] = {}
        self._bare: set[int] = set()  # calls without arguments so far
        self._per_choice: dict[int, int] = {}
        self._listed: dict[str, int] = {}
        self._usage: Usage | None = None
        self._begun: set[int] = set()
        self._thinking = False  # a piece of the current thinking block was sent

    def write(self, events: Iterable[Event]) -> bytes:
        """Chunks."""
        out: list[bytes] = []
        for event in events:
            if isinstance(event, TextDelta) and not event.refusal and event.logprobs is None:
                prefix = self._text_prefix.get(event.choice)
                if prefix is None:
                    prefix = self._begin(event.choice, out)
                out.append(prefix + orjson.dumps(event.text) + b'},"logprobs":null,"finish_reason":null}]}\n\n')
            elif isinstance(event, Metered):
                self._usage = event.usage
            elif isinstance(event, Started):
                self._start(event)
            elif isinstance(event, PartEnded):
                # a call without arguments, as Anthropic streams it: clients parse the concatenated text as JSON
                if event.part in self._bare:
                    self._rare(ToolCallDelta(event.part, "{}", event.choice), out)
            elif not isinstance(event, Failed):
                self._rare(event, out)
        return b"".join(out)

    def _start(self, event: Started) -> None:
        self._fixed = {
            "id": event.id or "chatcmpl",
            "object": "chat.completion.chunk",
            "created": event.created or int(time.time()),
            "model": self._crossing.asked,
        }
        self._head = orjson.dumps(self._fixed)[:-1]
        self._usage = event.usage

    def _begin(self, choice: int, out: list[bytes]) -> bytes:
        """Send the chunk with the role, once; returns the prefix of the choice's text chunks."""
        if choice not in self._begun:
            self._begun.add(choice)
            out.append(self._chunk(choice, {"role": "assistant", "content": ""}))
        made = b'data: %s,"choices":[{"index":%d,"delta":{"content":' % (self._head, choice)
        self._text_prefix[choice] = made
        return made

    def _chunk(self, choice: int, delta: dict[str, Any], **more: Any) -> bytes:
        body = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None, **more}
        return b'data: %s,"choices":[%s]}\n\n' % (self._head, orjson.dumps(body))

    def _rare(self, event: Event, out: list[bytes]) -> None:
        assert not isinstance(event, Started | Metered | PartEnded | Failed)
        choice = event.choice
        if choice not in self._text_prefix:
            self._begin(choice, out)
        if isinstance(event, Finished):
            out.append(self._finish(choice, event.finish))
            return
        delta, more = self._delta(event)
        if delta:
            out.append(self._chunk(choice, delta, **more))

    def _delta(self, event: Event) -> tuple[dict[str, Any], dict[str, Any]]:
        delta: dict[str, Any] = {}
        more: dict[str, Any] = {}
        if isinstance(event, TextDelta):
            delta = {"refusal" if event.refusal else "content": event.text}
            more = {"logprobs": {"content": event.logprobs, "refusal": None}} if event.logprobs else {}
        elif isinstance(event, ReasoningDelta):
            delta = self._thought(event)
        elif isinstance(event, ToolCallStarted):
            delta = {"tool_calls": [self._call(event.part, event.choice, event.call)]}
        elif isinstance(event, ToolCallDelta):
            if event.arguments:
                self._bare.discard(event.part)
            delta = {"tool_calls": [{"index": self._calls[event.part], "function": {"arguments": event.arguments}}]}
        elif isinstance(event, Cited):
            # the official SDK merges lists by this index
            delta = {"annotations": [{"index": self._next_of("annotations"), **annotation(event.citation)}]}
        elif isinstance(event, Whole) and isinstance(event.value, Media) and event.value.kind == "image":
            delta = {"images": [{"index": self._next_of("images"), **image(event.value, self._crossing)}]}
        elif isinstance(event, Whole):
            self._crossing.drop(event.value.kind)
        return delta, more

    def _next_of(self, what: str) -> int:
        at = self._listed.get(what, 0)
        self._listed[what] = at + 1
        return at

    def _thought(self, event: ReasoningDelta) -> dict[str, Any]:
        delta: dict[str, Any] = {"reasoning_content": event.text} if event.text else {}
        if event.sealed is not None:
            delta["reasoning_details"] = [sealed_detail(event.sealed, self._next_of("thoughts"))]
        if wants_blocks(self._crossing):
            delta["thinking_blocks"] = self._blocks(event)
            delta.setdefault("reasoning_content", "")  # LiteLLM's clients drop a chunk without either form of content
        return delta

    def _blocks(self, event: ReasoningDelta) -> list[dict[str, Any]]:
        """The pieces of LiteLLM's ``thinking_blocks``: text without signature, then the signature without text."""
        out = []
        if event.text:
            self._thinking = True
            out.append(
                {"type": "thinking", "thinking": event.text, "signature": "", "index": self._listed.get("blocks", 0)}
            )
        if event.sealed is not None:
            shown = block_of(event.sealed)
            redacted = shown["type"] == "redacted_thinking"
            if self._thinking and redacted:
                self._next_of("blocks")
            elif self._thinking:
                shown["thinking"] = ""
            out.append({**shown, "index": self._next_of("blocks")})
            self._thinking = False
        return out

    def _call(self, part: int, choice: int, made: ToolCall) -> dict[str, Any]:
        index = self._calls[part] = self._per_choice.get(choice, 0)
        self._per_choice[choice] = index + 1
        shown = written_call(made)
        if not made.custom:
            shown["function"]["arguments"] = made.arguments
            if not made.arguments:
                self._bare.add(part)
        return {"index": index, **shown}

    def _finish(self, choice: int, finish: Finish) -> bytes:
        word = word_of(finish)
        native = {"native_finish_reason": finish.native} if finish.native not in {None, word} else {}
        return self._chunk(choice, {}, finish_reason=word, **native)

    def close(self) -> bytes:
        """Usage, if the client requested it, then the end mark."""
        out = b"data: [DONE]\n\n"
        if self._crossing.usage_wanted and self._usage is not None:
            usage = orjson.dumps(usage_document(self._usage))
            return b'data: %s,"choices":[],"usage":%s}\n\n' % (self._head, usage) + out
        return out


__all__ = ["DIALECT", "ChatReader", "ChatWriter"]
