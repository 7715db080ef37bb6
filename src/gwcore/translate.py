"""Translation between a call's dialect and an upstream's, in both directions.

One :class:`Translation` per attempt. It is made only if the upstream does not serve the client's dialect, or the stack
file sets another (``upstreams.<name>.dialect``); everything else passes through unparsed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from gwcore import toolnames
from gwcore.call import Call, Target
from gwcore.chat import ChatReply, Finish, silent
from gwcore.codec import ChatCodec, Complaint, Crossing, StreamReader, StreamWriter, UpstreamCodec, both_ways
from gwcore.dialect import Dialect
from gwcore.errors import MISSHAPEN, BadRequest, GatewayError, Malformed
from gwcore.estimate import Estimator
from gwcore.events import Event, Failed, Finished, Metered, PartEnded, Started, gather, in_order, spell
from gwcore.restore import Restorer
from gwcore.usage import Usage
from gwcore.wire.ndjson import NdjsonReader
from gwcore.wire.sse import Frame, SseReader

CHAT = "chat"
SEARCHED: Final = 64 << 10
"""Bytes of a request up to which the value of a wrong type is searched for: by translating it again without each part."""
TRIES: Final = 64
"""Members, or items of a list, up to which it is."""
_TOKENS = Estimator()


class EventMeter:
    """The usage that a codec read; the meter of a translated attempt."""

    void = final = False

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.heard = False

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
    """The part common to all translated attempts: to another dialect, or into several requests.

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

    def dropped(self, after: int = 0) -> bytes:
        """``x-gwcore-dropped``: what was left out, by name; empty if nothing was. ``after``: that many names are told already."""
        names = (name.replace(",", ";") for name in self.crossing.dropped[after:] if name.isprintable())
        return ", ".join(names).encode("ascii", "replace")

    def complaint(self, status: int, body: bytes) -> Complaint:
        """The upstream's error, in words."""
        raise NotImplementedError


UNREADABLE: Final = (BadRequest, *MISSHAPEN)
"""What reading an answer of another shape comes to: the upstream's fault, whatever the reader says, which reads requests, too."""


def wrong_type(error: Exception, where: str | None = None) -> BadRequest:
    """The error for a request that does not have its dialect's shape. ``where``: a member, or an item of a list."""
    if where is not None:
        return BadRequest(f"{where} has the wrong type, or a value inside it has")
    return BadRequest(f"a value of the request has the wrong type ({type(error).__name__})")


@dataclass(slots=True)
class Translation(Way):
    """The translation of one chat, in both directions.

    Attributes:
        body: of the request.
        customs: free-text tools that the upstream sees as functions of one string.
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
        except UNREADABLE as error:
            raise Malformed(f"the upstream's answer is not one of {self.upstream.name}") from error

    def written(self, reply: ChatReply) -> bytes:
        """A reply in the client's words. Raises ``Malformed``."""
        self.meter.usage = reply.usage
        try:
            if (restorer := self.restorer()) is not None:
                for choice in reply.choices:
                    restorer.choice(choice)
            return orjson.dumps(_both(self.client).write_reply(reply, self.crossing))
        except UNREADABLE as error:
            raise Malformed(f"the upstream's answer is not one of {self.upstream.name}") from error

    def restorer(self) -> Restorer | None:
        """Puts back what the upstream was told in another form; ``None`` where nothing was."""
        told = self.crossing
        return Restorer(self.customs, told.answer, told.tools) if self.customs or told.answer or told.tools else None

    def stream(self, *, lines: bool = False) -> Stream:
        """One per attempt; ``lines`` for a stream of JSON lines in place of server-sent events."""
        return Stream(self, NdjsonReader() if lines else SseReader())


