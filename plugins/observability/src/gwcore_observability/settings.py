"""Settings that sinks share."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from gwcore.units import Duration, Size, fault
from gwcore.wire.transport import Headers, Origin, Tls
from gwcore_observability.content import Level


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise fault("is not a regular expression", str(error)) from None
    return text


def _address(text: str) -> str:
    try:
        Origin.of(text)
    except ValueError:
        raise fault("is not an http(s) URL", "write https://…, without credentials in it") from None
    return text


def signing_key(secret: SecretStr) -> bytes:
    """The key that signs webhooks: the base64 after ``whsec_``, or the text itself. Raises a ``fault`` if unusable."""
    text = secret.get_secret_value()
    try:
        key = text.encode()
        if text.startswith("whsec_"):  # a secret read from a file may end with a line break
            key = base64.b64decode(text.removeprefix("whsec_").rstrip(), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise fault("cannot be used as a signing secret", "write whsec_ and the key in base64, or any other text")
    return key


def _signing(secret: SecretStr) -> SecretStr:
    signing_key(secret)
    return secret


Pattern = Annotated[str, AfterValidator(_pattern)]
Address = Annotated[str, AfterValidator(_address)]
Signing = Annotated[SecretStr, AfterValidator(_signing)]


class ContentPolicy(BaseModel):
    """What policies of a key, team, user … may set for a sink, under the sink's name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    content: Level | None = Field(
        default=None,
        description="`off`, `redacted` or `full`; of several policies, the narrowest scope wins (key, end user, "
        "member, user, team, organisation).",
    )


class OutboxConfig(BaseModel):
    """How records are queued in memory, kept on disk, and sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue: int = Field(
        default=10_000,
        ge=1,
        description="Maximum number of records in memory; further ones are dropped and counted "
        "(`gwcore_sink_dropped_total`).",
    )
    memory: Size = Field(
        default=64 << 20,
        description="Maximum number of bytes in memory. A record that does not fit is kept without its content, or "
        "dropped; both are counted.",
    )
    folder: Path | None = Field(
        default=Path("gwcore-spill"),
        description="Folder for records that the sink does not accept; a restart sends them. `null` keeps them in "
        "memory only, and they are lost with the process.",
    )
    disk: Size = Field(
        default=1 << 30,
        description="Maximum number of bytes on disk, per worker; beyond it the oldest 8 MiB are dropped and counted.",
    )
    durable: bool = Field(
        default=False,
        description="`true` writes each record to disk as its call ends, so that a killed process loses only those of "
        "answers just ending; each call pays for a write. By default, the last second may be lost.",
    )
    batch: int = Field(default=100, ge=1, le=10_000, description="Maximum number of records per batch.")
    batch_bytes: Size = Field(default=3_500_000, description="Size at which a batch is full.")
    parallel: int = Field(default=8, ge=1, le=100, description="Maximum number of concurrent requests to the sink.")
    timeout: Duration = Field(default=10.0, gt=0, description="Time limit of one request to the sink.")
    backoff: Duration = Field(default=10.0, gt=0, description="Longest pause before the next try while the sink fails.")
    flush: Duration = Field(
        default=5.0,
        description="How long a stop waits for the sink. What is left then is sent by the next start, or lost without "
        "a `folder`.",
    )


class NearConfig(OutboxConfig):
    """For sinks on the same machine or in the gateway's own store: a busy event loop has few turns, so each takes more."""

    batch: int = Field(default=1000, ge=1, le=10_000, description="Maximum number of records per batch.")


class SinkConfig(BaseModel):
    """Settings of every sink."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    content: Level = Field(
        default="off",
        description="Whether prompts and answers are recorded: `off`, `redacted` (personal data replaced by patterns, "
        "which find not all of it) or `full`. API keys are removed in any case.",
    )
    patterns: list[Pattern] = Field(
        default=[], description="Regular expressions for further personal data that `redacted` replaces."
    )
    content_limit: Size = Field(
        default=1 << 20, ge=1024, description="Characters of one call's content that are kept; the rest is cut."
    )
    hash_users: SecretStr | None = Field(
        default=None,
        description="Secret of at least 16 characters with which ids of users and end users are hashed (HMAC-SHA256) "
        "before they are stored or sent. Without it they are kept as they are.",
        min_length=16,
        repr=False,
    )
    outbox: OutboxConfig = Field(default=OutboxConfig(), description="How records are queued, kept on disk and sent.")


class HttpSinkConfig(SinkConfig):
    """Settings of every sink behind an HTTP address."""

    headers: dict[str, SecretStr] = Field(
        default={}, description="Additional request headers, such as `authorization`.", repr=False
    )
    ca_file: str | None = Field(
        default=None, description="PEM file with the CA certificates to trust instead of the system's."
    )
    proxy: str | None = Field(
        default=None, description="URL of an http(s) proxy; without it, requests go direct.", pattern="^https?://"
    )

    @property
    def tls(self) -> Tls:
        """TLS verification of the address."""
        return Tls(ca_file=self.ca_file)

    def fixed_headers(self) -> Headers:
        """``headers`` in wire form."""
        return [(name.lower().encode(), value.get_secret_value().encode()) for name, value in self.headers.items()]
