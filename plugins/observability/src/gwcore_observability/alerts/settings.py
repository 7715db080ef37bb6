"""Settings of ``alerts``."""

from __future__ import annotations

import re
from datetime import time
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator

from gwcore.stackmodels import is_loopback
from gwcore.units import Duration, OptionalStoreRef, Rate, StoreRef, fault
from gwcore.wire.transport import Origin
from gwcore_observability.alerts.findings import KINDS, Kind
from gwcore_observability.report import GROUPS
from gwcore_observability.settings import OutboxConfig, Signing

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_ADDRESS = re.compile(r"[^\s@<>,;:\"]+@[^\s@<>,;:\"]+")


def _share(value: Any) -> Any:
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    return float(match[1]) / 100 if match else value


Share = Annotated[float, BeforeValidator(_share, json_schema_input_type=float | str), Field(gt=0, le=10)]
"""A fraction: ``80%`` or 0.8."""


_Name = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,40}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EmailConfig(_Strict):
    """A mail server, the sender and the recipients."""

    host: str = Field(description="of the SMTP server", min_length=1)
    port: int = Field(default=587, ge=1, le=65535, description="587 for STARTTLS, 465 for TLS, 25 for neither")
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="a server that does not offer what is asked for gets nothing"
    )
    ca_file: str | None = Field(default=None, description="PEM bundle to verify the server with")
    username: str | None = Field(default=None, description="to log in with")
    password: SecretStr | None = Field(default=None, description="to log in with", repr=False)
    sender: str = Field(description="address that mails come from")
    to: list[str] = Field(description="addresses that mails go to", min_length=1)

    @field_validator("sender", "to")
    @classmethod
    def _addresses(cls, value: str | list[str]) -> str | list[str]:
        for one in [value] if isinstance(value, str) else value:
            if not _ADDRESS.fullmatch(one):
                raise fault("is not a mail address", "write it as ops@example.org")
        return value

    @model_validator(mode="after")
    def _sealed(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise fault("has a username or a password alone", "write both, or neither")
        if self.password is not None and self.security == "none" and not is_loopback(self.host):
            raise fault("would send its password in the clear", "write security: starttls or tls")
        return self


class DestinationConfig(_Strict):
    """Where alerts go: exactly one of ``slack``, ``webhook`` and ``email``."""

    slack: SecretStr | None = Field(
        default=None, description="URL of an incoming webhook of Slack, Mattermost and the like", repr=False
    )
    webhook: SecretStr | None = Field(default=None, description="URL that receives alerts as JSON", repr=False)
    email: EmailConfig | None = Field(default=None, description="a mail server")
    secret: Signing | None = Field(default=None, description="signs what goes to webhook", repr=False)
    headers: dict[str, SecretStr] = Field(default={}, description="sent along to slack or webhook", repr=False)
    ca_file: str | None = Field(default=None, description="PEM bundle to verify slack or webhook with")
    proxy: str | None = Field(default=None, description="URL of a proxy to send through", pattern="^https?://")
    kinds: list[Kind] = Field(default=list(KINDS), description="what is told here", min_length=1)
    limit: Rate = Field(default=Rate(20, 3600), description="most alerts; what is beyond is told together, later")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if [self.slack, self.webhook, self.email].count(None) != 2:
            raise fault("names no destination, or several", "write exactly one of slack, webhook, email")
        if self.secret is not None and self.webhook is None:
            raise fault("has a secret that signs nothing", "secret goes with webhook")
        for url in (self.slack, self.webhook):
            try:
                if url is not None:
                    Origin.of(url.get_secret_value())
            except ValueError:
                raise fault("is not an http(s) URL", "write https://…, without credentials in it") from None
        return self


class BudgetsConfig(_Strict):
    """Budgets of the stack's ``budget``."""

    at: list[Share] = Field(default=[0.8, 1.0], description="shares of a limit at which it is told", min_length=1)
    soft: bool = Field(default=True, description="tell when a soft limit is reached")


class ErrorsConfig(_Strict):
    """Failure rate of an upstream's model, counting failures that are its own fault."""

    rate: Share = Field(default=0.25, le=1, description="share of failed attempts from which it is told")
    least: int = Field(default=20, ge=1, description="attempts below which a share says nothing")
    window: Duration = Field(default=300.0, ge=10, description="counted over")


class SlowConfig(_Strict):
    """Slow responses; for a stream, the time to its first content counts."""

    after: Duration = Field(default=60.0, gt=0, description="what is slow")
    least: int = Field(default=3, ge=1, description="slow requests in the window from which it is told")
    window: Duration = Field(default=300.0, ge=10, description="counted over")


class HangingConfig(_Strict):
    """Requests that do not end."""

    after: Duration = Field(default=600.0, gt=0, description="in flight, and nothing sent, for longer than this")


class UpstreamsConfig(_Strict):
    """Upstreams that are down: as judged by the router, else by consecutive failures."""

    failures: int = Field(default=5, ge=1, description="in a row, where no router judges")


def _clock(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\d{1,2}:\d{2}", value):
        return value.zfill(5)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1440:
        return f"{value // 60:02}:{value % 60:02}"  # YAML 1.1 reads 8:30 as 510
    return value


class ReportsConfig(_Strict):
    """Spend reports, from the table of ``request_log``."""

    daily: bool = Field(default=True, description="each day, of the day before")
    weekly: bool = Field(default=True, description="on Mondays, of the week before")
    at: Annotated[time, BeforeValidator(_clock)] = Field(default=time(0, 15), description="when, UTC")
    by: list[str] = Field(default=["model"], description="one line for each", min_length=1)
    lines: int = Field(default=20, ge=1, le=200, description="most lines; those that cost most come first")
    store: StoreRef = Field(default="book", description="the store of request_log")

    @field_validator("by")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        if not set(value) <= set(GROUPS):
            raise fault("groups by something a report does not know", f"use: {', '.join(GROUPS)}")
        return value


class AlertsConfig(_Strict):
    """Settings of ``alerts``."""

    to: dict[_Name, DestinationConfig] = Field(description="destinations by name", min_length=1)
    budgets: BudgetsConfig | None = Field(default=BudgetsConfig(), description="shares of budgets; null: not told")
    errors: ErrorsConfig | None = Field(default=ErrorsConfig(), description="error rates; null: not told")
    slow: SlowConfig | None = Field(default=SlowConfig(), description="slow requests; null: not told")
    hanging: HangingConfig | None = Field(default=HangingConfig(), description="hanging requests; null: not told")
    upstreams: UpstreamsConfig | None = Field(default=UpstreamsConfig(), description="down, recovered; null: not told")
    reports: ReportsConfig | None = Field(default=None, description="spend reports; null: none")
    remind: Duration = Field(default=4 * 3600.0, ge=60, description="tell again what is still the case")
    settle: Duration = Field(default=60.0, ge=0, description="what has been gone for so long is over")
    every: Duration = Field(default=10.0, ge=0.05, le=15, description="between two looks")
    store: OptionalStoreRef = Field(
        default=None, description="a redis: store by which replicas agree who tells; null: workers of one machine do"
    )
    outbox: OutboxConfig = Field(default=OutboxConfig(), description="how alerts wait for a destination")
