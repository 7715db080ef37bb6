"""``Home``, the interface to a ledger's store, and what both homes share: the rows a batch needs, and row formats."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter, sub
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson

from gwcore_budget.ledger.books import Books
from gwcore_budget.ledger.closing import START, Round, Rows
from gwcore_budget.ledger.ops import (
    NOTHING_METERED,
    REAPED,
    VOIDED,
    Budget,
    Bury,
    Charge,
    Event,
    Facts,
    GiveBack,
    Hold,
    Metered,
    Op,
    Recall,
    Reserve,
    Reset,
    Result,
    Settle,
    Shrink,
    Spent,
    burn_id,
    ids_text,
)
from gwcore_budget.ledger.schema import DIMENSIONS, HOLD_COLUMNS, SUMS

T = TypeVar("T")
ANSWER, FOREVER = 30.0, 1e9
"""Time limits of queries in seconds: the usual one, and the one of queries that read every row on purpose."""
_DAY = 86_400_000
_Found = defaultdict[tuple[int, tuple[str | None, ...]], list[tuple[int, ...]]]
_tokens: Callable[[Metered], tuple[int, ...]] = itemgetter(
    *range(Metered._fields.index("input"), Metered._fields.index("fees"))
)
_who_and_what = itemgetter(*[Facts._fields.index(name) for name in DIMENSIONS[1:]])
_ROW_BYTES, _NAME_BYTES = 2_500, 300
"""Bytes of the names that key a row of the daily sums, and of each name if together they are too long.

PostgreSQL's index takes some 2,700 bytes.
"""


class StoreDown(Exception):
    """The store cannot be reached, or a transaction's outcome is unknown: the same batch may be sent again."""


class Unapplied(StoreDown):
    """The store cannot be reached, or was lost before the commit: nothing of the batch was applied."""


class Conflict(Exception):
    """The store refused a batch as a whole (a row that another worker inserted meanwhile): send it again."""


class Unfit(Exception):
    """The store refused a batch for the contents of a row, and would do so again: nothing was applied."""


@dataclass(slots=True)
class Answer:
    """A transaction's answer: one result per operation, the events to send, and the store's clock."""

    results: list[Result]
    events: list[Event]
    now: int


class Home(Protocol):
    """A store of the ledger. Both implementations pass the same tests."""

    async def open(self) -> None:
        """Connect. Raises ``StoreDown``; ``BadConfig`` if money is not safe in the store."""
        ...

    async def transact(self, ops: Sequence[Op]) -> Answer:
        """Apply a batch in one durable transaction.

        Raises:
            StoreDown: the batch's outcome is unknown; every operation may be sent again, with the same ids.
            Unapplied: nothing was applied, so an operation that nobody waits for need not be sent again.
            Conflict, Unfit: nothing was applied.
        """
        ...

    def stirred(self) -> bool:
        """Whether budgets may have been recalled or reset since the last call. Does not wait."""
        ...

    async def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read, or change a few rows, outside the ledger's transactions; values are ``$1``, ``$2`` and so on.

        Raises ``StoreDown``, also if the answer takes more than :data:`ANSWER` seconds; ``Conflict``, ``Unfit``.
        """
        ...

    async def report(self, query: str, *values: Any, within: float = ANSWER) -> list[tuple[Any, ...]]:
        """Like :meth:`rows`, for many rows. ``within``: seconds, including the wait for other reports."""
        ...

    async def close_books(self, retain: int, most: int, due: int, last: Round = START) -> Round:
        """Carry forward and delete rows older than ``retain`` milliseconds: up to ``most`` holds, and as many entries.

        In one transaction, from where the ``last`` one ended; see :mod:`gwcore_budget.ledger.closing`. ``due``: the
        millisecond to store for the next round. Raises ``StoreDown``, ``Conflict``, ``Unfit``.
        """
        ...

    async def close_slices(self, rolling: Rows, most: int) -> int:
        """Delete up to ``most`` accounts of rolling windows that no longer count, if only their carried sums are left.

        ``rolling``: rows of :data:`gwcore_budget.ledger.closing.ROLLING`. Returns the number deleted. Raises
        ``StoreDown``, ``Conflict``, ``Unfit``.
        """
        ...

    async def damage(self) -> list[str]:
        """Damage to the store itself, as far as the store finds it by reading everything. Raises ``StoreDown``."""
        ...

    async def backup(self, to: Path) -> None:
        """Copy a consistent snapshot of the store into a new file, while it is in use.

        Raises ``StoreDown``, ``OSError``; ``BadConfig`` if the store has its own tool for that.
        """
        ...

    async def aclose(self) -> None:
        """Disconnect."""
        ...


class Turns:
    """Limits concurrent reports, so that a connection stays free for the ledger's own queries."""

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)

    async def take(self, asking: Callable[[float], Awaitable[T]], within: float) -> T:
        """Wait for a turn, then call ``asking`` with the seconds left. Raises ``StoreDown`` if none comes in time."""
        until = time.monotonic() + within
        try:
            async with asyncio.timeout(within):
                await self._free.acquire()
        except TimeoutError:
            raise StoreDown("reports take too long") from None
        try:
            return await asking(until - time.monotonic())
        finally:
            self._free.release()


