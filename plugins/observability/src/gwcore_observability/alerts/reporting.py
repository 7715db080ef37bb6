"""When spend reports are due, and their form as alerts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from gwcore.resources import Store
from gwcore.units import exact_usd
from gwcore_observability.alerts.findings import Alert, Fact, moment
from gwcore_observability.alerts.settings import ReportsConfig
from gwcore_observability.report import Report, Span, brief, days, make

PATIENCE = 3600.0
"""Seconds for which a report is retried if the store is unavailable."""


class Calendar:
    """Times of reports. A report missed while no worker ran is not sent later; ``gwcore report`` shows it."""

    def __init__(self, config: ReportsConfig, now: float) -> None:
        self._config = config
        self._due = {span: self._next(span, now) for span in self._spans()}

    def _spans(self) -> Iterator[Span]:
        if self._config.daily:
            yield "daily"
        if self._config.weekly:
            yield "weekly"

    def _next(self, span: Span, now: float) -> float:
        today = datetime.fromtimestamp(now, UTC)
        due = today.replace(hour=self._config.at.hour, minute=self._config.at.minute, second=0, microsecond=0)
        while due.timestamp() <= now or (span == "weekly" and due.weekday()):
            due += timedelta(days=1)
        return due.timestamp()

    def due(self, now: float) -> list[Span]:
        """The reports that are due now."""
        return [span for span, at in self._due.items() if at <= now]

    def done(self, span: Span, now: float) -> None:
        """Schedule the next one: this one was sent or given up."""
        self._due[span] = self._next(span, now)

    def late(self, span: Span, now: float) -> bool:
        """Whether it is too late to retry."""
        return now - self._due[span] > PATIENCE

    def subject(self, span: Span) -> str:
        """The subject that workers claim, so that one sends the report."""
        return f"report/{span}/{moment(self._due[span])}"


async def told(store: Store, span: Span, config: ReportsConfig, now: float) -> Alert:
    """The report that is due, as an alert. Raises ``StoreUnavailable``."""
    first, last = days(span, None, datetime.fromtimestamp(now, UTC).date())
    return alert_of(await make(store, span, first, last, config.by), config.lines, now)


def alert_of(report: Report, lines: int, now: float) -> Alert:
    """The report as one alert."""
    total = report.total
    facts: dict[str, Fact] = {
        "spend_usd": exact_usd(total.spend_nano),
        "calls": total.calls,
        "tokens": total.tokens_in + total.tokens_out,
        "error_rate": round(total.error_rate, 4),
        "fallback_rate": round(total.fallback_rate, 4),
        "unpriced": total.unpriced,
    }
    title = f"{report.span.capitalize()} spend report, {report.period}"
    at = moment(now)
    return Alert("report", "note", f"report/{report.span}/{report.first}", title, at, at, facts, brief(report, lines))
