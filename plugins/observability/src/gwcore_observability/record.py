"""``Record``: one finished call with its attempts, as plain data. Made once per call, immutable, shared by all sinks.

It contains no request or response content (see :mod:`gwcore_observability.content`): a sink gets that only if its
settings or the caller's policies allow it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from http import HTTPStatus
from operator import attrgetter
from typing import Any

import orjson

from gwcore.call import Attempt, CacheUse, Call, Key, Outcome, Principal, words
from gwcore.dialect import Document
from gwcore.errors import ClientError, LimitError, Refused
from gwcore.outcomes import ending
from gwcore.redact import Redactor
from gwcore.usage import BUCKETS, OUT, Cost, Usage
from gwcore_observability.ids import event_id, span_id, trace_id

STATE = 512
"""Characters of a ``tracestate`` that W3C asks every system to propagate."""
LONGEST = 256
"""Characters kept of names written by clients."""

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_CLAUDE_USER = re.compile(r"session_([0-9a-fA-F-]{8,64})")
_AGENT_HEADERS = {
    b"x-claude-code-session-id", b"x-claude-code-agent-id", b"x-claude-code-parent-agent-id", b"session_id",
    b"conversation_id", b"x-app", b"originator", b"x-stainless-lang", b"x-stainless-package-version",
    b"helicone-session-path", b"helicone-session-name",
}  # fmt: skip
_SESSION_KEYS = ("session_id", "litellm_session_id", "trace_session_id")

REFUSED, OK, FAILED, CANCELLED = "refused", "ok", "failed", "cancelled"


@dataclass(slots=True, frozen=True)
class AttemptRecord:
    """One try at one upstream.

    Attributes:
        id: ``call.id:n``.
        key: number of the upstream's credential, from 1; 0 if it has only one.
        started_ns, first_ns, ended_ns: since the epoch; ``first_ns`` is the response's head; for a stream the first
            content, and ``None`` if the stream was refused.
        status: of the upstream's response; ``None`` if there was none.
        error: code of the error that ended it; ``reason``: its row in :mod:`gwcore.outcomes`; ``left`` if the client
            disconnected or another attempt was faster.
        upstream_id: the request id set by the upstream.
        tokens: by bucket of :mod:`gwcore.usage`, without zeros; ``fees`` by name.
        cost_nano: nano-USD; ``None`` if not priced.
    """

    id: str
    upstream: str
    provider: str
    model: str
    key: int
    started_ns: int
    first_ns: int | None
    ended_ns: int
    status: int | None
    error: str | None
    error_class: str | None
    reason: str | None
    upstream_id: str | None
    tokens: Mapping[str, int]
    fees: Mapping[str, int]
    service_tier: str | None
    cost_nano: int | None
    cost_source: str | None
    cost_version: str | None
    unpriced: tuple[str, ...]

    @property
    def span(self) -> str:
        """The attempt's span id."""
        return span_id(self.id)

    @property
    def failed(self) -> str | None:
        """The error in one word; ``None`` if there was none, or if the attempt was abandoned (``left``)."""
        return (self.reason or self.error) if self.reason != "left" else None


