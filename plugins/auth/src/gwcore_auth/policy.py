"""Permissions of the admin API by role, endpoint and field; and the rule that no caller grants more than it holds.

A caller has its own role (``admin``, ``viewer``, ``user``, ``reader``, ``key``); a ``user`` also has ``team_admin`` if
it leads a team, and ``org_admin`` if it leads an organisation. A permission without a row is for admins only; the test
suite fails for a route without a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gwcore.errors import Forbidden
from gwcore.ports import AdminCall, Caller
from gwcore_auth.authority import KnownCaller
from gwcore_auth.grants import ALL_MODELS, NO_MODELS, TEAM_MODELS, Grant, ModelRule, networks_of, words_of

Row = Mapping[str, Any]
ADMIN, VIEWER, ORG, TEAM, USER, READER, KEY = "admin", "viewer", "org_admin", "team_admin", "user", "reader", "key"
_ALL: Final = frozenset({ADMIN, VIEWER, ORG, TEAM, USER, READER, KEY})
_WRITES: Final = frozenset({ADMIN, ORG, TEAM, USER})
_LEADS: Final = frozenset({ADMIN, ORG, TEAM})
_ORGS: Final = frozenset({ADMIN, ORG})
_READS: Final = frozenset({ADMIN, VIEWER})
_ADMIN: Final = frozenset({ADMIN})

TABLE: Final[Mapping[str, frozenset[str]]] = {
    "openapi:read": _ALL,
    "key:create": _WRITES,
    "key:update": _WRITES,
    "key:delete": _WRITES,
    "key:block": _WRITES,
    "key:unblock": _ORGS,  # a key's owner must not unblock what an admin blocked
    "key:rotate": _WRITES,
    "key:read": _ALL,
    "key:list": _ALL - {KEY},
    "team:create": _ORGS,
    "team:update": _LEADS,
    "team:delete": _ORGS,
    "team:block": _ORGS,
    "team:unblock": _ORGS,
    "team:member": _LEADS,
    "team:read": _ALL,
    "team:list": _ALL - {KEY},
    "user:create": _ADMIN,
    "user:update": frozenset({ADMIN, USER, TEAM, ORG}),
    "user:delete": _ADMIN,
    "user:read": _ALL - {KEY},
    "user:list": _READS,
    "organisation:create": _ADMIN,
    "organisation:update": _ORGS,
    "organisation:delete": _ADMIN,
    "organisation:member": _ORGS,
    "organisation:read": frozenset({ADMIN, VIEWER, ORG}),
    "organisation:list": frozenset({ADMIN, VIEWER, ORG}),
    "customer:create": _ADMIN,
    "customer:update": _ADMIN,
    "customer:delete": _ADMIN,
    "customer:block": _ADMIN,
    "customer:read": _READS,
    "customer:list": _READS,
    # of other plugins, whose endpoints check what the caller may reach (``Caller``)
    "budget:create": _ADMIN,
    "budget:update": _ADMIN,
    "budget:delete": _ADMIN,
    "budget:read": _READS,
    "budget:list": _READS,
    "budget:reset": _ADMIN,
    "spend:read": _ALL,
    "spend:report": _READS,
    "spend:calculate": _ALL,
    "metrics:read": _READS,
    "logs:read": _ALL,
}
"""Permission → the roles that may use it at all."""

LIMITS: Final = frozenset(
    {
        "max_budget", "soft_budget", "budget_duration", "model_max_budget", "budget_limits", "rpm_limit", "tpm_limit",
        "tpd_limit", "max_parallel_requests", "model_rpm_limit", "model_tpm_limit",
    }
)  # fmt: skip
_KEY_FIELDS: Final = LIMITS | {
    "key", "keys", "key_aliases", "key_alias", "duration", "models", "metadata", "tags", "team_id", "user_id", "aliases",
    "allowed_routes", "allowed_networks", "key_type", "grace_period", "blocked",
}  # fmt: skip
FIELDS: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    "key:create": dict.fromkeys((ORG, TEAM, USER), _KEY_FIELDS - {"key"}),
    "key:update": {
        USER: _KEY_FIELDS - {"team_id", "user_id", "blocked"},
        TEAM: _KEY_FIELDS - {"blocked"},
        ORG: _KEY_FIELDS,
    },
    "key:rotate": dict.fromkeys((ORG, TEAM, USER), _KEY_FIELDS - {"team_id", "user_id", "blocked"}),
    "team:create": {ORG: LIMITS | {"team_id", "team_alias", "organization_id", "models", "metadata", "tags", "members_with_roles", "model_aliases"}},
    "team:update": {
        TEAM: frozenset({"team_id", "team_alias", "metadata", "tags"}),
        ORG: LIMITS | {"team_id", "team_alias", "models", "metadata", "tags", "model_aliases", "blocked"},
    },
    "team:member": dict.fromkeys((ORG, TEAM), frozenset({"team_id", "member", "user_id", "user_email", "role", "max_budget_in_team", "budget_duration", "allowed_models", "rpm_limit", "tpm_limit"})),
    "user:update": dict.fromkeys((USER, TEAM, ORG), frozenset({"user_id", "user_alias", "metadata"})),
    "organisation:update": {ORG: frozenset({"organization_id", "organization_alias", "metadata"})},
    "organisation:member": {ORG: frozenset({"organization_id", "member", "user_id", "user_email", "role"})},
}  # fmt: skip
"""Permission → role → fields of the body that it may set; an admin may set all. Without a row, none is restricted: the
body only names things (ids), which the endpoint checks with :func:`reach`, or changes nothing."""


def standings(caller: Caller) -> frozenset[str]:
    """All roles of a caller."""
    found = {caller.role}
    if caller.role == USER:
        found |= {TEAM} if caller.teams else set()
        found |= {ORG} if caller.organisations else set()
    return frozenset(found)


def permit(permission: str, call: AdminCall) -> None:
    """Check permission and fields. Raises ``Forbidden``."""
    able = standings(call.caller) & TABLE.get(permission, _ADMIN)
    if not able:
        raise Forbidden(f"this credential may not use {permission}")
    if ADMIN in able:
        return
    rows = FIELDS.get(permission)
    if rows is not None:
        allowed = frozenset[str]().union(*(rows.get(standing, frozenset()) for standing in able))
        denied = sorted(call.given - allowed)
        if denied:
            raise Forbidden(f"this credential may not set {', '.join(denied)}")


# ── reach: which things ──────────────────────────────────────────────────────────────────────────────────────────────


def reads_all(caller: Caller) -> bool:
    """Whether the caller may see everything."""
    return caller.role in {ADMIN, VIEWER}


def leads_team(caller: Caller, team: Row | None) -> bool:
    """Whether the caller leads the team, or its organisation."""
    if caller.role == ADMIN:
        return True
    if team is None or caller.role != USER:
        return False
    return team["id"] in caller.teams or team["organisation_id"] in caller.organisations


def reads_team(caller: Caller, team: Row) -> bool:
    """Whether the caller may see the team."""
    return reads_all(caller) or team["id"] in caller.member_of or leads_team(caller, team)


def owns_key(caller: Caller, key: Row, team: Row | None) -> bool:
    """Whether the caller may change the key: its user's own, or one of a team or organisation that it leads."""
    if caller.role == ADMIN:
        return True
    if caller.role != USER:
        return False
    if key["team_id"] is not None and leads_team(caller, team):
        return True
    if key["organisation_id"] is not None and key["organisation_id"] in caller.organisations:
        return True
    return caller.user is not None and key["user_id"] == caller.user


