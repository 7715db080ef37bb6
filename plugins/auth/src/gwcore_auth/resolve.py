"""From a credential to a :class:`Grant`: the cold path, taken once per credential and change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from typing import Any

from pydantic import BaseModel

from gwcore.call import Principal
from gwcore.errors import BadConfig, Forbidden, GatewayError, Unauthenticated
from gwcore_auth.book import Book, Row
from gwcore_auth.config import AuthConfig, DeclaredKey
from gwcore_auth.grants import (
    Blocked,
    Grant,
    ModelRule,
    RouteRule,
    model_rule,
    networks_of,
    policies_of,
    words_of,
)
from gwcore_auth.keys import Pepper, Presented, hint, proof_of

UNKNOWN = "Authentication Error, Invalid API key provided."
"""The same message for every unknown credential, whatever is wrong with it."""

ADMIN = Principal("admin", alias="admin", admin=True)
OPEN = Principal("open")


def declared_rows(config: AuthConfig) -> tuple[dict[tuple[str, str], Row], dict[str, str]]:
    """The stack file's declarations as rows by (kind, id), and ids of keys by the SHA-256 of their secrets."""
    rows: dict[tuple[str, str], Row] = {}
    secrets: dict[str, str] = {}
    sections: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("key", config.keys),
        ("team", config.teams),
        ("user", config.users),
        ("organisation", config.organisations),
        ("end_user", config.customers),
    )
    for kind, things in sections:
        for id_, thing in things.items():
            row = thing.model_dump(exclude={"secret", "sha256", "team", "user", "organisation", "expires"})
            made = {"created_at": 0, "created_by": "stack file", "updated_at": 0, "updated_by": "stack file"}
            rows[kind, id_] = {**row, **made, "id": id_, "alias": thing.alias or id_}
            if kind in {"key", "team"}:
                rows[kind, id_]["organisation_id"] = thing.organisation
            if isinstance(thing, DeclaredKey):
                secrets[_proof(thing)] = id_
                rows[kind, id_].update(_of_key(thing))
    return rows, secrets


def _proof(key: DeclaredKey) -> str:
    return key.sha256 or proof_of(key.secret.get_secret_value() if key.secret else "")


def _of_key(key: DeclaredKey) -> Row:
    expires = key.expires if key.expires is None or key.expires.tzinfo else key.expires.replace(tzinfo=UTC)
    return {
        "team_id": key.team,
        "user_id": key.user,
        "expires": int(expires.timestamp() * 1000) if expires else None,
        # a kind's routes come on top of those listed: with a list, nothing else may be called
        "kind": "default" if key.routes else "llm_api",
        "hint": hint(key.secret.get_secret_value()) if key.secret else "",
    }


