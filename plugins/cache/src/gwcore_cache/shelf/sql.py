"""Answers in a SQL table, shared by workers. Equal calls are only coalesced within a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from sqlalchemy import BigInteger, Column, Index, LargeBinary, MetaData, String, Table, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from gwcore.errors import StoreUnavailable
from gwcore.resources import Store
from gwcore.sql import Migrations, migrate, reading, writing
from gwcore_cache.entry import Entry
from gwcore_cache.seal import Envelope
from gwcore_cache.shelf import ShelfDown, Turn, Turned, Wanted

MIGRATIONS: Final = Migrations("cache", "gwcore_cache.migrations", head="cache_0001")
SWEEP: Final = 60.0
"""Seconds between two deletions of expired entries."""
_BATCH: Final = 500
WRITE_WITHIN: Final = 2.0

metadata = MetaData()
ENTRY = Table(
    "cache_entry",
    metadata,
    Column("key", LargeBinary(32), primary_key=True),
    Column("data", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("made", BigInteger, nullable=False),
    Column("kept", BigInteger, nullable=False),
    Column("model", String(512), nullable=False),
    Column("scope", String(512), nullable=False),
    Index("cache_entry_kept", "kept"),
    Index("cache_entry_made", "made"),
)
TAG = Table(
    "cache_tag",
    metadata,
    Column("key", LargeBinary(32), primary_key=True),
    Column("tag", String(512), primary_key=True),
    Index("cache_tag_tag", "tag"),
)
EPOCH = Table(
    "cache_epoch", metadata, Column("id", BigInteger, primary_key=True), Column("epoch", BigInteger, nullable=False)
)
_log = structlog.get_logger("gwcore")


def _now() -> int:
    return time.time_ns() // 1_000_000


class SqlShelf:
    """SQLite or PostgreSQL.

    Args:
        store: the SQL store.
        envelope: encrypts entries, or adds a checksum.
        capacity: bytes; beyond it, the oldest entries are deleted at the next sweep.
        timeout: limit of seconds for a look-up.
        clock: milliseconds since the epoch.
    """

    leases = False

    def __init__(
        self, store: Store, envelope: Envelope, *, capacity: int, timeout: float, clock: Callable[[], int] = _now
    ) -> None:
        self._store = store
        self._envelope = envelope
        self._capacity = capacity
        self._timeout = timeout
        self._clock = clock

    async def get(self, keys: Sequence[bytes], scope: str) -> list[Entry | None]:
        """See :class:`gwcore_cache.shelf.Shelf`."""
        found: dict[bytes, bytes] = {}
        try:
            async with reading(self._store, self._timeout) as sql:
                for at in range(0, len(keys), _BATCH):
                    wanted = ENTRY.c.key.in_(keys[at : at + _BATCH]) & (ENTRY.c.kept > self._clock())
                    rows = await sql.execute(select(ENTRY.c.key, ENTRY.c.data).where(wanted))
                    found |= {bytes(row.key): bytes(row.data) for row in rows}
        except (StoreUnavailable, SQLAlchemyError) as error:
            raise ShelfDown(type(error).__name__) from None
        entries = {key: opened(self._envelope, data, key, scope) for key, data in found.items()}
        broken = [key for key, entry in entries.items() if entry is None]
        if broken:
            await self._delete(broken)
        return [entries.get(key) for key in keys]

    async def _delete(self, keys: list[bytes]) -> None:
        try:
            async with writing(self._store, self._timeout) as sql:
                await sql.execute(delete(ENTRY).where(ENTRY.c.key.in_(keys)))
        except (StoreUnavailable, SQLAlchemyError) as error:
            raise ShelfDown(type(error).__name__) from None

    async def turn(self, key: bytes, scope: str) -> Turned:
        """Always ours: there is no coordination with other workers."""
        (entry,) = await self.get([key], scope)
        try:
            async with reading(self._store, self._timeout) as sql:
                epoch = (await sql.execute(select(EPOCH.c.epoch))).scalar() or 0
        except (StoreUnavailable, SQLAlchemyError) as error:
            raise ShelfDown(type(error).__name__) from None
        return Turned(Turn.OURS, entry, epoch)

    async def put(self, entries: Sequence[tuple[bytes, Entry]], turn: bytes | None, epoch: int) -> bool:  # noqa: ARG002
        """See :class:`gwcore_cache.shelf.Shelf`."""
        # an entry larger than the capacity would displace all others, and then be deleted itself
        entries = [(key, entry) for key, entry in dict(entries).items() if entry.size <= self._capacity]
        if not entries:
            return False
        rows = [
            {
                "key": key,
                "data": self._envelope.close(entry.pack(), key, entry.scope),
                "size": entry.size,
                "made": entry.made,
                "kept": entry.kept,
                "model": entry.model[:512],
                "scope": entry.scope[:512],
            }
            for key, entry in entries
        ]
        tags = [{"key": key, "tag": tag} for key, entry in entries for tag in {tag[:512] for tag in entry.tags}]
        try:
            async with writing(self._store, WRITE_WITHIN) as sql:
                # locks the row on PostgreSQL, so that a purge runs before or after
                now = (await sql.execute(select(EPOCH.c.epoch).with_for_update())).scalar() or 0
                if now != epoch:
                    return False
                insert = postgresql.insert(ENTRY) if sql.dialect.name == "postgresql" else sqlite.insert(ENTRY)
                new = {name: insert.excluded[name] for name in ENTRY.c.keys() if name != "key"}  # noqa: SIM118
                await sql.execute(insert.on_conflict_do_update(index_elements=["key"], set_=new), rows)
                await sql.execute(delete(TAG).where(TAG.c.key.in_([key for key, _ in entries])))
                if tags:
                    await sql.execute(TAG.insert(), tags)
        except (StoreUnavailable, SQLAlchemyError) as error:
            raise ShelfDown(type(error).__name__) from None
        return True

    async def leave(self, turn: bytes, *, alone: bool) -> None:
        """Does nothing: no other worker waits."""

    async def purge(self, wanted: Wanted) -> int:
        """See :class:`gwcore_cache.shelf.Shelf`."""
        which = delete(ENTRY)
        if wanted.keys:
            which = which.where(ENTRY.c.key.in_(wanted.keys))
        if wanted.model is not None:
            which = which.where(ENTRY.c.model == wanted.model[:512])
        if wanted.scope is not None:
            which = which.where(ENTRY.c.scope == wanted.scope[:512])
        if wanted.tag is not None:
            which = which.where(ENTRY.c.key.in_(select(TAG.c.key).where(TAG.c.tag == wanted.tag[:512])))
        try:
            async with writing(self._store, 30.0) as sql:
                await sql.execute(update(EPOCH).values(epoch=EPOCH.c.epoch + 1))
                return (await sql.execute(which)).rowcount
        except (StoreUnavailable, SQLAlchemyError) as error:
            raise ShelfDown(type(error).__name__) from None

    async def sweep(self) -> None:
        """Delete expired entries, and the oldest ones beyond the capacity."""
        async with writing(self._store, 30.0) as sql:
            await sql.execute(delete(ENTRY).where(ENTRY.c.kept <= self._clock()))
            total = (await sql.execute(select(func.coalesce(func.sum(ENTRY.c.size), 0)))).scalar_one()
            while total > self._capacity:
                rows = (await sql.execute(select(ENTRY.c.key, ENTRY.c.size).order_by(ENTRY.c.made).limit(_BATCH))).all()
                gone = []
                for row in rows:
                    if total <= self._capacity:
                        break
                    total -= row.size
                    gone.append(bytes(row.key))
                if not gone:
                    break
                await sql.execute(delete(ENTRY).where(ENTRY.c.key.in_(gone)))
            await sql.execute(delete(TAG).where(TAG.c.key.not_in(select(ENTRY.c.key))))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Create the tables and sweep periodically. An unreachable store is tried again before each sweep."""
        ready = True
        try:
            await migrate(self._store, MIGRATIONS)
        except StoreUnavailable as error:
            ready = False
            _log.warning("cache store is unreachable; nothing is kept", problem=type(error).__name__)
        task = asyncio.create_task(self._sweeping(ready=ready))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _sweeping(self, *, ready: bool) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            try:
                if not ready:
                    await migrate(self._store, MIGRATIONS)
                    ready = True
                await self.sweep()
            except (StoreUnavailable, SQLAlchemyError) as error:
                _log.warning("cache store cannot be swept", problem=type(error).__name__)

    def health(self) -> dict[str, Any]:
        """Returns nothing: it would need a query."""
        return {}


def opened(envelope: Envelope, data: bytes, key: bytes, scope: str) -> Entry | None:
    """Returns the entry, if the bytes are a valid one of this key and scope."""
    packed = envelope.open(data, key, scope)
    if packed is None:
        return None
    try:
        entry = Entry.unpack(packed)
    except ValueError:
        return None
    return entry if entry.scope == scope else None
