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
        raise fault("is more than 9,000,000 USD", "choose a smaller amount: larger ones cannot be summed exactly")
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

    per: Scope = Field(
        description="Scope of the budget: each id of it has an account of its own. `global` is one account for all "
        "calls, `member` is a user within a team."
    )
    of: str | None = Field(
        default=None, description="Only this id of the scope, such as one team; without it, every id."
    )
    models: list[str] = Field(
        default=[],
        description="Count only calls of these models, by the requested name or as `upstream/model`; `*` is a "
        "wildcard. An empty list counts all.",
    )
    limit: Limit | None = Field(
        default=None,
        description="Dollars per window, such as `$50`. Without it nothing is rejected; only `soft` is reported.",
    )
    soft: Limit | None = Field(
        default=None,
        description="Dollars at which the event `budget.soft` is emitted, once per window. Rejects nothing.",
    )
    window: WindowText = Field(
        default="total",
        description="Period of the limit: `total` (forever), `hour`, `day`, `week`, `month`, `year`, a duration such "
        "as `6h`, or `rolling 24h`. A changed window begins a new account at zero.",
    )
    zone: ZoneName | None = Field(
        default=None, description="IANA time zone of calendar windows; the plugin's `zone` by default."
    )
    on_short: OnShort | None = Field(default=None, description="Replaces the plugin's `on_short`.")
    unpriced: Unpriced | None = Field(default=None, description="Replaces the plugin's `unpriced`.")

    @model_validator(mode="after")
    def _bounds_something(self) -> Rule:
        if self.limit is None and self.soft is None:
            raise fault("has neither a limit nor a soft limit", "write limit: $50, soft: $40, or both")
        if self.of is not None and self.per == "global":
            raise fault("names an id, but the scope global has none", "leave out `of`")
        return self


class Export(BaseModel):
    """A webhook that receives every change of the ledger, and budget events, at least once; a duplicate has the same id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        description="URL that receives POSTs of JSON arrays of `{id, topic, body}`. Rows are kept until it answers "
        "2xx.",
        pattern="^https?://",
    )
    headers: dict[str, SecretStr] = Field(
        default={}, description="Additional request headers, such as `authorization`.", repr=False
    )
    batch: int = Field(default=100, ge=1, le=1000, description="Maximum number of rows per request.")
    interval: Duration = Field(
        default=1.0, description="Pause before the next look once there is nothing more to send."
    )


class BudgetConfig(BaseModel):
    """Settings of ``budget``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: StoreRef = Field(
        default="book",
        description="Store of the ledger: the name of a `sqlite:` or `postgresql:` store. `memory` is for tests: it "
        "forgets all spend at a restart.",
    )
    rules: list[Rule] = Field(
        default=[], description="Budgets in addition to those in the policies of keys, teams and users."
    )
    mode: Literal["auto", "direct", "escrow"] = Field(
        default="auto",
        description="`direct` asks the store for each reservation. `escrow` lets each worker take grants from the "
        "accounts and reserve within them from memory. `auto` uses escrow while much money is left, and "
        "direct otherwise. None of them overspends.",
    )
    zone: ZoneName = Field(
        default="UTC",
        description="IANA time zone of calendar windows, such as `Europe/Berlin`. Changing it begins new accounts at "
        "zero for these windows.",
    )
    status: Literal[429, 402] = Field(
        default=429, description="HTTP status for an exhausted budget: 429 or 402. Many clients repeat a 429."
    )
    on_short: OnShort = Field(
        default="clamp",
        description="When the worst case of a call does not fit into a budget: `clamp` lowers `max_tokens` to what "
        "the unspent money pays for; `wait` never shortens an answer; both wait for money reserved by "
        "calls in flight. `reject` rejects at once.",
    )
    wait: Duration = Field(
        default=2.0,
        le=30,
        description="How long a call waits for money that calls in flight have reserved, at most 30s; then it is "
        "rejected.",
    )
    unpriced: Unpriced = Field(
        default="deny",
        description="What happens to a call under a budget whose cost has no known bound (no price, or a tool without "
        "a limit of uses): `deny`, `allow_unmetered`, or dollars to reserve for each such call. With "
        "`allow_unmetered` such calls may overspend the budget.",
    )
    on_disconnect: Literal["drain", "cancel"] = Field(
        default="drain",
        description="When a client disconnects: `drain` reads the answer to its end for the actual usage, `cancel` "
        "ends it and posts the worst case.",
    )
    drain_for: Duration = Field(
        default=30.0, gt=0, le=300, description="How long an answer is read after its client disconnected."
    )
    drain_most: int = Field(
        default=64,
        ge=0,
        description="Maximum number of answers read without a client at one time, per worker; further ones are "
        "cancelled.",
    )
    max_output: int = Field(
        default=32_768,
        ge=256,
        description="`max_tokens` that is sent, and reserved for, if neither the client nor the price card names one.",
    )
    grant: Limit = Field(
        default=DOLLAR,
        gt=0,
        description="Escrow: the most that a worker takes from one account at once, in dollars. A killed worker's "
        "grants count as spent until its journal is read.",
    )
    journal: Path | None = Field(
        default=None,
        description="Folder of the workers' journals, on a disk that outlives the process. By default beside the "
        "SQLite file, else `gwcore-ledger` in the working directory.",
    )
    patience: Duration = Field(
        default=0.25,
        gt=0,
        le=10,
        description="How long a call waits for the store, at most 10s; then it is rejected with 503.",
    )
    session_header: str | None = Field(
        default=None,
        pattern="^[a-z0-9_-]+$",
        description="Request header, in lower case, that names the session for `per: session`. By default "
        "`x-gwcore-session-id` and those that agents and tracing SDKs send.",
    )
    retain: Duration | None = Field(
        default=None,
        ge=7 * 86_400,
        description="How long the row of each attempt is kept, such as `400d`; at least a week. Totals are kept "
        "forever, except those of rolling windows. Without it, nothing is deleted.",
    )
    export: Export | None = Field(
        default=None, description="Send every change of the ledger, and budget events, to a webhook."
    )


