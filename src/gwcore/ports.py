"""What plugins may offer one another. A plugin knows the core and never another plugin; what crosses lives here.

A plugin says ``offers = (Authority,)`` and implements the port itself; another says ``requires = (Authority,)`` and takes
it with ``setup.port(Authority)``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel


@dataclass(slots=True, frozen=True)
class Caller:
    """Who asks the admin API. Made by the plugin that offers :class:`Authority`, and by nothing else.

    Attributes:
        role: ``admin`` (everything), ``viewer`` (reads everything), ``team_admin`` (its teams), ``user`` (itself).
        user: id of the user behind the credential, if there is one.
        teams: ids of the teams a ``team_admin`` rules, or a ``user`` belongs to.
        key: id of the virtual key presented; never the key.
    """

    role: str
    user: str | None = None
    teams: frozenset[str] = frozenset()
    key: str | None = None


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
class AdminRoute:
    """One address of the admin API, as a plugin offers it from ``Plugin.admin_routes``.

    Attributes:
        permission: what :class:`Authority` decides on, as ``noun:verb`` (``key:create``, ``spend:read``).
        endpoint: returns a JSON document, or raises a ``GatewayError``.
        Body: model of the JSON body; ``None`` where there is none.
    """

    method: str
    path: str
    permission: str
    endpoint: Callable[[AdminCall], Awaitable[Any]]
    summary: str
    Body: type[BaseModel] | None = None


class Authority(Protocol):
    """Decides who may use the admin API: by role, endpoint and field, in one place. Any error denies."""

    async def caller(self, credentials: tuple[str, ...], client: str | None) -> Caller:
        """Who presents these credentials from that address. Raises ``Unauthenticated``."""
        ...

    async def permit(self, route: AdminRoute, call: AdminCall) -> None:
        """Whether the caller may do this with these fields. Raises ``Forbidden``."""
        ...
