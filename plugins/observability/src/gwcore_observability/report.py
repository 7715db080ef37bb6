"""Daily and weekly reports of calls, from the table of ``request_log``. Money is in whole nano-dollars throughout.

Percentiles are nearest-rank over successful calls: durations of actual calls, in microseconds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Integer,
    and_,
    case,
    cast,
    func,
    literal_column,
    select,
    text,
    type_coerce,
)  # fmt: skip
from sqlalchemy.exc import DBAPIError

from gwcore.errors import StoreUnavailable
from gwcore.resources import Store
from gwcore.sql import reading
from gwcore.units import DOLLAR, exact_usd
from gwcore_observability.call_table import CALL
from gwcore_observability.names import plain

GROUPS: Final[Mapping[str, ColumnElement[Any]]] = {
    "model": CALL.c.model, "served_model": CALL.c.served_model, "upstream": CALL.c.upstream, "key": CALL.c.key_id,
    "team": CALL.c.team_id, "user": CALL.c.user_id, "organisation": CALL.c.organisation_id,
    "end_user": CALL.c.end_user, "operation": CALL.c.operation,
    "day": literal_column("ended / 86400000", BigInteger).label("day"),
}  # fmt: skip
"""Columns to group by. ``model`` is as requested, ``served_model`` and ``upstream`` are the deployment that answered;
``day`` is the UTC day on which a call ended."""
SHARES: Final = (50, 95, 99)
WITHIN: Final = 120.0
Span = Literal["daily", "weekly"]
_FIRST = date(1970, 1, 1)


@dataclass(slots=True, frozen=True)
class Line:
    """One group.

    Attributes:
        names: values of the grouping columns; ``None`` if a call had none.
        spend_nano: nano-USD of all attempts of all calls. ``unpriced``: successful or cancelled calls with attempts,
            but of unknown cost for lack of a price or usage; a ledger has an estimate for them, a record has none.
        calls: all; of these ``failed`` (gateway or upstream), ``refused`` (by the gateway: limits, invalid requests),
            ``cancelled`` (by the client), and ``fallbacks``: answered by, or last tried at, not the first deployment.
        p50, p95, p99: microseconds of successful calls; ``None`` if there were none.
    """

    names: tuple[str | None, ...]
    calls: int
    failed: int
    refused: int
    cancelled: int
    fallbacks: int
    cached: int
    tokens_in: int
    tokens_out: int
    spend_nano: int
    unpriced: int
    p50: int | None = None
    p95: int | None = None
    p99: int | None = None

    @property
    def error_rate(self) -> float:
        """Failed calls as a fraction of those not refused."""
        return self.failed / max(1, self.calls - self.refused)

    @property
    def fallback_rate(self) -> float:
        """Fallbacks as a fraction of the calls not refused."""
        return self.fallbacks / max(1, self.calls - self.refused)


@dataclass(slots=True, frozen=True)
class Report:
    """``first`` and ``last`` are its days, both included, UTC; ``total`` is over all groups."""

    span: Span
    first: date
    last: date
    by: tuple[str, ...]
    lines: tuple[Line, ...]
    total: Line

    @property
    def period(self) -> str:
        """First and last day in ISO 8601; one date if they are the same."""
        return self.first.isoformat() + ("" if self.first == self.last else f" to {self.last.isoformat()}")


def days(span: Span, on: date | None, today: date) -> tuple[date, date]:
    """First and last day of the day or week (Monday to Sunday) containing ``on``, else of the last complete one."""
    if span == "daily":
        day = on or today - timedelta(days=1)
        return day, day
    day = on or today - timedelta(days=7)
    first = day - timedelta(days=day.weekday())
    return first, first + timedelta(days=6)


async def make(
    store: Store, span: Span, first: date, last: date, by: Sequence[str], *, read_only: bool = False
) -> Report:
    """Query the table. ``read_only`` makes the connection reject writes.

    Raises:
        StoreUnavailable: the store does not answer, or has no such table.
    """
    groups = [GROUPS[name] for name in by]
    inside = and_(CALL.c.ended >= _ms(first), CALL.c.ended < _ms(last + timedelta(days=1)))
    postgres = store.scheme == "postgresql"
    try:
        async with reading(store, WITHIN) as sql:
            if read_only:
                await sql.execute(
                    text("SET default_transaction_read_only = on" if postgres else "PRAGMA query_only = ON")
                )
            rows = [*(await sql.execute(_sums(groups, inside, postgres=postgres)))]
            ranks = {row[:-3]: row[-3:] for row in map(tuple, await sql.execute(_ranks(groups, inside)))}
            whole = (await sql.execute(_sums([], inside, postgres=postgres))).one()
            total = [*map(tuple, await sql.execute(_ranks([], inside)))]
    except DBAPIError as error:
        raise StoreUnavailable("the store has no table of request_log, or another release's") from error
    width = len(groups)
    lines = [_line(tuple(row), width, ranks.get(tuple(row)[:width], ())) for row in rows]
    lines.sort(key=lambda line: (-line.spend_nano, -line.calls, [name or "" for name in line.names]))
    return Report(span, first, last, tuple(by), tuple(lines), _line(tuple(whole), 0, total[0] if total else ()))


def _ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def _count(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _sums(groups: Sequence[ColumnElement[Any]], inside: ColumnElement[bool], *, postgres: bool) -> Any:
    c = CALL.c
    unknown = and_(c.cost_nano.is_(None), c.attempts > 0, c.state.in_(["ok", "cancelled"]))
    wanted = (
        func.count(),
        _count(c.state == "failed"),
        _count(c.state == "refused"),
        _count(c.state == "cancelled"),
        _count(_moved(postgres=postgres)),
        _count(c.cache.like("hit%")),
        func.coalesce(func.sum(c.tokens_in), 0),
        func.coalesce(func.sum(c.tokens_out), 0),
        func.coalesce(func.sum(c.cost_nano), 0),
        _count(unknown),
    )
    return select(*groups, *wanted).where(inside).group_by(*groups)


def _moved(*, postgres: bool) -> ColumnElement[bool]:
    """Whether the last deployment differs from the first. The record is parsed only if there were several attempts."""
    # PostgreSQL rejects NUL, even escaped, and clients write names
    clean = func.replace(CALL.c.record, r"\u0000", r"\ufffd")
    record: Any = cast(clean, JSON) if postgres else type_coerce(CALL.c.record, JSON)
    first = record["attempts"][0]
    return case(
        (
            CALL.c.attempts > 1,
            (first["upstream"].as_string() != CALL.c.upstream) | (first["model"].as_string() != CALL.c.served_model),
        ),
        else_=False,
    )


def _ranks(groups: Sequence[ColumnElement[Any]], inside: ColumnElement[bool]) -> Any:
    ranked = (
        select(
            *groups,
            CALL.c.micros,
            func.row_number().over(partition_by=groups or None, order_by=CALL.c.micros).label("rank"),
            func.count().over(partition_by=groups or None).label("size"),
        )
        .where(inside, CALL.c.state == "ok")
        .subquery()
    )
    keys = [*ranked.c][: len(groups)]
    size = cast(ranked.c.size, Integer)
    values = [func.max(case((ranked.c.rank == (size * share + 99) // 100, ranked.c.micros))) for share in SHARES]
    return select(*keys, *values).group_by(*keys)


def _line(row: tuple[Any, ...], width: int, ranks: Sequence[Any]) -> Line:
    numbers = [int(value) for value in row[width:]]  # PostgreSQL sums whole numbers as decimals
    return Line(tuple(map(_name, row[:width])), *numbers, *(None if value is None else int(value) for value in ranks))


def _name(value: str | int | None) -> str | None:
    """A column's value as a name; a day, stored as days since 1970, as ISO 8601."""
    return (_FIRST + timedelta(days=value)).isoformat() if isinstance(value, int) else value


