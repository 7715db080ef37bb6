"""The settings of ``cache``."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gwcore.units import AdminSecret, Duration, Size, StoreRef, fault

Scope = Literal["organisation", "team", "user", "end_user", "key", "shared"]
Mode = Literal["on", "opt-in", "off"]
Operation = Literal["chat", "completions", "embeddings", "batch_embeddings", "rerank"]
OPERATIONS: tuple[Operation, ...] = ("chat", "completions", "embeddings", "batch_embeddings", "rerank")

IGNORED = (
    "metadata", "user", "labels", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
)  # fmt: skip
"""Body keys that identify a caller, a trace or a vendor's own cache, and do not change the answer."""


IGNORED_HEADERS = (
    "x-stainless-", "x-goog-api-client", "x-goog-request-params", "x-server-timeout", "x-app", "x-claude-code-",
    "session_id", "conversation_id", "originator",
)  # fmt: skip
"""Prefixes of headers that reach the upstream, but only identify the client, its session or its retries."""


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error:
        raise fault("is not a regular expression", "write one as Python's re module reads it") from None
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(_Model):
    """Settings that a rule can override."""

    mode: Mode = Field(default="on", description="`on`; `opt-in`: only for requests that ask for the cache; `off`.")
    ttl: Duration = Field(
        default=600.0,
        gt=0,
        description="How long an answer is fresh. A request may ask for another ttl, up to `max_ttl`.",
    )
    scope: Scope = Field(
        default="organisation",
        description="Which callers share answers: those of one `organisation`, `team`, `user`, `end_user` or `key`; "
        "`shared`: all callers. A caller without such an id shares in a narrower scope. Without `auth` in "
        "the stack, all callers share.",
    )
    stale_while_revalidate: Duration = Field(
        default=0.0,
        description="How long after its ttl an answer is still returned, while one call in the background refreshes "
        "it.",
    )
    stale_if_error: Duration = Field(
        default=60.0,
        description="How long after its ttl an answer is still returned if the upstream fails (5xx, 429, no "
        "connection).",
    )
    any_target: bool = Field(
        default=False,
        description="`true`: also store answers of targets with another model than the first target in the list of "
        "the requested name. By default, only the first target's model.",
    )
    several: bool = Field(
        default=False,
        description="`true`: also store answers to requests for several choices (`n` above 1) at a temperature above "
        "0.",
    )


class Rule(_Model):
    """Settings for the calls that match; what a rule does not set is taken from the plugin's settings."""

    models: tuple[str, ...] = Field(
        default=(), description="Names of models, as clients write them; `*` matches any text."
    )
    operations: tuple[Operation, ...] = Field(default=(), description="Only these operations.")
    dialects: tuple[str, ...] = Field(
        default=(), description="Only clients of these dialects (API formats), such as `openai.chat`."
    )
    tags: tuple[str, ...] = Field(default=(), description="Only calls with one of these tags.")
    mode: Mode | None = Field(default=None, description="Replaces the plugin's `mode`.")
    ttl: Duration | None = Field(default=None, gt=0, description="Replaces the plugin's `ttl`.")
    scope: Scope | None = Field(default=None, description="Replaces the plugin's `scope`.")
    stale_while_revalidate: Duration | None = Field(
        default=None, description="Replaces the plugin's `stale_while_revalidate`."
    )
    stale_if_error: Duration | None = Field(default=None, description="Replaces the plugin's `stale_if_error`.")
    any_target: bool | None = Field(default=None, description="Replaces the plugin's `any_target`.")
    several: bool | None = Field(default=None, description="Replaces the plugin's `several`.")


