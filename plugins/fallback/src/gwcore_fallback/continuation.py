"""Continues a stream that broke after its first text at another target. Off by default: two models wrote the answer.

Only text can be continued: not tool calls, several choices, signed content, or JSON that the request asks for, since
the next model would begin a new document. The next target is asked to continue where the text ends; its frames are
fitted to the stream that the client already reads. Nothing is repeated, and a comment in the stream marks the seam.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from gwcore.alarm import Alarm
from gwcore.call import Attempt, Call
from gwcore.dialect import Document
from gwcore.errors import MISSHAPEN, Broken
from gwcore.wire.sse import Frame, SseReader, encode

HEADER = b"x-gwcore-continuation"
REQUEST = "Your answer was cut off. Go on exactly where it ended. Repeat nothing, and write no introduction."

TEXT, PASS, OPENING, END, OTHER = "text", "pass", "opening", "end", "other"


@dataclass(slots=True)
class Seam:
    """State of the stream so far, to which the next stream's frames are fitted.

    Attributes:
        id: of the answer, as the client has it.
        created: likewise.
        block: index of the open text block; -1 if none is open.
        shift: added to the block indices of the next stream; ``None`` until its first text block.
    """

    id: str | None = None
    created: object = None
    block: int = -1
    shift: int | None = None


Read = Callable[[Document, Seam], tuple[str, str]]
Fit = Callable[[Document, Seam], Document | None]


@dataclass(slots=True, frozen=True)
class Grammar:
    """Continuation in one dialect.

    Attributes:
        read: kind and text of a frame.
        fit: fits a frame of the next stream. ``None`` for an opening and ``{}`` for thoughts, which are not sent: the
            client has those that led to the first text, and a second signature would not belong to this answer.
        ask: the request for the rest.
        closing: the bytes that still complete the stream if it breaks right after this frame, which ends the answer;
            ``b""`` for other frames.
        shaped: whether the request asks for a format that only a complete answer has, or for several answers.
    """

    read: Read
    fit: Fit
    ask: Callable[[Document, str], Document]
    closing: Callable[[Document], bytes]
    shaped: Callable[[Document], bool]


class Script:
    """The gate of a call whose stream may be continued: passes complete frames and keeps the text.

    Attributes:
        text: the text sent to the client.
        resumed: the current attempt is a continuation.
        closing: set if the answer is complete, and only these bytes are missing.
    """

    __slots__ = (
        "_alarm",
        "_begun",
        "_call",
        "_ended",
        "_grammar",
        "_mark",
        "_original",
        "_other",
        "_reader",
        "_seam",
        "closing",
        "resumed",
        "text",
    )

    def __init__(self, call: Call, grammar: Grammar) -> None:
        self._call = call
        self._grammar = grammar
        self._original = dict(call.document or {})
        self._mark = b""
        self._seam = Seam()
        self._reader = SseReader()
        self._alarm: Alarm | None = None
        self._begun = False
        self._ended = self._other = False
        self.text = ""
        self.resumed = False
        self.closing = b""

    def enter(self, alarm: Alarm | None, attempt: Attempt) -> None:
        """Start an attempt; if the reply is committed, as a continuation."""
        self._alarm = alarm
        self._reader = SseReader()
        self._begun = False
        self.resumed = self._call.reply.committed
        if self.resumed:
            self._seam.shift = None
            self._mark = b": gwcore-continued by %s\n\n" % str(attempt.target).encode("ascii", "replace").replace(
                b"\n", b"?"
            )
            asked = self._grammar.ask(self._original, self.text)
            self._call.edit().update(asked)

    @property
    def possible(self) -> bool:
        """Whether the client has some text, nothing but text, and not the end."""
        return bool(self.text) and not self._ended and not self._other

    def commit(self) -> None:
        """The first answer begins. Raises ``Broken`` for a continuation, which must not commit again."""
        if self.resumed:
            raise Broken("the continuation of a stream is no stream")
        self._call.reply.add_header(HEADER, b"possible")
        self._disarm()

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.commit()
            self._alarm = None

    def write(self, chunk: bytes) -> bytes:
        """Returns complete frames; those of a continuation are fitted to the stream before."""
        out = b""
        for frame in self._reader.feed(chunk) if chunk else self._reader.close():
            raw = self._pass(frame)
            if raw and self.resumed and not self._begun:
                self._begun = True
                self._disarm()
                raw = self._mark + raw
            out += raw
        return out

    def _pass(self, frame: Frame) -> bytes:
        try:
            document = None if frame.comment else orjson.loads(frame.data)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            return frame.raw
        try:
            return self._said(frame, document)
        except MISSHAPEN as error:
            if self.resumed:
                raise Broken("an event of the continuation is none of its dialect") from error
            self._other = True  # an unreadable stream cannot be continued
            return frame.raw

    def _said(self, frame: Frame, document: Document) -> bytes:
        if self.resumed:
            fitted = self._grammar.fit(document, self._seam)
            if not fitted:
                if fitted is not None:  # the target answers, although not with text yet
                    self._disarm()
                return b""
            document, raw = fitted, encode(orjson.dumps(fitted), frame.event or None)
        else:
            raw = frame.raw
        kind, text = self._grammar.read(document, self._seam)
        self.text += text
        if kind == END:
            self._ended = True
            self.closing = self._grammar.closing(document)
        self._other = self._other or kind == OTHER
        return raw


# ── dialects ─────────────────────────────────────────────────────────────────────────────────────────────────────────


_THOUGHTS = frozenset({"reasoning", "reasoning_content", "reasoning_details"})
_SAYING = _THOUGHTS | {"role", "content", "refusal"}


def _read_chat(document: Document, seam: Seam) -> tuple[str, str]:
    if seam.id is None:
        seam.id, seam.created = document.get("id"), document.get("created")
    choices = document.get("choices")
    if not choices:
        return PASS, ""
    choice = choices[0]
    delta = choice.get("delta") or {}
    text = delta.get("content") or ""
    known = all(key in _SAYING for key, value in delta.items() if value)
    if len(choices) > 1 or choice.get("index") or not known or not isinstance(text, str) or delta.get("refusal"):
        return OTHER, ""
    return (END if choice.get("finish_reason") else TEXT if text else OPENING), text


def _fit_chat(document: Document, seam: Seam) -> Document | None:
    choices = document.get("choices")
    if choices:
        delta = choices[0].get("delta") or {}
        delta.pop("role", None)
        thoughts = [delta.pop(key, None) for key in _THOUGHTS]
        if not choices[0].get("finish_reason") and not any(delta.values()):
            return {} if any(thoughts) else None
    if seam.id is not None:
        document["id"], document["created"] = seam.id, seam.created
    return document


def _ask_chat(document: Document, text: str) -> Document:
    turns = [{"role": "assistant", "content": text}, {"role": "user", "content": REQUEST}]
    return {**document, "messages": [*document.get("messages", []), *turns]}


def _shaped_chat(document: Document) -> bool:
    shape = document.get("response_format")
    return document.get("n") not in (None, 1) or (isinstance(shape, dict) and shape.get("type") != "text")


def _close_chat(document: Document) -> bytes:
    return b"" if "error" in document else encode(b"[DONE]")


def _read_messages(document: Document, seam: Seam) -> tuple[str, str]:
    kind = document.get("type")
    if kind == "content_block_start":
        block = document.get("content_block") or {}
        if block.get("type") not in {"text", "thinking", "redacted_thinking"}:
            return OTHER, ""
        seam.block = document.get("index", 0) if block.get("type") == "text" else -1
    elif kind == "content_block_stop" and seam.block >= 0:
        return END, ""  # it is unknown whether another block would follow
    elif kind == "content_block_delta":
        delta = document.get("delta") or {}
        if delta.get("type") == "text_delta":
            return TEXT, delta.get("text") or ""
        if seam.block >= 0:
            return OTHER, ""
    elif kind in {"message_delta", "message_stop", "error"}:
        return END, ""
    return PASS, ""


def _fit_messages(document: Document, seam: Seam) -> Document | None:
    kind, index = document.get("type"), document.get("index")
    if kind in {"message_start", "ping"}:
        return None
    if isinstance(index, int):
        if seam.shift is None:
            if kind == "content_block_start" and (document.get("content_block") or {}).get("type") == "text":
                seam.shift = seam.block - index
            # skip its thoughts, and the start of its text block: one is open already
            return {} if kind == "content_block_delta" else None
        document["index"] = index + seam.shift
    return document


def _shaped_messages(document: Document) -> bool:
    config = document.get("output_config")
    return bool(document.get("output_format") or (isinstance(config, dict) and config.get("format")))


def _close_messages(document: Document) -> bytes:
    if document.get("type") != "message_delta":
        return b""
    return encode(b'{"type":"message_stop"}', "message_stop")


def _read_generate(document: Document, _seam: Seam) -> tuple[str, str]:
    candidates = document.get("candidates") or []
    if len(candidates) > 1:
        return OTHER, ""
    text = ""
    for candidate in candidates:
        for part in (candidate.get("content") or {}).get("parts") or []:
            if not isinstance(part.get("text"), str):
                return OTHER, ""
            text += "" if part.get("thought") else part["text"]
    ended = any(candidate.get("finishReason") for candidate in candidates) or "error" in document
    return (END if ended else TEXT if text else PASS), text


def _fit_generate(document: Document, _seam: Seam) -> Document | None:
    for candidate in document.get("candidates") or []:
        content = candidate.get("content") or {}
        parts = content.get("parts") or []
        said = [part for part in parts if not part.get("thought")]
        if parts and not said and not candidate.get("finishReason"):
            return {}
        if len(said) < len(parts):
            content["parts"] = said
    return document


def _ask_generate(document: Document, text: str) -> Document:
    turns: list[dict[str, Any]] = [
        {"role": "model", "parts": [{"text": text}]},
        {"role": "user", "parts": [{"text": REQUEST}]},
    ]
    return {**document, "contents": [*document.get("contents", []), *turns]}


def _shaped_generate(document: Document) -> bool:
    """Google's servers accept keys in camelCase and snake_case."""
    config = document.get("generationConfig", document.get("generation_config"))
    asked = {key.replace("_", "").lower(): value for key, value in config.items()} if isinstance(config, dict) else {}
    several = asked.get("candidatecount") not in (None, 1)
    shaped = any(asked.get(key) for key in ("responseschema", "responsejsonschema"))
    return several or shaped or asked.get("responsemimetype") not in (None, "text/plain")


GRAMMARS = {
    "openai.chat": Grammar(_read_chat, _fit_chat, _ask_chat, _close_chat, _shaped_chat),
    "anthropic.messages": Grammar(_read_messages, _fit_messages, _ask_chat, _close_messages, _shaped_messages),
    # the frame with the finish reason is the last one
    "gemini.generate": Grammar(_read_generate, _fit_generate, _ask_generate, lambda _: b"", _shaped_generate),
}
"""By dialect. Without the Responses API: its frames are numbered, and the last one repeats the whole answer."""


def script_for(call: Call) -> Script | None:
    """Returns a script for a chat stream that can be continued; ``None`` for anything else."""
    grammar = GRAMMARS.get(call.dialect.name)
    if grammar is None or not call.stream or call.operation != "chat" or grammar.shaped(call.document or {}):
        return None
    return Script(call, grammar)
