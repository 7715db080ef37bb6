"""The admin API of auth, in LiteLLM's shapes."""

from __future__ import annotations

from gwcore.ports import AdminRoute
from gwcore_auth.admin import customers, keys, organisations, teams, users
from gwcore_auth.admin.desk import Desk


def routes_of(desk: Desk) -> tuple[AdminRoute, ...]:
    """All routes."""
    parts = (keys.Keys, teams.Teams, users.Users, organisations.Organisations, customers.Customers)
    return tuple(route for part in parts for route in part(desk).routes())