class ModelBudget(BaseModel):
    """LiteLLM's ``BudgetConfig``: a budget for one model."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    max_budget: Dollars | None = Field(default=None, description="Dollars per window.")
    budget_limit: Dollars | None = Field(default=None, description="Another name of `max_budget`.")
    budget_duration: WindowText | None = Field(default=None, description="Window, such as `1d`; without it, forever.")
    time_period: WindowText | None = Field(default=None, description="Another name of `budget_duration`.")

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

    max_budget: Dollars | None = Field(
        default=None, description="Dollars per `budget_duration`; 0 rejects every call that costs money."
    )
    soft_budget: Dollars | None = Field(
        default=None, description="Dollars at which the event `budget.soft` is emitted; rejects nothing."
    )
    budget_duration: WindowText | None = Field(
        default=None, description="Window, such as `1mo` or `24h`; without it, forever."
    )
    budget_id: str | None = Field(
        default=None,
        description="Id of a budget of `/budget/new`; its values apply where the other fields are unset. Each owner "
        "has an account of its own.",
    )
    model_max_budget: Annotated[dict[str, ModelBudget], BeforeValidator(_models)] | None = Field(
        default=None, description="Budgets by model."
    )
    budget_limits: list[ModelBudget] | None = Field(
        default=None, description="Further limits with windows of their own, in addition to `max_budget`."
    )
    temp_budget_increase: Dollars | None = Field(
        default=None, description="Dollars on top of `max_budget` until `temp_budget_expiry`; ignored without that."
    )
    temp_budget_expiry: datetime | None = Field(
        default=None, description="When the increase ends; UTC if it names no time zone."
    )

    @property
    def bonus(self) -> tuple[int, int]:
        """The increase in nano-USD, and the millisecond at which it ends; an increase without an end is ignored."""
        if self.temp_budget_increase is None or self.temp_budget_expiry is None:
            return 0, 0
        at = self.temp_budget_expiry
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return self.temp_budget_increase, int(at.timestamp() * 1000)
