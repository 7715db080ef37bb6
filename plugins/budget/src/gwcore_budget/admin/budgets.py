"""``/budget/*``: named budgets that keys, teams … refer to by ``budget_id``, and resetting budgets."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gwcore.errors import BadRequest
from gwcore.ports import AdminCall, AdminRoute
from gwcore.units import first_fault
from gwcore_budget.admin.desk import Desk, NotFound, answering, iso, money
from gwcore_budget.config import BudgetPolicy, Scope
from gwcore_budget.ledger.ops import Reset
from gwcore_budget.plans import Plan

_SCOPES = frozenset(get_args(Scope))
_FIELDS = ("max_budget", "soft_budget", "budget_duration", "model_max_budget")
_THEIRS = ("max_parallel_requests", "tpm_limit", "rpm_limit", "tpd_limit", "budget_reset_at")


class BudgetBody(BaseModel):
    """``/budget/new`` and ``/budget/update``."""

    model_config = ConfigDict(extra="forbid")

    budget_id: str | None = Field(
        default=None, min_length=1, max_length=200, description="Id of the budget; generated if absent."
    )
    max_budget: float | None = Field(default=None, ge=0, description="Dollars per `budget_duration`.")
    soft_budget: float | None = Field(
        default=None, ge=0, description="Dollars at which the event `budget.soft` is emitted; rejects nothing."
    )
    budget_duration: str | None = Field(
        default=None, description="Period: 24h, 7d, 30d, 1mo, rolling 24h …; for all time if absent."
    )
    model_max_budget: dict[str, Any] | None = Field(default=None, description="Budgets by model.")
    max_parallel_requests: int | None = Field(
        default=None, description="Not supported here: set it on the key or team."
    )
    tpm_limit: int | None = Field(default=None, description="Not supported here: set it on the key or team.")
    rpm_limit: int | None = Field(default=None, description="Not supported here: set it on the key or team.")
    tpd_limit: int | None = Field(default=None, description="Not supported here: set it on the key or team.")
    budget_reset_at: str | None = Field(default=None, description="Not supported: periods follow `budget_duration`.")


class Ids(BaseModel):
    """``/budget/info``."""

    model_config = ConfigDict(extra="forbid")

    budgets: list[str] = Field(max_length=1000, description="Ids of budgets.")


class Id(BaseModel):
    """``/budget/delete``."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="Id of the budget.")


class ResetBody(BaseModel):
    """``/budget/reset``."""

    model_config = ConfigDict(extra="forbid")

    scope: str = Field(
        description="Scope of the budget: global, organisation, team, member, user, end_user, key, model, upstream, tag or session."
    )
    id: str = Field(default="", description="Id within the scope; of a key also the key itself. None for `global`.")


class ResetTo(BaseModel):
    """``/key/{key}/reset_spend``."""

    model_config = ConfigDict(extra="forbid")

    reset_to: float = Field(default=0, ge=0, le=0, description="Must be 0; past spend stays in the ledger.")


def plan_row(plan: Plan) -> dict[str, Any]:
    """A budget as LiteLLM shows it."""
    policy = plan.policy
    models = policy.model_max_budget
    return {
        "budget_id": plan.id,
        "max_budget": money(policy.max_budget),
        "soft_budget": money(policy.soft_budget),
        "budget_duration": policy.budget_duration,
        "model_max_budget": None
        if models is None
        else {name: {"max_budget": money(one.limit), "budget_duration": one.window} for name, one in models.items()},
        **dict.fromkeys(_THEIRS),
        "created_at": iso(plan.created),
        "created_by": plan.created_by,
        "updated_at": iso(plan.updated),
        "updated_by": plan.updated_by,
    }