class Stream:
    """Bytes of the upstream's event stream → bytes of the client's.

    Attributes:
        begun: the upstream has begun an answer at all.
        content: the answer has content, or a reason for being empty: from here on no other target can be tried.
        failed: the error that the upstream reported in the stream.
    """

    def __init__(self, translation: Translation, frames: SseReader | NdjsonReader) -> None:
        self._reader: StreamReader = _codec(translation.upstream).reader()
        self._writer: StreamWriter = _both(translation.client).writer(translation.crossing)
        self._frames = frames
        self._meter = translation.meter
        self._restorer = translation.restorer()
        self._dialect = translation.upstream.name
        self.begun = False
        self.content = False
        self.failed: Failed | None = None
        self._ends: list[Finish] = []

    @property
    def void(self) -> bool:
        """Whether all of it says nothing, and not why (:attr:`gwcore.chat.ChatReply.void`)."""
        return not (self.begun and (self.content or silent(self._ends, self._meter.usage)))

    def feed(self, chunk: bytes) -> bytes:
        """Translate a chunk. Raises ``Malformed``."""
        out: list[bytes] = []
        for frame in self._frames.feed(chunk):
            events = self._read(frame)
            if events:
                out.append(self._written(events))
        return b"".join(out)

    def _read(self, frame: Frame | None) -> Sequence[Event]:
        """Translate a frame, or the end of the stream. Raises ``Malformed``."""
        try:
            return self._reader.close() if frame is None else self._reader.read(frame)
        except UNREADABLE as error:
            raise Malformed(f"an event of the upstream's stream is not one of {self._dialect}") from error

    def _written(self, events: Iterable[Event]) -> bytes:
        ordered = in_order(events, begun=self.begun)
        listed = list(ordered) if self._restorer is None else self._restorer.events(ordered)
        for event in listed:
            if isinstance(event, Metered):
                self._meter.usage = event.usage
            elif isinstance(event, Failed):
                self.failed = event
            elif isinstance(event, Started):
                if event.usage is not None:
                    self._meter.usage, self._meter.heard = event.usage, True
                self.begun = True
            elif isinstance(event, Finished) and not event.finish.telling:
                self._ends.append(event.finish)
            elif not isinstance(event, PartEnded):
                self.content = True
        try:
            return self._writer.write(listed)
        except UNREADABLE as error:
            raise Malformed(f"an event of the upstream's stream is not one of {self._dialect}") from error

    def spelled(self, reply: ChatReply) -> bytes:
        """A whole answer as a whole stream, for a client that asked for one."""
        return self._written(spell(reply)) + self._writer.close()

    def close(self) -> bytes:
        """Translate the end of the stream. Raises ``Malformed``."""
        events: list[Event] = []
        for frame in [*self._frames.close(), None]:
            events += self._read(frame)
        return self._written(events) + self._writer.close()

    def gathered(self, body: bytes) -> ChatReply:
        """A whole stream as one reply, for a client that asked for one. Raises ``Malformed``."""
        events: list[Event] = []
        for frame in [*self._frames.feed(body), *self._frames.close(), None]:
            events += self._read(frame)
        try:
            return gather(events, self._dialect)
        except UNREADABLE as error:
            raise Malformed(f"the upstream's stream holds no answer: {error}") from None


def void(dialect: Dialect, body: bytes) -> bool:
    """Whether a chat's whole event stream is empty without a reason; false for a stream of unknown shape."""
    if dialect.chat is None:
        return False
    reader, frames = dialect.chat.reader(), SseReader()
    try:
        events = [event for frame in [*frames.feed(body), *frames.close()] for event in reader.read(frame)]
        return gather([*events, *reader.close()], dialect.name).void
    except (GatewayError, *MISSHAPEN):
        return False


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
    crossing = Crossing(
        model,
        call.model or model,
        target.upstream.provider.quirks(target.upstream, model),
        call.stream,
        input_tokens=max(1, _TOKENS.estimate(call)[0]),
        request=document,
    )
    crossing.query = call.query
    body, customs = said(_both(client), _codec(upstream), crossing)
    return Translation(client, upstream, address, crossing, body, customs)


def said(client: ChatCodec, upstream: UpstreamCodec, crossing: Crossing) -> tuple[bytes, frozenset[str]]:
    """The crossing's request in the upstream's words, and the names of its tools of free text.

    Raises:
        BadRequest: the document cannot be read: a value is missing, or of a type that this dialect does not have there.
        Untranslatable: it holds what the upstream's dialect cannot say.
    """
    try:
        return _said(client, upstream, crossing)
    except MISSHAPEN as error:
        raise wrong_type(error, _misshapen(client, upstream, crossing)) from error


def _said(client: ChatCodec, upstream: UpstreamCodec, crossing: Crossing) -> tuple[bytes, frozenset[str]]:
    request = client.read_request(crossing.request, crossing.asked, stream=crossing.stream)
    if (joined := getattr(client, "joined", None)) is not None:
        request.messages = joined(request.messages)
    crossing.usage_wanted = request.usage_wanted
    customs = frozenset(tool.name for tool in request.tools if tool.custom)
    crossing.tools = toolnames.fit(request, getattr(upstream, "longest_name", toolnames.LONGEST))
    return orjson.dumps(upstream.write_request(request, crossing)), customs


def _misshapen(client: ChatCodec, upstream: UpstreamCodec, crossing: Crossing) -> str | None:
    """The member of a small request, or the item of a list in it, without which it can be translated; ``None`` if unknown."""
    document = crossing.request
    if len(document) > TRIES or len(json.dumps(document)) > SEARCHED:
        return None

    def fits(tried: dict[str, Any]) -> int:
        """How far translation gets: 2 is to its end."""
        try:
            _said(client, upstream, replace(crossing, request=tried, dropped=[], headers=[]))
        except MISSHAPEN:
            return 0
        except GatewayError:  # something else is wrong, perhaps because the member is missing
            return 1
        return 2

    scores = {name: fits({key: value for key, value in document.items() if key != name}) for name in document}
    name = max(scores, key=scores.__getitem__)
    if scores[name] < 2 and fits({name: document[name]}):  # it is merely missed
        return None
    items = document[name]
    if not isinstance(items, list) or not 1 < len(items) <= TRIES:
        return name
    shorter = [fits({**document, name: [*items[:at], *items[at + 1 :]]}) for at in range(len(items))]
    best = max(shorter)
    return f"{name}[{shorter.index(best)}]" if best else name


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
