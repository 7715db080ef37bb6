"""When spend reports are due, and how they are told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from gwcore.resources import Store
from gwcore.units import exact_usd
from gwcore_observability.alerts.findings import Alert, Fact, moment
from gwcore_observability.alerts.settings import ReportsConfig
from gwcore_observability.report import Report, Span, brief, days, make

PATIENCE = 3600.0
"""Seconds for which a report that the store does not give is tried again."""


class Calendar:
    """The moments of reports. One that nobody lived to see is not made up for: ``gwcore report`` shows it."""

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
        """What is to be made now."""
        return [span for span, at in self._due.items() if at <= now]

    def done(self, span: Span, now: float) -> None:
        """It was told, or it is too late."""
        self._due[span] = self._next(span, now)

    def late(self, span: Span, now: float) -> bool:
        """Whether to give it up."""
        return now - self._due[span] > PATIENCE

    def subject(self, span: Span) -> str:
        """By which workers agree who tells it."""
        return f"report/{span}/{moment(self._due[span])}"


async def told(store: Store, span: Span, config: ReportsConfig, now: float) -> Alert:
    """The report that is due, as an alert. Raises ``StoreUnavailable``."""
    first, last = days(span, None, datetime.fromtimestamp(now, UTC).date())
    return alert_of(await make(store, span, first, last, config.by), config.lines, now)


def alert_of(report: Report, lines: int, now: float) -> Alert:
    """One message."""
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