@dataclass(slots=True)
class Needs:
    """The rows that a batch touches. ``unknown``: holds whose accounts must be looked up; ``buried``: lost workers."""

    holds: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    accounts: set[int] = field(default_factory=set)
    workers: set[str] = field(default_factory=set)
    buried: set[str] = field(default_factory=set)
    budgets: dict[str, Budget | None] = field(default_factory=dict)
    charges: dict[tuple[str, int], Charge] = field(default_factory=dict)

    @classmethod
    def of(cls, ops: Iterable[Op]) -> Needs:
        """The rows that these operations touch."""
        needs = cls()
        for op in ops:
            if isinstance(op, Spent):
                needs.workers.add(op.worker)
                needs.holds.update([hold.id for hold in op.holds])
                accounts = set[int]().union(*{hold.accounts for hold in op.holds})
                needs.accounts |= accounts
                needs.holds.update([burn_id(op.worker, account) for account in accounts])
            elif isinstance(op, Reserve):
                needs._reserve(op)
            elif isinstance(op, Reset | Recall):
                for budget in (op.budget,) if isinstance(op, Reset) else op.budgets:
                    needs.budgets.setdefault(budget, None)
            else:
                needs._change(op)
        return needs

    def _reserve(self, op: Reserve) -> None:
        self.holds.add(op.hold)
        self.unknown.add(op.hold)
        for charge in op.charges:
            self.budgets[charge.budget.id] = charge.budget
            self.charges[charge.budget.id, charge.period.start] = charge
        if op.chunk:
            self.workers.add(op.worker)

    def _change(self, op: Settle | Shrink | GiveBack | Bury) -> None:
        if isinstance(op, Settle | Shrink):
            self.holds.add(op.hold)
            self.unknown.add(op.hold)
            return
        self.workers.add(op.worker)
        if isinstance(op, GiveBack):
            self.accounts.update(account for account, _ in op.amounts)
        elif op.burn:
            self.buried.add(op.worker)

    def granted(self, grants: Iterable[tuple[str, int]]) -> None:
        """Add the rows of grants, given as (worker, account)."""
        self.accounts.update([account for _, account in grants])
        self.holds.update([burn_id(worker, account) for worker, account in grants if worker in self.buried])


def run(books: Books, ops: Sequence[Op]) -> list[Result]:
    """Apply a batch in order."""
    return [books.apply(op) for op in ops]


def hold_from(row: Sequence[Any]) -> Hold:
    """The hold of a row, in the order of ``HOLD_COLUMNS``."""
    facts_end = 10 + len(Facts._fields)
    metered: list[Any] = [
        0 if n is None and d == 0 else n for n, d in zip(row[facts_end:], NOTHING_METERED, strict=True)
    ]
    return Hold(
        row[0],
        row[1],
        row[2],
        row[3],
        row[4],
        tuple(orjson.loads(row[5])),
        row[6],
        row[7],
        Facts(*row[10:facts_end]),
        row[8],
        Metered(*metered),
        row[9],
    )


