"""Bodies of the admin API, with LiteLLM's field names, since its clients send them.

A field of LiteLLM's that this gateway does not support is accepted if empty (``null``, ``[]``, ``{}``) and rejected
otherwise, because a restriction must not be ignored. Any other unknown field is rejected.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gwcore_auth.config import KeyDigest, Networks

_NOT_HERE = frozenset(
    {
        "access_group_ids", "admins", "agent_id", "aliases", "allowed_models", "allow_team_guardrail_config", "allowed_cache_controls", "allowed_model_region",
        "allowed_passthrough_routes", "allowed_vector_store_indexes", "auto_rotate", "budget_fallbacks", "budget_reset_at",
        "default_estimated_output_tokens", "default_estimated_output_tokens_per_model", "default_model", "duration", "key_alias", "max_budget_in_organization", "model_max_budget", "temp_budget_expiry", "temp_budget_increase", "team_id",
        "default_team_member_models", "denied_passthrough_routes", "disable_global_guardrails", "enable_prompt_caching",
        "end_user_budget_id", "enforced_batch_output_expires_after", "enforced_file_expires_after", "enforced_params",
        "guardrails", "mcp_rpm_limit", "members", "new_master_key", "object_permission", "password", "permissions",
        "project_id", "prompts", "require_trace_id", "rotation_interval", "router_settings", "rpm_limit_type",
        "secret_manager_settings", "spend", "sso_user_id", "tag_rpm_limit", "team_member_budget",
        "team_member_budget_duration", "team_member_key_duration", "team_member_model_max_budget",
        "team_member_permissions", "team_member_rpm_limit", "team_member_tpm_limit", "throttle_on_budget_exceeded",
        "tpm_limit_type", "updated_by",
    }
)  # fmt: skip
_INSTEAD = {
    **dict.fromkeys(
        ("team_member_budget", "team_member_budget_duration", "team_member_rpm_limit", "team_member_tpm_limit"),
        "limits of members are set one by one, with /team/member_add and /team/member_update",
    ),
    "budget_reset_at": "periods follow budget_duration",
}
"""Fields of LiteLLM → what to use here instead."""
_HARMLESS = frozenset({"send_invite_email", "config"})
_STAYS = frozenset({"team_id", "duration", "budget_duration"})
_CLEARS = frozenset({"budget_id", "key_alias", "organization_id", "team_alias", "user_alias", "user_email", "user_id"})
"""Fields that ``""`` leaves unchanged, and those that it clears, as in LiteLLM: forms and Terraform's provider send it
for an empty field."""

BUDGET_FIELDS = (
    "max_budget", "soft_budget", "budget_duration", "budget_id", "model_max_budget", "budget_limits", "temp_budget_increase",
    "temp_budget_expiry",
)  # fmt: skip
RATE_FIELDS = ("rpm_limit", "tpm_limit", "tpd_limit", "max_parallel_requests", "model_rpm_limit", "model_tpm_limit")
LIMIT_FIELDS = {**dict.fromkeys(BUDGET_FIELDS, "budget"), **dict.fromkeys(RATE_FIELDS, "ratelimit")}
"""Flat fields → the plugin whose policy they belong to."""


class Body(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    foreign: ClassVar[frozenset[str]] = _NOT_HERE
    changes: ClassVar[bool] = False
    """Whether the body changes something that may already have spend."""

    @model_validator(mode="before")
    @classmethod
    def _foreign(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = {
            name: None if value == "" and name in _CLEARS else value
            for name, value in data.items()
            if value != "" or name not in _STAYS
        }
        theirs = [name for name in data if name not in cls.model_fields and name in cls.foreign | _HARMLESS]
        told = sorted(name for name in theirs if name not in _HARMLESS and data[name])
        if told:
            mend = next((_INSTEAD[name] for name in told if name in _INSTEAD), "leave it out")
            raise ValueError(f"{', '.join(told)}: not supported by this gateway; {mend}")
        if cls.changes and data.get("spend") is not None:
            raise ValueError(
                "spend: is what the ledger says and cannot be written; reset it with `gwcore budget reset`"
            )
        if isinstance(data.get("policies"), list) and not data["policies"]:
            theirs.append("policies")
        return {name: value for name, value in data.items() if name not in theirs}


class Limits(Body):
    """Budgets and rate limits; each belongs to a plugin's policy, see ``gwcore.call.Principal``."""

    max_budget: float | None = Field(
        default=None,
        ge=0,
        description="Budget in dollars per `budget_duration`; 0 rejects every call that costs money, null means no "
        "limit.",
    )
    soft_budget: float | None = Field(
        default=None, ge=0, description="Dollars at which the event `budget.soft` is emitted; rejects nothing."
    )
    budget_duration: str | None = Field(
        default=None,
        description="Period of `max_budget`: 24h, 7d, 30d, 1mo, 15m, rolling 24h …; for all time if absent.",
    )
    budget_id: str | None = Field(
        default=None,
        description="Id of a budget of `/budget/new`, whose values apply where these fields are unset. Each owner has "
        "an account of its own.",
    )
    model_max_budget: dict[str, Any] | None = Field(
        default=None, description="Budgets by model: `{model: {max_budget, budget_duration}}`."
    )
    budget_limits: list[dict[str, Any]] | None = Field(
        default=None, description="Further limits with periods of their own: `[{max_budget, budget_duration}]`."
    )
    temp_budget_increase: float | None = Field(
        default=None, ge=0, description="Dollars on top of `max_budget` until `temp_budget_expiry`."
    )
    temp_budget_expiry: str | None = Field(default=None, description="When the increase ends, ISO 8601.")
    rpm_limit: int | None = Field(default=None, ge=0, description="Requests per minute; 0 rejects all.")
    tpm_limit: int | None = Field(default=None, ge=0, description="Tokens per minute; 0 rejects all.")
    tpd_limit: int | None = Field(default=None, ge=0, description="Tokens per day; 0 rejects all.")
    max_parallel_requests: int | None = Field(default=None, ge=0, description="Calls in flight; 0 rejects all.")
    model_rpm_limit: dict[str, int] | None = Field(default=None, description="Requests per minute by model.")
    model_tpm_limit: dict[str, int] | None = Field(default=None, description="Tokens per minute by model.")
    policies: dict[str, dict[str, Any]] | None = Field(
        default=None, description="Settings of other plugins, by plugin name."
    )


