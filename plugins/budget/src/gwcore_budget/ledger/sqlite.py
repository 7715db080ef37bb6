"""The ledger in a SQLite file: one writing connection on a thread of its own, WAL, ``synchronous=FULL``.

Workers of one machine take turns by an ``flock`` on a file beside it: that is fair enough and wakes at once, while
SQLite's busy handler polls. Reads use other connections: an open SELECT would make ``BEGIN IMMEDIATE`` fail at once.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import orjson

from gwcore.sql import cause_of
from gwcore_budget.ledger import closing
from gwcore_budget.ledger.books import Account, Books, BudgetRow
from gwcore_budget.ledger.clock import UNOPENED, Clock
from gwcore_budget.ledger.closing import START, Round, Rows
from gwcore_budget.ledger.disk import copy_into, damage, refuse_network
from gwcore_budget.ledger.home import (
    ANSWER,
    FOREVER,
    Answer,
    Needs,
    StoreDown,
    Turns,
    Unapplied,
    Unfit,
    exported,
    folding,
    hold_from,
    hold_row,
    run,
    turnover,
)
from gwcore_budget.ledger.ops import Op
from gwcore_budget.ledger.schema import DIMENSIONS, HOLD_COLUMNS, HOLD_DEFAULTS

T = TypeVar("T")
# without an adapter, each binding of a None looks up two protocols in vain, with an exception each
sqlite3.register_adapter(type(None), dict[None, None]().get)
BUSY_MS = 200
READERS = 3
"""Reading threads; reports may use all but one of them."""
_STEPS = 20_000
"""Instructions of SQLite's virtual machine between two checks of the deadline."""
_HOLD = ", ".join(HOLD_COLUMNS)
_ACCOUNT = "id, budget, generation, start, posted, pending, excess, lim, soft, told"
ROWS = (128, 16)
"""Rows per INSERT: its cursors are opened, and the GIL is released and taken again, once for all of them. As many rows as
possible, then fewer: beside a busy event loop, each time costs milliseconds."""
_PLACE = re.compile(r"\$(\d+)")


@lru_cache(maxsize=64)
def _numbered(statement: str) -> str:
    """The statement with SQLite's placeholders: ``?1``."""
    return _PLACE.sub(r"?\1", statement)


@lru_cache(maxsize=256)
def _inserting(table: str, names: tuple[str, ...], common: int, rows: int) -> str:
    """The statement for so many rows, which share the values of the first ``common`` columns."""
    # a conflict ends the transaction anyway; to undo the statement alone, SQLite would first copy every page that many rows change
    places = [f"?{n}" for n in range(1, common + 1)] + ["?"] * (len(names) - common)
    head, row = f"INSERT OR ROLLBACK INTO {table} ({', '.join(names)}) VALUES ", f"({','.join(places)})"
    return head + ",".join([row] * rows)


# the list comes first in each join: as the right side of an IN it would be copied into a temporary table each time
_LISTED = "FROM (SELECT value FROM json_each(?)) CROSS JOIN"
_HOLDS = f"SELECT {_HOLD} {_LISTED} budget_hold ON id = value"
_GRANTS = f"SELECT worker, account, amount, turn {_LISTED} budget_grant ON worker = value"
_ACCOUNTS = f"SELECT {_ACCOUNT} {_LISTED} budget_account ON id = value"
_BUDGETS = f"SELECT id, generation, recall {_LISTED} budget_budget ON id = value"
_GONE_HOLDS = "DELETE FROM budget_hold WHERE id IN (SELECT value FROM json_each(?))"
_GONE_ENTRIES = "DELETE FROM budget_entry WHERE seq IN (SELECT value FROM json_each(?))"
_SLICES = (
    "SELECT a.id FROM json_each(?) AS w CROSS JOIN budget_account a ON a.budget = json_extract(w.value, '$[0]') "
    "AND a.generation = json_extract(w.value, '$[1]') AND a.start < json_extract(w.value, '$[2]') "
    f"LEFT JOIN budget_carried c ON c.account = a.id WHERE {closing.CARRIED} LIMIT ?"
)
_SAME_HOLD = f"UPDATE budget_hold SET {', '.join(f'{name}=?' for name in HOLD_COLUMNS[1:])} WHERE id=?"
_ENTRY = dict.fromkeys(("hold", "accounts", "kind", "pending", "posted", "at"), ...)
_NEW_HOLD = dict(zip(HOLD_COLUMNS, HOLD_DEFAULTS, strict=True))
_GRANTED = (
    "INSERT INTO budget_grant (worker, account, amount, turn) VALUES (?,?,?,?) "
    "ON CONFLICT (worker, account) DO UPDATE SET amount = excluded.amount, turn = excluded.turn"
)
_DAILY = _numbered(folding("budget_daily", DIMENSIONS))
_DAILY_TAG = _numbered(folding("budget_daily_tag", ("day", "tag")))


