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

    max_budget: float | None = Field(default=None, ge=0, description="dollars per budget_duration")
    soft_budget: float | None = Field(default=None, ge=0, description="dollars at which somebody is told")
    budget_duration: str | None = Field(default=None, description="30s, 15m, 24h, 7d, 4w or 1mo; all time if absent")
    budget_id: str | None = Field(default=None, description="a shared budget instead")
    model_max_budget: dict[str, Any] | None = Field(default=None, description="budgets per model")
    budget_limits: list[dict[str, Any]] | None = Field(default=None, description="several windows")
    temp_budget_increase: float | None = Field(default=None, ge=0, description="dollars more, for a while")
    temp_budget_expiry: str | None = Field(default=None, description="until when, ISO 8601")
    rpm_limit: int | None = Field(default=None, ge=0, description="requests per minute")
    tpm_limit: int | None = Field(default=None, ge=0, description="tokens per minute")
    tpd_limit: int | None = Field(default=None, ge=0, description="tokens per day")
    max_parallel_requests: int | None = Field(default=None, ge=0, description="calls at one time")
    model_rpm_limit: dict[str, int] | None = Field(default=None, description="requests per minute by model")
    model_tpm_limit: dict[str, int] | None = Field(default=None, description="tokens per minute by model")
    policies: dict[str, dict[str, Any]] | None = Field(default=None, description="settings of other plugins, by name")


class KeyFields(Limits):
    """Fields of a key."""

    key_alias: str | None = Field(default=None, max_length=256, description="name for humans; unique")
    duration: str | None = Field(default=None, description="from now until it expires; null for never")
    models: list[str] | None = Field(
        default=None, description="models it may use; * stands for any text; empty for all"
    )
    user_id: str | None = Field(default=None, description="whose it is")
    team_id: str | None = Field(default=None, description="whose money it spends")
    organization_id: str | None = Field(default=None, description="its organisation; its team's by default")
    metadata: dict[str, Any] | None = Field(default=None, description="for reports and routing")
    tags: list[str] | None = Field(default=None, description="tags of every call")
    aliases: dict[str, str] | None = Field(default=None, description="names its clients may write for models")
    allowed_routes: list[str] | None = Field(default=None, description="paths, operations or groups; empty for all")
    allowed_networks: Networks | None = Field(default=None, description="addresses it may be used from")
    key_type: Literal["default", "llm_api", "management", "read_only"] | None = Field(
        default=None, description="what it is for"
    )
    blocked: bool | None = Field(default=None, description="refuse every call")


class NewKey(KeyFields):
    """``/key/generate``."""

    key: str | None = Field(default=None, description="the key itself, where an admin chooses one")
    sha256: KeyDigest | None = Field(
        default=None, description="or its SHA-256 in hex, which is what LiteLLM's database holds of a key"
    )


class UpdateKey(KeyFields):
    """``/key/update``."""

    changes = True
    key: str = Field(description="the key, or its id")


class RotateKey(KeyFields):
    """``/key/regenerate``."""

    key: str | None = Field(default=None, description="the key, or its id, where the address does not say it")
    new_key: str | None = Field(default=None, description="the new key itself, where an admin chooses one")
    grace_period: str | None = Field(default=None, description="how long the old secret goes on working")


class OneKey(Body):
    """A key, by its secret or id."""

    key: str = Field(description="the key, or its id")


class DeleteKeys(Body):
    """``/key/delete`` and ``/v2/key/info``."""

    keys: list[str] | None = Field(default=None, description="keys, or their ids")
    key_aliases: list[str] | None = Field(default=None, description="or their aliases")


class Member(Body):
    """A user in a team or an organisation."""

    user_id: str | None = Field(default=None, description="id of the user")
    user_email: str | None = Field(default=None, description="or address")
    role: str = Field(
        default="user", description="of a team: admin or user; of an organisation: org_admin or internal_user"
    )


class TeamFields(Limits):
    """Fields of a team."""

    team_alias: str | None = Field(default=None, max_length=256, description="name for humans")
    organization_id: str | None = Field(default=None, description="its organisation")
    models: list[str] | None = Field(default=None, description="models its keys may use; empty for all")
    metadata: dict[str, Any] | None = Field(default=None, description="for reports and routing")
    tags: list[str] | None = Field(default=None, description="tags of every call")
    model_aliases: dict[str, str] | None = Field(default=None, description="names its clients may write for models")
    blocked: bool | None = Field(default=None, description="refuse every call")


class NewTeam(TeamFields):
    """``/team/new``."""

    team_id: str | None = Field(default=None, description="its id; made up if absent")
    members_with_roles: list[Member] | None = Field(default=None, description="who belongs to it")


class UpdateTeam(TeamFields):
    """``/team/update``."""

    changes = True
    team_id: str = Field(description="id")


class OneTeam(Body):
    """A team by id."""

    team_id: str = Field(description="id")


class TeamModels(Body):
    """``/team/model/add`` and ``/team/model/delete``."""

    team_id: str = Field(description="id")
    models: list[str] = Field(min_length=1, description="models to allow, or to allow no longer")


