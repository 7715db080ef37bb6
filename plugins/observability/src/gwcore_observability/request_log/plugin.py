"""``request_log``: one row per call in SQLite or PostgreSQL, with limited retention, searchable by the admin API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar

import orjson
import structlog
from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, and_, bindparam, delete, func, or_, select, true
from sqlalchemy.dialects import postgresql, sqlite

from gwcore.errors import BadRequest, GatewayError, NotServed
from gwcore.plugin import Setup
from gwcore.ports import AdminCall, AdminRoute, Caller
from gwcore.resources import Store
from gwcore.sql import migrate, reading, single
from gwcore.units import Duration, StoreRef
from gwcore_observability.call_table import CALL, MIGRATIONS, row_of
from gwcore_observability.content import Content
from gwcore_observability.plugin import SinkPlugin
from gwcore_observability.record import Record
from gwcore_observability.report import GROUPS, Line, make
from gwcore_observability.report import row_of as figures
from gwcore_observability.settings import NearConfig, SinkConfig
from gwcore_observability.sink import ACCEPTED, Delivery, Sink, Verdict
from gwcore_observability.spill import Item

WITHIN = 5.0
"""Seconds for a search, and for a batch to be written."""
CHUNK = 500
"""Rows deleted at once."""
SHARE = 4
"""Pause before the next chunk, as a multiple of the last one's duration, because others write to the same store."""
_MOST_DAYS = 366
_EARLIEST, _LATEST = date(1970, 1, 1), date(9998, 12, 31)
_log = structlog.get_logger("gwcore.observability")
_EXACT = {
    "model": CALL.c.model, "served_model": CALL.c.served_model, "upstream": CALL.c.upstream, "state": CALL.c.state,
    "key": CALL.c.key_id, "team": CALL.c.team_id, "user": CALL.c.user_id, "organisation": CALL.c.organisation_id,
    "end_user": CALL.c.end_user, "session": CALL.c.session, "reason": CALL.c.reason, "cache": CALL.c.cache,
    "id": CALL.c.id,
}  # fmt: skip
_ROWS = func.json_each(bindparam("rows")).table_valued("value")
# one statement for all rows: executed row by row, it would hold the file's only write lock for milliseconds each
_SQLITE = (
    sqlite.insert(CALL)
    .from_select([*CALL.c], select(*(func.json_extract(_ROWS.c.value, f"$.{c.name}") for c in CALL.c)).where(true()))
    .on_conflict_do_nothing(index_elements=["event"])
)
_POSTGRES = postgresql.insert(CALL).on_conflict_do_nothing(index_elements=["event"])
_LISTED = [column for column in CALL.c if column.name not in {"record", "content"}]


class RequestLogConfig(SinkConfig):
    """Settings of ``request_log``."""

    store: StoreRef = Field(
        default="book", description="Store of the table: the name of a `sqlite:` or `postgresql:` store."
    )
    retain: Duration = Field(default=30 * 86400.0, gt=0, description="How long rows are kept; older ones are deleted.")
    sweep: Duration = Field(default=600.0, gt=0, description="Time between two deletions of old rows.")
    outbox: NearConfig = Field(default=NearConfig(), description="How rows are queued and kept on disk.")


