"""Settings of ``budget``, and its settings in the policies of keys, teams and users."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from gwcore.units import DOLLAR, Duration, Money, StoreRef, fault, parse_money
from gwcore_budget.ledger.ops import MOST
from gwcore_budget.window import Window

Scope = Literal[
    "global", "organisation", "team", "member", "user", "end_user", "key", "model", "upstream", "tag", "session"
]
OnShort = Literal["clamp", "wait", "reject"]


def _window(text: str) -> str:
    try:
        Window.parse(text)
    except ValueError as error:
        raise fault("is not a window", str(error)) from None
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise fault("is not a time zone", "write an IANA name, such as UTC or Europe/Berlin") from None
    return name


def _exact(nano: int) -> int:
    if nano > MOST:
        raise fault(
            "is more than 9,000,000 USD", "choose a smaller amount: above it sums would not be exact everywhere"
        )
    return nano


def _dollars(value: Any) -> Any:
    """Round a float to the nano-dollar: LiteLLM's clients may send the result of a sum."""
    return round(value, 9) if isinstance(value, float) else value


def _unpriced(value: Any) -> Any:
    return value if value in {"deny", "allow_unmetered"} else parse_money(value)


WindowText = Annotated[str, AfterValidator(_window)]
ZoneName = Annotated[str, AfterValidator(_zone)]
Limit = Annotated[Money, AfterValidator(_exact)]
Dollars = Annotated[Limit, BeforeValidator(_dollars)]
Unpriced = Annotated[
    Literal["deny", "allow_unmetered"] | int, BeforeValidator(_unpriced, json_schema_input_type=str | float)
]


class Rule(BaseModel):
    """One budget for every id of a scope, or for one of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per: Scope = Field(description="whose money: each id of this scope has an account of its own")
    of: str | None = Field(default=None, description="only this id, e.g. one team; without it, every id")
    models: list[str] = Field(
        default=[], description="only calls of these models, as asked for or as upstream/model; * is a wildcard"
    )
    limit: Limit | None = Field(default=None, description="dollars per window; without it, only watched")
    soft: Limit | None = Field(default=None, description="dollars at which an event is told, once per window")
    window: WindowText = Field(default="total", description="total, hour, day, week, month, year, 6h, rolling 24h …")
    zone: ZoneName | None = Field(default=None, description="time zone of calendar windows; the plugin's by default")
    on_short: OnShort | None = Field(default=None, description="see the plugin's on_short")
    unpriced: Unpriced | None = Field(default=None, description="see the plugin's unpriced")

    @model_validator(mode="after")
    def _bounds_something(self) -> Rule:
        if self.limit is None and self.soft is None:
            raise fault("has neither a limit nor a soft limit", "write limit: $50, soft: $40, or both")
        if self.of is not None and self.per == "global":
            raise fault("names one id of a scope that has none", "leave out `of`")
        return self


class Export(BaseModel):
    """Where the outbox is sent: every change of a hold's state and budget events, at least once, each with its own id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="receives POSTs of JSON arrays of {id, topic, body}", pattern="^https?://")
    headers: dict[str, SecretStr] = Field(default={}, description="sent along, e.g. authorization", repr=False)
    batch: int = Field(default=100, ge=1, le=1000, description="rows per request")
    interval: Duration = Field(default=1.0, description="between two looks into an empty outbox")


