"""SQL behind the stores of the stack file: one engine per store, and the one migrator. Needs the extra ``gwcore[sql]``.

A plugin owns its tables (names begin with the plugin's) and ships its migrations as a package of alembic revisions::

    BOOK = Migrations("auth", "gwcore_auth.migrations", head="auth_0001")

    async def lifespan(self):
        await migrate(store, BOOK)                          # waits while another replica migrates
        async with reading(store) as sql: ...               # autocommit: for single SELECTs
        async with single(store) as sql: ...                # autocommit: for one statement that writes
        async with writing(store) as sql: ...               # one transaction; SQLite: BEGIN IMMEDIATE

A store that cannot be reached, or does not answer in time, raises :class:`gwcore.errors.StoreUnavailable`;
``IntegrityError`` and all other SQLAlchemy errors are left to the caller.

``memory:`` is a SQLite file in a temporary folder that is deleted with the store.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from zlib import crc32

import aiosqlite
import structlog
from sqlalchemy import event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gwcore.errors import AssemblyError, BadConfig, StoreUnavailable
from gwcore.patience import patience
from gwcore.resources import Store
from gwcore.whole import whole

ANSWER_WITHIN = 2.0
"""Seconds for a store to answer a statement on the request path, including the wait for a connection."""

CONNECTIONS = 5
"""To a PostgreSQL store, for all plugins of a worker: keys that are known need none."""

CLOSE_WITHIN = 0.5
"""Seconds for a cancelled task's transaction and connection to end."""

MIGRATE_WITHIN = 120.0
"""Seconds that start-up waits for another replica's migration, and for its own."""

TOLD_EVERY = 10.0
"""Seconds between two lines of the log about a store that does not answer."""

_STANDBY = "25006"
"""What a connection says that a failover left at the old server: it answers pings, and would be handed out for ever."""

_POOLER = ("26000", "42P05")
"""SQLSTATEs of statements that are kept by name, on a connection that is another's or was."""

_PASSING = ("08", _STANDBY, "40", "53", "55", "57", "58", *_POOLER)
"""SQLSTATEs that say "not now": no connection, read-only as after a failover, deadlock, full, locked, shutting down, broken."""

_HALF = re.compile("[\ud800-\udfff]")

_log = structlog.get_logger("gwcore")
_alembic = asyncio.Lock()  # its context is global to the process, and two gateways may start in one
_BEGIN = "gwcore_begin"
_SQLITE_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",  # money and revocations: a commit survives a power loss
    "PRAGMA busy_timeout=2000",
    "PRAGMA foreign_keys=ON",
)


@dataclass(slots=True, frozen=True)
class Migrations:
    """A plugin's branch: linear, forward only, and the previous release must still run after each step.

    Attributes:
        branch: the plugin's name; its version is kept in the table ``<branch>_version``.
        package: import package with one alembic revision per module.
        head: newest revision id; given here so that a start on a current schema need not import alembic (1.4 s).
    """

    branch: str
    package: str
    head: str


class _Open:
    """An engine as a store keeps it."""

    def __init__(self, engine: AsyncEngine, folder: str | None) -> None:
        self.engine = engine
        self._folder = folder

    async def aclose(self) -> None:
        await self.engine.dispose()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class _Told:
    """Limits the logging about a store: every call fails while it is down, but only an occasional line is logged."""

    def __init__(self, store: Store) -> None:
        self._place = _place(store)
        self._down = False
        self._failures = 0
        self._at = -TOLD_EVERY

    @classmethod
    def of(cls, store: Store) -> _Told:
        told: _Told = store.once("sql-told", lambda: cls(store))
        return told

    def failed(self, cause: str) -> None:
        self._failures += 1
        now = time.monotonic()
        if now - self._at >= TOLD_EVERY:
            _log.error("store unavailable", store=self._place, error=cause, failures=self._failures)
            self._down, self._failures, self._at = True, 0, now

    def answered(self) -> None:
        if self._down:
            self._down = False
            _log.info("store answers again", store=self._place)


def storable(text: str) -> bool:
    """Whether every store can hold the text: PostgreSQL accepts neither NUL nor lone surrogates."""
    return "\0" not in text and _HALF.search(text) is None