@dataclass(slots=True, frozen=True)
class Record:
    """One finished call.

    Attributes:
        id: ``x-gwcore-request-id``.
        client_trace, parent: W3C ids of trace and span, if the client sent them; ``sampled``: its sampling flag;
            ``trace_state``: its ``tracestate``.
        method, route: HTTP method, and path template, which contains nothing from the client.
        state: ``ok``, ``refused`` (by the gateway), ``failed``, ``cancelled``.
        status: sent to the client; 0 if it disconnected before.
        error, error_class, reason: code, type and row of :mod:`gwcore.outcomes` of the error; its text is never kept.
        model: as the client requested it; ``chosen``: its replacement by an alias or a selecting plugin, if different;
            ``served_model``, ``upstream``: the deployment that answered, or was tried last.
        started_ns, first_ns, ended_ns: since the epoch. ``first_ns`` is the first content of a stream, else the head of
            the response.
        overhead_s: seconds to the commit not spent waiting; ``admission_s``: seconds to the first attempt.
        waited_s: seconds spent waiting for upstreams up to the commit.
        tokens, fees: of the attempt that answered; those of others are in ``attempts``.
        cost_nano: nano-USD of all attempts; ``None`` if none is priced. ``unpriced``: what the sum leaves out.
        cache: ``hit``, ``miss``, ``bypass`` or ``None``; ``saved_nano``: what a hit would have cost; ``saved_tokens``.
        key, key_name: id and name of the credential, never the credential.
        session: of the agent or conversation, from headers or metadata. ``agent``: other headers of agents.
        received, sent: bytes of the request's and the response's body.
        facts: added by plugins (``Call.facts``), such as the tokens counted against limits.
    """

    id: str
    client_trace: str | None
    parent: str | None
    sampled: bool | None
    trace_state: str | None
    operation: str
    dialect: str
    method: str
    route: str
    stream: bool
    state: str
    status: int
    error: str | None
    error_class: str | None
    reason: str | None
    model: str | None
    chosen: str | None
    served_model: str | None
    upstream: str | None
    provider: str | None
    started_ns: int
    first_ns: int | None
    ended_ns: int
    overhead_s: float | None
    admission_s: float | None
    waited_s: float
    tokens: Mapping[str, int]
    fees: Mapping[str, int]
    service_tier: str | None
    cost_nano: int | None
    cost_source: str | None
    cost_version: str | None
    unpriced: tuple[str, ...]
    cache: str | None
    saved_nano: int | None
    saved_tokens: int
    key: str | None
    key_name: str | None
    team: str | None
    user: str | None
    organisation: str | None
    end_user: str | None
    tags: tuple[str, ...]
    session: str | None
    agent: Mapping[str, str]
    user_agent: str | None
    client: str | None
    received: int
    sent: int
    attempts: tuple[AttemptRecord, ...] = field(default=())
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def event(self) -> str:
        """A UUID derived from the id, by which receivers recognize duplicates."""
        return event_id(self.id)

    @property
    def trace(self) -> str:
        """The trace id: the client's, or one of our own."""
        return self.client_trace or trace_id(self.id)

    @property
    def span(self) -> str:
        """The span id of the call."""
        return span_id(self.id)

    def json(self) -> bytes:
        """The fields and the derived ids ``event``, ``trace`` and ``span``, as a JSON object."""
        ids = orjson.dumps({"event": self.event, "trace": self.trace, "span": self.span})
        return ids[:-1] + b"," + orjson.dumps(self)[1:]

    def document(self) -> dict[str, Any]:
        """As :meth:`json`, but a dict that the caller may extend."""
        told: dict[str, Any] = orjson.loads(self.json())
        return told

    @property
    def total_in(self) -> int:
        """Input tokens of the attempt that answered, cached ones included."""
        return sum(count for bucket, count in self.tokens.items() if bucket not in OUT)

    @property
    def total_out(self) -> int:
        """Output tokens of the attempt that answered, reasoning included."""
        return sum(count for bucket, count in self.tokens.items() if bucket in OUT)

    @property
    def seconds(self) -> float:
        """From the request's arrival to the last byte."""
        return (self.ended_ns - self.started_ns) / 1e9

    @property
    def first_token_s(self) -> float | None:
        """From the request's arrival to the first content of a stream; ``None`` if not a stream, or no content came."""
        return (self.first_ns - self.started_ns) / 1e9 if self.stream and self.first_ns is not None else None

    @property
    def last(self) -> AttemptRecord | None:
        """The attempt that answered, else the last one; not a concurrent attempt that was abandoned."""
        served = (self.upstream, self.served_model)
        found = [one for one in self.attempts if (one.upstream, one.model) == served] or self.attempts
        # a concurrent attempt may have used another credential of the same upstream
        found = [one for one in found if one.reason != "left"] or found
        return found[-1] if found else None

    @property
    def retries(self) -> int:
        """Attempts beyond the first."""
        return max(0, len(self.attempts) - 1)


RECORD: Key[Record] = Key("observability.record", Record, own=True)
_NONE: Mapping[str, Any] = {}
_counts = attrgetter(*BUCKETS)
_NOBODY = Principal("")
_NO_MONEY: dict[str, Any] = {"cost_nano": None, "cost_source": None, "cost_version": None, "unpriced": ()}
_NO_CACHE: dict[str, Any] = {"cache": None, "saved_nano": None, "saved_tokens": 0}


def record_of(call: Call, outcome: Outcome, redactor: Redactor) -> Record:
    """The record of a finished call; made once, then kept with the call."""
    found = call.get(RECORD)
    if found is None:
        found = _record(call, outcome)
        if redactor.holds_secret(" ".join(_foreign(found))):
            found = _scrubbed(found, redactor)
        call[RECORD] = found
    return found