class _Question:
    """A query for a reading connection, and its deadline; ``over``: nobody waits for the answer."""

    __slots__ = ("over", "query", "until", "values")

    def __init__(self, query: str = "", values: tuple[Any, ...] = (), within: float = FOREVER) -> None:
        self.query = query
        self.values = values
        self.until = time.monotonic() + within
        self.over = False


class SqliteHome:
    """One file. ``durable=False`` (a memory store) skips the sync. ``exports`` writes the outbox."""

    def __init__(
        self, path: str | Path, *, durable: bool = True, exports: bool = False, clock: Clock | None = None
    ) -> None:
        self.path = Path(path)
        self.exports = exports
        self.clock = clock or Clock()
        self._durable = durable
        self._thread: ThreadPoolExecutor | None = None
        self._reader: ThreadPoolExecutor | None = None
        self._db: sqlite3.Connection | None = None
        self._reads: list[sqlite3.Connection] = []
        self._idle: list[sqlite3.Connection] = []  # those of them that are free
        self._reports = Turns(READERS - 1)
        self._closing = False
        self._lock = -1
        self._file = (0, 0)
        self._stirred = 0

    async def open(self) -> None:
        """Connect."""
        self._thread = ThreadPoolExecutor(1, "gwcore-ledger")
        self._reader = ThreadPoolExecutor(READERS, "gwcore-reports")
        await self._on(self._thread, self._open)

    async def aclose(self) -> None:
        """Disconnect after queued writes; running reads are aborted."""
        if self._thread is not None and self._reader is not None:
            thread, reader, self._thread, self._reader = self._thread, self._reader, None, None
            self._closing = True  # aborts running reads
            await asyncio.to_thread(reader.shutdown)
            await self._on(thread, self._close)
            await asyncio.to_thread(thread.shutdown)

    async def transact(self, ops: Sequence[Op]) -> Answer:
        """See :class:`gwcore_budget.ledger.home.Home`."""
        return await self._on(self._thread, self._transact, ops)

    def stirred(self) -> bool:
        """See :class:`gwcore_budget.ledger.home.Home`. All workers are on this machine: the lock file's mtime tells."""
        stirred, self._stirred = self._stirred, os.fstat(self._lock).st_mtime_ns if self._lock >= 0 else 0
        return self._stirred != stirred

    async def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """See :class:`gwcore_budget.ledger.home.Home`."""
        return await self._ask(_Question(query, values, ANSWER))

    async def report(self, query: str, *values: Any, within: float = ANSWER) -> list[tuple[Any, ...]]:
        """See :class:`gwcore_budget.ledger.home.Home`."""
        return await self._reports.take(lambda left: self._ask(_Question(query, values, left)), within)

    async def _ask(self, question: _Question) -> list[tuple[Any, ...]]:
        try:
            return await self._on(self._reader, self._query, question)
        finally:
            question.over = True  # if cancelled, this soon frees the thread

    async def close_books(self, retain: int, most: int, due: int, last: Round = START) -> Round:
        """See :class:`gwcore_budget.ledger.home.Home`."""
        return await self._on(self._thread, self._close_books, retain, most, due, last)

    async def close_slices(self, rolling: Rows, most: int) -> int:
        """See :class:`gwcore_budget.ledger.home.Home`."""
        return await self._on(self._thread, self._close_slices, rolling, most)

    async def damage(self) -> list[str]:
        """See :class:`gwcore_budget.ledger.home.Home`."""
        return await self._on(self._reader, self._damage)

    async def backup(self, to: Path) -> None:
        """See :class:`gwcore_budget.ledger.home.Home`."""
        await self._on(self._reader, self._copy, to)

    async def _on(self, pool: ThreadPoolExecutor | None, work: Callable[..., T], *arguments: Any) -> T:
        if pool is None:
            raise StoreDown("the ledger is closed")
        return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)

    # ── on the threads ───────────────────────────────────────────────────────────────────────────────────────────

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'OFF'}")
        return db

    def _open(self) -> None:
        refuse_network(self.path)
        try:
            self._lock = os.open(f"{self.path}.ledger-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._db = self._connect()
            self._file = self._there()
        except (sqlite3.Error, OSError) as error:
            raise StoreDown(cause_of(error)) from error

    def _there(self) -> tuple[int, int]:
        """Device and inode of the file that is now at the path."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_dev, found.st_ino

    def _close(self) -> None:
        for db in (self._db, *self._reads):
            if db is not None:
                db.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @contextmanager
    def _reading(self, asked: _Question) -> Iterator[sqlite3.Connection]:
        """A reading connection, one per thread that needs one. Raises ``StoreDown``, also when time is up."""

        def over() -> bool:
            return asked.over or self._closing or time.monotonic() > asked.until

        if over():
            raise StoreDown("no time is left")
        try:
            try:
                read = self._idle.pop()
            except IndexError:
                read = self._connect()
                self._reads.append(read)
            read.set_progress_handler(over, _STEPS)
            try:
                yield read
            finally:
                self._idle.append(read)
        except sqlite3.Error as error:
            raise StoreDown(cause_of(error)) from error

    def _query(self, asked: _Question) -> list[tuple[Any, ...]]:
        with self._reading(asked) as read:
            return read.execute(_numbered(asked.query), asked.values).fetchall()

    def _damage(self) -> list[str]:
        with self._reading(_Question()) as read:
            return damage(read)

    def _copy(self, to: Path) -> None:
        with self._reading(_Question()) as read:
            copy_into(read, to)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction that excludes all other workers. Raises ``StoreDown``, ``Unfit``."""
        db = self._db
        if db is None:
            raise StoreDown("closed")
        try:
            if self._there() != self._file:  # writes to a deleted file are lost with the process
                raise StoreDown("the file was moved, deleted or replaced: stop the gateway, restore the file, start it")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
        except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError) as error:
            raise Unfit(str(error)) from error
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:  # of a statement or a trigger
                raise Unfit(str(error)) from error
            raise StoreDown(cause_of(error)) from error

    def _transact(self, ops: Sequence[Op]) -> Answer:
        committing = False
        try:
            with self._transaction() as db:
                now, jump = self.clock.look()
                books = self._load(db, Needs.of(ops), now, jump)
                results = run(books, ops)
                self._write(db, books)
                committing = True
        except StoreDown as error:
            if committing:
                raise
            raise Unapplied(str(error)) from error
        if any(row.changed for row in books.budgets.values()):
            with suppress(OSError):  # already stored: without this signal others see it a second later
                os.utime(self._lock, ns=(time.time_ns(),) * 2)
        return Answer(results, books.events, now)

    def _trusted(self) -> int:
        """The time. Raises ``StoreDown`` if the clock has jumped: books must not be closed by it."""
        now, jump = self.clock.look()
        if jump:
            raise StoreDown("the clock has jumped")
        return now

    def _close_books(self, retain: int, most: int, due: int, last: Round) -> Round:
        with self._transaction() as db:
            now = self._trusted()
            ((oldest,),) = db.execute(closing.OLDEST)
            before = closing.until(now, retain, oldest)
            db.execute(_numbered(closing.BEGIN), (due, before, now - closing.OPEN)).fetchall()
            holds = db.execute(_numbered(closing.HOLDS), (last.created, before, most)).fetchall()
            looked = db.execute(_numbered(closing.ENTRIES), (last.seq, most)).fetchall()
            gone = closing.old(looked, before)
            db.executemany(_numbered(closing.CARRY), closing.sums(holds, gone))
            for statement, rows in ((_GONE_HOLDS, holds), (_GONE_ENTRIES, gone)):
                db.execute(statement, (_list(row[0] for row in rows),))
        return closing.went(last, holds, looked, gone, now)

    def _close_slices(self, rolling: Rows, most: int) -> int:
        with self._transaction() as db:
            now = self._trusted()
            ((since, kept),) = db.execute(f"SELECT ({closing.SINCE}), ({closing.KEPT})")
            gone = db.execute(_SLICES, (_list(closing.slices(rolling, now, since, kept)), most)).fetchall()
            for statement in closing.GONE:
                db.executemany(_numbered(statement), gone)
        return len(gone)

    def _load(self, db: sqlite3.Connection, needs: Needs, now: int, jump: float) -> Books:
        books = Books(now, jump)
        if needs.workers:
            ((since,),) = db.execute(closing.SINCE)
            books.since = closing.taken_since(now, since)
            for worker, account, amount, turn in db.execute(_GRANTS, (_list(needs.workers),)):
                books.grants[worker, account], books.turns[worker, account] = amount, turn
            needs.granted(books.grants)
        if needs.holds:
            for row in db.execute(_HOLDS, (_list(needs.holds),)):
                hold = books.holds[row[0]] = hold_from(row)
                needs.accounts.update(hold.accounts)
        self._budgets(db, needs, books)
        if needs.accounts:
            for row in db.execute(_ACCOUNTS, (_list(needs.accounts),)):
                books.accounts[row[0]] = Account(*row)
        for (budget, start), charge in needs.charges.items():
            if start <= now < charge.period.end:  # else the caller's clock is off: open no account
                self._current(db, books, budget, start, charge.period.since)
        return books

    def _budgets(self, db: sqlite3.Connection, needs: Needs, books: Books) -> None:
        if not needs.budgets:
            return
        for id_, generation, recall in db.execute(_BUDGETS, (_list(needs.budgets),)):
            books.budgets[id_] = BudgetRow(id_, generation, recall)
        for id_, budget in needs.budgets.items():
            if id_ not in books.budgets and budget is not None:
                db.execute(
                    "INSERT INTO budget_budget (id, scope, scope_id, span, zone, origin) VALUES (?,?,?,?,?,?)",
                    (id_, budget.scope, budget.scope_id, budget.window.name, budget.window.zone, budget.origin),
                )
                books.budgets[id_] = BudgetRow(id_)

    def _current(self, db: sqlite3.Connection, books: Books, budget: str, start: int, since: int) -> None:
        generation = books.budgets[budget].generation
        query = f"SELECT {_ACCOUNT} FROM budget_account WHERE budget=? AND generation=? AND start>=? AND start<=?"
        slices = []
        for row in db.execute(query, (budget, generation, since, start)):
            account = books.accounts.setdefault(row[0], Account(*row))
            slices.append(account)
            if account.start == start:
                books.current[budget, start] = account
        if (budget, start) not in books.current and books.jump and start:
            books.current[budget, start] = Account(UNOPENED, budget, generation, start)
        elif (budget, start) not in books.current:
            insert = "INSERT INTO budget_account (budget, generation, start) VALUES (?,?,?)"
            id_ = db.execute(insert, (budget, generation, start)).lastrowid
            assert id_ is not None
            account = books.current[budget, start] = books.accounts[id_] = Account(id_, budget, generation, start)
            slices.append(account)
        known = books.slices.setdefault(budget, [])
        known.extend(one for one in slices if one not in known)

    def _write(self, db: sqlite3.Connection, books: Books) -> None:
        changed = [a for a in books.accounts.values() if a.changed]
        db.executemany(
            "UPDATE budget_account SET posted=?, pending=?, excess=?, lim=?, soft=?, told=? WHERE id=?",
            [(a.posted, a.pending, a.over, a.lim, a.soft, a.told, a.id) for a in changed],
        )
        holds = books.holds.values()
        if new := [hold_row(hold) for hold in holds if hold.new]:
            _insert(db, "budget_hold", _NEW_HOLD, new)
        if old := [hold_row(hold) for hold in holds if hold.changed and not hold.new]:
            db.executemany(_SAME_HOLD, [(*row[1:], row[0]) for row in old])
        if books.entries:
            _insert(db, "budget_entry", _ENTRY, books.entries)
        if rows := [(row.generation, row.recall, row.id) for row in books.budgets.values() if row.changed]:
            db.executemany("UPDATE budget_budget SET generation=?, recall=? WHERE id=?", rows)
        db.executemany(_GRANTED, [books.grant_row(key) for key in books.granted])
        if spent := [key for key in books.granted if not books.grants.get(key)]:
            db.executemany("DELETE FROM budget_grant WHERE worker=? AND account=?", spent)
        days, tags = turnover(books)
        db.executemany(_DAILY, days)
        if tags:
            db.executemany(_DAILY_TAG, tags)
        if self.exports:
            db.executemany(
                "INSERT OR IGNORE INTO budget_outbox (id, topic, body, created, due) VALUES (?,?,?,?,?)",
                [(*row, books.now, books.now) for row in exported(books)],
            )