class KeyFields(Limits):
    """Fields of a key."""

    key_alias: str | None = Field(default=None, max_length=256, description="Readable name; unique.")
    duration: str | None = Field(
        default=None, description="Lifetime from now, such as 30d; null: the key never expires."
    )
    models: list[str] | None = Field(
        default=None, description="Models that it may use; `*` matches any text, an empty list permits all."
    )
    user_id: str | None = Field(default=None, description="Id of the key's user.")
    team_id: str | None = Field(default=None, description="Id of the key's team, whose money it spends.")
    organization_id: str | None = Field(
        default=None, description="Id of the key's organisation; its team's by default."
    )
    metadata: dict[str, Any] | None = Field(
        default=None, description="Any data of your own; plugins receive it with the caller."
    )
    tags: list[str] | None = Field(
        default=None,
        description="Tags that every call gets, for rules, budgets and reports. Only an admin may remove one from a "
        "key or a team.",
    )
    aliases: dict[str, str] | None = Field(
        default=None, description='Names that clients may write for models, such as `{"gpt-4": "fast"}`.'
    )
    allowed_routes: list[str] | None = Field(
        default=None, description="Paths, operations or groups that the key may call; an empty list permits all."
    )
    allowed_networks: Networks | None = Field(
        default=None, description="Client addresses from which the key is accepted; an empty list permits all."
    )
    key_type: Literal["default", "llm_api", "management", "read_only"] | None = Field(
        default=None,
        description="`llm_api`: only model calls; `management`: only the admin API; `read_only`: only reading it; "
        "`default`: both. Its routes are permitted in addition to `allowed_routes`.",
    )
    blocked: bool | None = Field(default=None, description="`true` rejects every call.")


class NewKey(KeyFields):
    """``/key/generate``."""

    key: str | None = Field(
        default=None, description="The key itself, if an admin chooses it (`sk-…`); generated otherwise."
    )
    sha256: KeyDigest | None = Field(
        default=None,
        description="SHA-256 of the key in hexadecimal, instead of `key`: what LiteLLM's database has of a key.",
    )


