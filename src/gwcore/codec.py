"""``ChatCodec``: parses a dialect into the canonical conversation, and writes it from that. 2N translations, not N².

:class:`UpstreamCodec` is the half that upstreams need; a dialect without routes has only that.

A codec is a plain object without state, offered by a dialect (``Dialect.chat``). What is stateful, a :class:`StreamReader` or
:class:`StreamWriter`, is made once per attempt. One policy for what the target cannot say: content and tools are refused by
name (:class:`~gwcore.errors.Untranslatable`), a tuning knob is dropped by name (:meth:`Crossing.drop`). Never silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from gwcore.chat import ChatReply, ChatRequest
from gwcore.errors import Untranslatable
from gwcore.events import Event
from gwcore.restore import AnswerTool
from gwcore.wire.sse import Frame
from gwcore.wire.transport import Headers

EVENTS = b"text/event-stream; charset=utf-8"


@dataclass(slots=True)
class Crossing:
    """One request on its way from one dialect to another.

    Attributes:
        model: its name at the upstream. ``asked``: as the client wrote it; a reply names this one.
        quirks: known deviations of the vendor from its dialect's owner (see a provider's rows).
        usage_wanted: the client asked for usage in its stream.
        input_tokens: an estimate, for dialects that show one before the answer.
        query: of the client's address, where it is known.
        content_type: of the client's stream; a codec's ``writer`` sets another where the client did not ask for events.
        request: the client's document, for replies that repeat parts of it.
        dropped: names of what was left out, for ``x-gwcore-dropped``.
        headers: further request headers of the upstream's dialect.
        window: context tokens that the request asks for, at an upstream that silently truncates what does not fit.
        answer: the tool whose arguments are the answer, if the writer requested it that way.
        tools: what the upstream calls a tool whose name it would refuse → the client's name (see :mod:`gwcore.toolnames`).
    """

    model: str
    asked: str = ""
    quirks: frozenset[str] = frozenset()
    stream: bool = False
    usage_wanted: bool = False
    input_tokens: int = 0
    request: dict[str, Any] = field(default_factory=dict, repr=False)
    dropped: list[str] = field(default_factory=list)
    headers: Headers = field(default_factory=list)
    window: int | None = None
    query: bytes | None = None
    content_type: bytes = EVENTS
    answer: AnswerTool | None = None
    tools: dict[str, str] = field(default_factory=dict)

    def drop(self, name: str) -> None:
        """Drop a tuning knob."""
        if name not in self.dropped:
            self.dropped.append(name)

    def refuse(self, what: str, why: str = "") -> Untranslatable:
        """The error for something that cannot be expressed; ``what`` is the client's name for it."""
        error = Untranslatable(f"{what} cannot be translated for model {self.model!r}{': ' + why if why else ''}")
        error.what = what
        return error


@dataclass(slots=True, frozen=True)
class Complaint:
    """An upstream's error, in words any dialect can repeat."""

    message: str
    type: str | None = None
    code: str | None = None
    param: str | None = None
    request_id: str | None = None


class StreamReader(Protocol):
    """Frames of one upstream stream → events."""

    def read(self, frame: Frame) -> Sequence[Event]:
        """The events of a frame; none for a comment. Raises ``Malformed`` for what is invalid in this dialect."""
        ...

    def close(self) -> Sequence[Event]:
        """The events still due at the end of a clean stream: ends of parts, a finish known only from an end mark."""
        ...


class StreamWriter(Protocol):
    """Events → bytes of one client stream."""

    def write(self, events: Iterable[Event]) -> bytes:
        """Frames for these events; several in one piece."""
        ...

    def close(self) -> bytes:
        """The end mark, after the last event."""
        ...


class UpstreamCodec(Protocol):
    """A chat dialect as spoken to an upstream; the only half of a dialect that no client speaks."""

    def write_request(self, request: ChatRequest, crossing: Crossing) -> dict[str, Any]:
        """Raises ``Untranslatable``."""
        ...

    def read_reply(self, document: Any) -> ChatReply:
        """Raises ``Malformed``."""
        ...

    def reader(self) -> StreamReader:
        """One per attempt."""
        ...

    def read_error(self, status: int, body: bytes) -> Complaint:
        """An error body; its text where it is not JSON."""
        ...


class ChatCodec(UpstreamCodec, Protocol):
    """A chat dialect both ways. ``Crossing`` is the same object from the request to the last byte of its reply."""

    def read_request(self, document: dict[str, Any], model: str, *, stream: bool) -> ChatRequest:
        """Raises ``BadRequest`` naming the place and the fix."""
        ...

    def write_reply(self, reply: ChatReply, crossing: Crossing) -> dict[str, Any]:
        """Never fails: what cannot be expressed is dropped by name."""
        ...

    def writer(self, crossing: Crossing) -> StreamWriter:
        """One per attempt."""
        ...


def both_ways(codec: UpstreamCodec | None) -> ChatCodec | None:
    """The codec of a dialect that clients speak; ``None`` for one that only upstreams do, or that is not translated."""
    return cast("ChatCodec", codec) if hasattr(codec, "read_request") else None