class Budgets:
    """Endpoints of budgets."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> Sequence[AdminRoute]:
        """For ``Plugin.admin_routes``."""
        reset = "Begin budgets anew, now; what was spent stays in the book."
        return (
            AdminRoute("POST", "/budget/new", "budget:create", answering(self.new), "Make a budget.", BudgetBody),
            AdminRoute("POST", "/budget/update", "budget:update", answering(self.update), "Change a named budget.", BudgetBody),
            AdminRoute("POST", "/budget/info", "budget:read", answering(self.info), "Named budgets by id.", Ids),
            AdminRoute("GET", "/budget/list", "budget:list", answering(self.listing), "All named budgets."),
            AdminRoute("POST", "/budget/delete", "budget:delete", answering(self.delete), "Delete a named budget.", Id),
            AdminRoute("GET", "/budget/settings", "budget:read", answering(self.settings), "The fields of a named budget.", None, ("budget_id",)),
            AdminRoute("POST", "/budget/reset", "budget:reset", answering(self.reset), reset, ResetBody),
            AdminRoute("POST", "/key/{key}/reset_spend", "budget:reset", answering(self.reset_key), reset, ResetTo),
            AdminRoute("POST", "/team/{team}/reset_spend", "budget:reset", answering(self.reset_team), reset, ResetTo),
            AdminRoute("POST", "/global/spend/reset", "budget:reset", answering(self.reset_all), f"{reset[:-1]}: of every key and team."),
        )  # fmt: skip

    async def new(self, call: AdminCall) -> Any:
        """``POST /budget/new``."""
        desk, id_ = self.desk, call.body.budget_id or str(uuid.uuid4())
        policy = _policy(call, BudgetPolicy())
        if not await desk.plans.create(desk.home, id_, policy, call.caller.id, desk.now()):
            raise BadRequest(f"budget_id {id_} exists already")
        return plan_row(self._known(id_))

    async def update(self, call: AdminCall) -> Any:
        """``POST /budget/update``: changes the fields given; ``null`` clears a field."""
        desk, id_ = self.desk, call.body.budget_id
        if id_ is None:
            raise BadRequest("budget_id says which budget to change")
        await desk.plans.refresh(desk.home)
        policy = _policy(call, self._known(id_).policy)
        if not await desk.plans.update(desk.home, id_, policy, call.caller.id, desk.now()):
            raise NotFound(f"no budget {id_}")
        return plan_row(self._known(id_))

    async def info(self, call: AdminCall) -> Any:
        """``POST /budget/info``."""
        await self.desk.plans.refresh(self.desk.home)
        found = [plan for id_ in call.body.budgets if (plan := self.desk.plans.plan(id_)) is not None]
        return [plan_row(plan) for plan in found]

    async def listing(self, _call: AdminCall) -> Any:
        """``GET /budget/list``."""
        await self.desk.plans.refresh(self.desk.home)
        return [plan_row(plan) for plan in self.desk.plans.listing()]

    async def delete(self, call: AdminCall) -> Any:
        """``POST /budget/delete``. Calls under policies that still refer to it are rejected: its limit is unknown."""
        await self.desk.plans.refresh(self.desk.home)
        row = plan_row(self._known(call.body.id))
        await self.desk.plans.delete(self.desk.home, call.body.id)
        return row

    async def settings(self, call: AdminCall) -> Any:
        """``GET /budget/settings``."""
        await self.desk.plans.refresh(self.desk.home)
        row = plan_row(self._known(call.query.get("budget_id", "")))
        return [
            {
                "field_name": name,
                "field_type": "Object" if name == "model_max_budget" else "String" if name == "budget_duration" else "Float",
                "field_description": BudgetBody.model_fields[name].description,
                "field_value": row[name],
                "stored_in_db": row[name] is not None,
                "field_default_value": None,
            }
            for name in _FIELDS
        ]  # fmt: skip

    async def reset(self, call: AdminCall) -> Any:
        """``POST /budget/reset``: every budget of one id of a scope."""
        scope, id_ = call.body.scope, call.body.id
        if scope not in _SCOPES:
            raise BadRequest(f"scope is one of {', '.join(sorted(_SCOPES))}")
        return await self._reset(scope, (self.desk.key_id(id_) or "") if scope == "key" else id_)

    async def reset_key(self, call: AdminCall) -> Any:
        """``POST /key/{key}/reset_spend``."""
        id_ = self.desk.key_id(call.path["key"]) or ""
        return {**await self._reset("key", id_), "token": id_, "spend": 0.0}

    async def reset_team(self, call: AdminCall) -> Any:
        """``POST /team/{team}/reset_spend``."""
        id_ = call.path["team"]
        return {**await self._reset("team", id_), "team_id": id_, "spend": 0.0}

    async def reset_all(self, _call: AdminCall) -> Any:
        """``POST /global/spend/reset``: every budget of every key and team, as in LiteLLM, but not of other scopes."""
        ledger = self.desk.ledger
        rows = await ledger.home.rows("SELECT id FROM budget_budget WHERE scope IN ('key', 'team') ORDER BY id")
        for (budget,) in rows:
            await ledger.group.ask(Reset(budget), 5)
        return {"message": "Spend for all API Keys and Teams reset successfully", "status": "success"}

    async def _reset(self, scope: str, id_: str) -> dict[str, Any]:
        ledger = self.desk.ledger
        rows = await ledger.home.rows(
            "SELECT id FROM budget_budget WHERE scope=$1 AND scope_id=$2 ORDER BY id", scope, id_
        )
        if not rows:
            raise NotFound(f"nothing was spent yet on a budget of {scope} {id_}".rstrip())
        for (budget,) in rows:
            await ledger.group.ask(Reset(budget), 5)
        return {"reset": [budget for (budget,) in rows]}

    def _known(self, id_: str) -> Plan:
        plan = self.desk.plans.plan(id_)
        if plan is None:
            raise NotFound(f"no budget {id_}")
        return plan


def _policy(call: AdminCall, before: BudgetPolicy) -> BudgetPolicy:
    for name in _THEIRS:
        if getattr(call.body, name) is not None:
            what = "periods follow budget_duration" if name == "budget_reset_at" else "set it on the key or the team"
            raise BadRequest(f"{name} is not a setting of a budget here: {what}")
    said = {name: getattr(call.body, name) for name in _FIELDS if name in call.given}
    kept = {name: getattr(before, name) for name in _FIELDS if name not in said}
    try:
        policy = BudgetPolicy.model_validate(said)
    except ValidationError as error:
        raise BadRequest(first_fault(error)) from None
    policy = policy.model_copy(update=kept)
    if policy.soft_budget is not None and policy.max_budget is not None and policy.soft_budget >= policy.max_budget:
        raise BadRequest("soft_budget must be lower than max_budget")
    return policy
