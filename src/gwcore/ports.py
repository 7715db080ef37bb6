"""What plugins may offer one another. A plugin knows the core and never another plugin; what crosses lives here.

A plugin says ``offers = (Authority,)`` and implements the port itself; another says ``requires = (Authority,)`` and takes
it with ``setup.port(Authority)``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import BaseModel


@dataclass(slots=True, frozen=True)
class Caller:
    """Who asks the admin API. Made by the plugin that offers :class:`Authority`, and by nothing else.

    What a caller may reach follows from all of these together; an endpoint that answers for part of the data (spend,
    lists) must answer for that part only: ``admin`` and ``viewer`` see everything, everybody else their own ``user``,
    what ``teams`` they lead, what ``organisations`` they lead, and the ``key`` they present.

    Attributes:
        role: ``admin`` (everything), ``viewer`` (reads everything), ``user`` (its own), ``reader`` (reads its own),
            ``key`` (a key without a user, or of a team that its user does not lead: reads itself).
        id: for the audit log: ``admin``, or the id of the key or the token's subject.
        user: id of the user behind the credential, if it may speak for one.
        teams: ids of the teams the user leads.
        organisations: ids of the organisations the user leads; it leads their teams too.
        member_of: ids of the teams the user or the key belongs to, led or not.
        key: id of the virtual key presented; never the key.
    """

    role: str
    id: str
    user: str | None = None
    teams: frozenset[str] = frozenset()
    organisations: frozenset[str] = frozenset()
    member_of: frozenset[str] = frozenset()
    key: str | None = None

    @property
    def reach(self) -> Mapping[str, frozenset[str]] | None:
        """Whose records the caller may read, ids by scope (as in ``Principal.policies``); ``None``: everybody's.

        A record (a ledger row, a day's spend) is the caller's when any of its scopes is. Where nothing is, nothing is.
        """
        if self.role in {"admin", "viewer"}:
            return None
        return {
            "key": frozenset({self.key} if self.key else ()),
            "user": frozenset({self.user} if self.user else ()),
            "team": self.teams,
            "organisation": self.organisations,
        }


@dataclass(slots=True)
class AdminCall:
    """One request to the admin API, already authenticated, permitted and validated.

    Attributes:
        path: values of the route's ``{name}`` segments.
        query: the last value of each query parameter.
        body: an instance of the route's ``Body``, or ``None``.
        given: names of the body's fields that the caller wrote; a field left out is not a field set to null.
    """

    caller: Caller
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    given: frozenset[str] = frozenset()


@dataclass(slots=True, frozen=True)
class Page:
    """What an endpoint returns that is no JSON document."""

    body: bytes
    media_type: str


@dataclass(slots=True, frozen=True)
class AdminRoute:
    """One address of the admin API, as a plugin offers it from ``Plugin.admin_routes``.

    Attributes:
        permission: what :class:`Authority` decides on, as ``noun:verb`` (``key:create``, ``spend:read``). A permission
            that the Authority does not know is the admin's alone.
        endpoint: returns a JSON document or a :class:`Page`, or raises a ``GatewayError``.
        Body: model of the JSON body; ``None`` where there is none.
        query: names of the query parameters it reads, for the API description.
        media_type: of what it returns, for the API description.
    """

    method: str
    path: str
    permission: str
    endpoint: Callable[[AdminCall], Awaitable[Any]]
    summary: str
    Body: type[BaseModel] | None = None
    query: Sequence[str] = ()
    media_type: str = "application/json"


class Authority(Protocol):
    """Decides who may use the admin API: by role, endpoint and field, in one place. Any error denies."""

    async def caller(self, headers: Sequence[tuple[bytes, bytes]], client: str | None, path: str) -> Caller:
        """Who asks, from that address, for that path. Raises ``Unauthenticated``, ``Forbidden``.

        ``headers`` are the request's, names in lower case: they hold the credential, and where the address is a proxy's
        they say whose it asks for.
        """
        ...

    async def permit(self, route: AdminRoute, call: AdminCall) -> None:
        """Whether the caller may do this with these fields. Raises ``Forbidden``."""
        ...


class Directory(Protocol):
    """What the ids in a call's principal are called, for those who report on them."""

    def key_id(self, text: str) -> str:
        """The id of a virtual key, from the key itself or from its id; never looks into a store.

        An id need not exist: what nobody knows has no records. A text that looks like a key and is none gives ``""``.
        """
        ...

    async def aliases(self, scope: str, ids: Iterable[str]) -> Mapping[str, str]:
        """Names for humans by id; ids without one, or unknown, are absent. Raises ``StoreUnavailable``.

        ``scope``: key, user, team, organisation or end_user.
        """
        ...

    async def policies(self, scope: str, ids: Iterable[str], plugin: str) -> Mapping[str, Mapping[str, Any]]:
        """A plugin's settings by id, as they are now; ids without any, or unknown, are absent. Raises ``StoreUnavailable``.

        ``scope``: one of those of ``Principal.policies``.
        """
        ...


class Ownership(Protocol):
    """Sees to it that each reaches only its own of what vendors keep under one account: files, batches, stored responses."""

    @property
    def operations(self) -> frozenset[str]:
        """The operations it stands before; what it lets pass of them is the caller's own."""
        ...


@dataclass(slots=True, frozen=True)
class Sample:
    """One number that a plugin shows, as ``Plugin.metrics`` gives it; read when somebody looks.

    Attributes:
        name: in Prometheus' spelling and base units, ``gwcore_`` in front; a counter's without ``_total``.
        value: now. A counter's only ever grows while the process lives.
        labels: from settings, never from requests: every value makes a series.
        merge: what several workers' values become: their ``sum``, their ``max``, or the one told last (``recent``).
    """

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    help: str = ""
    kind: Literal["gauge", "counter"] = "gauge"
    merge: Literal["sum", "max", "recent"] = "sum"


class Spending(Protocol):
    """What has been spent, for those who show it beside something else."""

    async def spent(self, scope: str, policies: Mapping[str, Mapping[str, Any]]) -> Mapping[str, int]:
        """Nano-dollars in the running budget period (all time where there is none) by id; ids without spend may be absent.

        Args:
            scope: one of those of ``Principal.policies``.
            policies: id → the settings of its budget as they are now; what bound it before them does not count.
        """
        ...

    async def check(self, policy: Mapping[str, Any]) -> None:
        """Whether what a budget's settings refer to is there.

        Raises:
            BadRequest: it is not; a call under such settings would be refused.
            StoreUnavailable: nobody can tell now.
        """
        ...

    def resets(self, policy: Mapping[str, Any]) -> int | None:
        """When the running period of a budget with these settings ends, in milliseconds since 1970.

        ``None`` where it never does, as the budget counts all time or a rolling window, or sets nothing.
        """
        ...
