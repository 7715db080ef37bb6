"""Records an answer, and decides whether it may be stored: complete, good, from a wanted target, and not too large."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import uniform
from typing import Any, Final

import orjson

from gwcore.call import Attempt, Call, Outcome
from gwcore.chat import Finish
from gwcore.dialect import Dialect
from gwcore.errors import MISSHAPEN, GatewayError
from gwcore.events import Event, Failed, Finished, Metered, Started
from gwcore.relay import DROPPED
from gwcore.translate import CHAT
from gwcore.usage import Cost, Usage
from gwcore.wire.sse import SseReader
from gwcore.wire.transport import Headers
from gwcore_cache.config import Settings
from gwcore_cache.entry import Entry, Form
from gwcore_cache.key import shape_of

HEADER: Final = b"x-gwcore-cache"
_GOOD: Final = frozenset({"stop", "tool_calls"})
# finish reasons of operations without a codec
_DONE: Final = frozenset({"stop", "stop_sequence"})
_COMMENT: Final = re.compile(rb"(?:\A|(?<=\n\n)):[^\n]*\n\n")


@dataclass(slots=True)
class Record:
    """The recorder of a reply. See :class:`gwcore.reply.Tee`.

    Attributes:
        status: value of ``x-gwcore-cache`` for the client.
        by: the attempt that was serving when the answer began.
    """

    call: Call
    limit: int
    status: bytes = b"miss"
    code: int = 0
    headers: Headers = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    ended: bool = False
    by: Attempt | None = None

    def commit(self, status: int, headers: Headers) -> None:
        """An answer begins; again if an outer layer held one that broke, and another target was tried."""
        self.parts.clear()
        self.size, self.ended = 0, False
        self.code = status
        self.headers = list(headers)
        self.by = self.call.served
        headers.append((HEADER, self.status))

    def write(self, chunk: bytes) -> None:
        """Record a piece of the body; ``b""`` is its end."""
        if not chunk:
            self.ended = True
            return
        self.size += len(chunk)
        if self.size <= self.limit:
            self.parts.append(chunk)
        else:
            self.parts.clear()

    @property
    def body(self) -> bytes:
        """The complete body."""
        return b"".join(self.parts)

    def header(self, name: bytes) -> bytes:
        """Returns the first header of that name, or ``b""``."""
        return next((value for key, value in self.headers if key == name), b"")


def wanted_form(call: Call) -> Form | None:
    """Returns the form that the client wants; ``None`` for a stream other than server-sent events."""
    if not call.stream:
        return "json"
    return "sse" if call.route.stream == "body" or b"alt=sse" in call.query else None


def kept(
    record: Record, outcome: Outcome, settings: Settings, *, ttl: float, jitter: float, scope: str
) -> Entry | None:
    """Returns the entry to store; ``None`` if the answer may not be stored."""
    call = record.call
    form = wanted_form(call)
    kind = record.header(b"content-type")
    if (
        form is None
        or not is_whole(record, outcome)
        or not kind.startswith(b"text/event-stream" if form == "sse" else b"application/json")
        or not is_asked_for(call, record.by, any_target=settings.any_target)
    ):
        return None
    served = record.by
    assert served is not None
    body = record.body
    if form == "sse":
        body = _COMMENT.sub(b"", body)
    if not is_good(call.dialect, call.operation, form, body):
        return None
    if call.operation == CHAT and (served.usage is None or not served.usage.billable):
        return None
    return entry_of(
        call, served, settings, ttl=ttl, jitter=jitter, scope=scope,
        form=form, content_type=kind, body=body, usage=served.usage, cost=served.cost, dropped=record.header(DROPPED),
    )  # fmt: skip


def entry_of(
    call: Call,
    served: Attempt,
    settings: Settings,
    *,
    ttl: float,
    jitter: float,
    scope: str,
    form: Form,
    content_type: bytes,
    body: bytes,
    usage: Usage | None,
    cost: Cost | None,
    dropped: bytes = b"",
) -> Entry:
    """Returns the entry of an answer made now."""
    now = time.time_ns() // 1_000_000
    fresh = now + int(ttl * 1000 * uniform(1 - jitter, 1 + jitter))  # noqa: S311 - spreads load, guards nothing
    behind = max(settings.stale_while_revalidate, settings.stale_if_error)
    return Entry(
        call.dialect.name,
        call.operation,
        form,
        shape_of(call),
        content_type,
        body,
        now,
        fresh,
        fresh + int(behind * 1000),
        max(1, int((time.perf_counter() - served.started) * 1000)),
        usage,
        cost,
        call.model or "",
        scope,
        tuple(sorted(call.tags)),
        dropped,
    )


def is_whole(record: Record, outcome: Outcome) -> bool:
    """Whether it is a complete, uncompressed 200 without errors, within the size limit."""
    return (
        record.ended
        and record.code == outcome.status == 200
        and outcome.error is None
        and not outcome.cancelled
        and record.size <= record.limit
        and not record.header(b"content-encoding")
    )


def is_asked_for(call: Call, by: Attempt | None, *, any_target: bool) -> bool:
    """Whether one attempt at a target of the model itself gave the complete answer: no fallback, no continuation.

    Without ``any_target``, it must be the same model as that of the first target.
    """
    if by is None or by is not call.served or by.error is not None:
        return False
    own = [t for t in call.targets if t.model == by.target.model and t.upstream.name == by.target.upstream.name]
    return bool(own) and (any_target or by.target.model == call.targets[0].model)


def is_good(dialect: Dialect, operation: str, form: Form, body: bytes) -> bool:
    """Whether the answer ended normally: no limit, filter, error, refusal or pause."""
    try:
        if operation == CHAT and dialect.chat is not None:
            reasons = _reasons(dialect, form, body)
            return bool(reasons) and reasons <= _GOOD
        if form == "sse":
            return _completed(_frames(body))
        document = orjson.loads(body)
        if operation in {"completions", CHAT}:
            return _completed([document])
        return isinstance(document, dict) and "error" not in document
    except (GatewayError, *MISSHAPEN):
        return False


def _reasons(dialect: Dialect, form: Form, body: bytes) -> set[str]:
    """Returns the finish reasons of all choices; ``unknown`` for one that the vendor did not give itself."""
    assert dialect.chat is not None
    if form == "json":
        return {_said(choice.finish) for choice in dialect.chat.read_reply(orjson.loads(body)).choices}
    ends, begun = {}, set()
    for event in events_of(dialect, body):
        if isinstance(event, Finished):
            ends[event.choice] = _said(event.finish)
        elif not isinstance(event, Started | Metered | Failed):
            begun.add(event.choice)
        elif isinstance(event, Failed):
            return {"error"}
    return {*ends.values(), *("unknown" for choice in begun if choice not in ends)}


def _said(finish: Finish) -> str:
    return finish.reason if finish.native else "unknown"


def events_of(dialect: Dialect, body: bytes) -> list[Event]:
    """Returns the events of a stream. Raises ``Malformed``, and anything a codec raises for unexpected input."""
    assert dialect.chat is not None
    reader, sse = dialect.chat.reader(), SseReader()
    events: list[Event] = []
    for frame in [*sse.feed(body), *sse.close()]:
        if not frame.comment:
            events += reader.read(frame)
    return [*events, *reader.close()]


def _frames(body: bytes) -> list[Any]:
    sse = SseReader()
    frames = [*sse.feed(body), *sse.close()]
    return [orjson.loads(frame.data) for frame in frames if frame.data and frame.data != b"[DONE]"]


def _completed(documents: list[Any]) -> bool:
    """Whether every choice of completions ended with a reason in :data:`_DONE`, and there is no error."""
    ends: dict[Any, Any] = {}
    for document in documents:
        if not isinstance(document, Mapping) or document.get("error"):
            return False
        if document.get("stop_reason") is not None:
            ends[0] = document["stop_reason"]
        for choice in document.get("choices") or ():
            ends[choice.get("index", 0)] = choice.get("finish_reason") or ends.get(choice.get("index", 0))
    return bool(ends) and _DONE.issuperset(ends.values())