class Semantic(_Model):
    """Answers to similar questions, found by comparing embeddings."""

    model: str = Field(
        description="Embedding model, by the name that clients would write. Each miss pays for one embedding.",
        min_length=1,
    )
    similarity: float = Field(
        default=0.97,
        ge=0.8,
        le=1,
        description="Minimum cosine similarity (0.8 to 1) at which two questions count as the same. The lower it is, "
        "the more wrong answers.",
    )
    dimensions: int | None = Field(
        default=None,
        ge=32,
        description="Length of the vectors to request from the embedding model; the model's own by default.",
    )
    most: int = Field(
        default=128,
        ge=1,
        le=1024,
        description="How many of the newest questions are compared, for each combination of system prompt, tools and "
        "history.",
    )
    timeout: Duration = Field(
        default=2.0, gt=0, description="How long a call waits for its embedding; then it goes upstream."
    )


class CacheConfig(Settings):
    """Settings of ``cache``."""

    store: StoreRef = Field(
        default="memory",
        description="Where answers are kept: the name of a `memory:` (each worker its own), `sqlite:`, `postgresql:` "
        "or `redis:` store.",
    )
    namespace: str = Field(
        default="gwcore:cache",
        description="Prefix of keys in a redis store. Gateways with the same prefix and stack share answers.",
        pattern=r"^[\w:.-]{1,64}$",
    )
    operations: tuple[Operation, ...] = Field(default=OPERATIONS, description="Operations whose answers are stored.")
    max_ttl: Duration = Field(default=86400.0, gt=0, description="Longest ttl that a request may ask for.")
    jitter: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share by which each ttl is lengthened or shortened at random, so that answers do not expire all "
        "at once.",
    )
    early_refresh: float = Field(
        default=1.0,
        ge=0,
        description="How early answers are refreshed before they expire (beta of XFetch): above 1 earlier, below 1 "
        "later, 0 never.",
    )
    max_size: Size = Field(default=1 << 20, gt=0, description="Largest answer that is stored.")
    capacity: Size = Field(
        default=256 << 20,
        gt=0,
        description="Bytes kept in a `memory:` store (per worker) or an SQL store; the oldest entries are deleted "
        "first. In redis, its own `maxmemory` counts.",
    )
    wait: Duration = Field(
        default=60.0,
        description="How long a call waits for another call's answer to the same request; then it goes upstream "
        "itself.",
    )
    timeout: Duration = Field(
        default=0.05, gt=0, description="How long a call waits for the store; then it continues without it."
    )
    lease: Duration = Field(
        default=1.0,
        ge=0.3,
        description="With redis: time after which another worker takes over the upstream call of a worker that died.",
    )
    ignore: tuple[str, ...] = Field(
        default=IGNORED,
        description="Top-level members of the body that do not distinguish requests; `tags` also stands for the "
        "call's tags. A member that changes the answer does not belong here.",
    )
    ignore_headers: tuple[str, ...] = Field(
        default=IGNORED_HEADERS, description="Prefixes of request headers that do not distinguish requests."
    )
    volatile: tuple[Pattern, ...] = Field(
        default=(),
        description="Regular expressions for text in requests, such as a date, that does not distinguish them. It "
        "still reaches the upstream.",
    )
    across_dialects: bool = Field(
        default=True,
        description="Whether the same conversation in another API format hits, too (requests of up to 16 KiB).",
    )
    seal: AdminSecret | None = Field(
        default=None,
        description="Secret with which entries are encrypted before they leave the process; at least 32 characters. "
        "Changing it empties the cache. Without it, the store holds answers in clear text.",
    )
    semantic: Semantic | None = Field(
        default=None,
        description="Also return the answer to a similar question, found by embeddings. Off by default; such an "
        "answer may be wrong.",
    )
    rules: tuple[Rule, ...] = Field(
        default=(), description="Other settings for some calls; the first rule that matches applies."
    )


class CachePolicy(_Model):
    """Policy of a key, team, user or organisation."""

    mode: Mode | None = Field(
        default=None, description="`on`, `opt-in` or `off` for its calls; of several policies, the strictest applies."
    )


def merged(config: CacheConfig, rule: Rule | None) -> Settings:
    """Returns the settings, overridden by those of a rule."""
    said: dict[str, Any] = {name: getattr(config, name) for name in Settings.model_fields}
    if rule is not None:
        said |= {name: value for name in said if (value := getattr(rule, name)) is not None}
    return Settings.model_construct(**said)
