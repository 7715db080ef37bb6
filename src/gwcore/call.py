"""``Call`` and what belongs to it: ``Target``, ``Attempt``, ``Principal``, ``Outcome``, ``Key``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

from gwcore.dialect import Dialect, Document, Meter, Route
from gwcore.errors import GatewayError, leave_frames
from gwcore.knobs import MAX_TOKENS, largest
from gwcore.prices import PriceCard
from gwcore.provider import Target
from gwcore.reply import Reply
from gwcore.usage import Cost, Usage
from gwcore.wire.transport import Headers

__all__ = ["Attempt", "CacheUse", "Call", "Key", "Outcome", "Principal", "Target", "words"]

T = TypeVar("T")
SESSION_HEADERS = (
    b"x-gwcore-session-id", b"x-gwcore-session", b"x-claude-code-session-id", b"x-session-id", b"session-id", b"session_id",
    b"conversation_id", b"conversation-id", b"helicone-session-id", b"langfuse-session-id", b"langfuse_session_id",
    b"x-litellm-session-id",
)  # fmt: skip
"""Headers in which clients, agents and tracing SDKs name a call's session; the first one present counts."""
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def words(value: bytes) -> str:
    """Decode a header that holds a name: UTF-8, to match the same name in bodies and the stack file, else Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


class Key(Generic[T]):
    """A typed place for a plugin's own state on a call: ``HOLD = setup.key("hold", Hold)``; ``call[HOLD]``.

    Two keys are equal only if they are the same object, so two instances of one plugin never share state.

    Args:
        name: for humans.
        kind: type of the value.
        own: the value concerns only this call or its answer: a :meth:`Call.twin` does not inherit it.
    """

    __slots__ = ("kind", "name", "own")

    def __init__(self, name: str, kind: type[T], *, own: bool = False) -> None:
        self.name = name
        self.kind = kind
        self.own = own

    def __repr__(self) -> str:
        return f"Key({self.name!r}, {self.kind.__name__})"


@dataclass(slots=True, frozen=True, eq=False, weakref_slot=True)
class Principal:
    """The authenticated caller. Made only by an auth plugin: there is no default identity.

    Usually one object serves all calls of a credential (and end user) until something about them changes, so a plugin
    may keep what it derives from it in a ``WeakKeyDictionary``. Principals compare by identity.

    Attributes:
        id: of the credential, stable across rotations of its secret; never the credential itself. ``open`` on open
            gateways.
        alias: the credential's name for humans.
        team, user, organisation: ids of the credential's owners. ``organisation`` is its own, else its team's.
        end_user: id of the customer the call is made for, if the client named one and the credential may do so.
        admin: the gateway's operator, who may access what is isolated between tenants.
        metadata: the credential's metadata merged over its team's; for reports and routing.
        tags: those of the credential, its team and its organisation together.
        policies: settings per plugin name, then per scope. ``policies["budget"]["team"]`` is an instance of the budget
            plugin's ``Policy``, validated when it was written, or is absent. Scopes, from wide to narrow:
            ``organisation``, ``team``, ``user``, ``member`` (this user in this team), ``end_user``, ``key``. The id of
            each scope is the principal's field of that name (``member``: ``team`` and ``user``; ``key``: ``id``).
            Fields that the admin API accepts flat, under LiteLLM's names, have the same names in these models:

            * ``budget``: ``max_budget``, ``soft_budget``, ``budget_duration``, ``budget_id``, ``model_max_budget``,
              ``budget_limits``, ``temp_budget_increase``, ``temp_budget_expiry``;
            * ``ratelimit``: ``rpm_limit``, ``tpm_limit``, ``tpd_limit``, ``max_parallel_requests``, ``model_rpm_limit``,
              ``model_tpm_limit``.
    """

    id: str
    alias: str | None = None
    team: str | None = None
    user: str | None = None
    organisation: str | None = None
    end_user: str | None = None
    admin: bool = False
    metadata: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    tags: frozenset[str] = frozenset()
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: _NOTHING)


@dataclass(slots=True, frozen=True)
class CacheUse:
    """What a cache of the gateway did for a call.

    Attributes:
        status: ``hit``, ``miss``, ``bypass``; a cache may qualify a hit after a slash (``hit/shared``).
        age: on a hit, seconds since the answer was stored.
        usage: of the stored answer: what was not consumed again.
        saved: what that would have cost, where it is priced.
        key: of the entry, for those who may purge it; never sent to clients.
    """

    status: str
    age: float | None = None
    usage: Usage | None = None
    saved: Cost | None = None
    key: str | None = None


@dataclass(slots=True)
class Outcome:
    """How an exchange ended.

    Attributes:
        status: the status sent to the client; 0 if the client disconnected before one was.
        error: what ended it early, before the commit or inside the stream; else ``None``.
        cancelled: the client disconnected.
        usage: what the upstream reported.
        cost: of the attempt that answered; ``None`` where the model is unpriced, nothing was reported, or no plugin
            needs costs. Failed attempts carry their own costs: see ``call.attempts``.
    """

    status: int
    error: GatewayError | None = None
    cancelled: bool = False
    usage: Usage | None = None
    cost: Cost | None = None


class Call:
    """One client request; made once, and the only context object there is.

    Attributes:
        id: unique; ``x-gwcore-request-id``.
        route: the ingress route that matched; ``operation`` is its operation.
        model: the model called; ``None`` where the operation has none. ``asked`` is the name the client wrote, which an
            alias or a selecting plugin may have replaced.
        raw: the body as received, content-encoding removed. Assign through :meth:`edit` only.
        document: the parsed body of a JSON operation. Read it freely; change it through :meth:`edit`.
        headers: the client's, lower-case names. Credentials have been moved into ``credentials``. Immutable after
            ingress: :meth:`header` caches them.
        targets: what ``model`` resolves to, in order.
        started: ``time.perf_counter()`` at ingress. ``waited``: seconds since then spent waiting for upstreams.
        overhead: seconds from ingress to the commit that were not spent waiting for upstreams; ``None`` before the
            commit.
        cache: what a cache did for the call; ``None`` if no cache applies to it.
        served: the attempt that answers, or the latest one.
        left: the client has disconnected, or the call is over: nobody is reading any more.
        deadline: monotonic second at which the call ends, or ``None``.
        weight: bytes of its body that count against ``server.body_memory``.
        facts: what plugins add to the call's record, each under its own name: plain JSON, no content.
        linger: called when the client disconnects; returns for how many seconds to keep reading the upstream, for the
            usage it reports at the end. 0 ends the call at once, as ``None`` does.
    """

    __slots__ = (
        "_named",
        "_state",
        "_wanted",
        "asked",
        "attempts",
        "cache",
        "client",
        "credentials",
        "deadline",
        "dialect",
        "document",
        "edited",
        "facts",
        "headers",
        "id",
        "left",
        "linger",
        "method",
        "model",
        "operation",
        "overhead",
        "params",
        "path",
        "principal",
        "query",
        "raw",
        "reply",
        "route",
        "served",
        "started",
        "stream",
        "tags",
        "targets",
        "waited",
        "weight",
    )

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the field's standard name
        dialect: Dialect,
        route: Route,
        reply: Reply,
        headers: Headers,
        path: str = "",
        query: bytes = b"",
        raw: bytes = b"",
        document: Document | None = None,
        params: Mapping[str, str] = _NOTHING,
        model: str | None = None,
        stream: bool = False,
        credentials: tuple[str, ...] = (),
        client: str | None = None,
    ) -> None:
        self.id = id
        self.dialect = dialect
        self.route = route
        self.operation = route.operation
        self.method = route.method
        self.reply = reply
        self.headers = headers
        self.path = path
        self.query = query
        self.raw = raw
        self.document = document
        self.params = params
        self.model = self.asked = model
        self.stream = stream
        self.credentials = credentials
        self.client = client
        self.edited = False
        self.principal: Principal | None = None
        self.targets: tuple[Target, ...] = ()
        self.attempts: list[Attempt] = []
        self.served: Attempt | None = None
        self.tags: frozenset[str] = frozenset()
        self.started = time.perf_counter()
        self.waited = 0.0
        self.overhead: float | None = None
        self.cache: CacheUse | None = None
        self.deadline: float | None = None
        self.weight = 0
        self.facts: dict[str, Any] = {}
        self.left = False
        self.linger: Callable[[], float] | None = None
        self._state: dict[Key[Any], Any] | None = None
        self._named: dict[bytes, bytes] | None = None
        self._wanted: tuple[int | None, int | None] | None = None

    def edit(self) -> Document:
        """The document, to be changed: it is re-encoded for the upstream. Raises ``TypeError`` if there is none."""
        if self.document is None:
            raise TypeError(f"{self.operation} has no JSON document")
        self.edited = True
        return self.document

    def wanted(self) -> tuple[int | None, int | None]:
        """The request's token limit per answer and its number of answers; ``None`` where it sets none."""
        if self._wanted is not None and not self.edited:
            return self._wanted
        document = self.document or {}
        knobs = self.dialect.knobs(self.operation, document, self.model or "")
        self._wanted = largest(document, knobs.get("max_tokens", MAX_TOKENS)), largest(document, knobs.get("n", ()))
        return self._wanted

    def twin(self, id: str, reply: Reply) -> Call:  # noqa: A002 - the field's standard name
        """A copy of this request for the same principal, without attempts; for :class:`gwcore.detached.Detached`."""
        made = Call(
            id=id,
            dialect=self.dialect,
            route=self.route,
            reply=reply,
            headers=self.headers,
            path=self.path,
            query=self.query,
            raw=self.raw,
            document=None if self.document is None else dict(self.document),
            params=self.params,
            model=self.model,
            stream=self.stream,
            credentials=self.credentials,
            client=self.client,
        )
        made.asked = self.asked
        made.edited, made.principal, made.targets, made.tags = self.edited, self.principal, self.targets, self.tags
        made._state = {key: value for key, value in (self._state or {}).items() if not key.own}
        return made

    def part(self, outcome: Outcome) -> None:
        """Break the reference cycles of a call that is over, so that it is freed with its last reference, without the GC."""
        self.reply.part()
        for attempt in self.attempts:
            del attempt.call
            leave_frames(attempt.error)
        leave_frames(outcome.error)

    def header(self, *names: bytes) -> bytes | None:
        """The first header of that (lower-case) name; of several names, the first one present."""
        known = self._named
        if known is None:  # several plugins look up headers, and SDKs send dozens of them
            known = self._named = dict(reversed(self.headers))
        if not known.keys().isdisjoint(names):
            for name in names:
                if name in known:
                    return known[name]
        return None

    @property
    def session(self) -> bytes | None:
        """The session the client names in a header: for budgets, records and affinity to a target's prompt cache."""
        return self.header(*SESSION_HEADERS) or None

    def __getitem__(self, key: Key[T]) -> T:
        if self._state is None:
            raise KeyError(key)
        return cast("T", self._state[key])

    def __setitem__(self, key: Key[T], value: T) -> None:
        if self._state is None:
            self._state = {}
        self._state[key] = value

    def __contains__(self, key: Key[Any]) -> bool:
        return self._state is not None and key in self._state

    def get(self, key: Key[T], default: T | None = None) -> T | None:
        """The value stored under ``key``, or ``default``."""
        return default if self._state is None else self._state.get(key, default)


