"""The events of a streamed answer, in any dialect.

Order, guaranteed by readers and relied on by writers: :class:`Started` once (see :func:`in_order`); then parts; then
:class:`Finished` (once per choice) and :class:`Metered` in either order. A part opens with its first event and closes
with :class:`PartEnded`; ``part`` numbers parts across the whole answer. Parts of one answer may overlap (parallel tool
calls in OpenAI's chat stream); writers whose dialect forbids it put them one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from gwcore.chat import ChatReply, Choice, Citation, Finish, Media, Opaque, Part, Reasoning, Text, ToolCall
from gwcore.ids import new_id
from gwcore.usage import Usage


@dataclass(slots=True)
class Started:
    """The answer has begun."""

    id: str
    model: str
    created: int | None = None
    usage: Usage | None = None
    """Complete input usage, if the vendor reports it at the beginning."""


@dataclass(slots=True)
class TextDelta:
    """More text; ``refusal``: it says why the model declined."""

    part: int
    text: str
    choice: int = 0
    refusal: bool = False
    logprobs: Any = None


@dataclass(slots=True)
class Cited:
    """A source of a part's text."""

    part: int
    citation: Citation
    choice: int = 0


@dataclass(slots=True)
class ReasoningDelta:
    """More of a thought; ``sealed`` brings its signature or sealed form, complete."""

    part: int
    text: str = ""
    choice: int = 0
    summary: bool = False
    sealed: Reasoning | None = None


@dataclass(slots=True)
class ToolCallStarted:
    """A tool call; ``call.arguments`` is empty, or what is already known of them."""

    part: int
    call: ToolCall
    choice: int = 0


@dataclass(slots=True)
class ToolCallDelta:
    """More of the arguments' JSON text."""

    part: int
    arguments: str
    choice: int = 0


@dataclass(slots=True)
class Whole:
    """A part that comes in one piece: an image, a part only its own dialect understands."""

    part: int
    value: Media | Opaque
    choice: int = 0


@dataclass(slots=True)
class PartEnded:
    """The part is complete."""

    part: int
    choice: int = 0


@dataclass(slots=True)
class Metered:
    """Usage so far; the last one counts."""

    usage: Usage


@dataclass(slots=True)
class Finished:
    """The end of one choice."""

    finish: Finish
    choice: int = 0


@dataclass(slots=True)
class Failed:
    """An error reported by the upstream inside the stream."""

    status: int
    code: str
    message: str


Event = (
    Started
    | TextDelta
    | Cited
    | ReasoningDelta
    | ToolCallStarted
    | ToolCallDelta
    | Whole
    | PartEnded
    | Metered
    | Finished
    | Failed
)
CONTENT: Final = (TextDelta, Cited, ReasoningDelta, ToolCallStarted, ToolCallDelta, Whole)
"""Events that bring something of a part."""


@dataclass(slots=True)
class _Gathering:
    parts: dict[int, Part] = field(default_factory=dict)
    pieces: dict[int, list[str]] = field(default_factory=dict)
    """Of words, thoughts and arguments: put together once, however long they are."""
    finish: Finish = field(default_factory=lambda: Finish("unknown"))
    logprobs: list[Any] = field(default_factory=list)

    def join(self) -> None:
        """Every part gets its words."""
        for at, pieces in self.pieces.items():
            part = self.parts[at]
            if isinstance(part, ToolCall):
                part.arguments = "".join(pieces)
            elif isinstance(part, Text | Reasoning):
                part.text = "".join(pieces)


def in_order(events: Iterable[Event], *, begun: bool = False) -> Iterator[Event]:
    """``Started`` once and before any content, as writers rely on: some upstreams leave it out, or send it again."""
    for event in events:
        if isinstance(event, Started):
            if begun:
                continue
            begun = True
        elif not begun and isinstance(event, CONTENT):
            begun = True
            yield Started(new_id(), "")
        yield event


def gather(events: Iterable[Event], dialect: str) -> ChatReply:
    """Collect a stream into a whole answer. Raises ``ValueError`` if it has no beginning."""
    started: Started | None = None
    usage: Usage | None = None
    choices: dict[int, _Gathering] = {}
    for event in in_order(events):
        if isinstance(event, Started):
            started = event
            usage = event.usage or usage
        elif isinstance(event, Metered):
            usage = event.usage
        elif isinstance(event, Finished):
            choices.setdefault(event.choice, _Gathering()).finish = event.finish
        elif not isinstance(event, Failed | PartEnded):
            _grow(choices.setdefault(event.choice, _Gathering()), event)
    if started is None:
        raise ValueError("a stream without a beginning")
    for gathered in choices.values():
        gathered.join()
    made = [
        Choice([g.parts[at] for at in sorted(g.parts)], g.finish, g.logprobs or None)
        for _, g in sorted(choices.items())
    ]
    return ChatReply(dialect, started.id, started.model, made, usage, started.created)


def _grow(
    into: _Gathering, event: TextDelta | Cited | ReasoningDelta | ToolCallStarted | ToolCallDelta | Whole
) -> None:
    part = into.parts.get(event.part)
    if isinstance(event, TextDelta | Cited):
        _more_text(into, event, part if isinstance(part, Text) else None)
    elif isinstance(event, ReasoningDelta):
        if not isinstance(part, Reasoning):
            part = into.parts[event.part] = Reasoning(summary=event.summary)
        into.pieces.setdefault(event.part, []).append(event.text)
        if (sealed := event.sealed) is not None:
            part.signature, part.encrypted, part.redacted = sealed.signature, sealed.encrypted, sealed.redacted
            part.id, part.dialect, part.extra = sealed.id, sealed.dialect, sealed.extra
    elif isinstance(event, ToolCallDelta):
        into.pieces[event.part].append(event.arguments)
    elif isinstance(event, ToolCallStarted):
        into.parts[event.part] = event.call
        into.pieces[event.part] = [event.call.arguments]
    else:
        into.parts[event.part] = event.value


def _more_text(into: _Gathering, event: TextDelta | Cited, part: Text | None) -> None:
    if part is None:
        part = into.parts[event.part] = Text("")
    if isinstance(event, Cited):
        part.citations.append(event.citation)
        return
    into.pieces.setdefault(event.part, []).append(event.text)
    part.refusal = event.refusal
    if event.logprobs:
        into.logprobs.extend(event.logprobs)


def spell(reply: ChatReply) -> list[Event]:
    """The events of a whole answer, one delta per part: for a client that asked for a stream."""
    events: list[Event] = [Started(reply.id, reply.model, reply.created)]
    at = 0
    for number, choice in enumerate(reply.choices):
        for part in choice.parts:
            events += _spelled(part, at, number)
            events.append(PartEnded(at, number))
            at += 1
        events.append(Finished(choice.finish, number))
    if reply.usage is not None:
        events.append(Metered(reply.usage))
    return events


def _spelled(part: Part, at: int, choice: int) -> list[Event]:
    if isinstance(part, Text):
        cited: list[Event] = [Cited(at, citation, choice) for citation in part.citations]
        return [TextDelta(at, part.text, choice, part.refusal), *cited]
    if isinstance(part, Reasoning):
        return [ReasoningDelta(at, part.text, choice, part.summary, part)]
    if isinstance(part, ToolCall):
        return [ToolCallStarted(at, part, choice)]
    if isinstance(part, Media | Opaque):
        return [Whole(at, part, choice)]
    raise ValueError("a tool result in an answer")
