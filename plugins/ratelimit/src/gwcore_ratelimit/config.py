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
        raise fault("names a scope twice, or global beside another", "write each scope once; global stands alone")
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
    """One rule: its limits apply to each value of its scopes separately."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per: Annotated[list[Scope], BeforeValidator(_scopes), AfterValidator(_one_of_each), Field(min_length=1)] = Field(
        description="key, user, team, organisation, end_user, model, upstream or global; a list limits each combination",
        json_schema_extra={"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    )
    requests: _Rate | None = Field(default=None, description="calls, such as 600/min")
    tokens: _Rate | None = Field(default=None, description="tokens, such as 200k/min: estimated, then corrected")
    parallel: _Parallel | None = Field(default=None, description="calls under way at once")
    burst: int | None = Field(
        default=None, ge=1, le=LARGEST, description="how much may be used at once; the whole amount by default"
    )
    strict: bool = Field(
        default=False, description="never more than the amount in any window, at up to 1/12 of it refused early"
    )
    count: Literal["input", "output", "total"] = Field(default="total", description="which tokens count")
    count_cached: bool = Field(default=True, description="whether tokens read from a prompt cache count")
    when: When | None = Field(default=None, description="for which calls the rule is there; all by default")
    upstreams: list[str] = Field(default=[], description="only attempts at these upstreams; all by default")
    shadow: bool = Field(default=False, description="count and report, refuse nothing")
    on_store_error: Literal["local", "open", "closed"] = Field(
        default="local",
        description="while the store is unreachable: this worker's share of the limit, no limit, or refuse with 503",
    )

    @model_validator(mode="after")
    def _sound(self) -> Rule:
        rates = [rate for rate in (self.requests, self.tokens) if rate is not None]
        if not rates and self.parallel is None:
            raise fault("limits nothing", "give it requests, tokens or parallel")
        if self.burst is not None and len(rates) != 1:
            raise fault("has a burst, and not exactly one rate to which it belongs", "write one rule per rate")
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
        default="memory", description="where the state is: memory (exact on one machine) or redis (on all of them)"
    )
    rules: list[Rule] = Field(default=[], description="all that bind a call must admit it; none is charged otherwise")
    wait: Duration = Field(default=0.0, le=600, description="how long a call may queue instead of being refused")
    queue: int = Field(default=100, ge=1, description="most calls that queue, per worker")
    output: int = Field(default=1000, ge=1, description="tokens expected of an answer before a model's own are known")
    media: int = Field(default=1000, ge=0, description="tokens expected of an image, a file or a sound")
    timeout: Duration = Field(default=0.05, gt=0, description="longest that a call waits for the store")
    lease: Duration = Field(
        default=15.0, ge=1, description="with redis, after how long the calls of a dead worker no longer count"
    )
    namespace: str = Field(
        default="gwcore",
        pattern="^[A-Za-z0-9:_-]+$",
        description="with redis, prefix of keys; gateways that have one share their limits",
    )
    headers: bool = Field(default=True, description="tell clients what is left, in their dialect's header names")


class RateLimitPolicy(BaseModel):
    """Limits of one organisation, team, user, member, end user or key; ``null`` leaves the stack file's rule as it is.

    A limit replaces a rule that is ``per`` that scope alone and limits the same quantity over the same period. The
    names are LiteLLM's, whose admin API takes them as top-level fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rpm_limit: _Amount | None = Field(default=None, description="calls per minute")
    tpm_limit: _Amount | None = Field(default=None, description="tokens per minute")
    tpd_limit: _Amount | None = Field(default=None, description="tokens per day")
    max_parallel_requests: _Places | None = Field(default=None, description="calls under way at once")
    model_rpm_limit: dict[str, _Amount] | None = Field(
        default=None, description="model, as clients write it, to calls per minute on it; * stands for any text"
    )
    model_tpm_limit: dict[str, _Amount] | None = Field(
        default=None, description="model, as clients write it, to tokens per minute on it; * stands for any text"
    )