class BudgetConfig(BaseModel):
    """Settings of ``budget``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: StoreRef = Field(default="book", description="a sqlite: or postgresql: store; memory is for trying out")
    rules: list[Rule] = Field(default=[], description="budgets beside those in the policies of keys, teams and users")
    mode: Literal["auto", "direct", "escrow"] = Field(
        default="auto",
        description="direct asks the store for each hold; escrow spends within grants; auto: escrow while there is plenty",
    )
    zone: ZoneName = Field(default="UTC", description="time zone of calendar windows")
    status: Literal[429, 402] = Field(default=429, description="HTTP status of an exhausted budget")
    on_short: OnShort = Field(
        default="clamp",
        description="when the worst case does not fit: clamp lowers max_tokens to what is not spent, wait never cuts an answer; both wait for what calls under way hold; reject refuses at once",
    )
    wait: Duration = Field(default=2.0, le=30, description="how long a call waits for what calls under way hold")
    unpriced: Unpriced = Field(
        default="deny",
        description="a model without a price under a budget: deny, allow_unmetered, or the dollars to hold for each call",
    )
    on_disconnect: Literal["drain", "cancel"] = Field(
        default="drain",
        description="a client that leaves: read the answer on for its usage, or end it at the worst case",
    )
    drain_for: Duration = Field(default=30.0, gt=0, le=300, description="how long an answer is read without its client")
    drain_most: int = Field(default=64, ge=0, description="how many answers at once; the next is cancelled")
    max_output: int = Field(
        default=32_768, ge=256, description="max_tokens sent where neither the client nor the price card says one"
    )
    grant: Limit = Field(default=DOLLAR, gt=0, description="escrow: the most a worker takes at once of one account")
    journal: Path | None = Field(
        default=None,
        description="folder of the workers' journals; beside a SQLite file, else gwcore-ledger in the working directory",
    )
    patience: Duration = Field(default=0.25, gt=0, le=10, description="how long a call waits for the store")
    session_header: str | None = Field(
        default=None,
        pattern="^[a-z0-9_-]+$",
        description="request header that names the session; by default those that agents and tracing SDKs send",
    )
    retain: Duration | None = Field(
        default=None,
        ge=7 * 86_400,
        description="how long each attempt's row stays, e.g. 400d; what all came to stays for good. By default: for good, too",
    )
    export: Export | None = Field(default=None, description="push ledger changes and budget events to a webhook")


class ModelBudget(BaseModel):
    """LiteLLM's ``BudgetConfig``: a budget for one model."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    max_budget: Dollars | None = Field(default=None, description="dollars")
    budget_limit: Dollars | None = Field(default=None, description="LiteLLM's other name of max_budget")
    budget_duration: WindowText | None = Field(default=None, description="window; none: total")
    time_period: WindowText | None = Field(default=None, description="LiteLLM's other name of budget_duration")

    @property
    def limit(self) -> int | None:
        """The limit in nano-USD, or ``None``."""
        return self.max_budget if self.max_budget is not None else self.budget_limit

    @property
    def window(self) -> str:
        """The window as text."""
        return self.budget_duration or self.time_period or "total"


def _models(value: Any) -> Any:
    """LiteLLM accepts ``{model: 5.0}``, too."""
    if isinstance(value, dict):
        return {
            name: one if isinstance(one, dict | ModelBudget) else {"max_budget": one} for name, one in value.items()
        }
    return value


class BudgetPolicy(BaseModel):
    """Budget settings in policies of a key, team, user …, named as in LiteLLM. ``None`` is no limit, 0 is a limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_budget: Dollars | None = Field(default=None, description="dollars per budget_duration")
    soft_budget: Dollars | None = Field(default=None, description="dollars at which an event is told")
    budget_duration: WindowText | None = Field(default=None, description="window; none: total")
    budget_id: str | None = Field(
        default=None, description="a budget of /budget/new whose values hold where these are unset"
    )
    model_max_budget: Annotated[dict[str, ModelBudget], BeforeValidator(_models)] | None = Field(
        default=None, description="budgets per model"
    )
    budget_limits: list[ModelBudget] | None = Field(default=None, description="further windows beside budget_duration")
    temp_budget_increase: Dollars | None = Field(
        default=None, description="dollars on top of max_budget, until temp_budget_expiry"
    )
    temp_budget_expiry: datetime | None = Field(default=None, description="when the increase ends")

    @property
    def bonus(self) -> tuple[int, int]:
        """The increase in nano-USD, and the millisecond at which it ends; an increase without an end is ignored."""
        if self.temp_budget_increase is None or self.temp_budget_expiry is None:
            return 0, 0
        at = self.temp_budget_expiry
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return self.temp_budget_increase, int(at.timestamp() * 1000)
