"""The ledger in PostgreSQL: one connection per worker writes, two read. Time is the server's.

Rows are locked in one order everywhere (budgets, holds, daily sums, each by id), so batches of many workers wait for one
another without deadlocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from gwcore.errors import BadConfig
from gwcore.sql import driver_arguments
from gwcore_budget.ledger import closing
from gwcore_budget.ledger.books import Account, Books, BudgetRow
from gwcore_budget.ledger.closing import START, Round, Rows
from gwcore_budget.ledger.home import (
    ANSWER,
    Answer,
    Conflict,
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
from gwcore_budget.ledger.schema import DIMENSIONS, HOLD_COLUMNS

_HOLD = ", ".join(HOLD_COLUMNS)
_ACCOUNT = "id, budget, generation, start, posted, pending, excess, lim, soft, told"
_NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_TEXTS, _INTS = "ANY($1::text[])", "ANY($1::bigint[])"
_SLICES = (
    "SELECT a.id FROM unnest($1::text[], $2::int[], $3::bigint[]) AS w(budget, generation, until) "
    "JOIN budget_account a ON a.budget = w.budget AND a.generation = w.generation AND a.start < w.until "
    f"LEFT JOIN budget_carried c ON c.account = a.id WHERE {closing.CARRIED} LIMIT $4"
)
_BEGIN = "BEGIN; SET LOCAL synchronous_commit = on; SET LOCAL enable_seqscan = off"
"""A commit is durable, whatever the database's default. Every row is found by a key, but a plan that was made while the tables
were small would read them whole until the next ANALYZE. For one transaction: a pooler lends the connection to others."""
READERS = 2
"""Reading connections; reports and closing may use all but one of them."""
_LOST = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, TimeoutError)
_DOWN = (
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.CannotConnectNowError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.LockNotAvailableError,
    asyncpg.PostgresSystemError,
    # of a connection pooler that switched server connections: not about the rows
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.InvalidSQLStatementNameError,
)
_AGAIN = (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_UNFIT = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.PLPGSQLError,
)
"""Errors about the rows themselves, after which the connection is still usable."""


def _why(error: Exception) -> str:
    """The error's type and its constraint, column or SQLSTATE; of an operator's trigger, the message.

    Other messages of the driver quote values, and its details the row.
    """
    place = getattr(error, "constraint_name", None) or getattr(error, "column_name", None)
    said = str(error.args[0]) if isinstance(error, asyncpg.PLPGSQLError) else place or getattr(error, "sqlstate", None)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@contextmanager
def _named() -> Iterator[None]:
    """Raises ``Conflict``, ``Unfit`` or ``StoreDown`` for the driver's errors."""
    try:
        yield
    except _AGAIN as error:
        raise Conflict(type(error).__name__) from error
    except _UNFIT as error:
        raise Unfit(_why(error)) from error
    except (*_LOST, *_DOWN) as error:
        raise StoreDown(type(error).__name__) from error


@asynccontextmanager
async def _transaction(db: asyncpg.Connection) -> AsyncIterator[None]:
    """Like the driver's, with :data:`_BEGIN`."""
    await db.execute(_BEGIN)
    try:
        yield
    except BaseException:
        if not db.is_closed():
            await db.execute("ROLLBACK")
        raise
    await db.execute("COMMIT")