def _foreign(record: Record) -> Iterator[str]:
    """Values written by clients and upstreams."""
    names = (
        record.model,
        record.chosen,
        record.session,
        record.user_agent,
        record.end_user,
        record.trace_state,
        *record.tags,
        *record.agent.values(),
    )
    yield from (name for name in names if name is not None)
    for attempt in record.attempts:
        yield attempt.model
        if attempt.service_tier is not None:
            yield attempt.service_tier
        if attempt.upstream_id is not None:
            yield attempt.upstream_id


def _scrubbed(record: Record, redactor: Redactor) -> Record:
    """The record without secrets. Rarely needed: a client or upstream put one into a name."""

    def scrub(value: Any) -> Any:
        if isinstance(value, str):
            return redactor.text(value)
        if isinstance(value, AttemptRecord):
            return replace(value, **{f.name: scrub(getattr(value, f.name)) for f in fields(value)})
        if isinstance(value, tuple):
            return tuple(map(scrub, value))
        return {key: scrub(one) for key, one in value.items()} if isinstance(value, dict) else value

    return replace(record, **{f.name: scrub(getattr(record, f.name)) for f in fields(record)})


def _record(call: Call, outcome: Outcome) -> Record:
    now = time.perf_counter()
    epoch = time.time_ns() - int(now * 1e9)  # perf_counter's zero: one clock for all times of a call
    # errors after the response had begun end differently from errors that the client did not see
    begun = call.served if 0 < call.reply.status < HTTPStatus.BAD_REQUEST else None
    attempts = tuple([_attempt(one, epoch, now, shown=one is begun) for one in call.attempts])
    served = attempts[call.served.number - 1] if call.served is not None else None
    who, asked = call.principal or _NOBODY, call.asked or call.model
    trace, parent, sampled = traceparent(call)
    session, agent, user_agent = _headers(call)
    error = outcome.error
    started_ns = epoch + int(call.started * 1e9)
    return Record(
        id=call.id,
        client_trace=trace,
        parent=parent,
        sampled=sampled,
        trace_state=tracestate(call) if trace is not None else None,
        operation=call.operation,
        dialect=call.dialect.name,
        method=call.method,
        route=call.route.path,
        stream=call.stream,
        state=_state(outcome),
        status=call.reply.status or outcome.status,
        error=error.code if error is not None else None,
        error_class=type(error).__name__ if error is not None else None,
        reason=ending(error, committed=begun is not None).kind if error is not None else None,
        model=asked[:LONGEST] if asked is not None else None,
        chosen=call.model[:LONGEST] if call.model is not None and call.model != asked else None,
        served_model=served.model if served is not None else None,
        upstream=served.upstream if served is not None else None,
        provider=served.provider if served is not None else None,
        started_ns=started_ns,
        first_ns=served.first_ns if served is not None else None,
        ended_ns=epoch + int(now * 1e9),
        overhead_s=call.overhead,
        admission_s=call.attempts[0].started - call.started if attempts else None,
        waited_s=call.waited,
        tokens=served.tokens if served is not None else _NONE,
        fees=served.fees if served is not None else _NONE,
        service_tier=served.service_tier if served is not None else None,
        **_money(_sum(call.attempts)),
        **(_NO_CACHE if call.cache is None else _cache(call.cache)),
        **_caller(who),
        tags=tuple(sorted([tag[:LONGEST] for tag in call.tags | who.tags])),
        session=session or _session(call.document),
        agent=agent or _NONE,
        user_agent=user_agent,
        client=call.client,
        received=len(call.raw),
        sent=call.reply.sent,
        attempts=attempts,
        facts=call.facts or _NONE,
    )


def _attempt(attempt: Attempt, epoch: int, now: float, *, shown: bool) -> AttemptRecord:
    upstream = attempt.target.upstream
    error, usage, cost = attempt.error, attempt.usage, attempt.cost
    first = attempt.first_byte_at
    if attempt.call.stream and isinstance(error, Refused):
        first = None  # the head of a refusal is not content of a stream
    return AttemptRecord(
        id=attempt.id,
        upstream=upstream.name,
        provider=upstream.provider.name,
        model=attempt.target.model[:LONGEST],
        key=upstream.key,
        started_ns=epoch + int(attempt.started * 1e9),
        first_ns=epoch + int(first * 1e9) if first is not None else None,
        ended_ns=epoch + int((attempt.ended or now) * 1e9),
        status=attempt.status,
        error=error.code if error is not None else None,
        error_class=type(error).__name__ if error is not None else None,
        reason=ending(error, committed=shown).kind if error is not None else None,
        upstream_id=attempt.upstream_id,
        tokens=_tokens(usage) if usage is not None else _NONE,
        fees=dict(usage.fees) if usage is not None and usage.fees else _NONE,
        service_tier=usage.service_tier if usage is not None else None,
        **_money(cost),
    )