class Teams(Body):
    """``/team/delete``."""

    team_ids: list[str] = Field(min_length=1, description="ids")


class MemberAdd(Body):
    """``/team/member_add``."""

    team_id: str = Field(description="id of the team")
    member: list[Member] | Member = Field(description="who")
    max_budget_in_team: float | None = Field(default=None, ge=0, description="dollars each may spend of the team's")
    budget_duration: str | None = Field(default=None, description="per which time")
    allowed_models: list[str] | None = Field(default=None, description="models they may use in the team")


class MemberUpdate(Body):
    """``/team/member_update``."""

    team_id: str = Field(description="id of the team")
    user_id: str | None = Field(default=None, description="id of the user")
    user_email: str | None = Field(default=None, description="or address")
    role: Literal["admin", "user"] | None = Field(default=None, description="admin leads the team")
    max_budget_in_team: float | None = Field(
        default=None, ge=0, description="dollars the member may spend of the team's"
    )
    budget_duration: str | None = Field(default=None, description="per which time")
    allowed_models: list[str] | None = Field(default=None, description="models the member may use in the team")
    rpm_limit: int | None = Field(default=None, ge=0, description="requests per minute in the team")
    tpm_limit: int | None = Field(default=None, ge=0, description="tokens per minute in the team")


class MemberDelete(Body):
    """``/team/member_delete``."""

    team_id: str = Field(description="id of the team")
    user_id: str | None = Field(default=None, description="id of the user")
    user_email: str | None = Field(default=None, description="or address")


Role = Literal["proxy_admin", "proxy_admin_viewer", "internal_user", "internal_user_viewer"]


class UserFields(Limits):
    """Fields of a user."""

    user_email: str | None = Field(default=None, max_length=320, description="address")
    user_alias: str | None = Field(default=None, max_length=256, description="name for humans")
    user_role: Role | None = Field(default=None, description="what the user's keys may do in this API")
    models: list[str] | None = Field(default=None, description="models the user's own keys may use; empty for all")
    metadata: dict[str, Any] | None = Field(default=None, description="for reports and routing")
    tags: list[str] | None = Field(default=None, description="tags of every call")
    blocked: bool | None = Field(default=None, description="refuse every call")


class NewUser(UserFields):
    """``/user/new``."""

    user_id: str | None = Field(default=None, description="id; made up if absent")
    teams: list[str | dict[str, Any]] | None = Field(default=None, description="ids of teams to join")
    organizations: list[str] | None = Field(default=None, description="ids of organisations to join")
    auto_create_key: bool = Field(default=True, description="make a key too")
    key_alias: str | None = Field(default=None, description="alias of that key")
    duration: str | None = Field(default=None, description="and its life")


class UpdateUser(UserFields):
    """``/user/update``."""

    changes = True
    user_id: str | None = Field(default=None, description="id")


class Users(Body):
    """Users by id."""

    user_ids: list[str] = Field(min_length=1, description="ids")


class OrganisationFields(Limits):
    """Fields of an organisation."""

    models: list[str] | None = Field(default=None, description="models its teams may use; empty for all")
    metadata: dict[str, Any] | None = Field(default=None, description="for reports and routing")
    tags: list[str] | None = Field(default=None, description="tags of every call")
    blocked: bool | None = Field(default=None, description="refuse every call")


class NewOrganisation(OrganisationFields):
    """``/organization/new``."""

    organization_id: str | None = Field(default=None, description="id; made up if absent")
    organization_alias: str = Field(max_length=256, description="name for humans")


class UpdateOrganisation(OrganisationFields):
    """``/organization/update``."""

    organization_id: str = Field(description="id")
    organization_alias: str | None = Field(default=None, max_length=256, description="name for humans")


class OrganisationIds(Body):
    """``/organization/delete``."""

    organization_ids: list[str] = Field(min_length=1, description="ids")


class OrganisationMembers(Body):
    """``/organization/member_add``."""

    organization_id: str = Field(description="id")
    member: list[Member] | Member = Field(description="who")


class OrganisationMember(Body):
    """``/organization/member_update`` and ``member_delete``."""

    organization_id: str = Field(description="id")
    user_id: str | None = Field(default=None, description="id of the user")
    user_email: str | None = Field(default=None, description="or address")
    role: str | None = Field(default=None, description="org_admin leads the organisation; internal_user belongs to it")


class CustomerFields(Limits):
    """Fields of a customer (end user)."""

    alias: str | None = Field(default=None, max_length=256, description="name for humans")
    models: list[str] | None = Field(
        default=None, description="models that may be used for the customer; empty for all"
    )
    metadata: dict[str, Any] | None = Field(default=None, description="for reports")
    blocked: bool | None = Field(default=None, description="refuse every call")


class NewCustomer(CustomerFields):
    """``/customer/new``."""

    user_id: str = Field(description="id, as calls name it")


class UpdateCustomer(CustomerFields):
    """``/customer/update``."""

    user_id: str = Field(description="id")
