"""``Book``: owner and place of each id, in SQL. Written in the background; a worker sees its own rows at once."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import structlog
from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from gwcore.errors import StoreUnavailable
from gwcore.resources import Store
from gwcore.sql import Migrations, migrate, reading, storable, writing
from gwcore_objects.ids import LONGEST

MIGRATIONS: Final = Migrations("objects", "gwcore_objects.migrations", head="objects_0001")
KNOWN: Final = 100_000
"""Ids cached in each worker."""
MOST: Final = 100_000
"""Rows that may wait while the store is unavailable; further ones are lost, and their ids rejected."""
_BATCH: Final = 500
_PAUSE: Final = 0.5
_GATHER: Final = 0.02
"""Seconds in which rows are collected: committing one costs as much as committing many."""
_AGAIN: Final = (0.05, 0.3)
"""Seconds before each retry for an id that is not found: another worker may have just issued it."""
_SWEEP: Final = 3600.0
_OWNER: Final = 256

metadata = MetaData()
KEPT = Table(
    "objects_kept",
    metadata,
    Column("id", String(512), primary_key=True),
    Column("owner", String(300), primary_key=True),
    Column("upstream", String(200), primary_key=True),
    Column("credential", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("made", BigInteger, nullable=False),
    Index("objects_kept_made", "kind", "made"),
)
_log = structlog.get_logger("gwcore.objects")


@dataclass(slots=True, frozen=True)
class Home:
    """Where an object is stored: the upstream, and which of its credentials created it (0: it has only one)."""

    upstream: str
    key: int


@dataclass(slots=True, frozen=True)
class Kept:
    """One row: an id, its owner, its place and its kind."""

    id: str
    owner: str
    home: Home
    kind: str


def owner_key(owner: str) -> str:
    """The owner as stored: shortened by a digest, because ids of an identity provider may have any length."""
    return owner if len(owner) <= _OWNER else f"{owner[:32]}:{sha256(owner.encode()).hexdigest()}"


class Book:
    """One per stack and worker.

    Attributes:
        lost: rows that were not written.
    """

    def __init__(self, store: Store, responses: float) -> None:
        self._store = store
        self._responses = responses
        self._known: OrderedDict[str, tuple[Kept, ...]] = OrderedDict()
        self._waiting: deque[tuple[Kept, bool]] = deque()  # and whether to add it
        self._wake = asyncio.Event()
        self.lost = 0

    @property
    def waiting(self) -> int:
        """Number of rows not yet written."""
        return len(self._waiting)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Create the table; write and sweep in the background; at the end, write all rows that wait."""
        await migrate(self._store, MIGRATIONS)
        tasks = {asyncio.create_task(self._writing()), asyncio.create_task(self._sweeping())}
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            with suppress(StoreUnavailable):
                while self._waiting:
                    await self._write()
            if self._waiting:
                _log.error(
                    "what callers made at vendors was not noted: its ids will be refused", rows=len(self._waiting)
                )

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def find(self, id_: str, owner: str | None, *, patient: bool) -> tuple[list[Home], bool]:
        """Where an id of ``owner`` (``None``: of anyone) is stored, and whether anyone has it. Raises ``StoreUnavailable``.

        ``patient``: retry before the id is reported as unknown.
        """
        homes = _homes(self._known.get(id_, ()), owner)
        if homes:
            self._known.move_to_end(id_)
            return homes, True
        for pause in (*(_AGAIN if patient else ()), None):
            found = (await self.look([id_])).get(id_, ())
            homes = _homes(found, owner)
            if homes or pause is None:
                break
            await asyncio.sleep(pause)
        if homes:
            self._learn(found)
        return homes, bool(found)

    async def look(self, ids: Sequence[str]) -> dict[str, tuple[Kept, ...]]:
        """The rows of each id; ids without rows are absent. Raises ``StoreUnavailable``."""
        ids = [id_ for id_ in ids if _may_stand(id_)]
        asked = set(ids)
        # before the query: a row written meanwhile might be neither here nor in its result
        unwritten = [line for line, came in self._waiting if came and line.id in asked]
        found: dict[str, tuple[Kept, ...]] = {}
        async with reading(self._store) as sql:
            for at in range(0, len(ids), _BATCH):
                for row in await sql.execute(select(KEPT).where(KEPT.c.id.in_(ids[at : at + _BATCH]))):
                    line = Kept(row.id, row.owner, Home(row.upstream, row.credential), row.kind)
                    found[row.id] = (*found.get(row.id, ()), line)
        for line in unwritten:
            if line not in found.get(line.id, ()):
                found[line.id] = (*found.get(line.id, ()), line)
        return found

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def note(self, line: Kept) -> None:
        """Record an id that an upstream issued. Does not wait: the row is written in the background."""
        known = self._known.get(line.id, ())
        if line in known or not _may_stand(line.id) or not storable(line.owner):
            return
        self._learn((*known, line))
        self._put(line, came=True)

    def forget(self, id_: str, homes: Iterable[Home]) -> None:
        """Remove an id that was deleted at its vendor."""
        self._known.pop(id_, None)
        for home in homes:
            self._put(Kept(id_, "", home, ""), came=False)

    def _learn(self, lines: tuple[Kept, ...]) -> None:
        self._known[lines[0].id] = lines
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)

    def _put(self, line: Kept, *, came: bool) -> None:
        if len(self._waiting) >= MOST:
            self.lost += 1
            return
        self._waiting.append((line, came))
        self._wake.set()

    async def _writing(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER)
            self._wake.clear()
            while self._waiting:
                try:
                    await self._write()
                except StoreUnavailable:  # the store logs it
                    await asyncio.sleep(_PAUSE)

    async def _write(self) -> None:
        """Write the oldest rows. Raises ``StoreUnavailable``; then they stay queued."""
        taken = [self._waiting[at] for at in range(min(_BATCH, len(self._waiting)))]
        try:
            await self._store_rows(taken)
        except StoreUnavailable:
            raise
        except SQLAlchemyError as error:  # permanent: it must not block the rows after it
            self.lost += len(taken)
            _log.error("the store refuses to note what callers made", error=type(error).__name__, rows=len(taken))
        for _ in taken:
            self._waiting.popleft()

    async def _store_rows(self, taken: Sequence[tuple[Kept, bool]]) -> None:
        now = time.time_ns() // 1_000_000
        insert = postgresql.insert if self._store.scheme == "postgresql" else sqlite.insert
        rows = [
            {"id": one.id, "owner": one.owner, "upstream": one.home.upstream, "credential": one.home.key, "kind": one.kind, "made": now}
            for one, came in taken
            if came
        ]  # fmt: skip
        async with writing(self._store) as sql:
            if rows:
                await sql.execute(insert(KEPT).on_conflict_do_nothing(), rows)
            for one, came in taken:
                if not came:
                    await sql.execute(delete(KEPT).where(KEPT.c.id == one.id, KEPT.c.upstream == one.home.upstream))

    async def _sweeping(self) -> None:
        while True:
            with suppress(StoreUnavailable):
                await self.sweep()
            await asyncio.sleep(_SWEEP)

    async def sweep(self) -> int:
        """Delete the rows of responses that their vendor no longer stores; returns their number."""
        before = int((time.time() - self._responses) * 1000)
        old = select(KEPT.c.id).where(KEPT.c.kind == "response", KEPT.c.made < before).limit(_BATCH)
        gone = 0
        while True:
            async with writing(self._store) as sql:
                ids = (await sql.execute(old)).scalars().all()
                if not ids:
                    return gone
                which = delete(KEPT).where(KEPT.c.id.in_(ids), KEPT.c.kind == "response", KEPT.c.made < before)
                gone += (await sql.execute(which)).rowcount
            await asyncio.sleep(0.01)  # let others write to the store


def _may_stand(id_: str) -> bool:
    """Whether the table can store the id: any other has no owner."""
    return len(id_) <= LONGEST and storable(id_)


def _homes(lines: Iterable[Kept], owner: str | None) -> list[Home]:
    return list(dict.fromkeys(line.home for line in lines if owner is None or line.owner == owner))