class UpdateKey(KeyFields):
    """``/key/update``."""

    changes = True
    key: str = Field(description="The key, or its id.")


class RotateKey(KeyFields):
    """``/key/regenerate``."""

    key: str | None = Field(default=None, description="The key, or its id, unless the path names it.")
    new_key: str | None = Field(
        default=None, description="The new key itself, if an admin chooses it; generated otherwise."
    )
    grace_period: str | None = Field(
        default=None, description="How long the old secret still works, such as 1h; not at all by default."
    )


class OneKey(Body):
    """A key, by its secret or id."""

    key: str = Field(description="The key, or its id.")


class DeleteKeys(Body):
    """``/key/delete`` and ``/v2/key/info``."""

    keys: list[str] | None = Field(default=None, description="Keys, or their ids.")
    key_aliases: list[str] | None = Field(default=None, description="Aliases of keys, instead of `keys`.")


class Member(Body):
    """A user in a team or an organisation."""

    user_id: str | None = Field(default=None, description="Id of the user.")
    user_email: str | None = Field(default=None, description="Mail address of the user, instead of the id.")
    role: str = Field(
        default="user",
        description="In a team: `admin` (leads it) or `user`; in an organisation: `org_admin` (leads it) or "
        "`internal_user`.",
    )


class TeamFields(Limits):
    """Fields of a team."""

    team_alias: str | None = Field(default=None, max_length=256, description="Readable name.")
    organization_id: str | None = Field(default=None, description="Id of the team's organisation.")
    models: list[str] | None = Field(
        default=None, description="Models that its keys may use; an empty list permits all."
    )
    metadata: dict[str, Any] | None = Field(
        default=None, description="Any data of your own; plugins receive it with the caller."
    )
    tags: list[str] | None = Field(
        default=None,
        description="Tags that every call gets, for rules, budgets and reports. Only an admin may remove one from a "
        "key or a team.",
    )
    model_aliases: dict[str, str] | None = Field(
        default=None, description="Names that clients may write for models; those of a key take precedence."
    )
    blocked: bool | None = Field(default=None, description="`true` rejects every call with a key of the team.")


class NewTeam(TeamFields):
    """``/team/new``."""

    team_id: str | None = Field(default=None, description="Id of the team; generated if absent.")
    members_with_roles: list[Member] | None = Field(default=None, description="Members of the team.")


class UpdateTeam(TeamFields):
    """``/team/update``."""

    changes = True
    team_id: str = Field(description="Id of the team.")


class OneTeam(Body):
    """A team by id."""

    team_id: str = Field(description="Id of the team.")


class TeamModels(Body):
    """``/team/model/add`` and ``/team/model/delete``."""

    team_id: str = Field(description="Id of the team.")
    models: list[str] = Field(min_length=1, description="Models to add to, or to remove from, the permitted ones.")


class Teams(Body):
    """``/team/delete``."""

    team_ids: list[str] = Field(min_length=1, description="Ids of teams.")


class MemberAdd(Body):
    """``/team/member_add``."""

    team_id: str = Field(description="Id of the team.")
    member: list[Member] | Member = Field(description="The member, or a list of members.")
    max_budget_in_team: float | None = Field(
        default=None, ge=0, description="Dollars that each of them may spend in the team, per `budget_duration`."
    )
    budget_duration: str | None = Field(
        default=None, description="Period of `max_budget_in_team`; for all time if absent."
    )
    allowed_models: list[str] | None = Field(default=None, description="Models that they may use in the team.")


class MemberUpdate(Body):
    """``/team/member_update``."""

    team_id: str = Field(description="Id of the team.")
    user_id: str | None = Field(default=None, description="Id of the user.")
    user_email: str | None = Field(default=None, description="Mail address of the user, instead of the id.")
    role: Literal["admin", "user"] | None = Field(default=None, description="`admin` leads the team.")
    max_budget_in_team: float | None = Field(
        default=None, ge=0, description="Dollars that the member may spend in the team, per `budget_duration`."
    )
    budget_duration: str | None = Field(
        default=None, description="Period of `max_budget_in_team`; for all time if absent."
    )
    allowed_models: list[str] | None = Field(default=None, description="Models that the member may use in the team.")
    rpm_limit: int | None = Field(default=None, ge=0, description="Requests per minute in the team.")
    tpm_limit: int | None = Field(default=None, ge=0, description="Tokens per minute in the team.")


