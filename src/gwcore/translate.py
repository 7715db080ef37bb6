"""A call in one dialect, an upstream that speaks another: read, write, and back again.

One :class:`Translation` per attempt. It is made only where the upstream does not serve the client's dialect, or the stack file
says which one to speak (``upstreams.<name>.dialect``); everything else passes through unread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from gwcore.call import Call, Target
from gwcore.chat import ChatReply, ToolCall
from gwcore.codec import ChatCodec, Complaint, Crossing, StreamReader, StreamWriter, UpstreamCodec, both_ways
from gwcore.dialect import Dialect
from gwcore.errors import Malformed
from gwcore.estimate import Estimator
from gwcore.events import (
    Event,
    Failed,
    Metered,
    PartEnded,
    Started,
    ToolCallDelta,
    ToolCallStarted,
    gather,
    spell,
)
from gwcore.usage import Usage
from gwcore.wire.ndjson import NdjsonReader
from gwcore.wire.sse import SseReader

CHAT = "chat"
_TOKENS = Estimator()


class EventMeter:
    """The usage that a codec read; the meter of a translated attempt."""

    def __init__(self) -> None:
        self.usage: Usage | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Nothing to read from bytes."""
        return chunk

    def finish(self) -> bytes:
        """Nothing is held back."""
        return b""

    def whole(self, body: bytes) -> None:
        """Nothing to read from bytes."""


@dataclass(slots=True)
class Way:
    """What every attempt has whose target is spoken to in another dialect than the client's, or in several pieces.

    Attributes:
        client: the dialect of the call; ``upstream``: the one spoken to the target.
        address: path of the request, with its query.
        meter: of the usage as it is read.
    """

    client: Dialect
    upstream: Dialect
    address: str
    crossing: Crossing
    meter: EventMeter = field(default_factory=EventMeter, kw_only=True)

    @property
    def dropped(self) -> bytes:
        """``x-gwcore-dropped``: what was left out, by name; empty if nothing was."""
        names = (name.replace(",", ";") for name in self.crossing.dropped if name.isprintable())
        return ", ".join(names).encode("ascii", "replace")

    def complaint(self, status: int, body: bytes) -> Complaint:
        """The upstream's error, in words."""
        raise NotImplementedError


@dataclass(slots=True)
class Translation(Way):
    """One chat's way there and back.

    Attributes:
        body: of the request.
        customs: tools of free text that the upstream sees as functions of one string.
    """

    body: bytes
    customs: frozenset[str] = frozenset()

    def complaint(self, status: int, body: bytes) -> Complaint:
        """The upstream's error, in words."""
        return _codec(self.upstream).read_error(status, body)

    def read(self, body: bytes) -> ChatReply:
        """A whole answer. Raises ``Malformed``."""
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise Malformed("the upstream's answer is not JSON") from None
        try:
            return _codec(self.upstream).read_reply(document)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise Malformed(f"the upstream's answer is not one of {self.upstream.name}") from error

    def written(self, reply: ChatReply) -> bytes:
        """A reply in the client's words."""
        self.meter.usage = reply.usage
        for choice in reply.choices:
            choice.parts = [self._restored(part) if isinstance(part, ToolCall) else part for part in choice.parts]
        return orjson.dumps(_both(self.client).write_reply(reply, self.crossing))

    def _restored(self, call: ToolCall) -> ToolCall:
        if call.name not in self.customs or call.custom:
            return call
        return replace(call, custom=True, arguments=free_text(call.arguments))

    def stream(self, *, lines: bool = False) -> Stream:
        """One per attempt; ``lines`` for a stream of JSON lines in place of server-sent events."""
        return Stream(self, NdjsonReader() if lines else SseReader())


