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
    """A second, parallel attempt if the first has not begun to answer."""

    delay: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None,
        description="Silence after which the second attempt starts. By default the 95th percentile of the target's "
        "time to first token, once 20 calls have been measured.",
    )
    share: float = Field(
        default=0.05, gt=0, le=0.5, description="Maximum share of requests that get a second attempt (0.05 is 5 %)."
    )


class RouteConfig(_Strict):
    """How the targets of a model are ordered, and which models are tried after them."""

    strategy: Strategy = Field(
        default="ordered",
        description="Order of the model's targets: `ordered` as `models` lists them; `shuffle` at random by weight; "
        "`least-busy` fewest calls in flight; `fastest` shortest time to first token; `cheapest` lowest "
        "estimated price; `usage` furthest below their own limits.",
    )
    fallbacks: Names = Field(
        default=[], description="Models to try, in order, when no target of the requested model answers."
    )
    context_window_fallbacks: Names = Field(
        default=[],
        description="Models to try when the request is too long for the model. Without them, the client gets the "
        "error.",
    )
    content_policy_fallbacks: Names = Field(
        default=[],
        description="Models to try when an upstream refuses the content. Without them, the client gets the error.",
    )
    rate_limit_fallbacks: Names = Field(
        default=[],
        description="Models to try, instead of `fallbacks`, when the model's targets are at their rate limits.",
    )
    affinity: Literal["none", "session", "prefix"] = Field(
        default="none",
        description="`session`: calls of one session stay on one deployment, for its prompt cache. `prefix`: so do "
        "calls without a session that begin alike. `none`: the strategy alone decides.",
    )
    deadline: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None,
        description="Time until an answer begins, over all attempts; then 504. A non-streaming answer begins when it "
        "is complete. No limit by default.",
    )
    first_token: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None,
        description="Time until the first content of a stream, per attempt; then the next target is tried. No limit "
        "by default.",
    )
    hedge: Hedge | None = Field(
        default=None,
        description="Start a second, parallel attempt if the first one is silent for too long; `{}` for the defaults. "
        "The faster one is used, and both are paid. Off by default.",
    )
    budget_aware: bool = Field(
        default=False,
        description="`true`: if a budget rejects a target, try a cheaper one. By default the call is rejected.",
    )
    continuation: bool = Field(
        default=False,
        description="`true`: if a text stream breaks after its first content, let another target continue it; the "
        "response is marked. By default it ends with an error event.",
    )


class RetryConfig(_Strict):
    """How often and when to retry."""

    attempts: int = Field(
        default=4,
        ge=1,
        le=20,
        description="Maximum number of upstream attempts per request, over all targets, hedges included; 1 to 20.",
    )
    per_target: int = Field(
        default=2, ge=0, le=10, description="Maximum number of retries at the same deployment, per request."
    )
    base: Duration = Field(
        default=0.2,
        gt=0,
        description="Back-off before a retry: a random time between 0 and this, which doubles with each retry up to "
        "`cap`.",
    )
    cap: Duration = Field(default=4.0, gt=0, description="Longest back-off.")
    max_wait: Duration = Field(
        default=10.0,
        description="Longest `Retry-After` of an upstream that the gateway waits for; a longer one is passed to the "
        "client.",
    )
    budget: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Maximum retries at a failing upstream, as a share of the requests to it (0.2 is 20 %); prevents "
        "retry storms.",
    )
    budget_reserve: int = Field(
        default=10,
        ge=0,
        description="Retries that are permitted in addition to that share, so that rare failures are always retried.",
    )


class DeploymentConfig(_Strict):
    """Settings of one deployment: a model at an upstream."""

    weight: int = Field(
        default=1, ge=0, le=1000, description="Relative share of calls with `shuffle`; 0: only as a fallback."
    )
    requests: Rate | None = Field(
        default=None,
        description="Request limit of the deployment, such as `600/min`; further requests go to other targets.",
    )
    tokens: Rate | None = Field(
        default=None,
        description="Token limit of the deployment, such as `200k/min`; further requests go to other targets.",
    )
    tags: Names = Field(default=[], description="Serve only calls with one of these tags.")


class CheckConfig(_Strict):
    """Active health checks, made by one replica for all. After two failures in a row the API key is not used for ``key_cooldown``."""

    interval: Duration = Field(default=30.0, gt=0, description="Time between two checks of an upstream.")
    timeout: Duration = Field(default=10.0, gt=0, description="Time limit of one check.")
    path: str = Field(
        default="/models",
        pattern="^/",
        description="Path below `base_url` that is requested with GET; `/models` costs no tokens. Healthy is any "
        "answer below 500 except 401.",
    )
    upstreams: dict[str, str] = Field(
        default={},
        description="Path by upstream, instead of `path`. If any is given, only these upstreams are checked.",
    )


class FallbackConfig(RouteConfig):
    """Settings of ``fallback``; route settings at this level apply to every model."""

    store: StoreRef = Field(
        default="memory",
        description="Where replicas share the health of deployments: the name of a `redis:` store. With `memory`, "
        "each worker knows only what it sees itself.",
    )
    namespace: str = Field(
        default="gwcore:fallback",
        pattern="^[A-Za-z0-9:_-]+$",
        description="Prefix of keys in the redis store; gateways with the same prefix share health.",
    )
    models: dict[str, RouteConfig] = Field(
        default={},
        description="Settings by model (`*` is a wildcard; more specific names win); what is not set there is "
        "inherited.",
    )
    default_fallbacks: Names = Field(default=[], description="Models to try last, for every model; after `fallbacks`.")
    deployments: dict[str, DeploymentConfig] = Field(
        default={},
        description="Weights, limits and tags by `upstream/model` (`*` is a wildcard; more specific names win).",
    )
    retry: RetryConfig = Field(default=RetryConfig(), description="How often and when to retry.")
    allowed_fails: int = Field(
        default=5,
        ge=1,
        description="Failures in a row that open a deployment's circuit breaker: it is then not used for `cooldown`.",
    )
    failure_rate: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of failed attempts within `failure_window` above which the breaker opens.",
    )
    failure_samples: int = Field(
        default=20, ge=1, description="Minimum number of attempts within `failure_window` for `failure_rate` to apply."
    )
    failure_window: Duration = Field(default=30.0, gt=0, description="Period over which `failure_rate` is measured.")
    cooldown: Duration = Field(
        default=10.0,
        gt=0,
        description="How long a breaker stays open; doubled each time that the probe after it fails, up to "
        "`max_cooldown`.",
    )
    max_cooldown: Duration = Field(default=300.0, gt=0, description="Longest time that a breaker stays open.")
    key_cooldown: Duration = Field(
        default=60.0,
        gt=0,
        description="How long an API key is not used after a 401 or an exhausted account, or after two failed health "
        "checks.",
    )
    panic: bool = Field(
        default=True,
        description="If every breaker is open: `true` tries the target that failed longest ago, `false` answers 503 "
        "at once.",
    )
    checks: CheckConfig | None = Field(
        default=None, description="Active health checks of upstreams; `{}` for the defaults. Off by default."
    )
