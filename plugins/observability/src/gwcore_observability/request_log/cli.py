"""``gwcore report daily | weekly``: reports from the request log of a stack file, opened read-only."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import orjson
import typer
from sqlalchemy.engine import make_url

from gwcore.assemble import assemble
from gwcore.catalog import Catalog
from gwcore.errors import GatewayError
from gwcore.remote import failed, table
from gwcore.resources import Lease, Resources, Store
from gwcore_observability.names import plain
from gwcore_observability.report import COLUMNS, GROUPS, Report, Span, as_csv, days, document, make, row_of
from gwcore_observability.request_log.plugin import RequestLog

report = typer.Typer(
    name="report",
    help="Report spend, tokens, latency, errors and fallbacks of a day or a week, from the table of request_log.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Format(StrEnum):
    """Output format."""

    table = "table"
    csv = "csv"
    json = "json"


StackFile = Annotated[Path, typer.Option("--stack", help="Path of the stack file.")]
By = Annotated[str, typer.Option("--by", help=f"What to group by, separated by commas: {', '.join(GROUPS)}.")]
On = Annotated[
    str | None,
    typer.Option(
        "--on", help="A day in the period, such as 2026-11-20, or today. Without it, the last complete day or week."
    ),
]
Form = Annotated[Format, typer.Option("--format", help="Output format.")]


@report.command("daily")
def daily(stack: StackFile = Path("stack.yaml"), by: By = "model", on: On = None, form: Form = Format.table) -> None:
    """Report one day (UTC)."""
    _run("daily", stack, by, on, form)


@report.command("weekly")
def weekly(stack: StackFile = Path("stack.yaml"), by: By = "model", on: On = None, form: Form = Format.table) -> None:
    """Report one week, Monday to Sunday (UTC)."""
    _run("weekly", stack, by, on, form)


def _run(span: Span, stack: Path, by: str, on: str | None, form: Format) -> None:
    groups = [name.strip() for name in by.split(",") if name.strip()]
    if not groups or not set(groups) <= set(GROUPS):
        raise failed(f"--by takes one or several of these, separated by commas: {', '.join(GROUPS)}")
    today = datetime.now(UTC).date()
    try:
        day = today if on == "today" else date.fromisoformat(on) if on is not None else None
    except ValueError:
        raise failed("--on takes a day, such as 2026-11-20, or today") from None
    if not stack.is_file():
        raise failed(f"{stack}: no such file")
    try:
        made = asyncio.run(_make(stack, span, *days(span, day, today), groups))
    except GatewayError as error:
        raise failed(error.message) from None
    _print(made, form)


async def _make(stack: Path, span: Span, first: date, last: date, groups: list[str]) -> Report:
    made = assemble(stack, Catalog(), Resources(), os.environ)
    plugin = next((p.plugin for p in made.placed if isinstance(p.plugin, RequestLog)), None)
    if plugin is None:
        raise failed(f"{stack}: watch has no request_log, so there are no calls to report on")
    lease = Lease(Resources())  # a separate connection, which is set to read-only
    try:
        store = lease.store(plugin.store.url)
        _there(store)
        return await make(store, span, first, last, groups, read_only=True)
    finally:
        await lease.release()


def _there(store: Store) -> None:
    """Fail if the store does not exist, because opening a missing SQLite file would create it."""
    name = make_url(store.url).database if store.scheme == "sqlite" else None
    if store.scheme == "memory" or (name is not None and not Path(name).is_file()):
        raise failed("the store of request_log has no data yet, or is in the memory of another process")


def _print(made: Report, form: Format) -> None:
    if form is Format.json:
        typer.echo(orjson.dumps(document(made), option=orjson.OPT_INDENT_2).decode())
    elif form is Format.csv:
        typer.echo(as_csv(made), nl=False)
    else:
        typer.echo(f"{made.span} report, {made.period}, UTC\n")
        rows = [row_of(line, made.by) for line in made.lines]
        for row in rows:
            row |= {name: plain(row[name]) if row[name] else "-" for name in made.by}
        rows.append({made.by[0]: "total", **row_of(made.total, ())})
        table(rows, *made.by, *COLUMNS)