def reads_key(caller: Caller, key: Row, team: Row | None) -> bool:
    """Whether the caller may see the key."""
    own = caller.user is not None and key["user_id"] == caller.user
    return reads_all(caller) or own or key["id"] == caller.key or owns_key(caller, key, team)


def reach(allowed: bool, what: str) -> None:
    """Raise ``Forbidden`` unless ``allowed``."""
    if not allowed:
        raise Forbidden(f"this credential has no access to this {what}")


# ── grants: nobody gives what it does not hold ───────────────────────────────────────────────────────────────────────


def within_team(caller: Caller, row: Row, given: frozenset[str]) -> None:
    """Check a team to be written against the grant of the caller's credential. Raises ``Forbidden``.

    An organisation's rules bind its teams on every call; this checks the rules of the credential itself.
    """
    if caller.role == ADMIN:
        return
    own = _own_rules(_held(caller, limits=bool(given & LIMITS)))
    if "models" in given:
        _models(row["models"], own)


def _held(caller: Caller, *, limits: bool) -> Grant:
    """The caller's grant. Raises ``Forbidden`` without one, or with ``limits`` if its key has limits of its own."""
    grant = caller.grant if isinstance(caller, KnownCaller) else None
    if grant is None:
        raise Forbidden("this credential has no rights that it could pass on")
    if limits and any("key" in scopes for scopes in grant.principal.policies.values()):
        raise Forbidden(
            "a key with limits of its own cannot create or change keys, because they would not share its limits"
        )
    return grant


