"""Stores as SQL: engines, transactions, outages, and the one migrator, on SQLite and PostgreSQL."""

import asyncio
import os
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from pathlib import Path

import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from structlog.testing import capture_logs

from gwcore.errors import AssemblyError, BadConfig, StoreUnavailable
from gwcore.resources import Lease, Resources
from gwcore.sql import CONNECTIONS, Migrations, driver_arguments, engine_of, migrate, reading, writing

FIRST = """
from alembic import op
import sqlalchemy as sa
revision, down_revision = "demo_0001", None
def upgrade():
    op.create_table("demo_thing", sa.Column("id", sa.Integer, primary_key=True))
"""
SECOND = """
from alembic import op
revision, down_revision = "demo_0002", "demo_0001"
def upgrade():
    op.execute("INSERT INTO demo_thing VALUES (1)")
    {more}
"""


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """An import package of two revisions."""
    name = f"demo_migrations_{abs(hash(request.node.nodeid))}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text(FIRST)
    (folder / "b.py").write_text(SECOND.format(more=""))
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/book.db"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
async def store(url):
    lease = Lease(Resources())
    yield lease.store(url)
    await lease.release()


def demo(package, head="demo_0002"):
    return Migrations("demo", package.name, head)


async def count(store):
    async with reading(store) as sql:
        return (await sql.execute(text("SELECT count(*) FROM demo_thing"))).scalar()


async def test_migrates_once_and_then_imports_no_alembic(store, package, monkeypatch):
    await migrate(store, demo(package, "demo_0001"))
    assert await count(store) == 0
    await migrate(store, demo(package))
    assert await count(store) == 1
    monkeypatch.setitem(sys.modules, "alembic", None)  # importing it now raises
    await migrate(store, demo(package))
    with pytest.raises(AssemblyError):  # the control: where there is work, alembic is needed
        await migrate(store, demo(package, "demo_0003"))


async def test_a_failing_step_changes_nothing(store, package):
    (package / "b.py").write_text(SECOND.format(more="op.execute('nonsense')"))
    with pytest.raises(AssemblyError):
        await migrate(store, demo(package))
    async with reading(store) as sql:
        assert not await sql.run_sync(lambda c: c.dialect.has_table(c, "demo_thing"))


async def test_the_release_before_runs_on_a_newer_schema(store, package):
    await migrate(store, demo(package))
    (package / "b.py").unlink()
    await migrate(store, demo(package, "demo_0001"))
    assert await count(store) == 1


async def test_foreign_tables_are_left_alone(store, package):
    async with writing(store) as sql:
        await sql.execute(text("CREATE TABLE theirs (id integer)"))
    await migrate(store, demo(package))
    async with reading(store) as sql:
        assert await sql.run_sync(lambda c: c.dialect.has_table(c, "theirs"))


REPLICA = """
import asyncio, sys
sys.path.insert(0, {folder!r})
from gwcore.resources import Lease, Resources
from gwcore.sql import Migrations, migrate
async def main():
    lease = Lease(Resources())
    await migrate(lease.store({url!r}), Migrations("demo", {name!r}, "demo_0002"))
    await lease.release()
asyncio.run(main())
"""


async def test_replicas_that_start_together_migrate_once(store, url, package):
    """The second revision inserts a row whose key is fixed: a second run of it fails."""
    code = textwrap.dedent(REPLICA).format(folder=str(package.parent), url=url, name=package.name)
    replicas = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(4)]
    ended = [await asyncio.to_thread(replica.communicate) for replica in replicas]
    assert [replica.returncode for replica in replicas] == [0] * 4, ended
    assert await count(store) == 1


