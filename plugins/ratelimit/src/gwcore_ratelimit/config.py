"""Settings and policies of ``ratelimit``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gwcore.config import When
from gwcore.units import Duration, Rate, StoreRef, fault

Scope = Literal["key", "user", "team", "organisation", "end_user", "model", "upstream", "global"]
"""What a rule limits separately: callers, requested models, upstreams; ``global``: all together."""

LARGEST = 1_000_000_000_000
"""Largest amount of a limit: all arithmetic on it stays exact in doubles, Lua's only numbers."""


def _scopes(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _one_of_each(scopes: list[Scope]) -> list[Scope]:
    if len(set(scopes)) < len(scopes) or ("global" in scopes and len(scopes) > 1):
        raise fault("names a scope twice, or combines global with another", "write each scope once, and global alone")
    return scopes


def _small(rate: Rate) -> Rate:
    if rate.amount > LARGEST:
        raise fault("is too large for a limit", f"write at most {LARGEST:,}")
    return rate


_Rate = Annotated[Rate, AfterValidator(_small)]
_Parallel = Annotated[int, Field(ge=1, le=65_535)]
# 0 is a valid limit: it refuses everything
_Amount = Annotated[int, Field(ge=0, le=LARGEST)]
_Places = Annotated[int, Field(ge=0, le=65_535)]


class Rule(BaseModel):
    """One rule; each id of its scope has limits of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per: Annotated[list[Scope], BeforeValidator(_scopes), AfterValidator(_one_of_each), Field(min_length=1)] = Field(
        description="Scope that is limited: `key`, `user`, `team`, `organisation`, `end_user`, `model` (as "
        "requested), `upstream` or `global`; each id of it has the whole limit. A list limits each "
        "combination.",
        json_schema_extra={"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    )
    requests: _Rate | None = Field(default=None, description="Maximum number of calls per period, such as `600/min`.")
    tokens: _Rate | None = Field(
        default=None,
        description="Maximum number of tokens per period, such as `200k/min`. An estimate is charged first, and "
        "corrected by the usage that the upstream reports.",
    )
    parallel: _Parallel | None = Field(default=None, description="Maximum number of calls in flight.")
    burst: int | None = Field(
        default=None,
        ge=1,
        le=LARGEST,
        description="How much of `requests` or `tokens` may be used at once; the rest flows in over the period. By "
        "default the whole amount.",
    )
    strict: bool = Field(
        default=False,
        description="`true`: never more than the amount in any period, at the price that up to 1/12 of it is rejected "
        "early. By default, up to twice the amount may pass in a period that follows a silent one.",
    )
    count: Literal["input", "output", "total"] = Field(
        default="total", description="Tokens that `tokens` counts: `input`, `output` or `total`."
    )
    count_cached: bool = Field(default=True, description="Whether input tokens read from a prompt cache count.")
    when: When | None = Field(default=None, description="Calls to which the rule applies; without it, all.")
    upstreams: list[str] = Field(
        default=[], description="Only attempts at these upstreams; an empty list stands for all."
    )
    shadow: bool = Field(default=False, description="`true`: count and report, but reject nothing.")
    on_store_error: Literal["local", "open", "closed"] = Field(
        default="local",
        description="While the store is unreachable: `local` enforces this worker's share of the limit, `open` no "
        "limit, `closed` rejects with 503.",
    )

    @model_validator(mode="after")
    def _sound(self) -> Rule:
        rates = [rate for rate in (self.requests, self.tokens) if rate is not None]
        if not rates and self.parallel is None:
            raise fault("limits nothing", "give it requests, tokens or parallel")
        if self.burst is not None and len(rates) != 1:
            raise fault(
                "has a burst, but not exactly one of requests and tokens, to which it belongs",
                "write one rule per rate",
            )
        if self.burst is not None and self.strict:
            raise fault("is strict and has a burst", "leave one out: a strict window has no burst")
        return self

    @property
    def per_attempt(self) -> bool:
        """Whether it depends on the target, so that it is checked once per attempt."""
        return bool(self.upstreams) or "upstream" in self.per


class RateLimitConfig(BaseModel):
    """Settings of ``ratelimit``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: StoreRef = Field(
        default="memory",
        description="Where counts are kept: `memory` (exact over all workers of one machine), or the name of a "
        "`redis:` store (over all machines).",
    )
    rules: list[Rule] = Field(
        default=[],
        description="The limits. All rules that apply to a call must admit it; if one does not, none is charged.",
    )
    wait: Duration = Field(
        default=0.0, le=600, description="How long a call may queue instead of being rejected; 0 rejects at once."
    )
    queue: int = Field(
        default=100, ge=1, description="Maximum number of calls that queue, per worker; further ones are rejected."
    )
    output: int = Field(
        default=1000,
        ge=1,
        description="Output tokens charged for an answer, or `max_tokens` if that is less, until the lengths of the "
        "model's answers are known.",
    )
    media: int = Field(
        default=1000, ge=0, description="Tokens charged for an image, a file or a recording, until the usage is known."
    )
    timeout: Duration = Field(
        default=0.05, gt=0, description="How long a call waits for the store; then `on_store_error` decides."
    )
    lease: Duration = Field(
        default=15.0,
        ge=1,
        description="With redis: time after which calls in flight of a dead worker no longer count for `parallel`.",
    )
    namespace: str = Field(
        default="gwcore",
        pattern="^[A-Za-z0-9:_-]+$",
        description="With redis: prefix of keys. Gateways with the same prefix share their limits.",
    )
    headers: bool = Field(
        default=True,
        description="Whether answers carry what is left of the limits, in the header names of the client's API.",
    )


class RateLimitPolicy(BaseModel):
    """Limits of one organisation, team, user, member, end user or key; ``null`` leaves the stack file's rule as it is.

    A limit replaces a rule that is ``per`` that scope alone and limits the same quantity over the same period. The
    names are LiteLLM's, whose admin API takes them as top-level fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rpm_limit: _Amount | None = Field(default=None, description="Calls per minute; 0 rejects all.")
    tpm_limit: _Amount | None = Field(default=None, description="Tokens per minute; 0 rejects all.")
    tpd_limit: _Amount | None = Field(default=None, description="Tokens per day; 0 rejects all.")
    max_parallel_requests: _Places | None = Field(default=None, description="Calls in flight; 0 rejects all.")
    model_rpm_limit: dict[str, _Amount] | None = Field(
        default=None, description="Calls per minute by model, as clients write it; `*` matches any text."
    )
    model_tpm_limit: dict[str, _Amount] | None = Field(
        default=None, description="Tokens per minute by model, as clients write it; `*` matches any text."
    )