def _money(cost: Cost | None) -> dict[str, Any]:
    if cost is None:
        return _NO_MONEY
    return {
        "cost_nano": cost.nano,
        "cost_source": cost.source,
        "cost_version": cost.version,
        "unpriced": cost.unpriced,
    }


def _cache(use: CacheUse) -> dict[str, Any]:
    return {
        "cache": use.status,
        "saved_nano": use.saved.nano if use.saved is not None else None,
        "saved_tokens": use.usage.total if use.usage is not None else 0,
    }


def _caller(who: Principal) -> dict[str, Any]:
    return {
        "key": who.id or None,
        "key_name": who.alias,
        "team": who.team,
        "user": who.user,
        "organisation": who.organisation,
        "end_user": who.end_user[:LONGEST] if who.end_user is not None else None,
    }


def _tokens(usage: Usage) -> dict[str, int]:
    return {bucket: count for bucket, count in zip(BUCKETS, _counts(usage), strict=True) if count}


def _sum(attempts: list[Attempt]) -> Cost | None:
    """Total cost of all attempts, including failed ones that were billed."""
    costs = [attempt.cost for attempt in attempts if attempt.cost is not None]
    if len(costs) < 2:
        return costs[0] if costs else None
    last = costs[-1]
    unpriced = tuple(dict.fromkeys(name for cost in costs for name in cost.unpriced))
    return Cost(sum(cost.nano for cost in costs), last.source, last.version, unpriced)


def _state(outcome: Outcome) -> str:
    if outcome.cancelled:
        return CANCELLED
    if outcome.error is None:
        return OK
    return REFUSED if isinstance(outcome.error, ClientError | LimitError) else FAILED


def _headers(call: Call) -> tuple[str | None, dict[str, str] | None, str | None]:
    """Session, headers of agents, user agent."""
    user_agent = agent = None
    for name, value in call.headers:
        if name == b"user-agent":
            user_agent = value[:LONGEST].decode("latin-1")
        if name in _AGENT_HEADERS:
            agent = agent or {}
            agent[name.decode()] = value[:LONGEST].decode("latin-1")
    named = call.session
    session = None if named is None else words(named)[:LONGEST]
    return session, agent, user_agent


def traceparent(call: Call) -> tuple[str | None, str | None, bool | None]:
    """Trace, span and sampled flag of the client's ``traceparent`` (W3C Trace Context); all ``None`` if invalid."""
    value = call.header(b"traceparent")
    found = _TRACEPARENT.fullmatch(value) if value is not None else None
    if found is None or found[1] == b"0" * 32 or found[2] == b"0" * 16 or found[0].startswith(b"ff"):
        return None, None, None
    return found[1].decode(), found[2].decode(), bool(int(found[3], 16) & 1)


def tracestate(call: Call) -> str | None:
    """The client's ``tracestate``: all its lines joined, cut to the first entries that fit into ``STATE``."""
    if call.header(b"tracestate") is None:
        return None
    said = b",".join([value for name, value in call.headers if name == b"tracestate"]).decode("latin-1")
    return (said if len(said) <= STATE else said[: STATE + 1].rpartition(",")[0]) or None


def _session(document: Document | None) -> str | None:
    """The session in the body: ``metadata.session_id``, Claude Code's ``metadata.user_id``, or the prompt cache key."""
    if document is None:
        return None
    metadata = document.get("metadata")
    if isinstance(metadata, dict):
        for key in _SESSION_KEYS:
            value = metadata.get(key)
            if isinstance(value, str) and value:
                return _kept(value)
        user = metadata.get("user_id")
        if isinstance(user, str) and (found := _CLAUDE_USER.search(user[: 4 * LONGEST])):
            return found[1]
    value = document.get("prompt_cache_key")
    return _kept(value) if isinstance(value, str) and value else None


def _kept(text: str) -> str:
    """The text cut to ``LONGEST``, without NUL, for which PostgreSQL would reject the whole batch."""
    return text[:LONGEST].replace("\0", "?")


def error_of(record: Record) -> str:
    """The error in one word: the row of the outcome, else the code; empty if there was none."""
    return record.reason or record.error or ""