class RequestLogSink:
    """The sink: a batch is one statement; existing rows stay unchanged."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def encode(self, record: Record, content: Content | None) -> Item:
        """The row as JSON."""
        return Item(record.event, orjson.dumps(row_of(record, content)))

    def pack(self, items: Sequence[Item]) -> Sequence[Delivery]:
        """All rows at once."""
        return [Delivery(items)]

    async def send(self, delivery: Delivery) -> Verdict:
        """Insert."""
        async with single(self._store, WITHIN) as sql:
            if self._store.scheme == "postgresql":
                await sql.execute(_POSTGRES, [orjson.loads(item.body) for item in delivery.items])
            else:
                said = b",".join(item.body for item in delivery.items)
                await sql.execute(_SQLITE, {"rows": f"[{said.decode()}]"})
        return ACCEPTED


class RequestLog(SinkPlugin):
    """One row per call; ``GET /logs`` searches, ``GET /logs/{id}`` shows."""

    name = "request_log"
    Config: ClassVar[type[BaseModel]] = RequestLogConfig

    def __init__(self, config: RequestLogConfig, setup: Setup) -> None:
        self.store = setup.store(config.store)
        super().__init__(config, setup)

    @property
    def where(self) -> str:
        """The store's name."""
        store: str = self.config.store
        return store

    def sink(self) -> Sink:
        """The sink."""
        return RequestLogSink(self.store)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Migrate the table, then write and sweep."""
        await migrate(self.store, MIGRATIONS)
        sweeping = asyncio.create_task(self._sweeping())
        try:
            async with super().lifespan():
                yield
        finally:
            sweeping.cancel()
            await asyncio.wait({sweeping})

    async def _sweeping(self) -> None:
        while True:
            try:
                await self.sweep()
            except GatewayError as error:
                _log.warning("old rows stay for now", plugin=self.name, error=error.code)
            await asyncio.sleep(self.config.sweep)

    async def sweep(self) -> int:
        """Delete rows past retention, in chunks; returns how many."""
        before = int((time.time() - self.config.retain) * 1000)
        # if several workers sweep, each skips rows locked by others
        old = select(CALL.c.event).where(CALL.c.ended < before).order_by(CALL.c.ended).limit(CHUNK).with_for_update(skip_locked=True)  # fmt: skip
        gone = 0
        while True:
            began = time.monotonic()
            async with single(self.store, WITHIN) as sql:
                count = (await sql.execute(delete(CALL).where(CALL.c.event.in_(old)))).rowcount
            gone += count
            if count < CHUNK:
                return gone
            await asyncio.sleep(SHARE * (time.monotonic() - began))

    # ── admin ────────────────────────────────────────────────────────────────────────────────────────────────────

    def admin_routes(self) -> Sequence[AdminRoute]:
        """Search, and one call with its attempts and content."""
        query = (*_EXACT, "status", "since", "until", "q", "limit", "before")
        return (
            AdminRoute("GET", "/logs", "logs:read", self._search, "Calls, the newest first.", query=query),
            AdminRoute(
                "GET", "/logs/{id}", "logs:read", self._show, "One call with its attempts, and content if kept."
            ),
            AdminRoute(
                "GET", "/global/activity", "spend:report", self._activity, "Calls, tokens, latency and rates of errors and fallbacks by day.",
                query=("start_date", "end_date", "group_by"),
            ),
        )  # fmt: skip

    async def _search(self, call: AdminCall) -> Any:
        limit = _whole(call.query.get("limit", "100"), "limit")
        wanted = (
            select(*_LISTED)
            .where(_reach(call.caller), *_conditions(call.query))
            .order_by(CALL.c.ended.desc(), CALL.c.event.desc())
            .limit(min(limit, 1000) + 1)
        )
        async with reading(self.store, WITHIN) as sql:
            rows = [{str(name): value for name, value in row.items()} for row in (await sql.execute(wanted)).mappings()]
        more = len(rows) > min(limit, 1000)
        rows = rows[: min(limit, 1000)]
        last = f"{rows[-1]['ended']},{rows[-1]['event']}" if more else None
        return {"data": rows, "before": last}

    async def _activity(self, call: AdminCall) -> Any:
        """LiteLLM's shape plus a report's columns; ``group_by``, as in ``gwcore report --by``, adds ``rows``."""
        first, last = _days(call.query)
        by = [name for name in call.query.get("group_by", "").split(",") if name]
        if not set(by) <= set(GROUPS):
            raise BadRequest(f"group_by takes one or several of these, separated by commas: {', '.join(GROUPS)}")
        days = await make(self.store, "daily", first, last, ["day"])
        total = days.total
        answer: dict[str, Any] = {
            "daily_data": [_day(line) for line in sorted(days.lines, key=lambda line: line.names[0] or "")],
            "sum_api_requests": total.calls,
            "sum_total_tokens": total.tokens_in + total.tokens_out,
            "total": figures(total, ()),
        }
        if by:
            grouped = await make(self.store, "daily", first, last, by)
            answer |= {"by": by, "rows": [figures(line, by) for line in grouped.lines]}
        return answer

    async def _show(self, call: AdminCall) -> Any:
        wanted = select(CALL.c.record, CALL.c.content).where(_reach(call.caller), CALL.c.id == call.path["id"])
        async with reading(self.store, WITHIN) as sql:
            row = (await sql.execute(wanted)).first()
        if row is None:
            raise NotServed("no such call in the log")
        found = orjson.loads(row.record)
        found["content"] = orjson.loads(row.content) if row.content else None
        return found


def _day(line: Line) -> dict[str, Any]:
    tokens = line.tokens_in + line.tokens_out
    return {"api_requests": line.calls, "total_tokens": tokens, **figures(line, ("date",))}


def _days(query: Mapping[str, str]) -> tuple[date, date]:
    """First and last requested day, both included; the last thirty by default."""
    try:
        last = date.fromisoformat(query["end_date"][:10]) if query.get("end_date") else datetime.now(UTC).date()
        first = date.fromisoformat(query["start_date"][:10]) if query.get("start_date") else last - timedelta(days=29)
    except (ValueError, OverflowError):
        raise BadRequest("start_date and end_date are days, such as 2026-11-21") from None
    if not _EARLIEST <= first <= last <= _LATEST or (last - first).days >= _MOST_DAYS:
        raise BadRequest(f"start_date is not after end_date, and there are at most {_MOST_DAYS} days")
    return first, last


def _reach(caller: Caller) -> ColumnElement[bool]:
    """Restrict the log to rows that the caller may see, see :class:`gwcore.ports.Caller`."""
    if caller.role in {"admin", "viewer"}:
        return and_(True)
    own: list[ColumnElement[bool]] = []
    if caller.user is not None:
        own.append(CALL.c.user_id == caller.user)
    if caller.key is not None:
        own.append(CALL.c.key_id == caller.key)
    if caller.teams:
        own.append(CALL.c.team_id.in_(sorted(caller.teams)))
    if caller.organisations:
        own.append(CALL.c.organisation_id.in_(sorted(caller.organisations)))
    return or_(False, *own)


def _conditions(query: Any) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [column == query[name] for name, column in _EXACT.items() if name in query]
    if "status" in query:
        found.append(CALL.c.status == _whole(query["status"], "status"))
    if "since" in query:
        found.append(CALL.c.ended >= _moment(query["since"], "since"))
    if "until" in query:
        found.append(CALL.c.ended < _moment(query["until"], "until"))
    if "q" in query:
        found.append(CALL.c.content.contains(orjson.dumps(query["q"]).decode()[1:-1], autoescape=True))
    if "before" in query:
        ended, _, event = query["before"].partition(",")
        at = _whole(ended, "before")
        found.append(or_(CALL.c.ended < at, and_(CALL.c.ended == at, CALL.c.event < event)))
    return found


def _whole(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) < 1:
        raise BadRequest(f"{name} is a whole number of at least 1")
    return int(text)


def _moment(text: str, name: str) -> int:
    """An ISO date or time as milliseconds since the epoch; UTC if it has no zone."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = datetime.fromisoformat(f"{text if 'T' in text or ' ' in text else text + 'T00:00:00'}+00:00")
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise BadRequest(f"{name} is a date or a time, such as 2026-01-31 or 2026-01-31T12:00:00Z") from None