class Resolver:
    """Reads the rows that a grant depends on, and builds the grant."""

    def __init__(
        self, config: AuthConfig, book: Book, pepper: Pepper | None, policies: Mapping[str, type[BaseModel]]
    ) -> None:
        self.book = book
        self.pepper = pepper
        self._policies = policies
        self._blocked = {
            "key": frozenset(config.blocked.keys),
            "team": frozenset(config.blocked.teams),
            "user": frozenset(config.blocked.users),
            "organisation": frozenset(config.blocked.organisations),
            "end_user": frozenset(config.blocked.end_users),
        }

    def check_declared(self) -> None:
        """Check the stack file's policies against the plugins' models. Raises ``BadConfig``."""
        for (kind, id_), row in self.book.declared.items():
            try:
                policies_of([(kind, row)], self._policies)
            except GatewayError as error:
                said = error.message if isinstance(error, Forbidden) else f"{error.plugin} does not accept its policies"
                raise BadConfig(f"auth: {kind} {id_}: {said}") from None

    async def key_of(self, shown: Presented) -> tuple[Row, int | None] | None:
        """The key of a credential and the secret's expiry (ms since the epoch, or ``None``); ``None`` if unknown."""
        declared = self.book.secrets.get(shown.proof)
        if declared is not None:
            return self.book.declared["key", declared], None
        if self.pepper is None or shown.id is None:
            return None
        secret = await self.book.secret(shown.id)
        if not self.pepper.matches(shown.proof, secret["digest"] if secret else None) or secret is None:
            return None
        key = await self.book.get("key", secret["key_id"])
        return None if key is None else (key, secret["until"])

    async def grant(self, shown: Presented) -> Grant | None:
        """The credential's grant; ``None`` if it is unknown. Raises ``StoreUnavailable``."""
        found = await self.key_of(shown)
        if found is None:
            return None
        key, secret_until = found
        ends = [at for at in (key["expires"], secret_until) if at is not None]
        principal = Principal(key["id"], alias=key["alias"], team=key["team_id"], user=key["user_id"])
        words = words_of(key["routes"], key["kind"])
        made = Grant(
            principal,
            until=min(ends) / 1000 if ends else None,
            aliases=key["aliases"],
            routes=RouteRule(words) if words else None,
            networks=networks_of(key["networks"]),
        )
        return await self.belonging(made, key, key["organisation_id"])

    async def belonging(
        self, made: Grant, key: Row | None, organisation_id: str | None, *, strangers: bool = False
    ) -> Grant:
        """Complete a grant from key, team, user and organisation: rules, policies, tags, refusal.

        ``strangers``: the user need not be known here.
        """
        who = made.principal
        team, user = await self.book.get("team", who.team), await self.book.get("user", who.user)
        organisation_id = organisation_id or (team["organisation_id"] if team else None)
        organisation = await self.book.get("organisation", organisation_id)
        member = None
        if who.team and who.user and ("team", who.team) not in self.book.declared:
            member = await self.book.member(who.team, who.user)
        rows: dict[str, tuple[str | None, Row | None]] = {
            "organisation": (organisation_id, organisation),
            "team": (who.team, team),
            "user": (who.user, user),
            "member": (f"{who.team}/{who.user}" if who.team and who.user else None, member),
            "key": (who.id, key),
        }
        # a team's keys have the team's budget and models; the limits of the user as an individual do not apply
        scopes = [(scope, row) for scope, (_, row) in rows.items() if not (scope == "user" and team)]
        rules = [model_rule(scope, row["models"]) for scope, row in scopes if row]
        refusal = self._refusal(rows, strangers=strangers)
        policies: Mapping[str, Mapping[str, Any]] = {}
        if refusal is None:
            try:
                policies = policies_of(scopes, self._policies)
            except GatewayError as error:
                refusal = error
        tagged = [row["tags"] for row in (organisation, team, user, key) if row]
        return replace(
            made,
            principal=replace(
                who,
                organisation=organisation_id,
                metadata={**(team or {}).get("metadata", {}), **(key or {}).get("metadata", {})},
                tags=frozenset(tag for tags in tagged for tag in tags),
                policies=policies,
            ),
            rules=tuple(rule for rule in rules if rule is not None),
            aliases={**(team or {}).get("aliases", {}), **made.aliases},
            refusal=refusal,
            depends=frozenset((kind, id_) for kind, (id_, _) in rows.items() if id_),
        )

    def _refusal(self, rows: Mapping[str, tuple[str | None, Row | None]], *, strangers: bool) -> GatewayError | None:
        for kind, (id_, row) in rows.items():
            if id_ is None or kind == "member":
                continue
            if row is None and kind != "key" and not (kind == "user" and strangers):
                return Unauthenticated(f"Authentication Error, the {kind} of this key is not known.")
            if (row is not None and row["blocked"]) or id_ in self._blocked[kind]:
                mend = " Update via `/key/unblock` if you're an admin." if kind == "key" else ""
                return Blocked(f"Authentication Error, {kind.capitalize()} is blocked.{mend}")
        return None

    async def for_end_user(self, grant: Grant, end_user: str, *, known: bool) -> Grant:
        """The grant for a call on behalf of an end user; ``known``: whether any end user may exist."""
        row = await self.book.get("end_user", end_user) if known else None
        refusal = grant.refusal
        if (row is not None and row["blocked"]) or end_user in self._blocked["end_user"]:
            refusal = refusal or Blocked("Authentication Error, End user is blocked.")
        own: dict[str, Mapping[str, Any]] = {}
        if refusal is None:
            try:
                own = dict(policies_of([("end_user", row)], self._policies))
            except GatewayError as error:
                refusal = error
        merged = {**grant.principal.policies}
        for plugin, scopes in own.items():
            merged[plugin] = {**merged.get(plugin, {}), **scopes}
        rule: ModelRule | None = model_rule("customer", row["models"]) if row else None
        return replace(
            grant,
            principal=replace(grant.principal, end_user=end_user, policies=merged),
            rules=(*grant.rules, rule) if rule else grant.rules,
            refusal=refusal,
            depends=grant.depends | {("end_user", end_user)},
        )
