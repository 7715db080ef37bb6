"""Settings of ``fallback``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gwcore.units import Duration, Rate, StoreRef

Strategy = Literal["ordered", "shuffle", "least-busy", "fastest", "cheapest", "usage"]
Names = list[Annotated[str, Field(min_length=1)]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hedge(_Strict):
    """A second attempt if the first has not begun to answer."""

    delay: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="silence after which it starts; by default the 95th percentile of the first token"
    )
    share: float = Field(default=0.05, gt=0, le=0.5, description="most second attempts, as a share of requests")


class RouteConfig(_Strict):
    """How the targets of a model are ordered, and which models are tried after them."""

    strategy: Strategy = Field(
        default="ordered",
        description="ordered: as `models` lists them; shuffle: at random by weight; least-busy; fastest: time to first "
        "token; cheapest: estimated price; usage: furthest below their own limits",
    )
    fallbacks: Names = Field(default=[], description="models to try, in order, when no target of the model answers")
    context_window_fallbacks: Names = Field(
        default=[], description="models to try when the request is too long for the model"
    )
    content_policy_fallbacks: Names = Field(
        default=[], description="models to try when an upstream refuses the content"
    )
    rate_limit_fallbacks: Names = Field(
        default=[], description="models to try, instead of fallbacks, when targets are at their rate limits"
    )
    affinity: Literal["none", "session", "prefix"] = Field(
        default="none",
        description="session: calls of one session keep to one deployment, for its prompt cache; prefix: so do calls "
        "that begin alike",
    )
    deadline: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None,
        description="until an answer begins, over all attempts; a non-stream answer begins when it is whole",
    )
    first_token: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="for the first content of a stream, per attempt; then the next target is tried"
    )
    hedge: Hedge | None = Field(default=None, description="start a second attempt when the first is silent too long")
    budget_aware: bool = Field(default=False, description="a target that the budget refuses gives way to a cheaper one")
    continuation: bool = Field(
        default=False, description="let another target continue the text of a stream that broke; marked in the response"
    )


class RetryConfig(_Strict):
    """How often and when to retry."""

    attempts: int = Field(default=4, ge=1, le=20, description="most upstream attempts per request, hedges included")
    per_target: int = Field(default=2, ge=0, le=10, description="most further attempts at one deployment per request")
    base: Duration = Field(default=0.2, gt=0, description="back-off is a random time up to base, doubled each time")
    cap: Duration = Field(default=4.0, gt=0, description="longest back-off")
    max_wait: Duration = Field(
        default=10.0, description="longest Retry-After to wait out; beyond it, the client is told to"
    )
    budget: float = Field(
        default=0.2, ge=0, le=1, description="most retries at an upstream that fails, as a share of requests to it"
    )
    budget_reserve: int = Field(default=10, ge=0, description="retries that are allowed whatever the share")


class DeploymentConfig(_Strict):
    """Settings of one target."""

    weight: int = Field(default=1, ge=0, le=1000, description="share of calls with shuffle; 0 is for fallback only")
    requests: Rate | None = Field(default=None, description="requests it takes, such as 600/min; more go elsewhere")
    tokens: Rate | None = Field(default=None, description="tokens it takes, such as 200k/min; more go elsewhere")
    tags: Names = Field(default=[], description="serves only calls with one of these tags")


class CheckConfig(_Strict):
    """Active health checks: one prober for the whole fleet."""

    interval: Duration = Field(default=30.0, gt=0, description="time between two checks of an upstream")
    timeout: Duration = Field(default=10.0, gt=0, description="for one check")
    path: str = Field(default="/models", pattern="^/", description="asked with GET below base_url; costs no tokens")
    upstreams: dict[str, str] = Field(
        default={}, description="upstream to another path; only these, where any is given"
    )


class FallbackConfig(RouteConfig):
    """Settings of ``fallback``; route settings at this level apply to every model."""

    store: StoreRef = Field(default="memory", description="where replicas share health: a redis store, or memory")
    namespace: str = Field(
        default="gwcore:fallback", pattern="^[A-Za-z0-9:_-]+$", description="prefix of keys in the store"
    )
    models: dict[str, RouteConfig] = Field(
        default={}, description="model, or a name with *, to what differs for it; more specific names win"
    )
    default_fallbacks: Names = Field(default=[], description="models to try last, whatever the model")
    deployments: dict[str, DeploymentConfig] = Field(
        default={}, description="upstream/model, or a name with *, to what is known of it"
    )
    retry: RetryConfig = Field(default=RetryConfig(), description="how often and when to try again")
    allowed_fails: int = Field(default=5, ge=1, description="failures in a row that open a deployment's breaker")
    failure_rate: float = Field(
        default=0.5, gt=0, le=1, description="share of failures in failure_window that opens it"
    )
    failure_samples: int = Field(default=20, ge=1, description="fewest attempts for failure_rate to count")
    failure_window: Duration = Field(default=30.0, gt=0, description="how far back failure_rate looks")
    cooldown: Duration = Field(
        default=10.0, gt=0, description="how long a breaker stays open; doubled each time in a row"
    )
    max_cooldown: Duration = Field(default=300.0, gt=0, description="longest time it stays open")
    key_cooldown: Duration = Field(
        default=60.0, gt=0, description="how long a refused or empty credential is left alone"
    )
    panic: bool = Field(
        default=True, description="with every breaker open, try the one that failed longest ago; else 503 at once"
    )
    checks: CheckConfig | None = Field(default=None, description="active health checks of upstreams; none by default")