def _own_rules(grant: Grant) -> list[ModelRule]:
    return [rule for rule in grant.rules if rule.whose == "key"]


def within_grant(caller: Caller, row: Row) -> None:
    """Check a key to be written against the grant of the caller's credential. Raises ``Forbidden``.

    A key with limits of its own may not create or change keys: they would not share its limits.
    """
    if caller.role == ADMIN:
        return
    grant = _held(caller, limits=True)
    _models(row["models"], _own_rules(grant))
    _routes(row["routes"], row["kind"], grant)
    _networks(row["networks"], grant)
    if grant.until is not None and (row["expires"] is None or row["expires"] > grant.until * 1000):
        raise Forbidden("duration: longer than the lifetime of this credential")


def _models(names: Sequence[str], rules: Iterable[ModelRule]) -> None:
    for rule in rules:
        if not names or not ALL_MODELS.isdisjoint(names) or TEAM_MODELS in names:
            raise Forbidden(
                "models: an empty list or * permits all models, which this credential may not use; list them"
            )
        for name in names:
            # a pattern is allowed if one of ours matches it as text: then ours matches everything it matches
            if name != NO_MODELS and not rule.allows(name):
                raise Forbidden(f"models: this credential may not use {name[:200]}")


def _routes(words: Sequence[str], kind: str, grant: Grant) -> None:
    if grant.routes is None:
        return
    wanted = words_of(words, kind)
    if not wanted or not all(grant.routes.allows(word) for word in wanted):
        raise Forbidden("allowed_routes: more than this credential may use")


def _networks(texts: Sequence[str], grant: Grant) -> None:
    if not grant.networks:
        return
    wanted = networks_of(texts)
    if not wanted or not all(any(_inside(one, ours) for ours in grant.networks) for one in wanted):
        raise Forbidden("allowed_networks: more than this credential may be used from")


def _inside(one: Any, ours: Any) -> bool:
    return bool(one.version == ours.version and one.subnet_of(ours))


def keeps_tags(caller: Caller, before: Row, after: Row) -> None:
    """Tags decide which budgets and rules apply, so only an admin may remove one. Raises ``Forbidden``."""
    if caller.role != ADMIN and not set(before["tags"]) <= set(after["tags"]):
        raise Forbidden("tags: only an admin may remove one")


def tightened(caller: Caller, before: Row, after: Row, team: Row | None) -> None:
    """A key's owner who does not lead its team or organisation may only restrict the key. Raises ``Forbidden``."""
    if caller.role == ADMIN or (before["team_id"] is not None and leads_team(caller, team)):
        return
    if before["organisation_id"] is not None and before["organisation_id"] in caller.organisations:
        return
    _wider("models", before["models"], after["models"])
    was, becomes = (words_of(row["routes"], row["kind"]) for row in (before, after))
    _wider("allowed_routes with key_type", was, becomes)
    _wider("allowed_networks", before["networks"], after["networks"])
    if before["kind"] not in {after["kind"], "default"}:
        raise Forbidden("key_type: only whoever leads the team, or an admin, may change it")
    if before["expires"] is not None and (after["expires"] is None or after["expires"] > before["expires"]):
        raise Forbidden("duration: may only be shortened with this credential")
    for plugin, settings in before["policies"].items():
        _looser(settings, after["policies"].get(plugin, {}))


_LOOSENS: Final[Mapping[str, frozenset[str]]] = {
    "max_budget": frozenset({"budget_duration"}),  # an all-time budget could become one per second
    "budget_id": LIMITS,  # the key's own limits override those of the shared budget
}
"""Limit → fields that would loosen it if added."""


def _wider(name: str, before: Sequence[str], after: Sequence[str]) -> None:
    if before and (not after or not set(after) <= set(before)):
        raise Forbidden(f"{name}: entries may only be removed with this credential")


def _looser(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    for name, added in _LOOSENS.items():
        if name in before and (more := sorted(added & (after.keys() - before.keys()))):
            raise Forbidden(
                f"{', '.join(more)}: would loosen {name}, which only whoever leads the team, or an admin, may do"
            )
    for name, old in before.items():
        new = after.get(name)
        if new == old:
            continue
        numbers = type(old) in (int, float) and type(new) in (int, float)
        if not numbers or new > old:
            raise Forbidden(f"{name}: may only be lowered with this credential")
