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

    host: str = Field(description="Host of the SMTP server.", min_length=1)
    port: int = Field(
        default=587,
        ge=1,
        le=65535,
        description="Port of the SMTP server: usually 587 for `starttls`, 465 for `tls`, 25 for `none`.",
    )
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="`starttls`, `tls` or `none`. A server that does not offer what is configured gets neither mail "
        "nor password.",
    )
    ca_file: str | None = Field(
        default=None, description="PEM file with the CA certificates to trust instead of the system's."
    )
    username: str | None = Field(default=None, description="User name for the SMTP server; without it, no login.")
    password: SecretStr | None = Field(
        default=None, description="Password of `username`; write it as `${VAR}`.", repr=False
    )
    sender: str = Field(description="Address from which mails are sent.")
    to: list[str] = Field(description="Addresses to which mails are sent.", min_length=1)

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
            raise fault("has only one of username and password", "write both, or neither")
        if self.password is not None and self.security == "none" and not is_loopback(self.host):
            raise fault("would send its password unencrypted", "write security: starttls or tls")
        return self


class DestinationConfig(_Strict):
    """Where alerts go: exactly one of ``slack``, ``webhook`` and ``email``."""

    slack: SecretStr | None = Field(
        default=None,
        description="URL of an incoming webhook of Slack, Mattermost, Rocket.Chat and the like; whoever knows it can "
        "post there.",
        repr=False,
    )
    webhook: SecretStr | None = Field(default=None, description="URL that receives alerts as JSON.", repr=False)
    email: EmailConfig | None = Field(default=None, description="Mail server, sender and recipients.")
    secret: Signing | None = Field(
        default=None,
        description="Secret that signs requests to `webhook` (Standard Webhooks): `whsec_` and base64, or any text.",
        repr=False,
    )
    headers: dict[str, SecretStr] = Field(
        default={}, description="Additional request headers for `slack` or `webhook`.", repr=False
    )
    ca_file: str | None = Field(
        default=None,
        description="PEM file with the CA certificates to trust for `slack` or `webhook`, instead of the system's.",
    )
    proxy: str | None = Field(
        default=None, description="URL of an http(s) proxy for `slack` or `webhook`.", pattern="^https?://"
    )
    kinds: list[Kind] = Field(default=list(KINDS), description="Kinds of alerts that are sent here.", min_length=1)
    limit: Rate = Field(
        default=Rate(20, 3600),
        description="Maximum number of alerts per period, such as `20/h`; further ones are sent later, as one summary.",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if [self.slack, self.webhook, self.email].count(None) != 2:
            raise fault("names no destination, or several", "write exactly one of slack, webhook, email")
        if self.secret is not None and self.webhook is None:
            raise fault("has a secret, which signs only requests to webhook", "remove secret, or use webhook")
        for url in (self.slack, self.webhook):
            try:
                if url is not None:
                    Origin.of(url.get_secret_value())
            except ValueError:
                raise fault("is not an http(s) URL", "write https://…, without credentials in it") from None
        return self


class BudgetsConfig(_Strict):
    """Alerts on the budgets of the plugin ``budget``."""

    at: list[Share] = Field(
        default=[0.8, 1.0],
        description="Shares of a budget's limit, such as `80%` or 0.8; each that spend reaches is an alert.",
        min_length=1,
    )
    soft: bool = Field(default=True, description="Whether a budget that has reached its soft limit is an alert.")


class ErrorsConfig(_Strict):
    """Alerts on the error rate of an upstream's model; errors that the client caused do not count."""

    rate: Share = Field(
        default=0.25,
        le=1,
        description="Share of failed attempts within `window` from which an alert is sent, such as `25%`.",
    )
    least: int = Field(
        default=20, ge=1, description="Minimum number of attempts within `window` for an alert; counted per worker."
    )
    window: Duration = Field(default=300.0, ge=10, description="Period over which attempts are counted.")


class SlowConfig(_Strict):
    """Alerts on slow responses of an upstream's model; for a stream, the time to its first content counts."""

    after: Duration = Field(default=60.0, gt=0, description="Response time from which a call counts as slow.")
    least: int = Field(
        default=3, ge=1, description="Slow calls within `window` from which an alert is sent; counted per worker."
    )
    window: Duration = Field(default=300.0, ge=10, description="Period over which slow calls are counted.")


class HangingConfig(_Strict):
    """Alerts on calls that do not end."""

    after: Duration = Field(
        default=600.0,
        gt=0,
        description="How long a call is in flight without anything being sent to its client before it counts as "
        "hanging. Keep-alive comments do not count.",
    )


class UpstreamsConfig(_Strict):
    """Alerts on upstreams that are down: as the router judges, or without a router, by failures in a row."""

    failures: int = Field(
        default=5,
        ge=1,
        description="Failures in a row from which an upstream's model counts as down, if the stack has no router "
        "(`fallback`) that judges.",
    )


def _clock(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\d{1,2}:\d{2}", value):
        return value.zfill(5)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1440:
        return f"{value // 60:02}:{value % 60:02}"  # YAML 1.1 reads 8:30 as 510
    return value


class ReportsConfig(_Strict):
    """Spend reports, from the table of ``request_log``."""

    daily: bool = Field(default=True, description="Whether a report of the previous day is sent each day.")
    weekly: bool = Field(default=True, description="Whether a report of the previous week is sent on Mondays.")
    at: Annotated[time, BeforeValidator(_clock)] = Field(
        default=time(0, 15), description='Time of day at which reports are sent, UTC, such as `"00:15"`.'
    )
    by: list[str] = Field(
        default=["model"],
        description="What reports are grouped by: `model`, `served_model`, `upstream`, `key`, `team`, `user`, "
        "`organisation`, `end_user`, `operation`, `day`.",
        min_length=1,
    )
    lines: int = Field(
        default=20, ge=1, le=200, description="Maximum number of lines of a report; the most expensive come first."
    )
    store: StoreRef = Field(default="book", description="Store in which `request_log` keeps its table.")

    @field_validator("by")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        if not set(value) <= set(GROUPS):
            raise fault("contains an unknown grouping", f"use: {', '.join(GROUPS)}")
        return value


class AlertsConfig(_Strict):
    """Settings of ``alerts``."""

    to: dict[_Name, DestinationConfig] = Field(description="Destinations by name.", min_length=1)
    budgets: BudgetsConfig | None = Field(
        default=BudgetsConfig(), description="Alerts on budgets that are nearly or entirely spent; `null` for none."
    )
    errors: ErrorsConfig | None = Field(default=ErrorsConfig(), description="Alerts on error rates; `null` for none.")
    slow: SlowConfig | None = Field(default=SlowConfig(), description="Alerts on slow responses; `null` for none.")
    hanging: HangingConfig | None = Field(
        default=HangingConfig(), description="Alerts on calls that do not end; `null` for none."
    )
    upstreams: UpstreamsConfig | None = Field(
        default=UpstreamsConfig(), description="Alerts on upstreams that are down or have recovered; `null` for none."
    )
    reports: ReportsConfig | None = Field(
        default=None,
        description="Daily and weekly spend reports; none by default, `{}` for the defaults. They need `request_log`.",
    )
    remind: Duration = Field(default=4 * 3600.0, ge=60, description="Time between reminders while a problem lasts.")
    settle: Duration = Field(
        default=60.0, ge=0, description="How long a problem must be gone before it counts as over."
    )
    every: Duration = Field(default=10.0, ge=0.05, le=15, description="Time between two checks.")
    store: OptionalStoreRef = Field(
        default=None,
        description="Name of a `redis:` store by which replicas agree which of them sends an alert. Without it only "
        "the workers of one machine agree, and each replica sends.",
    )
    outbox: OutboxConfig = Field(default=OutboxConfig(), description="How alerts are queued, kept on disk and sent.")