def is_sql(store: Store) -> bool:
    """Whether the store can hold tables."""
    return store.scheme in {"memory", "sqlite", "postgresql"}


def engine_of(store: Store) -> AsyncEngine:
    """The engine of a store; everyone who asks gets the same, with one pool. Raises ``BadConfig`` for a redis store."""
    if not is_sql(store):
        raise BadConfig(f"a {store.scheme} store cannot hold tables; name a store with a sqlite: or postgresql: URL")
    opened: _Open = store.once("sql", lambda: _open(store))
    return opened.engine


def _open(store: Store) -> _Open:
    if store.scheme == "postgresql":
        return _Open(_postgres(store.url), None)
    folder = None
    if store.scheme == "memory":
        folder = tempfile.mkdtemp(prefix="gwcore-")
        url = URL.create("sqlite+aiosqlite", database=f"{folder}/memory.db")
    else:
        url = make_url(store.url).set(drivername="sqlite+aiosqlite")
        if not url.database or url.database == ":memory:":
            raise BadConfig("a sqlite: store names no file; write sqlite:///gwcore.db or sqlite:////var/lib/gwcore.db")
        if not url.database.startswith("file:"):
            # a host may change its folder while the gateway runs
            url = url.set(database=str(Path(url.database).absolute()))
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    where, how = url.get_dialect()().create_connect_args(url)
    engine = create_async_engine(
        url, async_creator=lambda: _sqlite(*where, **how), hide_parameters=True, pool_timeout=ANSWER_WITHIN
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # no implicit BEGIN by the driver: the events below do that
        cursor = connection.cursor()
        for pragma in _SQLITE_PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begun(connection: Any) -> None:
        # a transaction that reads first and writes later fails at once with SQLITE_BUSY_SNAPSHOT: take the lock first
        how = connection.get_execution_options().get(_BEGIN, "BEGIN IMMEDIATE")
        if how:
            connection.exec_driver_sql(how)

    @event.listens_for(engine.sync_engine, "invalidate")
    def _invalidated(connection: Any, _record: Any, _error: BaseException | None) -> None:
        # a task cancelled in a statement: closing alone keeps the write lock for as long as its traceback holds the cursor
        with suppress(Exception):
            connection.rollback()

    return _Open(engine, folder)


async def _sqlite(path: str, **how: Any) -> aiosqlite.Connection:
    """A connection, or an error and nothing left: aiosqlite's thread of one that fails ends behind the loop's back."""
    _make_private(path)
    connection = aiosqlite.connect(path, **how)
    thread = connection._thread  # noqa: SLF001 - as SQLAlchemy does, who would make it a daemon
    thread.daemon = True
    try:
        return await connection
    except BaseException:
        await asyncio.to_thread(thread.join, CLOSE_WITHIN)
        raise


def _make_private(path: str) -> None:
    """Make the file, if there is none, for its owner alone: it may hold addresses, prompts and money.

    What SQLite puts beside it takes its mode. One that is there is never opened: closing it would let go of every lock that
    this process has on it (POSIX), and another process could delete the log that is being written.
    """
    with suppress(OSError):  # what cannot be made, SQLite names
        if not Path(path).exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _postgres(url: str) -> AsyncEngine:
    try:
        from asyncpg import connect  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional driver
    except ImportError:
        raise BadConfig("a postgresql: store needs asyncpg; pip install 'gwcore[postgres]'") from None
    how = driver_arguments(url)
    kept = how.get("statement_cache_size", 100)
    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: connect(**how, timeout=ANSWER_WITHIN),
        connect_args={"prepared_statement_cache_size": kept},  # SQLAlchemy's own, of as many
        hide_parameters=True,
        pool_pre_ping=True,  # a restart of the server costs a ping, not a refused call
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=ANSWER_WITHIN,
    )


def driver_arguments(url: str) -> dict[str, Any]:
    """What asyncpg's ``connect`` takes for a store's URL. libpq's options (sslmode, application_name …) are the driver's to read.

    ``statement_cache_size`` is one of ours, since the driver takes it beside the URL only: with 0 no statement is kept by name,
    as a pooler needs that shares connections between transactions.

    Raises:
        BadConfig: it is no number.
    """
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    given = [value for name, value in options if name == "statement_cache_size"]
    if not given:
        return {"dsn": url}
    if not given[-1].isdecimal():
        raise BadConfig("statement_cache_size of a postgresql: URL is a number; 0 behind a pooler")
    others = [(name, value) for name, value in options if name != "statement_cache_size"]
    return {"dsn": parts._replace(query=urlencode(others)).geturl(), "statement_cache_size": int(given[-1])}


