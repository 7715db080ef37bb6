"""Replays a cached answer: the same bytes for the same dialect and form, otherwise translated by the codecs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gwcore.call import CacheUse, Call, Outcome
from gwcore.chat import ChatReply, Media, Part, Reasoning, Text, ToolCall
from gwcore.codec import Crossing, both_ways
from gwcore.dialect import Dialect
from gwcore.dispatch import COST
from gwcore.errors import MISSHAPEN, GatewayError
from gwcore.events import Event, Metered, gather, spell
from gwcore.relay import DROPPED
from gwcore.usage import Cost
from gwcore.wire.transport import Headers
from gwcore_cache.entry import Entry
from gwcore_cache.key import shape_of
from gwcore_cache.record import HEADER, events_of, wanted_form

_BYTES_PER_TOKEN = 4
FREE = Cost(0, "cache", "")
STALE = "hit/stale"
_STREAM: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


@dataclass(slots=True, frozen=True)
class Told:
    """A cached answer in this client's dialect and form."""

    content_type: bytes
    body: bytes
    dropped: bytes = b""


def told(entry: Entry, call: Call, dialects: Mapping[str, Dialect]) -> Told | None:
    """Returns the entry in the client's dialect and form; ``None`` if that would lose anything."""
    form = wanted_form(call)
    if entry.dialect == call.dialect.name and entry.form == form and entry.shape == shape_of(call):
        return Told(entry.content_type, entry.body, entry.dropped)
    source, target = dialects.get(entry.dialect), both_ways(call.dialect.chat)
    if form is None or source is None or source.chat is None or target is None or call.document is None:
        return None
    try:
        request = target.read_request(call.document, call.model or "", stream=call.stream)
        crossing = Crossing(
            call.targets[0].model if call.targets else "",
            call.model or "",
            stream=call.stream,
            usage_wanted=request.usage_wanted,
            input_tokens=entry.usage.total_in if entry.usage else max(1, len(call.raw) // _BYTES_PER_TOKEN),
            request=call.document,
        )
        if form == "json":
            body = orjson.dumps(target.write_reply(_reply(entry, source), crossing))
            again = target.read_reply(orjson.loads(body))
            kind = b"application/json"
        else:
            writer = target.writer(crossing)
            body = writer.write(_events(entry, source)) + writer.close()
            again = gather(events_of(call.dialect, body), call.dialect.name)
            kind = b"text/event-stream; charset=utf-8"
        whole = not crossing.dropped and _gist(again) == _gist(_reply(entry, source))
    except (GatewayError, *MISSHAPEN):
        return None
    return Told(kind, body, entry.dropped) if whole else None


def _gist(reply: ChatReply) -> list[Any]:
    """The content that every translation of an answer must keep: text, thoughts, calls and finish reasons."""
    return [
        (choice.finish.reason, [(type(part), *_said(part)) for part in choice.parts], bool(choice.logprobs))
        for choice in reply.choices
    ]


def _said(part: Part) -> tuple[Any, ...]:
    if isinstance(part, Text):
        return part.text, part.refusal, [(cited.url, cited.title, cited.quote) for cited in part.citations]
    if isinstance(part, Reasoning):
        return part.text, part.id, part.signature, part.encrypted, part.redacted
    if isinstance(part, ToolCall):
        return part.id, part.name, _parsed(part.arguments), part.custom, part.server, part.signature
    if isinstance(part, Media):
        return part.kind, part.data, part.url, part.file_id
    return (part,)


def _parsed(arguments: str) -> Any:
    """Parses arguments for comparison, since equal ones may be formatted differently."""
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments


def _reply(entry: Entry, source: Dialect) -> ChatReply:
    assert source.chat is not None
    if entry.form == "json":
        reply = source.chat.read_reply(orjson.loads(entry.body))
    else:
        reply = gather(events_of(source, entry.body), source.name)
    if entry.usage is not None:
        reply.usage = entry.usage
    return reply


def _events(entry: Entry, source: Dialect) -> list[Event]:
    if entry.form == "json":
        return spell(_reply(entry, source))
    events = events_of(source, entry.body)
    if entry.usage is not None and not any(isinstance(event, Metered) for event in events):
        events.append(Metered(entry.usage))
    return events


async def tell(call: Call, answer: Told, use: CacheUse) -> Outcome:
    """Send the answer. It costs nothing, since no upstream is called; ``use`` has what that saved."""
    headers: Headers = [
        (b"content-type", answer.content_type),
        (HEADER, b"stale" if use.status == STALE else b"hit"),
        (b"age", b"%d" % (use.age or 0)),
    ]
    if call.stream:
        headers += _STREAM
    else:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    if answer.dropped:
        headers.append((DROPPED, answer.dropped))
    if use.saved is not None:
        headers.append((COST, b"0.000000000"))
    call.cache = use
    await call.reply.commit(200, headers)
    await call.reply.end(answer.body)
    return Outcome(200, cost=FREE)
