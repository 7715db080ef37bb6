"""Ports: what plugins may offer one another. A plugin knows the core but no other plugin; shared interfaces live here.

One plugin declares ``offers = (Authority,)`` and implements the port itself; another declares ``requires =
(Authority,)`` and gets it with ``setup.port(Authority)``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import BaseModel


@dataclass(slots=True, frozen=True)
class Caller:
    """The caller of the admin API. Made only by the plugin that offers :class:`Authority`.

    What a caller may access follows from all fields together. An endpoint that filters data (spend, lists) must enforce
    it: ``admin`` and ``viewer`` see everything, everyone else only their own ``user``, the ``teams`` and
    ``organisations`` they lead, and the ``key`` they present.

    Attributes:
        role: ``admin`` (everything), ``viewer`` (reads everything), ``user`` (its own), ``reader`` (reads its own),
            ``key`` (a key without a user, or of a team that its user does not lead: reads itself).
        id: for the audit log: ``admin``, or the id of the key or the token's subject.
        user: id of the user behind the credential, if it may act for one.
        teams: ids of the teams the user leads.
        organisations: ids of the organisations the user leads, which implies leading their teams.
        member_of: ids of the teams the user or the key belongs to, led or not.
        key: id of the virtual key presented; never the key itself.
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
        """Whose records the caller may read: ids by scope (as in ``Principal.policies``); ``None`` for everyone's.

        A record (a ledger row, a day's spend) is the caller's if any of its scopes is; without ids, no record is.
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
    """One request to the admin API, already authenticated, authorised and validated.

    Attributes:
        path: values of the route's ``{name}`` segments.
        query: the last value of each query parameter.
        body: an instance of the route's ``Body``, or ``None``.
        given: names of the body's fields that the caller sent, to tell an omitted field from one set to null.
    """

    caller: Caller
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    given: frozenset[str] = frozenset()


@dataclass(slots=True, frozen=True)
class Page:
    """An endpoint's response that is not a JSON document."""

    body: bytes
    media_type: str


@dataclass(slots=True, frozen=True)
class AdminRoute:
    """One route of the admin API, as returned by ``Plugin.admin_routes``.

    Attributes:
        permission: what :class:`Authority` decides on, as ``noun:verb`` (``key:create``, ``spend:read``). A permission
            unknown to the Authority is granted to the admin only.
        endpoint: returns a JSON document or a :class:`Page`, or raises a ``GatewayError``.
        Body: model of the JSON body; ``None`` where there is none.
        query: names of the query parameters it reads, for the API description.
        media_type: of the response, for the API description.
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
        """Identify the caller of ``path`` from the address ``client``. Raises ``Unauthenticated``, ``Forbidden``.

        ``headers`` are the request's, names in lower case: they hold the credential and, if the address is a proxy's,
        the original client.
        """
        ...

    async def permit(self, route: AdminRoute, call: AdminCall) -> None:
        """Check that the caller may do this with these fields. Raises ``Forbidden``."""
        ...


class Directory(Protocol):
    """Looks up names and policies for the ids in a call's principal, for reporting."""

    def key_id(self, text: str) -> str:
        """The id of a virtual key, from the key itself or from its id; never reads a store.

        The id need not exist: an unknown one simply has no records. Text that looks like a key but is none gives
            ``""``.
        """
        ...

    async def aliases(self, scope: str, ids: Iterable[str]) -> Mapping[str, str]:
        """Display names by id; ids that have none, or are unknown, are absent. Raises ``StoreUnavailable``.

        ``scope``: key, user, team, organisation or end_user.
        """
        ...

    async def policies(self, scope: str, ids: Iterable[str], plugin: str) -> Mapping[str, Mapping[str, Any]]:
        """A plugin's current policies by id; ids that have none, or are unknown, are absent.

        ``scope``: one of those of ``Principal.policies``. Raises ``StoreUnavailable``.
        """
        ...


class Ownership(Protocol):
    """Isolates tenants in what vendors keep under one account: files, batches, stored responses."""

    @property
    def operations(self) -> frozenset[str]:
        """The operations it guards; it lets through only what is the caller's own."""
        ...


@dataclass(slots=True, frozen=True)
class Sample:
    """One number exposed by a plugin through ``Plugin.metrics``; read on scrape.

    Attributes:
        name: Prometheus spelling and base units, prefixed ``gwcore_``; a counter's without ``_total``.
        value: the current value. A counter's only grows while the process lives.
        labels: from settings, never from requests: every value makes a series.
        merge: how several workers' values combine: their ``sum``, their ``max``, or the latest (``recent``).
    """

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    help: str = ""
    kind: Literal["gauge", "counter"] = "gauge"
    merge: Literal["sum", "max", "recent"] = "sum"


class Spending(Protocol):
    """What has been spent, for plugins that show it alongside other data."""

    async def spent(self, scope: str, policies: Mapping[str, Mapping[str, Any]]) -> Mapping[str, int]:
        """Nano-dollars in the current budget period (all time if there is none) by id; ids without spend may be absent.

        Args:
            scope: one of those of ``Principal.policies``.
            policies: id → its current budget settings; earlier settings do not count.
        """
        ...

    async def check(self, policy: Mapping[str, Any]) -> None:
        """Check that what a budget's settings refer to exists.

        Raises:
            BadRequest: it does not; a call under such settings would be rejected.
            StoreUnavailable: it cannot be checked now.
        """
        ...

    def resets(self, policy: Mapping[str, Any]) -> int | None:
        """When the current period of a budget with these settings ends, in milliseconds since 1970.

        ``None`` if it never does: the budget counts all time or a rolling window, or sets nothing.
        """
        ...