@asynccontextmanager
async def reading(store: Store, within: float = ANSWER_WITHIN) -> AsyncIterator[AsyncConnection]:
    """A connection in autocommit mode. Raises ``StoreUnavailable``."""
    engine = engine_of(store)
    options: dict[str, Any] = (
        {"isolation_level": "AUTOCOMMIT"} if engine.dialect.name == "postgresql" else {_BEGIN: None}
    )
    async with _answering(store, within), _connection(engine.execution_options(**options)) as connection:
        yield connection


def single(store: Store, within: float = ANSWER_WITHIN) -> AbstractAsyncContextManager[AsyncConnection]:
    """A connection for one statement that writes, a transaction of its own. Raises ``StoreUnavailable``.

    Between the statements of a longer one, SQLite's only write lock waits for our event loop, and all others for the lock.
    """
    return reading(store, within)


@asynccontextmanager
async def writing(store: Store, within: float = ANSWER_WITHIN) -> AsyncIterator[AsyncConnection]:
    """A connection inside one transaction, committed if the block ends normally. Raises ``StoreUnavailable``."""
    async with _answering(store, within), _connection(engine_of(store)) as connection, _transaction(connection):
        yield connection


@asynccontextmanager
async def _connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    opening = asyncio.create_task(_opened(engine))
    try:
        connection = await asyncio.shield(opening)
    except asyncio.CancelledError:  # a driver's thread may be in the middle of it: what it opens is closed
        await asyncio.wait({opening}, timeout=CLOSE_WITHIN)
        if not opening.cancel() and not opening.cancelled() and opening.exception() is None:
            await whole(opening.result().close(), CLOSE_WITHIN)
        raise
    except Exception as error:  # a driver's own, not SQLAlchemy's: another password, no such database, one in recovery
        raise ConnectionError(type(error).__name__) from error
    try:
        yield connection
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _STANDBY:
            await connection.invalidate(error)
        raise
    finally:
        await whole(connection.close(), CLOSE_WITHIN)


async def _opened(engine: AsyncEngine) -> AsyncConnection:
    return await engine.connect()


@asynccontextmanager
async def _transaction(connection: AsyncConnection) -> AsyncIterator[None]:
    """SQLAlchemy's own would go on committing behind a task that is cancelled, while its connection is closed."""
    transaction = await connection.begin()
    try:
        yield
    except BaseException:
        await whole(transaction.rollback(), CLOSE_WITHIN)
        raise
    await whole(transaction.commit(), CLOSE_WITHIN)


@asynccontextmanager
async def _answering(store: Store, within: float) -> AsyncIterator[None]:
    try:
        async with patience(within):
            yield
        _Told.of(store).answered()
    except IntegrityError:
        raise
    except (DBAPIError, PoolTimeout, OSError, TimeoutError) as error:
        if isinstance(error, DBAPIError) and not _passing(error):
            raise
        _Told.of(store).failed(cause_of(error))
        raise StoreUnavailable("the gateway's store does not answer", retry_after=1) from error


def _passing(error: DBAPIError) -> bool:
    """Whether the error is due to the state of the store, and not to the statement."""
    if isinstance(error, OperationalError | InterfaceError | InternalError) or error.connection_invalidated:
        return True
    return str(getattr(error.orig, "sqlstate", None) or "").startswith(_PASSING)


def cause_of(error: BaseException) -> str:
    """The type, and its code where it has one: the text of a driver's error may quote parameters, and with them a digest or a name."""
    cause = error
    while (below := getattr(cause, "orig", None) or cause.__cause__) is not None:
        if isinstance(below, asyncio.CancelledError):  # how a time-out ends what it bounds
            break
        cause = below
    code = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None)
    mend = " (behind a pooler, the store's URL needs statement_cache_size=0)" if code in _POOLER else ""
    return f"{type(cause).__name__} {code}{mend}" if code else type(cause).__name__


