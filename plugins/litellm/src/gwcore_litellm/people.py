"""Converts rows of LiteLLM's tables to requests of the admin API, which uses LiteLLM's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from gwcore_litellm.database import Row

_MONEY: Final = ("max_budget", "soft_budget", "budget_duration", "model_max_budget", "budget_limits")
_RATES: Final = ("rpm_limit", "tpm_limit", "tpd_limit", "max_parallel_requests")
_ZERO: Final = {"max_budget", "max_budget_in_team", *_RATES}
_INSIDE: Final = (
    "tags", "model_rpm_limit", "model_tpm_limit", "temp_budget_increase", "temp_budget_expiry", "guardrails", "enforced_params",
)  # fmt: skip
"""Fields that LiteLLM stores in ``metadata``, but that its API, like gwcore's, has beside it."""
_ROLES: Final = {"proxy_admin", "proxy_admin_viewer", "internal_user", "internal_user_viewer"}
_PAGES: Final = "litellm-dashboard"
"""Team of the session keys of LiteLLM's web interface."""


@dataclass(frozen=True, slots=True)
class Step:
    """One object to create.

    Attributes:
        kind: ``key``, ``team`` …, for messages.
        name: its name or id; never a secret.
        path: admin API path that creates it.
        there: path and query that answer 200 if it exists already; ``None`` if creating it twice changes nothing.
    """

    kind: str
    name: str
    path: str
    body: dict[str, Any]
    there: tuple[str, dict[str, str]] | None = None


def steps(rows: Mapping[str, list[Row]], now: datetime) -> Iterator[Step]:
    """The objects to create, each after those it refers to. Expired keys are left out."""
    budgets = {row["budget_id"]: row for row in rows["budget"]}
    for row in rows["budget"]:
        body = {"budget_id": row["budget_id"], **_some(row, *_MONEY[:4])}
        yield Step(
            "budget", row["budget_id"], "/budget/new", body, ("/budget/settings", {"budget_id": row["budget_id"]})
        )
    for row in rows["organization"]:
        body = {
            **_some(row, "organization_id", "organization_alias", "models"),
            **_limits(row, budgets),
            **_metadata(row),
        }
        yield _step("organization", row["organization_id"], body, "organization_id")
    for row in rows["user"]:
        body = {
            **_some(row, "user_id", "user_alias", "user_email", "models"),
            **_limits(row, budgets),
            **_metadata(row),
        }
        if row.get("user_role") in _ROLES:
            body["user_role"] = row["user_role"]
        yield _step("user", row["user_id"], {**body, "auto_create_key": False}, "user_id")
    yield from _teams(rows, budgets)
    for row in rows["leader"]:
        member = {"user_id": row["user_id"], "role": row.get("user_role") or "internal_user"}
        body = {"organization_id": row["organization_id"], "member": member}
        yield Step("member", f"{row['user_id']} of {row['organization_id']}", "/organization/member_add", body)
    for row in rows["customer"]:
        body = {
            **_some(row, "user_id", "alias", "models", "blocked", "allowed_model_region", "default_model"),
            **_limits(row, budgets),
        }
        yield Step(
            "customer", row["user_id"], "/customer/new", body, ("/customer/info", {"end_user_id": row["user_id"]})
        )
    for row in rows["key"]:
        made = _key(row, budgets, now) if row.get("team_id") != _PAGES else None
        if made is not None:
            name = row.get("key_alias") or row.get("key_name") or row["token"][:12]
            yield Step("key", name, "/key/generate", made, ("/key/info", {"key": row["token"]}))


def _step(kind: str, name: str, body: dict[str, Any], query: str) -> Step:
    return Step(kind, name, f"/{kind}/new", body, (f"/{kind}/info", {query: name}))


def _teams(rows: Mapping[str, list[Row]], budgets: Mapping[str, Row]) -> Iterator[Step]:
    aliases = {row.get("id"): row.get("aliases") for row in rows["model"]}
    for row in rows["team"]:
        if row["team_id"] == _PAGES:
            continue
        body = {
            **_some(
                row, "team_id", "team_alias", "organization_id", "models", "blocked", "access_group_ids", "policies"
            ),
            **_limits(row, budgets),
            **_metadata(row),
        }
        listed = row.get("members_with_roles")
        people = (
            [_some(one, "user_id", "user_email", "role") for one in listed if isinstance(one, dict)]
            if isinstance(listed, list)
            else []
        )
        if people:
            body["members_with_roles"] = people
        if meant := aliases.get(row.get("model_id")):
            body["model_aliases"] = meant
        yield _step("team", row["team_id"], body, "team_id")
    for row in rows["member"]:
        budget = budgets.get(row.get("budget_id") or "")
        if budget is not None:
            limits = {
                "max_budget_in_team": budget.get("max_budget"),
                **_some(budget, "budget_duration", "rpm_limit", "tpm_limit", "allowed_models"),
            }
            body = {"team_id": row["team_id"], "user_id": row["user_id"], **_some(limits, *limits)}
            yield Step("member", f"{row['user_id']} of {row['team_id']}", "/team/member_update", body)


def _key(row: Row, budgets: Mapping[str, Row], now: datetime) -> dict[str, Any] | None:
    body = {
        "sha256": row["token"],
        **_some(
            row, "key_alias", "models", "aliases", "user_id", "team_id", "organization_id", "allowed_routes", "blocked", "permissions",
            "budget_fallbacks", "access_group_ids", "agent_id", "project_id", "router_settings", "policies",
        ),
        **_limits(row, budgets),
        **_metadata(row),
    }  # fmt: skip
    if row.get("key_type") in {"llm_api", "management", "read_only"}:
        body["key_type"] = row["key_type"]
    if (expires := row.get("expires")) is not None:
        left = (expires if expires.tzinfo else expires.replace(tzinfo=UTC)) - now
        if left.total_seconds() < 1:
            return None
        body["duration"] = f"{int(left.total_seconds())}s"
    return body


def _some(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The fields that have a value; 0 is one for limits, where it forbids everything."""
    return {name: row[name] for name in names if row.get(name) or (name in _ZERO and row.get(name) is not None)}


def _limits(row: Row, budgets: Mapping[str, Row]) -> dict[str, Any]:
    """The row's own limits, and the rates of its named budget, because gwcore's budgets have no rates."""
    shared = budgets.get(row.get("budget_id") or "", {})
    return {**_some(shared, *_RATES), **_some(row, "budget_id", *_MONEY, *_RATES)}


def _metadata(row: Row) -> dict[str, Any]:
    data = row.get("metadata")
    if not isinstance(data, dict):
        return {}
    rest = {name: value for name, value in data.items() if name not in _INSIDE}
    return {**_some(data, *_INSIDE), **({"metadata": rest} if rest else {})}
