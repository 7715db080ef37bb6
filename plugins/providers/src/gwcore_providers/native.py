"""Shared by the codecs of dialects that only upstreams speak: parts of a stream, tools, what none of them supports."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import orjson

from gwcore.chat import ChatRequest, Media, Part, Reasoning, Text, Tool, ToolCall, ToolResult
from gwcore.codec import Crossing
from gwcore.errors import BadRequest, Malformed
from gwcore.events import Event, PartEnded, ReasoningDelta, TextDelta, ToolCallStarted
from gwcore.wire.sse import Frame

_FREE_TEXT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
_NO_PARAMETERS = {"type": "object", "properties": {}}


def new_id(prefix: str) -> str:
    """A new id, for objects without an id from the vendor."""
    return f"{prefix}{uuid4().hex}"


def document_of(frame: Frame) -> dict[str, Any] | None:
    """The object in a frame; ``None`` for a comment or the end mark. Raises ``Malformed``."""
    if frame.comment or not frame.data or frame.data == b"[DONE]":
        return None
    try:
        document = orjson.loads(frame.data)
    except orjson.JSONDecodeError:
        raise Malformed("an event of the upstream's stream is not JSON") from None
    if not isinstance(document, dict):
        raise Malformed("an event of the upstream's stream is no object")
    return document


class Parts:
    """Numbers the parts of an answer being read. Consecutive text, or thought, is one part; each call is its own."""

    def __init__(self) -> None:
        self._count = 0
        self._open: tuple[str, int] | None = None

    def new(self, events: list[Event]) -> int:
        """End the open part and return the number of a new one."""
        self.close(events)
        self._count += 1
        return self._count - 1

    def begin(self, events: list[Event]) -> int:
        """Begin a part, neither text nor thought, that :meth:`close` will end; returns its number."""
        at = self.new(events)
        self._open = ("other", at)
        return at

    def _at(self, kind: str, events: list[Event]) -> int:
        if self._open is None or self._open[0] != kind:
            self._open = (kind, self.new(events))
        return self._open[1]

    def text(self, text: str, events: list[Event], logprobs: Any = None) -> int:
        """Add text; returns the number of its part."""
        at = self._at("text", events)
        events.append(TextDelta(at, text, logprobs=logprobs))
        return at

    def thought(self, text: str, events: list[Event], sealed: Reasoning | None = None) -> None:
        """Add to a thought."""
        events.append(ReasoningDelta(self._at("thought", events), text, sealed=sealed))

    def call(self, call: ToolCall, events: list[Event]) -> None:
        """Add a complete tool call."""
        at = self.new(events)
        events += [ToolCallStarted(at, call), PartEnded(at)]

    def close(self, events: list[Event]) -> None:
        """End the open part, if any."""
        if self._open is not None:
            events.append(PartEnded(self._open[1]))
            self._open = None


def one_answer_in_words(request: ChatRequest, crossing: Crossing) -> None:
    """Refuse what none of these dialects supports, and tool results without a call.

    Raises:
        Untranslatable: several answers, or output other than text, were requested.
        BadRequest: a tool result precedes its call, or has none.
    """
    known: set[str] = set()
    for message in request.messages:
        known.update(part.id for part in message.parts if isinstance(part, ToolCall))
        for part in message.parts:
            if isinstance(part, ToolResult) and part.id not in known:
                raise BadRequest(f"a tool result for {part.id[:80]!r}, which no earlier message calls")
    if (request.n or 1) > 1:
        raise crossing.refuse("n", "one request has one answer")
    if {name.lower() for name in request.modalities or ["text"]} != {"text"}:
        raise crossing.refuse("modalities", "it answers with text only")


def functions(request: ChatRequest, crossing: Crossing, *, strict: bool = False) -> list[dict[str, Any]]:
    """The tools: name, description and a schema. A free-text tool becomes a function of one string.

    ``strict``: the dialect supports strict tools.
    """
    made = []
    for tool in request.tools:
        if tool.server:
            raise crossing.refuse(f"the server tool {tool.name}", f"it runs at vendors of {tool.dialect}")
        if tool.cache:
            crossing.drop("cache_control")
        if tool.strict and not strict:
            crossing.drop("tools.strict")
        described = {"description": tool.description} if tool.description is not None else {}
        made.append({"name": tool.name, **described, "parameters": schema_of(tool, crossing)})
    return made


def schema_of(tool: Tool, crossing: Crossing) -> dict[str, Any]:
    """The JSON Schema of a tool's arguments."""
    if not tool.custom:
        return tool.schema if isinstance(tool.schema, dict) else _NO_PARAMETERS
    if isinstance(tool.grammar, dict) and tool.grammar.get("type") not in {None, "text"}:
        crossing.drop("tools.custom.format")
    return _FREE_TEXT


def arguments_of(call: ToolCall, crossing: Crossing) -> str:
    """A call's arguments as JSON text. Raises ``Untranslatable`` for a call that the vendor ran itself."""
    if call.server:
        raise crossing.refuse(f"the server tool {call.name}")
    return orjson.dumps({"input": call.arguments}).decode() if call.custom else call.arguments or "{}"


def said(parts: list[Part], crossing: Crossing, between: str = "\n") -> str:
    """The text of parts, which must be text or plain-text documents; anything else is refused."""
    out = []
    for part in parts:
        if isinstance(part, Text):
            if part.cache:
                crossing.drop("cache_control")
            out.append(part.text)
        elif isinstance(part, Media) and part.plain and part.data is not None:
            out.append(f"{part.name}\n\n{part.data}" if part.name else part.data)
        elif isinstance(part, Media):
            raise crossing.refuse("document" if part.kind == "file" else part.kind, "this API does not take it")
        else:
            raise crossing.refuse(getattr(part, "kind", type(part).__name__))
    return between.join(out)