async def revision(store: Store, migrations: Migrations) -> str | None:
    """The revision of a plugin's tables; ``None`` if there are none. Raises ``StoreUnavailable``."""
    async with reading(store) as connection:
        return await connection.run_sync(_revision, migrations)


def _revision(connection: Any, migrations: Migrations) -> str | None:
    table = f"{migrations.branch}_version"
    if not connection.dialect.has_table(connection, table):
        return None
    found: str | None = connection.execute(text(f'SELECT version_num FROM "{table}"')).scalar()  # noqa: S608 - a plugin's name
    return found


async def migrate(store: Store, migrations: Migrations) -> None:
    """Bring a plugin's tables to its newest revision, once, however many replicas start at the same time.

    The whole branch runs in one transaction under a lock (PostgreSQL: advisory; SQLite: the write lock), so a failure
    leaves the schema as it was. A schema newer than this release is left alone.

    Raises:
        AssemblyError: the migration failed, or another replica's took over two minutes. The gateway must not serve.
        StoreUnavailable: the store cannot be reached; which, and why, for the operator who starts the gateway.
    """
    try:
        async with _alembic, _answering(store, MIGRATE_WITHIN), _connection(engine_of(store)) as connection:
            await _wait(connection, MIGRATE_WITHIN)
            try:
                async with _transaction(connection):
                    await _migrate(connection, migrations)
            finally:
                await _wait(connection, ANSWER_WITHIN)
    except StoreUnavailable as error:
        why = cause_of(error.__cause__ or error)
        raise StoreUnavailable(
            f"{migrations.branch}: the store {_place(store)} does not answer: {why}", retry_after=1
        ) from error


def _place(store: Store) -> str:
    """Where a store is: its URL without user, password and options."""
    if store.scheme == "memory":
        return store.url
    try:
        url = make_url(store.url)
    except ValueError:  # several hosts with a port each, which libpq knows and SQLAlchemy does not
        return f"{store.scheme}://{store.url.rpartition('@')[2].rpartition('//')[2].partition('?')[0]}"
    port = f":{url.port}" if url.port else ""
    host = url.host or url.query.get("host") or ""  # libpq's way to name the folder of a socket
    return f"{store.scheme}://{host}{port}/{url.database or ''}"


async def _wait(connection: AsyncConnection, seconds: float) -> None:
    """How long SQLite waits for another's transaction; beside the connection's own, which would begin one."""
    if connection.dialect.name == "sqlite":
        raw = await connection.get_raw_connection()
        assert raw.driver_connection is not None
        await raw.driver_connection.execute(f"PRAGMA busy_timeout={round(seconds * 1000)}")


async def _migrate(connection: AsyncConnection, migrations: Migrations) -> None:
    if connection.dialect.name == "postgresql":
        lock = {"family": 0x6777, "branch": crc32(migrations.branch.encode()) & 0x7FFFFFFF}
        await connection.execute(text("SELECT pg_advisory_xact_lock(:family, :branch)"), lock)
    try:
        await connection.run_sync(_upgrade, migrations)
    except Exception as error:  # a revision is foreign code: whatever it raises, the gateway must not serve
        message = f"the migration of {migrations.branch} failed with {type(error).__name__}; nothing was changed"
        raise AssemblyError(message) from error


def _upgrade(connection: Any, migrations: Migrations) -> None:
    found = _revision(connection, migrations)
    if found == migrations.head:
        return
    # 1.4 s of CPU: only where there is something to do
    from alembic import command  # noqa: PLC0415 - an optional driver
    from alembic.config import Config  # noqa: PLC0415 - an optional driver
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - an optional driver

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("version_locations", _folder(migrations.package))
    config.set_main_option("path_separator", "newline")
    config.attributes.update(connection=connection, version_table=f"{migrations.branch}_version")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        _log.warning("the schema is newer than this release", branch=migrations.branch, schema=found)
        return
    command.upgrade(config, migrations.head)
    _log.info("migrated", branch=migrations.branch, schema=migrations.head)


def _folder(package: str) -> str:
    file = importlib.import_module(package).__file__
    assert file is not None, "a package of migrations has an __init__.py"
    return str(Path(file).parent)