class PostgresHome:
    """One database, by URL. ``patience``: time limit of a statement in seconds; ``exports`` writes the outbox."""

    def __init__(self, url: str, *, exports: bool = False, patience: float = 5.0) -> None:
        self._how = driver_arguments(url)
        self._patience = patience
        self.exports = exports
        self._db: asyncpg.Connection | None = None
        self._read: asyncpg.Pool | None = None
        self._reports = Turns(READERS - 1)
        self._known: set[str] = set()
        self._closed = False
        self._turn = asyncio.Lock()  # one transaction per connection, and verify runs beside the ledger

    async def open(self) -> None:
        """Connect."""
        try:
            await self._connection()
            self._read = await asyncpg.create_pool(**self._how, min_size=0, max_size=READERS, timeout=self._patience)
        except (*_LOST, *_DOWN) as error:
            raise StoreDown(type(error).__name__) from error

    async def aclose(self) -> None:
        """Disconnect."""
        self._closed = True
        if self._db is not None:
            await self._drop()
        if self._read is not None:
            with suppress(TimeoutError):  # by then it has cut off running reports
                await asyncio.wait_for(self._read.close(), 1.0)

    async def _connection(self) -> asyncpg.Connection:
        if self._closed:
            raise StoreDown("the ledger is closed")
        if self._db is None or self._db.is_closed():
            self._db = await asyncpg.connect(**self._how, timeout=self._patience, command_timeout=self._patience)
        return self._db

    async def _drop(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.terminate()
            await asyncio.sleep(0)

    def stirred(self) -> bool:
        """Always: only the store itself knows."""
        return True

    async def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """See :class:`gwcore_budget.ledger.home.Home`."""
        return await self._ask(query, values, ANSWER)

    async def report(self, query: str, *values: Any, within: float = ANSWER) -> list[tuple[Any, ...]]:
        """See :class:`gwcore_budget.ledger.home.Home`."""
        return await self._reports.take(lambda left: self._ask(query, values, left), within)

    async def _ask(self, query: str, values: tuple[Any, ...], within: float) -> list[tuple[Any, ...]]:
        if self._read is None:
            raise StoreDown("closed")
        with _named():
            async with asyncio.timeout(within):
                rows = await self._read.fetch(query, *values)
        return [tuple(row) for row in rows]

    async def damage(self) -> list[str]:
        """See :class:`gwcore_budget.ledger.home.Home`. Always empty: the server has tools (checksums, ``amcheck``)."""
        return []

    async def backup(self, to: Path) -> None:
        """See :class:`gwcore_budget.ledger.home.Home`."""
        raise BadConfig(f"this command copies SQLite stores only; use: pg_dump --format=custom --file={to} …")

    async def transact(self, ops: Sequence[Op]) -> Answer:
        """See :class:`gwcore_budget.ledger.home.Home`."""
        async with self._turn:
            return await self._transact(ops)

    async def _transact(self, ops: Sequence[Op]) -> Answer:
        needs, committing = Needs.of(ops), False
        try:
            async with self._answering() as db:
                await self._introduce(db, needs)
                async with _transaction(db):
                    books = await self._load(db, needs)
                    results = run(books, ops)
                    await self._write(db, books)
                    committing = True
        except StoreDown as error:
            if committing:
                raise
            raise Unapplied(str(error)) from error
        return Answer(results, books.events, books.now)

    async def close_books(self, retain: int, most: int, due: int, last: Round = START) -> Round:
        """See :class:`gwcore_budget.ledger.home.Home`. Takes a report's turn: no call waits for it."""
        return await self._reports.take(lambda left: self._close_books(retain, most, due, last, left), ANSWER)

    async def _close_books(self, retain: int, most: int, due: int, last: Round, within: float) -> Round:
        if self._read is None:
            raise StoreDown("closed")
        with _named():
            async with asyncio.timeout(within), self._read.acquire() as db, db.transaction():
                now, oldest = await db.fetchrow(f"SELECT {_NOW}, ({closing.OLDEST})")
                before = closing.until(now, retain, oldest)
                await db.fetchval(closing.BEGIN, due, before, now - closing.OPEN)
                # a hold that is being corrected is left for the next round
                holds = await db.fetch(f"{closing.HOLDS} FOR UPDATE SKIP LOCKED", last.created, before, most)
                looked = await db.fetch(closing.ENTRIES, last.seq, most)
                gone = closing.old(looked, before)
                await db.executemany(closing.CARRY, closing.sums(holds, gone))
                await db.execute(f"DELETE FROM budget_hold WHERE id = {_TEXTS}", [row[0] for row in holds])
                await db.execute(f"DELETE FROM budget_entry WHERE seq = {_INTS}", [row[0] for row in gone])
        return closing.went(last, holds, looked, gone, now)

    async def close_slices(self, rolling: Rows, most: int) -> int:
        """See :class:`gwcore_budget.ledger.home.Home`."""
        return await self._reports.take(lambda left: self._close_slices(rolling, most, left), ANSWER)

    async def _close_slices(self, rolling: Rows, most: int, within: float) -> int:
        if self._read is None:
            raise StoreDown("closed")
        with _named():
            async with asyncio.timeout(within), self._read.acquire() as db, db.transaction():
                known = await db.fetchrow(f"SELECT {_NOW}, ({closing.SINCE}), ({closing.KEPT})")
                old = closing.slices(rolling, *known)
                gone = await db.fetch(_SLICES, *zip(*old, strict=True), most) if old else []
                for statement in closing.GONE:
                    await db.executemany(statement, gone)
        return len(gone)

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[asyncpg.Connection]:
        """The writing connection. Raises ``StoreDown``, ``Conflict``, ``Unfit``."""
        with _named():
            try:
                yield await self._connection()
            except (*_AGAIN, *_UNFIT):
                raise
            except BaseException:
                # after a lost connection it is unknown whether the commit arrived
                await self._drop()
                raise

    async def _introduce(self, db: asyncpg.Connection, needs: Needs) -> None:
        """Insert new budgets, in a separate transaction, so that no lock is held while waiting for another's."""
        fresh = sorted(id_ for id_, budget in needs.budgets.items() if budget is not None and id_ not in self._known)
        if not fresh:
            return
        found = [needs.budgets[id_] for id_ in fresh]
        await db.executemany(
            "INSERT INTO budget_budget (id, scope, scope_id, span, zone, origin) VALUES ($1,$2,$3,$4,$5,$6) "
            "ON CONFLICT DO NOTHING",
            [(b.id, b.scope, b.scope_id, b.window.name, b.window.zone, b.origin) for b in found if b is not None],
        )
        if len(self._known) > 100_000:
            self._known.clear()
        self._known.update(fresh)

    async def _load(self, db: asyncpg.Connection, needs: Needs) -> Books:
        if needs.unknown:  # a hold's accounts never change; its state is read again under the lock
            query = f"SELECT accounts FROM budget_hold WHERE id = {_TEXTS}"
            for (text,) in await db.fetch(query, sorted(needs.unknown)):
                needs.accounts.update(hold_accounts(text))
        budgets = set(needs.budgets)
        if needs.accounts or needs.workers:
            query = (
                "SELECT DISTINCT budget FROM budget_account WHERE id = "
                "ANY($1::bigint[] || ARRAY(SELECT account FROM budget_grant WHERE worker = ANY($2::text[])))"
            )
            budgets.update(row[0] for row in await db.fetch(query, sorted(needs.accounts), sorted(needs.workers)))
        lock = f"SELECT id, generation, recall FROM budget_budget WHERE id = {_TEXTS} ORDER BY id FOR UPDATE"
        locked = await db.fetch(lock, sorted(budgets)) if budgets else []
        grants: dict[tuple[str, int], tuple[int, int]] = {}
        if needs.workers:
            query = f"SELECT worker, account, amount, turn FROM budget_grant WHERE worker = {_TEXTS}"
            grants = {(row[0], row[1]): (row[2], row[3]) for row in await db.fetch(query, sorted(needs.workers))}
            needs.granted(grants)
        rows = []
        if needs.holds:
            query = f"SELECT {_HOLD} FROM budget_hold WHERE id = {_TEXTS} ORDER BY id FOR UPDATE"
            rows = await db.fetch(query, sorted(needs.holds))
        # read after the locks, because a transaction that waited must not use an old time; and after the holds, so that
        # one closed meanwhile is known to be closed
        now, since = await db.fetchrow(f"SELECT {_NOW}, ({closing.SINCE})")
        books = Books(now, since=closing.taken_since(now, since))
        books.budgets.update((row[0], BudgetRow(*row)) for row in locked)
        books.holds.update((row[0], hold_from(row)) for row in rows)
        books.grants = {key: amount for key, (amount, _) in grants.items()}
        books.turns = {key: turn for key, (_, turn) in grants.items()}
        if needs.accounts:
            query = f"SELECT {_ACCOUNT} FROM budget_account WHERE id = {_INTS}"
            books.accounts.update((row[0], Account(*row)) for row in await db.fetch(query, sorted(needs.accounts)))
            if not books.budgets.keys() >= {account.budget for account in books.accounts.values()}:
                # a grant was made between finding the budgets and locking them: rows not locked must not be written
                raise asyncpg.SerializationError
        if needs.charges:
            await self._current(db, needs, books)
        return books

    async def _current(self, db: asyncpg.Connection, needs: Needs, books: Books) -> None:
        wanted = []
        for (budget, start), charge in needs.charges.items():
            if not start <= books.now < charge.period.end:
                continue  # the caller's clock is off: open no account
            row = books.budgets.get(budget)
            if row is None:  # deleted meanwhile: the retry creates it again
                self._known.discard(budget)
                raise asyncpg.SerializationError(f"budget {budget} is gone")
            wanted.append((budget, row.generation, charge.period.since, start))
        if not wanted:
            return
        columns = list(zip(*wanted, strict=True))
        query = (
            f"SELECT a.{_ACCOUNT.replace(', ', ', a.')} FROM budget_account a "
            "JOIN unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[]) AS w(budget, generation, since, start) "
            "ON a.budget = w.budget AND a.generation = w.generation AND a.start BETWEEN w.since AND w.start"
        )
        seen: set[int] = set()
        for row in await db.fetch(query, *columns):
            account = books.accounts.setdefault(row[0], Account(*row))
            if account.id not in seen:
                seen.add(account.id)
                books.slices.setdefault(account.budget, []).append(account)
            if (account.budget, account.start) in needs.charges:
                books.current[account.budget, account.start] = account
        absent = [(b, g, s) for b, g, _, s in wanted if (b, s) not in books.current]
        if absent:
            insert = (
                "INSERT INTO budget_account (budget, generation, start) "
                f"SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[]) RETURNING {_ACCOUNT}"
            )
            for row in await db.fetch(insert, *zip(*absent, strict=True)):
                account = books.accounts[row[0]] = books.current[row[1], row[3]] = Account(*row)
                books.slices.setdefault(account.budget, []).append(account)

    async def _write(self, db: asyncpg.Connection, books: Books) -> None:
        async def many(statement: str, rows: list[tuple[Any, ...]]) -> None:
            if rows:
                await db.executemany(statement, rows)

        async def copied(table: str, columns: Sequence[str], rows: list[tuple[Any, ...]]) -> None:
            if rows:
                await db.copy_records_to_table(table, columns=columns, records=rows)

        holds = books.holds.values()
        await many(
            "UPDATE budget_account SET posted=$1, pending=$2, excess=$3, lim=$4, soft=$5, told=$6 WHERE id=$7",
            [
                (a.posted, a.pending, a.over, a.lim, a.soft, a.told, a.id)
                for a in sorted(books.accounts.values(), key=lambda a: a.id)
                if a.changed
            ],
        )
        await copied("budget_hold", HOLD_COLUMNS, [hold_row(hold) for hold in holds if hold.new])
        changes = ", ".join(f"{name}=${at}" for at, name in enumerate(HOLD_COLUMNS[1:], 2))
        await many(
            f"UPDATE budget_hold SET {changes} WHERE id=$1",
            [hold_row(hold) for hold in holds if hold.changed and not hold.new],
        )
        await copied("budget_entry", ("hold", "accounts", "kind", "pending", "posted", "at"), books.entries)
        await many(
            "UPDATE budget_budget SET generation=$1, recall=$2 WHERE id=$3",
            [(row.generation, row.recall, row.id) for row in books.budgets.values() if row.changed],
        )
        granted = sorted(books.granted)
        await many(
            "INSERT INTO budget_grant (worker, account, amount, turn) VALUES ($1,$2,$3,$4) "
            "ON CONFLICT (worker, account) DO UPDATE SET amount = excluded.amount, turn = excluded.turn",
            [books.grant_row(key) for key in granted],
        )
        await many(
            "DELETE FROM budget_grant WHERE worker=$1 AND account=$2",
            [key for key in granted if not books.grants.get(key)],
        )
        days, tags = turnover(books)
        await many(folding("budget_daily", DIMENSIONS), days)
        await many(folding("budget_daily_tag", ("day", "tag")), tags)
        if self.exports:
            await many(
                "INSERT INTO budget_outbox (id, topic, body, created, due) VALUES ($1,$2,$3,$4,$4) ON CONFLICT DO NOTHING",
                [(*row, books.now) for row in exported(books)],
            )


def hold_accounts(text: str) -> list[int]:
    """The accounts of a row's JSON array."""
    return [int(part) for part in text.strip("[]").split(",") if part]