_UPSTREAM_IDS = (b"x-request-id", b"request-id", b"x-amzn-requestid", b"apim-request-id", b"x-goog-request-id")


class Attempt:
    """One try at one target.

    Attributes:
        call: the call it belongs to; removed once the call has ended and every tap has run.
        id: ``call.id:n``, n from 1.
        first_byte_at: ``time.perf_counter()`` at the response head or, for a stream, at its first content.
        ended: ``time.perf_counter()`` at its end; ``None`` while it runs.
        headers: of the response, as received; ``None`` before. They may echo what was sent: log none of them.
        error: what ended it; a router that aborts it sets this beforehand.
        meter: holds the usage read so far, while the attempt runs.
        usage: what the upstream reported, once the attempt is over, however it ended; ``None`` if nothing was.
        card: the price card of its target, once an inner layer has looked it up; the cost uses this one, even if prices
            change later.
        cost: of that usage; see :attr:`Outcome.cost`.
        fields: top-level members of the document that this attempt overrides; the call's own document is unchanged.
        added: further request headers, set by plugins.
        dropped: names of what was left out of a request in its own dialect, for ``x-gwcore-dropped``.
    """

    __slots__ = (
        "added",
        "call",
        "card",
        "cost",
        "dropped",
        "ended",
        "error",
        "fields",
        "first_byte_at",
        "headers",
        "id",
        "meter",
        "number",
        "started",
        "status",
        "target",
        "usage",
    )

    def __init__(self, call: Call, target: Target) -> None:
        self.call = call
        self.target = target
        self.number = len(call.attempts) + 1
        self.id = f"{call.id}:{self.number}"
        self.started = time.perf_counter()
        self.first_byte_at: float | None = None
        self.ended: float | None = None
        self.headers: Headers | None = None
        self.status: int | None = None
        self.error: GatewayError | None = None
        self.meter: Meter | None = None
        self.usage: Usage | None = None
        self.card: PriceCard | None = None
        self.cost: Cost | None = None
        self.fields: dict[str, Any] | None = None
        self.added: Headers | None = None
        self.dropped: list[str] | None = None
        call.attempts.append(self)
        call.served = self

    @property
    def upstream_id(self) -> str | None:
        """The upstream's request id, from its response headers; at most 256 characters."""
        for name, value in self.headers or ():
            if name in _UPSTREAM_IDS:
                return value[:256].decode("latin-1")
        return None

    def add_header(self, name: bytes, value: bytes) -> None:
        """Add a request header, ``name`` in lower case; only before the attempt is sent."""
        if self.added is None:
            self.added = []
        self.added.append((name, value))