def _list(values: Any) -> str:
    return orjson.dumps(list(values)).decode()


def _insert(
    db: sqlite3.Connection, table: str, defaults: Mapping[str, object], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert rows; ``defaults``: column → its default, or ``...`` if it has none.

    Each bound value costs a call: so a column with its default in all rows is omitted, and a text that all of many rows
    share is bound once per statement.
    """
    common: dict[str, Any] = {}
    apart: dict[str, tuple[Any, ...]] = {}
    for (name, default), column in zip(defaults.items(), zip(*rows, strict=True), strict=True):
        first = column[0]
        alike = first == column[-1] and column.count(first) == len(rows)
        if alike and type(first) is str and len(rows) >= ROWS[-1] and first != default:
            common[name] = first
        elif not (alike and first == default):
            apart[name] = column
    names, shared, left = (*common, *apart), common.values(), list(zip(*apart.values(), strict=True))
    most, at = db.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER), 0
    for size in ROWS:
        while len(left) - at >= size and size * len(names) <= most:
            statement = _inserting(table, names, len(common), size)
            db.execute(statement, [*shared, *chain.from_iterable(left[at : at + size])])
            at += size
    if at < len(left):
        db.executemany(_inserting(table, names, len(common), 1), [(*shared, *row) for row in left[at:]])
