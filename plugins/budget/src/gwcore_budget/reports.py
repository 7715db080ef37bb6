"""What was spent, read from the ledger's daily sums and rows. Amounts are nano-USD; days are UTC, ``2026-11-21``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from gwcore_budget.ledger.home import Home, attempts_of
from gwcore_budget.ledger.ops import Facts, Metered
from gwcore_budget.ledger.schema import DIMENSIONS, SUMS
from gwcore_budget.window import Period, Window

T = TypeVar("T")
SLICE = 500
"""Lines processed between two yields to the event loop."""
COLUMNS = {"key": "key_id", "user": "user_id", "team": "team", "organisation": "organisation", "end_user": "end_user"}
"""Scope → the column of its ids, in the daily sums and in the rows of holds."""

_ROW = ("id", "state", "amount", "settled", "created", "ended", "basis", *Facts._fields, *Metered._fields)
_SUMS = ", ".join(f"CAST(sum({name}) AS BIGINT)" for name in SUMS)


class Where:
    """Conditions joined by AND; values are bound parameters, never part of the SQL text."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.values: list[Any] = []

    def _bind(self, value: Any) -> str:
        self.values.append(value)
        return f"${len(self.values)}"

    def equal(self, column: str, value: Any) -> Where:
        """The column equals the value; ``None`` adds no condition."""
        if value is not None:
            self._parts.append(f"{column} = {self._bind(value)}")
        return self

    def of_request(self, request: str | None) -> Where:
        """Attempts of the request; ``None`` adds no condition."""
        if request is not None:
            first, last = attempts_of(request)
            self._parts.append(f"(id = {self._bind(request)} OR id BETWEEN {self._bind(first)} AND {self._bind(last)})")
        return self

    def between(self, column: str, first: Any, last: Any) -> Where:
        """From ``first`` to ``last``, both included; ``None`` leaves that end open."""
        if first is not None:
            self._parts.append(f"{column} >= {self._bind(first)}")
        if last is not None:
            self._parts.append(f"{column} <= {self._bind(last)}")
        return self

    def among(self, column: str, values: Iterable[Any]) -> Where:
        """The column is one of the values."""
        self._parts.append(self._among(column, values))
        return self

    def without(self, column: str, values: Iterable[Any]) -> Where:
        """The column is none of the values."""
        self._parts.append(f"NOT ({self._among(column, values)})")
        return self

    def within(self, reach: Mapping[str, frozenset[str]] | None) -> Where:
        """Only records of these ids (scope → ids); ``None`` adds no condition."""
        if reach is not None:
            own = [self._among(COLUMNS[scope], ids) for scope, ids in sorted(reach.items()) if ids]
            self._parts.append(f"({' OR '.join(own)})" if own else "1 = 0")
        return self

    def present(self, column: str) -> Where:
        """The column is not empty."""
        self._parts.append(f"{column} <> ''")
        return self

    def _among(self, column: str, values: Iterable[Any]) -> str:
        places = ", ".join(self._bind(value) for value in sorted(values))
        return f"{column} IN ({places})" if places else "1 = 0"

    @property
    def text(self) -> str:
        """The WHERE clause, or an empty string."""
        return f" WHERE {' AND '.join(self._parts)}" if self._parts else ""


class Sums(NamedTuple):
    """Sums of attempts. ``spend`` in nano-USD, tokens by kind; ``failed``: how many of the ``attempts`` failed."""

    spend: int = 0
    attempts: int = 0
    failed: int = 0
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0

    def __add__(self, other: tuple[Any, ...]) -> Sums:
        """Member by member."""
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def prompt(self) -> int:
        """Tokens read, cached ones included."""
        return self.input + self.cache_read + self.cache_write


Line = tuple[tuple[str, ...], Sums]
"""Values of the columns grouped by, and their sums."""


async def unhurried(items: Iterable[T], size: int = SLICE) -> AsyncIterator[T]:
    """The items, with a yield to the event loop after each ``size`` of them: calls run meanwhile."""
    for n, item in enumerate(items, 1):
        yield item
        if n % size == 0:
            await asyncio.sleep(0)