# ── as text ──────────────────────────────────────────────────────────────────────────────────────────────────────────

COLUMNS: Final = (
    "calls", "spend_usd", "tokens_in", "tokens_out", "p50_ms", "p95_ms", "p99_ms", "error_rate", "fallback_rate", "failed",
    "refused", "cancelled", "cached", "unpriced",
)  # fmt: skip


def row_of(line: Line, by: Sequence[str]) -> dict[str, Any]:
    """A line by column name. Money is exact, as text; rates are 0 to 1."""
    worked_out: dict[str, Any] = {
        "spend_usd": exact_usd(line.spend_nano),
        "error_rate": round(line.error_rate, 6),
        "fallback_rate": round(line.fallback_rate, 6),
    }
    for share in SHARES:
        micros = getattr(line, f"p{share}")
        worked_out[f"p{share}_ms"] = None if micros is None else micros / 1000
    told = {name: worked_out[name] if name in worked_out else getattr(line, name) for name in COLUMNS}
    return dict(zip(by, line.names, strict=True)) | told


def document(report: Report) -> dict[str, Any]:
    """The report as a JSON document."""
    return {
        "report": report.span,
        "first_day": report.first.isoformat(),
        "last_day": report.last.isoformat(),
        "by": list(report.by),
        "rows": [row_of(line, report.by) for line in report.lines],
        "total": row_of(report.total, ()),
    }


def as_csv(report: Report) -> str:
    """The report as CSV with a header. Names that a spreadsheet would run as formulas are escaped as text."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [*report.by, *COLUMNS], lineterminator="\n")
    writer.writeheader()
    for line in report.lines:
        row = row_of(line, report.by)
        writer.writerow({name: _cell(value) if name in report.by else value for name, value in row.items()})
    return out.getvalue()


def _cell(value: str | None) -> str:
    return f"'{value}" if value and value[0] in "=+-@\t\r" else value or ""


def brief(report: Report, most: int) -> str:
    """A text table for messages, with at most ``most`` groups."""
    rows: list[tuple[str, ...]] = [("", "calls", "spend", "errors", "p95")]
    rows += [_short(plain(" ".join(name or "-" for name in line.names)), line) for line in report.lines[:most]]
    rows.append(_short("total", report.total))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        f"{row[0]:<{widths[0]}}  {'  '.join(f'{cell:>{width}}' for cell, width in zip(row[1:], widths[1:], strict=True))}"
        for row in rows
    ]
    left = len(report.lines) - most
    return "\n".join(lines) + (f"\n({left} more)" if left > 0 else "")


def _short(name: str, line: Line) -> tuple[str, ...]:
    p95 = "-" if line.p95 is None else f"{line.p95 / 1e6:.2f} s"
    return name[:40], str(line.calls), f"${line.spend_nano / DOLLAR:,.2f}", f"{line.error_rate:.1%}", p95