async def test_a_start_waits_longer_for_another_s_migration_than_a_request_would(tmp_path, package):
    lease = Lease(Resources())
    store = lease.store(f"sqlite:///{tmp_path}/book.db")
    async with reading(store) as sql:
        await sql.execute(text("SELECT 1"))  # the file is there
    with closing(sqlite3.connect(tmp_path / "book.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        start = asyncio.create_task(migrate(store, demo(package)))
        with pytest.raises(StoreUnavailable):  # the control: the lock is held, and for long enough
            async with writing(store):
                pass
        await asyncio.sleep(0.5)
        other.execute("COMMIT")
    await start
    assert await count(store) == 1
    async with writing(store) as sql:  # on the connection that the migration had
        assert (await sql.execute(text("PRAGMA busy_timeout"))).scalar() == 2000
    await lease.release()


async def test_a_write_is_whole_or_nothing(store):
    async with writing(store) as sql:
        await sql.execute(text("CREATE TABLE demo_thing (id integer PRIMARY KEY)"))
    with pytest.raises(IntegrityError):
        async with writing(store) as sql:
            await sql.execute(text("INSERT INTO demo_thing VALUES (1)"))
            await sql.execute(text("INSERT INTO demo_thing VALUES (1)"))
    assert await count(store) == 0


async def test_two_writers_that_read_first_do_not_collide(store):
    async with writing(store) as sql:
        await sql.execute(text("CREATE TABLE demo_thing (id integer PRIMARY KEY)"))
        await sql.execute(text("INSERT INTO demo_thing VALUES (0)"))

    async def bump():
        async with writing(store, 10) as sql:
            await sql.execute(text("SELECT id FROM demo_thing"))
            await sql.execute(text("UPDATE demo_thing SET id = id + 1"))

    await asyncio.gather(*(bump() for _ in range(CONNECTIONS)))
    async with reading(store) as sql:
        assert (await sql.execute(text("SELECT id FROM demo_thing"))).scalar() == CONNECTIONS


async def test_an_outage_is_named_and_says_nothing_of_the_url():
    with socket.socket() as taken:  # bound and not listening: refused
        taken.bind(("127.0.0.1", 0))
        lease = Lease(Resources())
        store = lease.store(f"postgresql://me:password-canary@127.0.0.1:{taken.getsockname()[1]}/db")
        with pytest.raises(StoreUnavailable) as caught:
            async with reading(store) as sql:
                await sql.execute(text("SELECT 1"))
        assert caught.value.status == 503
        assert "canary" not in f"{caught.value!r} {caught.value.message} {engine_of(store)!r} {store!r}"
        await lease.release()


async def test_an_outage_is_told_once_with_the_store_s_name_and_so_is_its_end(tmp_path, monkeypatch):
    lease, file = Lease(Resources()), tmp_path / "book.db"
    store = lease.store(f"sqlite:///{file}")
    file.mkdir()
    with capture_logs() as said:
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                async with reading(store) as sql:
                    await sql.execute(text("SELECT 1"))
        file.rmdir()
        for _ in range(3):
            async with reading(store) as sql:
                await sql.execute(text("SELECT 1"))
    told = [(line["event"], line["store"]) for line in said]
    assert told == [(event, f"sqlite:///{file}") for event in ("store unavailable", "store answers again")]
    await lease.release()


async def test_a_gateway_that_cannot_start_says_which_store_and_why_and_no_password(package):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}/db"
        lease = Lease(Resources())
        store = lease.store(f"postgresql://me:password-canary@{place}?password=canary")
        with pytest.raises(StoreUnavailable) as caught:
            await migrate(store, demo(package))
        assert caught.value.message == f"demo: the store postgresql://{place} does not answer: ConnectionRefusedError"
        await lease.release()


async def test_a_file_that_cannot_be_opened_is_told_by_its_code(tmp_path, package):
    (tmp_path / "book.db").mkdir()
    lease = Lease(Resources())
    with pytest.raises(StoreUnavailable, match="OperationalError SQLITE_CANTOPEN"):
        await migrate(lease.store(f"sqlite:///{tmp_path}/book.db"), demo(package))
    await lease.release()


@pytest.mark.parametrize("mutant", [False, True], ids=["", "control"])
async def test_a_file_that_cannot_be_opened_leaves_no_thread_behind(tmp_path, monkeypatch, mutant):
    """One that outlives its loop ends in a traceback beside the sentence that says why the gateway cannot start."""
    if mutant:
        monkeypatch.setattr("gwcore.sql._sqlite", aiosqlite.connect)
    monkeypatch.setattr("gwcore.sql.CLOSE_WITHIN", 10)
    stop, looked = aiosqlite.Connection.stop, threading.Event()

    def slow_stop(connection):
        connection._tx.put_nowait((None, looked.wait if mutant else lambda: time.sleep(0.2)))
        return stop(connection)

    monkeypatch.setattr(aiosqlite.Connection, "stop", slow_stop)
    (tmp_path / "book.db").mkdir()
    lease, before = Lease(Resources()), set(threading.enumerate())
    with pytest.raises(StoreUnavailable):
        async with reading(lease.store(f"sqlite:///{tmp_path}/book.db"), 10):
            pass
    left = [thread for thread in set(threading.enumerate()) - before if "connection_worker" in thread.name]
    looked.set()
    assert bool(left) is mutant
    await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in left))
    await lease.release()


