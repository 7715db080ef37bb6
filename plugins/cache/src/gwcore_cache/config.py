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

    mode: Mode = Field(default="on", description="on; opt-in: only for requests that ask for it; off.")
    ttl: Duration = Field(default=600.0, gt=0, description="How long an answer is fresh.")
    scope: Scope = Field(
        default="organisation",
        description="Who shares answers: callers of one organisation, team, user, end user or key; shared: everybody.",
    )
    stale_while_revalidate: Duration = Field(
        default=0.0, description="How long behind ttl an answer is still given, while one call fetches it anew."
    )
    stale_if_error: Duration = Field(
        default=60.0, description="How long behind ttl an answer is still given when the upstream fails."
    )
    any_target: bool = Field(
        default=False,
        description="Keep what any target of the model's own list answered, not only its first and those of the same model.",
    )
    several: bool = Field(
        default=False, description="Keep answers of several choices (n above 1) at a temperature above 0, too."
    )


class Rule(_Model):
    """Settings for some calls; those not given are taken from above."""

    models: tuple[str, ...] = Field(
        default=(), description="Names of models as clients write them; * stands for any text."
    )
    operations: tuple[Operation, ...] = Field(default=(), description="Of these operations only.")
    dialects: tuple[str, ...] = Field(default=(), description="Of these dialects only.")
    tags: tuple[str, ...] = Field(default=(), description="With one of these tags only.")
    mode: Mode | None = Field(default=None, description="See mode.")
    ttl: Duration | None = Field(default=None, gt=0, description="See ttl.")
    scope: Scope | None = Field(default=None, description="See scope.")
    stale_while_revalidate: Duration | None = Field(default=None, description="See stale_while_revalidate.")
    stale_if_error: Duration | None = Field(default=None, description="See stale_if_error.")
    any_target: bool | None = Field(default=None, description="See any_target.")
    several: bool | None = Field(default=None, description="See several.")


class Semantic(_Model):
    """Answers to questions with the same meaning."""

    model: str = Field(description="Name of an embedding model, as clients would write it.", min_length=1)
    similarity: float = Field(
        default=0.97, ge=0.8, le=1, description="Cosine similarity from which on two questions count as the same."
    )
    dimensions: int | None = Field(default=None, ge=32, description="Dimensions to ask the embedding model for.")
    most: int = Field(
        default=128, ge=1, le=1024, description="Newest questions that are compared, per system prompt and tools."
    )
    timeout: Duration = Field(default=2.0, gt=0, description="Longest that a call waits for an embedding.")


class CacheConfig(Settings):
    """Settings of ``cache``."""

    store: StoreRef = Field(
        default="memory", description="Where answers are kept: memory, a sqlite, postgresql or redis store."
    )
    namespace: str = Field(
        default="gwcore:cache", description="Prefix of keys in a redis store.", pattern=r"^[\w:.-]{1,64}$"
    )
    operations: tuple[Operation, ...] = Field(default=OPERATIONS, description="Operations that are kept.")
    max_ttl: Duration = Field(default=86400.0, gt=0, description="Longest ttl that a request may ask for.")
    jitter: float = Field(
        default=0.1, ge=0, lt=1, description="Share by which a ttl is shortened or lengthened at random."
    )
    early_refresh: float = Field(
        default=1.0,
        ge=0,
        description="How eagerly answers are fetched anew shortly before they expire (beta of XFetch); 0 never.",
    )
    max_size: Size = Field(default=1 << 20, gt=0, description="Largest answer that is kept.")
    capacity: Size = Field(
        default=256 << 20, gt=0, description="Bytes kept in a memory or SQL store; the oldest go first."
    )
    wait: Duration = Field(
        default=60.0, description="Longest that a call waits for another one's answer to the same request."
    )
    timeout: Duration = Field(default=0.05, gt=0, description="Longest that a call waits for the store.")
    lease: Duration = Field(
        default=1.0, ge=0.3, description="Time after which the calls of a dead worker are taken over by another."
    )
    ignore: tuple[str, ...] = Field(
        default=IGNORED,
        description="Members at the top of a request that do not make it another one; tags also stands for the call's tags.",
    )
    ignore_headers: tuple[str, ...] = Field(
        default=IGNORED_HEADERS, description="Beginnings of names of request headers that do not make it another one."
    )
    volatile: tuple[Pattern, ...] = Field(
        default=(), description="Regular expressions for text inside requests that does not make them other ones."
    )
    across_dialects: bool = Field(
        default=True,
        description="Whether an answer is found by the same conversation in another dialect (up to 16 KiB).",
    )
    seal: AdminSecret | None = Field(
        default=None,
        description="Secret under which what leaves this process is encrypted; another one empties the cache.",
    )
    semantic: Semantic | None = Field(
        default=None, description="Also answer what was asked in other words; none by default."
    )
    rules: tuple[Rule, ...] = Field(
        default=(), description="Other settings for some calls; the first that fits counts."
    )


class CachePolicy(_Model):
    """Policy of a key, team, user or organisation."""

    mode: Mode | None = Field(default=None, description="on, opt-in or off for its calls; the strictest counts.")


def merged(config: CacheConfig, rule: Rule | None) -> Settings:
    """Returns the settings, overridden by those of a rule."""
    said: dict[str, Any] = {name: getattr(config, name) for name in Settings.model_fields}
    if rule is not None:
        said |= {name: value for name in said if (value := getattr(rule, name)) is not None}
    return Settings.model_construct(**said)
