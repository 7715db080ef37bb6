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
        raise fault("is not a secret to sign with", "write whsec_ and the key in base64, or any other text")
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
        default=None, description="off, redacted or full; the narrowest scope that says anything wins"
    )


class OutboxConfig(BaseModel):
    """How records are queued, kept and sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue: int = Field(
        default=10_000, ge=1, description="records in memory; beyond it the newest are dropped and counted"
    )
    memory: Size = Field(default=64 << 20, description="bytes in memory, likewise")
    folder: Path | None = Field(
        default=Path("gwcore-spill"), description="where records wait for a sink that is not well; null: in memory only"
    )
    disk: Size = Field(default=1 << 30, description="bytes on disk per worker; beyond it the oldest 8 MiB are dropped")
    durable: bool = Field(
        default=False, description="write each record to disk before its call is over: a killed process loses none"
    )
    batch: int = Field(default=100, ge=1, le=10_000, description="most records per batch")
    batch_bytes: Size = Field(default=3_500_000, description="bytes after which a batch is full")
    parallel: int = Field(default=8, ge=1, le=100, description="requests of one batch that go out side by side")
    timeout: Duration = Field(default=10.0, gt=0, description="for one request to the sink")
    backoff: Duration = Field(
        default=10.0, gt=0, description="longest pause between two tries while the sink is not well"
    )
    flush: Duration = Field(
        default=5.0, description="how long a stop waits for the sink; the rest is sent by the next start"
    )


class SinkConfig(BaseModel):
    """Settings of every sink."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    content: Level = Field(
        default="off",
        description="what was asked and answered: off, redacted (no personal data) or full; never a secret",
    )
    patterns: list[Pattern] = Field(default=[], description="further regular expressions that redacted replaces")
    content_limit: Size = Field(default=1 << 20, ge=1024, description="characters of one call's content that are kept")
    hash_users: SecretStr | None = Field(
        default=None,
        description="a secret under which ids of users are hashed before they are stored or sent; null: as they are",
        min_length=16,
        repr=False,
    )
    outbox: OutboxConfig = Field(default=OutboxConfig(), description="how records are queued, kept and sent")


class HttpSinkConfig(SinkConfig):
    """Settings of every sink behind an HTTP address."""

    headers: dict[str, SecretStr] = Field(default={}, description="sent along, e.g. authorization", repr=False)
    ca_file: str | None = Field(
        default=None, description="PEM bundle to verify the address with, instead of the system's"
    )
    proxy: str | None = Field(default=None, description="URL of a proxy to send through", pattern="^https?://")

    @property
    def tls(self) -> Tls:
        """TLS verification of the address."""
        return Tls(ca_file=self.ca_file)

    def fixed_headers(self) -> Headers:
        """``headers`` in wire form."""
        return [(name.lower().encode(), value.get_secret_value().encode()) for name, value in self.headers.items()]
