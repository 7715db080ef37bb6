"""Where a SQLite file may lie, whether it is whole, and copies of it."""

import asyncio
import json
import sqlite3
from contextlib import closing

import pytest
from budget_kit import accounts, budget, do, post, reserve
from test_verbs import verb

from gwcore.errors import BadConfig
from gwcore.resources import Lease, Resources
from gwcore.sql import migrate
from gwcore_budget.ledger import disk
from gwcore_budget.ledger.home import StoreDown
from gwcore_budget.ledger.homes import LEDGER, home_of
from gwcore_budget.ledger.sqlite import SqliteHome
from gwcore_budget.ledger.verify import verify

LINE = "{n} 1 8:1 / {at} rw,relatime shared:1 - {kind} source rw\n"


def mounts(tmp_path, monkeypatch, *mounted):
    table = tmp_path / "mountinfo"
    table.write_text("".join(LINE.format(n=n, at=at, kind=kind) for n, (at, kind) in enumerate(mounted)))
    monkeypatch.setattr(disk, "MOUNTS", table)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "smb3", "fuse.sshfs"])
async def test_a_network_file_system_is_refused(tmp_path, monkeypatch, kind):
    mounts(tmp_path, monkeypatch, ("/", "ext4"), (tmp_path, kind), (tmp_path / "local", "xfs"))
    with pytest.raises(BadConfig, match=f"network file system \\({kind}\\).*postgresql:"):
        await SqliteHome(tmp_path / "book.db").open()
    assert not (tmp_path / "book.db").exists()
    (tmp_path / "local").mkdir()
    home = SqliteHome(tmp_path / "local" / "book.db")
    await home.open()  # control: what is mounted below it is another one
    await home.aclose()


def test_the_mount_that_covers_a_path_is_its_own(tmp_path, monkeypatch):
    spaced = tmp_path / "a b"
    spaced.mkdir()
    (tmp_path / "link").symlink_to(spaced)
    mounts(
        tmp_path, monkeypatch, ("/", "overlay"), (tmp_path, "nfs"), (tmp_path, "ext4"), (f"{tmp_path}/a\\040b", "cifs")
    )
    assert disk.file_system(tmp_path / "book.db") == "ext4", "the last of one place"
    assert disk.file_system(spaced / "book.db") == disk.file_system(tmp_path / "link" / "book.db") == "cifs"
    assert disk.file_system(tmp_path / "a bc") == "ext4", "no part of a name"
    monkeypatch.setattr(disk, "MOUNTS", tmp_path / "none")
    assert disk.file_system(spaced) == ""


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_verify_sees_a_broken_file(tmp_path, make_home):
    home = make_home()
    await home.open()
    for n in range(200):
        await do(home, reserve(f"r{n}:1", 1, budget()))
    await home.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    assert (await verify(home)).problems == []
    ((page,),) = await home.rows("SELECT rootpage FROM sqlite_master WHERE name = 'budget_hold'")
    await home.aclose()
    with (tmp_path / "book.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    home = make_home()
    await home.open()
    assert (await verify(home)).problems[0].startswith("store: ")
    await home.aclose()


async def test_a_copy_is_of_one_moment_while_it_is_written(tmp_path, home, make_home, store_url):
    one = budget(limit=10**9)
    stack = {"gwcore": 1, "stores": {"book": store_url}, "upstreams": {"up": {"provider": "demo"}}, "stack": [{"budget": {"store": "book"}}]}  # fmt: skip
    file, copy = tmp_path / "stack.yaml", tmp_path / "copy.db"
    file.write_text(json.dumps(stack))
    stop = asyncio.Event()

    async def writes():
        n = 0
        while not stop.is_set():
            n += 1
            await home.transact([reserve(f"r{n}:1", 10, one), post(f"r{n}:1", 7)])

    task = asyncio.create_task(writes())
    code, out, err = await verb("ledger", "backup", file, copy)
    stop.set()
    await task
    if not store_url.startswith("sqlite"):
        assert code == 1 and "pg_dump" in err
        return
    assert code == 0, (out, err)
    found = SqliteHome(copy)
    await found.open()
    assert (await verify(found)).problems == []
    assert 0 < (await accounts(found))[one.id][0] <= (await accounts(home))[one.id][0]
    await found.aclose()
    assert copy.stat().st_mode & 0o077 == 0
    code, _, err = await verb("ledger", "backup", file, copy)
    assert code == 1 and "exists already" in err
    code, _, err = await verb("ledger", "backup", file, tmp_path / "no" / "copy.db")
    assert code == 1 and "No such file" in err
    assert not list(tmp_path.glob("*.part"))


async def test_a_copy_that_is_not_whole_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "damage", lambda _db: ["row 1 missing from index"])
    with closing(sqlite3.connect(":memory:")) as db, pytest.raises(sqlite3.DatabaseError, match="row 1 missing"):
        disk.copy_into(db, tmp_path / "copy.db")
    assert not list(tmp_path.iterdir())


async def test_a_file_that_cannot_be_used_is_said_by_its_code(tmp_path):
    """Full, locked and not to be opened were all OperationalError in the log."""
    (tmp_path / "book.db").mkdir()
    with pytest.raises(StoreDown, match="OperationalError SQLITE_CANTOPEN"):
        await SqliteHome(tmp_path / "book.db").open()


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_a_file_that_was_taken_away_takes_no_money(tmp_path, home):
    """What was spent went into a file without a name, without a word, and was gone when the gateway stopped."""
    path = tmp_path / "book.db"
    await do(home, reserve("a:1", 10, budget()))
    path.rename(tmp_path / "away.db")
    with pytest.raises(StoreDown, match="moved, deleted or replaced"):
        await do(home, reserve("b:1", 10, budget()))
    path.write_bytes(b"")
    with pytest.raises(StoreDown, match="moved, deleted or replaced"):
        await do(home, reserve("b:1", 10, budget()))
    (tmp_path / "away.db").replace(path)
    await do(home, reserve("b:1", 10, budget()))


async def test_who_changes_the_folder_changes_no_file(tmp_path, monkeypatch):
    """A host application may: of a path that is not absolute the file looked moved, and took no money."""
    monkeypatch.chdir(tmp_path)
    lease = Lease(Resources())
    store = lease.store("sqlite:///book.db")
    await migrate(store, LEDGER)
    home = home_of(store)
    await home.open()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    await do(home, reserve("a:1", 10, budget()))
    await home.aclose()
    await lease.release()
    assert not list((tmp_path / "elsewhere").iterdir())
