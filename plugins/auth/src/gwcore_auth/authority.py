"""From a credential to a :class:`gwcore.ports.Caller` of the admin API; on every request, since nothing is cached."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gwcore.call import Principal
from gwcore.errors import BadRequest, Forbidden, Unauthenticated
from gwcore.ports import Caller
from gwcore_auth.book import Book
from gwcore_auth.grants import MANAGEMENT, READING, Grant, within
from gwcore_auth.resolve import ADMIN, UNKNOWN
from gwcore_auth.tokens import Tokens, claim, looks_like

ROLES = {"admin", "viewer", "user", "reader"}


@dataclass(slots=True, frozen=True)
class KnownCaller(Caller):
    """A caller with the grant of its credential, beyond which it may grant nothing."""

    grant: Grant | None = None


class Callers:
    """Identifies callers of the admin API."""

    def __init__(self, book: Book, identify: Callable[[str], Awaitable[Grant | None]], tokens: Tokens | None) -> None:
        self.book = book
        self._identify = identify
        self._tokens = tokens

    async def caller(self, credentials: tuple[str, ...], client: str | None, path: str) -> KnownCaller:
        """The caller with these credentials.

        Raises ``Unauthenticated``, ``Forbidden``, ``BadRequest`` and ``StoreUnavailable``.
        """
        if not credentials:
            raise Unauthenticated("Authentication Error, No api key passed in.")
        if len(credentials) > 1:
            raise BadRequest("the request holds different credentials; send one")
        grant = await self._identify(credentials[0])
        if grant is None:
            raise Unauthenticated(UNKNOWN)
        _usable(grant, client, path)
        if grant.principal is ADMIN:
            return KnownCaller("admin", "admin", grant=grant)
        return await self._of_grant(grant, credentials[0])

    async def _of_grant(self, grant: Grant, credential: str) -> KnownCaller:
        who = grant.principal
        token = self._tokens is not None and looks_like(credential)
        role = await self._role(who.user)
        if token and self._tokens is not None and self._tokens.config.admin_roles:
            names = claim(await self._tokens.claims(credential), self._tokens.config.claims.role)
            if not set(names).isdisjoint(self._tokens.config.admin_roles):
                role = "admin"
        if who.user is None or (who.team is not None and not token):
            return await self._of_key(who, role, grant)
        memberships = await self.book.members(user_id=who.user)
        # viewers and readers lead nothing, whatever their role in a team; admins need not
        leads = await self.book.leaders(user_id=who.user) if role == "user" else []
        leading = memberships if role == "user" else []
        return KnownCaller(
            role,
            who.id,
            user=who.user,
            teams=frozenset(m["team_id"] for m in leading if m["role"] == "admin"),
            organisations=frozenset(m["organisation_id"] for m in leads if m["role"] == "org_admin"),
            member_of=frozenset(m["team_id"] for m in memberships),
            key=None if token else who.id,
            grant=grant,
        )

    async def _of_key(self, who: Principal, role: str, grant: Grant) -> KnownCaller:
        """A key of a team, or without a user. Leaders of its team may rotate it, so it may lead only that team."""
        member = await self.book.member(who.team, who.user) if who.team and who.user else None
        leads = role in {"user", "admin"} and member is not None and member["role"] == "admin"
        team = frozenset({who.team} if who.team else ())
        teams = team if leads else frozenset[str]()
        return KnownCaller("user" if leads else "key", who.id, teams=teams, member_of=team, key=who.id, grant=grant)

    async def _role(self, user: str | None) -> str:
        row = await self.book.get("user", user)
        role = row["role"] if row else "user"
        return role if role in ROLES else "reader"


def _usable(grant: Grant, client: str | None, path: str) -> None:
    if grant.refusal is not None:
        raise type(grant.refusal)(grant.refusal.message)
    grant.alive(time.time())
    if grant.networks and not within(client, grant.networks):
        raise Forbidden("this key may not be used from this address")
    if grant.routes is not None and not grant.routes.allows(path, MANAGEMENT, READING):
        raise Forbidden("this key may not use the admin API")