class Stream:
    """Bytes of the upstream's event stream → bytes of the client's.

    Attributes:
        begun: the upstream began an answer at all.
        content: the answer has begun: from here on no other target can be tried.
        failed: the upstream said that it cannot go on.
    """

    def __init__(self, translation: Translation, frames: SseReader | NdjsonReader) -> None:
        self._reader: StreamReader = _codec(translation.upstream).reader()
        self._writer: StreamWriter = _both(translation.client).writer(translation.crossing)
        self._frames = frames
        self._meter = translation.meter
        self._customs = _Customs(translation.customs) if translation.customs else None
        self._dialect = translation.upstream.name
        self.begun = False
        self.content = False
        self.failed: Failed | None = None

    def feed(self, chunk: bytes) -> bytes:
        """What a chunk comes to. Raises ``Malformed``."""
        out: list[bytes] = []
        read = self._reader.read
        for frame in self._frames.feed(chunk):
            try:
                events = read(frame)
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise Malformed(f"an event of the upstream's stream is not one of {self._dialect}") from error
            if events:
                out.append(self._written(events))
        return b"".join(out)

    def _written(self, events: Iterable[Event]) -> bytes:
        listed = list(events) if self._customs is None else self._customs.restore(events)
        for event in listed:
            if isinstance(event, Metered):
                self._meter.usage = event.usage
            elif isinstance(event, Failed):
                self.failed = event
            elif isinstance(event, Started):
                self._meter.usage = event.usage
                self.begun = True
            else:
                self.content = True
        return self._writer.write(listed)

    def spelled(self, reply: ChatReply) -> bytes:
        """A whole answer as a whole stream, for a client that asked for one."""
        return self._written(spell(reply)) + self._writer.close()

    def close(self) -> bytes:
        """What the end of the stream brings."""
        events: list[Event] = []
        for frame in self._frames.close():
            events += self._reader.read(frame)
        events += self._reader.close()
        return self._written(events) + self._writer.close()

    def gathered(self, body: bytes) -> ChatReply:
        """A whole stream as one reply, for a client that asked for one."""
        events: list[Event] = []
        for frame in [*self._frames.feed(body), *self._frames.close()]:
            events += self._reader.read(frame)
        events += self._reader.close()
        try:
            return gather(events, self._dialect)
        except ValueError as error:
            raise Malformed(f"the upstream's stream holds no answer: {error}") from None


class _Customs:
    """Puts free text back where the upstream saw a function of one string."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._held: dict[int, list[str]] = {}

    def restore(self, events: Iterable[Event]) -> list[Event]:
        out: list[Event] = []
        for event in events:
            if isinstance(event, ToolCallStarted) and event.call.name in self._names and not event.call.custom:
                self._held[event.part] = [event.call.arguments]
                event.call = replace(event.call, custom=True, arguments="")
            elif isinstance(event, ToolCallDelta) and event.part in self._held:
                self._held[event.part].append(event.arguments)
                continue
            elif isinstance(event, PartEnded) and event.part in self._held:
                text = free_text("".join(self._held.pop(event.part)))
                out.append(ToolCallDelta(event.part, text, event.choice))
            out.append(event)
        return out


def free_text(arguments: str) -> str:
    """The one string of a function that stands for a tool of free text."""
    try:
        found = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    text = found.get("input") if isinstance(found, dict) else None
    return text if isinstance(text, str) else arguments


def _codec(dialect: Dialect) -> UpstreamCodec:
    assert dialect.chat is not None
    return dialect.chat


def _both(dialect: Dialect) -> ChatCodec:
    codec = both_ways(dialect.chat)
    assert codec is not None, "a dialect that a client came in by"
    return codec


def translate(
    call: Call, target: Target, document: dict[str, Any], dialects: Mapping[str, Dialect]
) -> Translation | None:
    """The way of a chat call to a target that does not serve its dialect; ``None`` if there is none.

    The first dialect that the target serves is taken, in the order they are registered, unless the stack file names one.
    A document in the shape of another dialect than the one it was sent in goes to that one where the target serves it.

    Args:
        call: the client's.
        target: of the attempt.
        document: what the attempt says, its own ``fields`` included.
        dialects: what can be spoken, by name.

    Raises:
        BadRequest: the document cannot be read.
        Untranslatable: it holds what the target's dialect cannot say.
    """
    client = call.dialect
    if call.operation != CHAT or both_ways(client.chat) is None:
        return None
    found = _spoken(call, target, dialects, client.shape(document))
    if found is None:
        return None
    upstream, address = found
    model = target.model
    request = _both(client).read_request(document, call.model or model, stream=call.stream)
    crossing = Crossing(
        model,
        call.model or model,
        target.upstream.provider.quirks(target.upstream, model),
        call.stream,
        request.usage_wanted,
        max(1, _TOKENS.estimate(call)[0]),
        document,
    )
    crossing.query = call.query
    body = orjson.dumps(_codec(upstream).write_request(request, crossing))
    customs = frozenset(tool.name for tool in request.tools if tool.custom)
    return Translation(client, upstream, address, crossing, body, customs)


def _spoken(
    call: Call, target: Target, dialects: Mapping[str, Dialect], shape: str | None
) -> tuple[Dialect, str] | None:
    upstream = target.upstream
    listed: Sequence[Dialect]
    if upstream.dialect is not None:
        listed = [dialects[upstream.dialect]] if upstream.dialect in dialects else []
    else:
        listed = sorted(dialects.values(), key=lambda dialect: dialect.name != shape)
    for dialect in listed:
        if dialect.chat is None:
            continue
        found = upstream.provider.address(upstream, dialect.name, CHAT, target.model, {}, stream=call.stream)
        if found is not None:
            return dialect, found[0]
    return None