async def sums(
    home: Home, by: Sequence[str], where: Where | None = None, *, limit: int | None = None, largest: bool = False
) -> list[Line]:
    """Daily sums grouped by columns of ``DIMENSIONS``, sorted by these columns, or by spend, largest first.

    Raises ``StoreDown``.
    """
    assert set(by) <= set(DIMENSIONS)
    where = where or Where()
    names = ", ".join(by)
    order = f"{len(by) + 1} DESC" if largest else names
    text = f"SELECT {names}{', ' if by else ''}{_SUMS} FROM budget_daily{where.text}"  # noqa: S608 - constant columns
    text += f" GROUP BY {names} ORDER BY {order}" if by else ""
    text += f" LIMIT {int(limit)}" if limit is not None else ""
    rows, width = await home.report(text, *where.values), len(by)
    return [(row[:width], Sums(*row[width:])) async for row in unhurried(rows) if row[width] is not None]


async def tags(home: Home, where: Where | None = None, *, by_day: bool = False) -> list[Line]:
    """The same per tag, or per day and tag. An attempt with two tags counts for both. Raises ``StoreDown``."""
    where = where or Where()
    names = "day, tag" if by_day else "tag"
    text = f"SELECT {names}, {_SUMS} FROM budget_daily_tag{where.text} GROUP BY {names} ORDER BY {names}"  # noqa: S608
    width = 2 if by_day else 1
    return [(row[:width], Sums(*row[width:])) for row in await home.report(text, *where.values)]


async def attempts(home: Home, where: Where, *, limit: int, offset: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of attempts, newest first, as dicts by column name, made lazily. Raises ``StoreDown``."""
    text = f"SELECT {', '.join(_ROW)} FROM budget_hold{where.text} ORDER BY created DESC, id LIMIT {int(limit)} OFFSET {int(offset)}"  # noqa: S608
    return (dict(zip(_ROW, row, strict=True)) for row in await home.report(text, *where.values))


async def count(home: Home, where: Where) -> int:
    """How many attempts. Raises ``StoreDown``."""
    rows = await home.report(f"SELECT count(*) FROM budget_hold{where.text}", *where.values)  # noqa: S608 - constant text
    return int(rows[0][0])


class Running(NamedTuple):
    """A budget's running period, and the nano-USD posted in it. ``limit`` as last applied."""

    posted: int
    budget: str
    window: Window
    period: Period
    limit: int | None = None


async def running(
    home: Home, scope: str, ids: Iterable[str], now: int, among: Mapping[str, Collection[str]] | None = None
) -> dict[str, Running]:
    """The running period of each id's main budget; ids whose budgets were never used are absent. Raises ``StoreDown``.

    The main budget is the one of ``max_budget``, else a rule's; of several, the one opened last. For an id in ``among``, only
    the budgets given there count: others belong to its earlier settings.
    """
    where = Where().equal("scope", scope).among("scope_id", ids).among("origin", ("policy", "rule"))
    # a rolling window has thousands of accounts a year: only the latest of each budget is looked up, by the index of their periods
    latest = "SELECT id FROM budget_account WHERE budget = b.id ORDER BY generation DESC, start DESC LIMIT 1"
    text = (
        f"SELECT scope_id, id, span, zone, generation FROM (SELECT b.*, ({latest}) AS latest FROM budget_budget b{where.text}) AS b "  # noqa: S608 - constant text
        "WHERE latest IS NOT NULL ORDER BY CASE origin WHEN 'policy' THEN 1 ELSE 0 END, latest"
    )
    of = among or {}
    rows = await home.report(text, *where.values)
    main = {row[0]: row[1:] for row in rows if row[0] not in of or row[1] in of[row[0]]}
    if not main:
        return {}
    windows = {budget: Window.parse(span, zone) for budget, span, zone, _ in main.values()}
    periods = {budget: window.period(now) for budget, window in windows.items()}
    generations = {budget: generation for budget, _, _, generation in main.values()}
    since = min(period.since for period in periods.values())
    where = (
        Where().among("budget", windows).among("generation", set(generations.values())).between("start", since, None)
    )
    text = f"SELECT budget, generation, start, posted, lim FROM budget_account{where.text} ORDER BY start"  # noqa: S608
    posted, limits = dict.fromkeys(windows, 0), dict[str, int | None]()
    for budget, generation, start, spent, limit in await home.report(text, *where.values):
        if generation == generations[budget] and periods[budget].since <= start < periods[budget].end:
            posted[budget] += spent
            limits[budget] = limit
    return {id_: Running(posted[b], b, windows[b], periods[b], limits.get(b)) for id_, (b, *_) in main.items()}