def hold_row(hold: Hold) -> tuple[Any, ...]:
    """The row of a hold, in the order of ``HOLD_COLUMNS``."""
    return (
        hold.id,
        hold.worker,
        hold.state,
        hold.amount,
        hold.settled,
        ids_text(hold.accounts),
        hold.created,
        hold.expires,
        hold.basis,
        hold.ended,
        *hold.facts,
        *hold.metered,
    )


def exported(books: Books) -> list[tuple[str, str, str]]:
    """Outbox rows (id, topic, body): one per change of a hold's state or of a burn, and one per event."""
    rows = []
    for hold, state, change, counted, _ in books.turnover:
        body = dict(zip(HOLD_COLUMNS, hold_row(hold), strict=True)) | {"state": state, "change": change}
        topic = "ledger.spend" if counted else "ledger.correction"
        # only a burn is reaped without counting an attempt; it can change repeatedly, each time with other amounts
        change_id = (
            f"{hold.id}:{hold.amount}:{hold.settled}" if state == REAPED and not counted else f"{hold.id}:{state}"
        )
        rows.append((change_id, topic, orjson.dumps(body).decode()))
    rows.extend((event.id, event.topic, orjson.dumps(event.body).decode()) for event in books.events)
    return rows


def day_of(milliseconds: int) -> str:
    """The UTC day, ``2026-11-21``."""
    return _day(milliseconds // _DAY)


@lru_cache(maxsize=1000)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * _DAY // 1000, UTC).strftime("%Y-%m-%d")


def turnover(books: Books) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Additions to the daily sums and to those by tag, sorted by key: all batches must lock rows in the same order."""
    days: _Found = defaultdict(list)
    tags: _Found = defaultdict(list)
    for hold, state, spend, count, before in books.turnover:
        facts, metered = hold.facts, hold.metered
        day = hold.created // _DAY
        failed = count if state == VOIDED or (metered.status or 0) >= 400 else 0
        sums = (spend, count, failed, *_tokens(metered))
        if before is not NOTHING_METERED:
            sums = (*sums[:3], *map(sub, sums[3:], _tokens(before)))
        days[day, _who_and_what(facts)].append(sums)
        if facts.tags != "[]":
            for tag in orjson.loads(facts.tags):
                tags[day, (tag,)].append(sums)
    return _summed(days), _summed(tags)


@lru_cache(maxsize=1000)
def _indexed(names: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """The names, cut if too long for an index: the daily sums must have all spend. Attempts' rows keep them whole."""
    coded = [(name or "").encode() for name in names]
    if sum(map(len, coded)) <= _ROW_BYTES:
        return names
    return tuple([name[:_NAME_BYTES].decode(errors="ignore") for name in coded])


def places(count: int, first: int = 1) -> str:
    """Placeholders for ``count`` values in a statement: ``$1, $2``."""
    return ", ".join(f"${n}" for n in range(first, first + count))


def attempts_of(request: str) -> tuple[str, str]:
    """The lowest and the highest id that a hold of the request can have."""
    return f"{request}:", f"{request}:~"


def folding(table: str, keys: Sequence[str]) -> str:
    """The statement that adds a row to the table's sums for its keys; values are ``$1`` and so on."""
    names = (*keys, *SUMS)
    sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in SUMS)
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places(len(names))}) ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sums}"


def _summed(found: _Found) -> list[tuple[Any, ...]]:
    """One sorted row per key; most holds of a batch share one."""
    merged: defaultdict[tuple[str, ...], list[tuple[int, ...]]] = defaultdict(list)
    for (day, names), rows in found.items():
        merged[_day(day), *[name or "" for name in _indexed(names)]] += rows
    return sorted((*key, *_added(*map(sum, zip(*rows, strict=True)))) for key, rows in merged.items())


def _added(spend: int, count: int, failed: int, *tokens: int) -> tuple[int, ...]:
    """The values of ``SUMS``; ``tokens`` in the order of ``_tokens``."""
    text_in, read, write_5m, write_1h, text_out, reasoning, audio_in, audio_out, image_in, image_out = tokens
    into, out = text_in + audio_in + image_in, text_out + reasoning + audio_out + image_out
    return spend, count, failed, into, out, read, write_5m + write_1h