class MemberDelete(Body):
    """``/team/member_delete``."""

    team_id: str = Field(description="Id of the team.")
    user_id: str | None = Field(default=None, description="Id of the user.")
    user_email: str | None = Field(default=None, description="Mail address of the user, instead of the id.")


Role = Literal["proxy_admin", "proxy_admin_viewer", "internal_user", "internal_user_viewer"]


class UserFields(Limits):
    """Fields of a user."""

    user_email: str | None = Field(default=None, max_length=320, description="Mail address.")
    user_alias: str | None = Field(default=None, max_length=256, description="Readable name.")
    user_role: Role | None = Field(default=None, description="What the user's keys may do in this API.")
    models: list[str] | None = Field(
        default=None, description="Models that the user's own keys may use; an empty list permits all."
    )
    metadata: dict[str, Any] | None = Field(default=None, description="Any data of your own.")
    tags: list[str] | None = Field(default=None, description="Tags that every call of the user gets.")
    blocked: bool | None = Field(default=None, description="`true` rejects every call of the user.")


class NewUser(UserFields):
    """``/user/new``."""

    user_id: str | None = Field(default=None, description="Id of the user; generated if absent.")
    teams: list[str | dict[str, Any]] | None = Field(default=None, description="Ids of teams to join.")
    organizations: list[str] | None = Field(default=None, description="Ids of organisations to join.")
    auto_create_key: bool = Field(default=True, description="Whether a key is created, too.")
    key_alias: str | None = Field(default=None, description="Readable name of that key.")
    duration: str | None = Field(default=None, description="Lifetime of that key, such as 30d.")


class UpdateUser(UserFields):
    """``/user/update``."""

    changes = True
    user_id: str | None = Field(default=None, description="Id of the user.")


class Users(Body):
    """Users by id."""

    user_ids: list[str] = Field(min_length=1, description="Ids of users.")


class OrganisationFields(Limits):
    """Fields of an organisation."""

    models: list[str] | None = Field(
        default=None, description="Models that its teams may use; an empty list permits all."
    )
    metadata: dict[str, Any] | None = Field(default=None, description="Any data of your own.")
    tags: list[str] | None = Field(default=None, description="Tags that every call of the organisation gets.")
    blocked: bool | None = Field(default=None, description="`true` rejects every call of the organisation.")


class NewOrganisation(OrganisationFields):
    """``/organization/new``."""

    organization_id: str | None = Field(default=None, description="Id of the organisation; generated if absent.")
    organization_alias: str = Field(max_length=256, description="Readable name.")


class UpdateOrganisation(OrganisationFields):
    """``/organization/update``."""

    organization_id: str = Field(description="Id of the organisation.")
    organization_alias: str | None = Field(default=None, max_length=256, description="Readable name.")


class OrganisationIds(Body):
    """``/organization/delete``."""

    organization_ids: list[str] = Field(min_length=1, description="Ids of organisations.")


class OrganisationMembers(Body):
    """``/organization/member_add``."""

    organization_id: str = Field(description="Id of the organisation.")
    member: list[Member] | Member = Field(description="The member, or a list of members.")


class OrganisationMember(Body):
    """``/organization/member_update`` and ``member_delete``."""

    organization_id: str = Field(description="Id of the organisation.")
    user_id: str | None = Field(default=None, description="Id of the user.")
    user_email: str | None = Field(default=None, description="Mail address of the user, instead of the id.")
    role: str | None = Field(
        default=None, description="`org_admin` leads the organisation; `internal_user` is a member."
    )


class CustomerFields(Limits):
    """Fields of a customer (end user)."""

    alias: str | None = Field(default=None, max_length=256, description="Readable name.")
    models: list[str] | None = Field(
        default=None, description="Models that may be used for the customer; an empty list permits all."
    )
    metadata: dict[str, Any] | None = Field(default=None, description="Any data of your own.")
    blocked: bool | None = Field(default=None, description="`true` rejects every call for the customer.")


class NewCustomer(CustomerFields):
    """``/customer/new``."""

    user_id: str = Field(description="Id of the customer, as calls name it.")


class UpdateCustomer(CustomerFields):
    """``/customer/update``."""

    user_id: str = Field(description="Id of the customer.")