async def test_options_of_a_postgresql_url_are_libpqs(postgres_url):
    lease = Lease(Resources())
    more = "&" if "?" in postgres_url else "?"
    store = lease.store(f"{postgres_url}{more}application_name=gwcore-a&sslmode=prefer")
    async with reading(store) as sql:
        assert (await sql.execute(text("SHOW application_name"))).scalar() == "gwcore-a"
    await lease.release()


@pytest.mark.parametrize("state", ["25006", "53100", "53300", "55P03", "57014", "57P01", "40P01", "58030"])
async def test_a_server_that_cannot_now_is_an_outage(postgres_url, state):
    """Read-only after a failover, full, locked …: whoever writes tries again, and loses nothing for it."""
    lease = Lease(Resources())
    store = lease.store(postgres_url)
    with pytest.raises(StoreUnavailable):
        async with writing(store) as sql:
            await sql.execute(text(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$"))
    with pytest.raises(StoreUnavailable):
        async with writing(store) as sql:
            await sql.execute(text("SET TRANSACTION READ ONLY"))
            await sql.execute(text("CREATE TABLE never (id int)"))
    with pytest.raises(DBAPIError):  # the control: what was asked is at fault
        async with writing(store) as sql:
            await sql.execute(text("SELECT 1 / 0"))
    await lease.release()


@pytest.mark.parametrize("kept", [True, False])
async def test_behind_a_pooler_no_statement_is_kept_by_name(postgres_url, kept):
    """One that shares connections between transactions gives the next statement another server, or another's names."""
    lease = Lease(Resources())
    more = "&" if "?" in postgres_url else "?"
    store = lease.store(postgres_url if kept else f"{postgres_url}{more}statement_cache_size=0")
    async with reading(store) as sql:
        for number in range(3):
            assert (await sql.execute(text(f"SELECT {number} + CAST(:x AS int)"), {"x": 1})).scalar() == number + 1
        names = (await sql.execute(text("SELECT name FROM pg_prepared_statements WHERE name <> ''"))).all()
    assert bool(names) is kept
    await lease.release()


@pytest.mark.parametrize("state", ["26000", "42P05"])
async def test_what_a_pooler_breaks_says_the_mend(postgres_url, state):
    lease = Lease(Resources())
    with capture_logs() as said, pytest.raises(StoreUnavailable):
        async with writing(lease.store(postgres_url)) as sql:
            await sql.execute(text(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$"))
    assert f"{state} (behind a pooler, the store's URL needs statement_cache_size=0)" in said[0]["error"]
    await lease.release()


def test_an_option_of_ours_does_not_reach_the_server():
    assert driver_arguments("postgresql://u:p%40@h/db?sslmode=require&statement_cache_size=0&host=/a b") == {
        "dsn": "postgresql://u:p%40@h/db?sslmode=require&host=%2Fa+b",
        "statement_cache_size": 0,
    }
    assert driver_arguments("postgresql://h/db?sslmode=require") == {"dsn": "postgresql://h/db?sslmode=require"}
    with pytest.raises(BadConfig, match="is a number"):
        driver_arguments("postgresql://h/db?statement_cache_size=off")


async def test_several_hosts_have_a_name_in_the_log(package):
    lease = Lease(Resources())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        store = lease.store(f"postgresql://me:canary@{place},{place}/db?target_session_attrs=read-write")
        with pytest.raises(StoreUnavailable, match=f"the store postgresql://{place},{place}/db does not answer"):
            await migrate(store, demo(package))
    await lease.release()


async def test_a_connection_to_what_is_a_standby_now_is_not_used_again(postgres_url):
    """Where a proxy keeps it through the failover, it answers pings and refuses every write."""
    lease = Lease(Resources())
    store = lease.store(postgres_url)
    async with reading(store) as sql:
        await sql.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
    with pytest.raises(StoreUnavailable):
        async with writing(store) as sql:
            await sql.execute(text("CREATE TABLE t (id int)"))
    async with writing(store) as sql:
        await sql.execute(text("CREATE TABLE t (id int)"))
    await lease.release()


async def test_a_store_that_hangs_is_an_outage():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and never says a word
        lease = Lease(Resources())
        store = lease.store(f"postgresql://me:pw@127.0.0.1:{silent.getsockname()[1]}/db")
        with pytest.raises(StoreUnavailable):
            async with reading(store, within=0.05) as sql:
                await sql.execute(text("SELECT 1"))
        await lease.release()


async def test_a_memory_store_goes_with_its_lease():
    lease = Lease(Resources())
    store = lease.store("memory:")
    async with writing(store) as sql:
        await sql.execute(text("CREATE TABLE t (id integer)"))
    file = engine_of(store).url.database
    assert Path(file).exists()
    await lease.release()
    assert not Path(file).exists()


def test_stores_without_tables_are_refused():
    lease = Lease(Resources())
    with pytest.raises(BadConfig):
        engine_of(lease.store("redis://127.0.0.1/0"))
    with pytest.raises(BadConfig):
        engine_of(lease.store("sqlite://"))


async def test_a_task_that_was_cancelled_leaves_no_connection_behind(store, package):
    """Whoever stops a plugin's task and closes the store must not meet its connection: at any moment of it."""
    await migrate(store, demo(package))
    engine = engine_of(store)
    before = asyncio.all_tasks()
    for turns in range(1, 100):
        task = asyncio.create_task(asking(store))
        for _ in range(turns):
            await asyncio.sleep(0.0001)
        task.cancel()
        await asyncio.wait({task})
        assert asyncio.all_tasks() == before
        assert engine.pool.checkedout() == 0


async def asking(store):
    while True:
        async with writing(store) as sql:
            await sql.execute(text("SELECT count(*) FROM demo_thing"))


@pytest.mark.parametrize("mutant", [False, True], ids=["", "control"])
async def test_a_sqlite_file_is_its_owner_s_alone(tmp_path, package, monkeypatch, mutant):
    """It may hold addresses, prompts and money; what SQLite puts beside it takes its mode."""
    if mutant:
        monkeypatch.setattr("gwcore.sql._make_private", lambda _path: None)
    before = os.umask(0o022)
    lease = Lease(Resources())
    try:
        store = lease.store(f"sqlite:///{tmp_path}/book.db")
        await migrate(store, demo(package))
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("book.db*")}
    finally:
        os.umask(before)
        await lease.release()
    assert modes.keys() >= {"book.db", "book.db-wal"}
    assert (set(modes.values()) == {0o600}) is not mutant


async def test_a_file_is_made_when_it_is_first_connected_to(tmp_path, package):
    """Verbs that only look make none."""
    lease = Lease(Resources())
    store = lease.store(f"sqlite:///{tmp_path}/book.db")
    engine_of(store)
    assert not list(tmp_path.glob("*.db*"))
    await migrate(store, demo(package))
    await lease.release()


@pytest.mark.parametrize("mutant", [False, True], ids=["", "control"])
async def test_a_file_that_is_there_is_not_opened_beside_sqlite(tmp_path, package, monkeypatch, mutant):
    """Closing it lets go of the locks that this process has on it: who closes it elsewhere deletes the log that we write."""
    if mutant and sqlite3.sqlite_version_info >= (3, 51):
        pytest.skip("SQLite from 3.51 on resists that others close its file")
    if mutant:
        monkeypatch.setattr("gwcore.sql._make_private", lambda path: os.close(os.open(path, os.O_RDWR)))
        (tmp_path / "book.db").touch()
    leases = Lease(Resources()), Lease(Resources())  # as two gateways of one process
    stores = [lease.store(f"sqlite:///{tmp_path}/book.db") for lease in leases]
    await migrate(stores[0], demo(package))
    async with reading(stores[1]) as sql:
        await sql.execute(text("SELECT * FROM demo_thing"))
    look = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('SELECT * FROM demo_thing'); db.close()"
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", look, f"{tmp_path}/book.db"], check=False)
    assert done.returncode == 0 and (tmp_path / "book.db-wal").exists() is not mutant
    for lease in leases:
        await lease.release()
