"""``Book``: keys, teams, users, organisations and end users in SQL, plus those declared in the stack file.

Declared rows are read-only here and win over stored rows of the same id. Every write records its changes in the same
transaction, in the order in which writes become visible; :mod:`gwcore_auth.feed` brings them to the other workers.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, Table, delete, false, func, insert, or_, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gwcore.errors import BadRequest, ClientError, StoreUnavailable
from gwcore.resources import Store
from gwcore.sql import reading, writing
from gwcore_auth.tables import CHANGE, CLOCK, KEY, LEADER, MEMBER, META, SECRET, THINGS, USER

Row = dict[str, Any]
CHANNEL = "gwcore_auth"
_LOCK = update(CLOCK).where(CLOCK.c.id == 1).values(seq=CLOCK.c.seq)
KEPT = 3_600_000
"""Milliseconds for which changes are kept; a worker that lags further behind clears its whole cache."""
SLICE = 1000
"""Maximum ids per statement: a store accepts some 32,000 parameters, and calls run between two statements."""


class Mark(NamedTuple):
    """An entry of the list of changes: its number and content; ``row`` is ``None`` if the entry does not exist."""

    seq: int
    row: tuple[str, str, int] | None


class Conflict(ClientError):
    """409: the id or alias exists already, or the stack file declares it."""

    code = "conflict"
    status = 409


def now() -> int:
    """Milliseconds since the epoch."""
    return int(time.time() * 1000)


def _slices(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[at : at + SLICE] for at in range(0, len(ids), SLICE))


def status_of(key: Row) -> str:
    """``active``, ``expired`` or ``revoked``."""
    if key["blocked"]:
        return "revoked"
    return "expired" if key["expires"] is not None and key["expires"] <= now() else "active"


@dataclass(slots=True, frozen=True)
class Filter:
    """Selects rows of a list: all of ``equal``, one of ``among`` (unless ``None``), and ``text`` in the id or alias.

    ``named``: only rows with an alias. ``status``: of keys, see :func:`status_of`; any other matches none.
    ``ids``: only these.
    """

    equal: Mapping[str, Any] = field(default_factory=dict)
    among: Sequence[tuple[str, Collection[str]]] | None = None
    text: str | None = None
    named: bool = False
    status: str | None = None
    ids: Collection[str] | None = None

    def clauses(self, table: Table) -> list[ColumnElement[bool]]:
        """The filter as SQL."""
        found = [table.c[name] == value for name, value in self.equal.items()]
        if self.among is not None:
            found.append(or_(false(), *(table.c[name].in_(values) for name, values in self.among)))
        if self.ids is not None:
            found.append(table.c.id.in_(self.ids))
        if self.text:
            found.append(or_(*(table.c[name].icontains(self.text, autoescape=True) for name in ("id", "alias"))))
        if self.named:
            found.append(table.c.alias.is_not(None))
        if self.status is not None:
            blocked, ended = table.c.blocked, table.c.expires.is_not(None) & (table.c.expires <= now())
            of = {"revoked": blocked, "expired": ~blocked & ended, "active": ~blocked & ~ended}
            found.append(of.get(self.status, false()))
        return found

    def has(self, row: Row) -> bool:
        """Whether a declared row passes the filter."""
        text = (self.text or "").lower()
        return (
            all(row.get(name) == value for name, value in self.equal.items())
            and (self.among is None or any(row.get(name) in values for name, values in self.among))
            and (text in row["id"].lower() or text in (row["alias"] or "").lower())
            and (row["alias"] is not None or not self.named)
            and (self.status is None or status_of(row) == self.status)
            and (self.ids is None or row["id"] in self.ids)
        )


class Change:
    """One write: statements and what they changed."""

    def __init__(self, sql: AsyncConnection) -> None:
        self.sql = sql
        self.subjects: dict[tuple[str, str], None] = {}

    def of(self, kind: str, ids: Iterable[str]) -> None:
        """Record that these changed."""
        self.subjects.update(((kind, one), None) for one in ids)

    async def insert(self, kind: str, row: Row) -> None:
        """Insert a row. Raises ``Conflict`` for an id or alias that exists."""
        try:
            await self.sql.execute(insert(THINGS[kind]).values(**row))
        except IntegrityError:
            raise Conflict(f"a {kind.replace('_', ' ')} with this id or alias exists already") from None
        self.of(kind, [row["id"]])

    async def update(self, kind: str, ids: Sequence[str], values: Row) -> None:
        """Change columns. Raises ``Conflict`` for an alias that exists."""
        table = THINGS[kind]
        try:
            await self.sql.execute(update(table).where(table.c.id.in_(ids)).values(**values))
        except IntegrityError:
            raise Conflict("this alias exists already") from None
        self.of(kind, ids)

    async def delete(self, kind: str, ids: Sequence[str]) -> None:
        """Delete rows, with a key's secrets and with the memberships of a team, user or organisation."""
        table = THINGS[kind]
        for some in _slices(ids):
            if kind == "key":
                await self.sql.execute(delete(SECRET).where(SECRET.c.key_id.in_(some)))
            if kind in {"team", "user"}:
                await self.sql.execute(delete(MEMBER).where(MEMBER.c[f"{kind}_id"].in_(some)))
            if kind in {"organisation", "user"}:
                await self.sql.execute(delete(LEADER).where(LEADER.c[f"{kind}_id"].in_(some)))
            await self.sql.execute(delete(table).where(table.c.id.in_(some)))
        self.of(kind, ids)

    async def keys_of(self, kind: str, ids: Sequence[str]) -> list[str]:
        """Ids of the keys of teams, users or organisations."""
        found = await self.sql.execute(select(KEY.c.id).where(KEY.c[f"{kind}_id"].in_(ids)))
        return list(found.scalars())


class Book:
    """Everything known about callers. Every method that uses the store raises ``StoreUnavailable``."""

    def __init__(self, store: Store, declared: Mapping[tuple[str, str], Row], secrets: Mapping[str, str]) -> None:
        """``declared`` by (kind, id); ``secrets`` maps a declared key's secret's SHA-256 to the key's id."""
        self.store = store
        self.declared = declared
        self.secrets = secrets
        self.changed: Callable[[Iterable[tuple[str, str]]], None] = lambda _: None
        self.failing: Callable[[], bool] = lambda: False
        self.unstored = False  # True: there are declared rows alone, and the store has no tables
        self._changing: ContextVar[AsyncConnection | None] = ContextVar("auth_change", default=None)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def get(self, kind: str, id: str | None) -> Row | None:  # noqa: A002 - the field's standard name
        """One row, or ``None``."""
        if id is None:
            return None
        if (kind, id) in self.declared:
            return self.declared[kind, id]
        table = THINGS[kind]
        return await self.one(select(table).where(table.c.id == id))

    async def some(self, kind: str, ids: Sequence[str], *columns: str) -> list[Row]:
        """Rows by id, without unknown ids. Stored rows have only these ``columns``, or all; declared rows come last.

        As in :meth:`get`, a declared row hides a stored one of the same id.
        """
        declared = [self.declared[kind, id_] for id_ in dict.fromkeys(ids) if (kind, id_) in self.declared]
        stored = [id_ for id_ in ids if (kind, id_) not in self.declared]
        table = THINGS[kind]
        wanted = select(*[table.c[name] for name in columns]) if columns else select(table)
        found = [row for some in _slices(stored) for row in await self.all(wanted.where(table.c.id.in_(some)))]
        return [*found, *declared]

    def _ask(self) -> None:
        """Fail at once while the store is known not to answer."""
        if self.failing():
            raise StoreUnavailable("the gateway's store does not answer", retry_after=1)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        """Inside :meth:`change`, its connection, so that it decides on the same data that it changes."""
        changing = self._changing.get()
        if changing is not None:
            yield changing
            return
        self._ask()
        async with reading(self.store) as sql:
            yield sql

    async def one(self, query: Select[Any]) -> Row | None:
        """The first row."""
        if self.unstored:
            return None
        async with self._reading() as sql:
            found = (await sql.execute(query)).mappings().first()
        return dict(found) if found is not None else None

    async def all(self, query: Select[Any]) -> list[Row]:
        """Every row."""
        if self.unstored:
            return []
        async with self._reading() as sql:
            return [dict(row) for row in (await sql.execute(query)).mappings()]

    async def secret(self, id: str) -> Row | None:  # noqa: A002 - the field's standard name
        """``key_id``, ``digest`` and ``until`` of the secret with this id; all ``None`` if there is none.

        An aggregate returns one row in either case, so that response times do not reveal which ids exist.
        """
        columns = [func.max(SECRET.c[name]).label(name) for name in ("key_id", "digest", "until")]
        return await self.one(select(*columns).where(SECRET.c.id == id))

    async def member(self, team: str, user: str) -> Row | None:
        """A user's membership of a team."""
        return await self.one(select(MEMBER).where(MEMBER.c.team_id == team, MEMBER.c.user_id == user))

    async def members(self, **of: str) -> list[Row]:
        """Memberships of a ``team_id`` or a ``user_id``."""
        ((name, value),) = of.items()
        return await self.members_of(name, [value])

    async def members_of(self, column: str, ids: Sequence[str]) -> list[Row]:
        """Memberships of teams (``team_id``) or users (``user_id``), with each user's email as ``user_email``."""
        whole = select(MEMBER, USER.c.email.label("user_email")).outerjoin(USER, USER.c.id == MEMBER.c.user_id)
        found = await self.all(whole.where(MEMBER.c[column].in_(ids)).order_by(MEMBER.c.team_id, MEMBER.c.user_id))
        for row in found:
            declared = self.declared.get(("user", row["user_id"]))
            if declared is not None:
                row["user_email"] = declared.get("email")
        return found

    async def leaders(self, **of: str) -> list[Row]:
        """Organisation memberships of an ``organisation_id`` or a ``user_id``."""
        return await self.all(select(LEADER).where(*(LEADER.c[name] == value for name, value in of.items())))

    async def user_by_email(self, email: str) -> Row | None:
        """A stored user by email."""
        return await self.one(select(USER).where(USER.c.email == email).limit(1))

    async def listed(self, kind: str, only: Filter, *, page: int, size: int) -> tuple[list[Row], int]:
        """One page (from 1) and the total number of rows: declared rows first, then stored ones, newest first."""
        table = THINGS[kind]
        declared = [row for (what, _), row in self.declared.items() if what == kind and only.has(row)]
        ours = [row["id"] for row in declared]
        where = [*only.clauses(table), table.c.id.not_in([id_ for what, id_ in self.declared if what == kind])]
        first = (page - 1) * size
        page_of_declared = declared[first : first + size]
        skip, take = max(0, first - len(ours)), size - len(page_of_declared)
        query = select(table).where(*where).order_by(table.c.created_at.desc(), table.c.id).limit(take).offset(skip)
        async with self._reading() as sql:
            total = (await sql.execute(select(func.count()).select_from(table).where(*where))).scalar_one()
            rows = [dict(row) for row in (await sql.execute(query)).mappings()] if take else []
        return [*page_of_declared, *rows], len(ours) + int(total)

    async def keys_by_name(self, names: Sequence[str], aliases: Sequence[str] = ()) -> list[Row]:
        """Stored keys by their ids, by the ids of their secrets, or by alias."""
        by_secret = select(SECRET.c.key_id).where(SECRET.c.id.in_(names))
        found = or_(KEY.c.id.in_(names), KEY.c.id.in_(by_secret), KEY.c.alias.in_(aliases))
        return await self.all(select(KEY).where(found))

    async def any_end_user(self) -> bool:
        """Whether any end user is known."""
        known = await self.one(select(THINGS["end_user"].c.id).limit(1))
        return known is not None or any(kind == "end_user" for kind, _ in self.declared)

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def own(self, kind: str, ids: Iterable[str]) -> None:
        """Raise ``Conflict`` if the stack file declares any of these."""
        for one in ids:
            if (kind, one) in self.declared:
                raise Conflict(f"{kind} {one} is declared in the stack file; change it there")

    @asynccontextmanager
    async def change(self) -> AsyncIterator[Change]:
        """One transaction, in which this book's reads see its changes; read inside it whatever the changes depend on.

        After the commit, this worker applies the changes at once, the others by the feed.
        """
        async with writing(self.store) as sql:
            # taken first and held to the end: serialises writers, so that numbers become visible in order
            await sql.execute(_LOCK)
            change = Change(sql)
            token = self._changing.set(sql)
            try:
                yield change
            finally:
                self._changing.reset(token)
            await self._note(sql, list(change.subjects))
        self.changed(change.subjects)

    async def _note(self, sql: AsyncConnection, subjects: list[tuple[str, str]]) -> None:
        if not subjects:
            return
        clock = (await sql.execute(select(CLOCK.c.seq).where(CLOCK.c.id == 1))).scalar_one()
        at = now()
        rows = [
            {"seq": clock + n, "kind": kind, "subject": subject, "at": at}
            for n, (kind, subject) in enumerate(subjects, 1)
        ]
        await sql.execute(insert(CHANGE), rows)
        await sql.execute(update(CLOCK).where(CLOCK.c.id == 1).values(seq=clock + len(rows)))
        # keep the last entry before these, so that workers that read up to it recognise it
        await sql.execute(delete(CHANGE).where(CHANGE.c.at < at - KEPT, CHANGE.c.seq < clock))
        if sql.dialect.name == "postgresql":
            await sql.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CHANNEL})

    async def keep_fingerprint(self, fingerprint: str) -> str:
        """The fingerprint of the pepper of this store's keys; if it has none yet, stores the given one."""
        async with writing(self.store) as sql:
            await sql.execute(_LOCK)
            known = (await sql.execute(select(META.c.value).where(META.c.name == "pepper"))).scalar()
            if known is None:
                await sql.execute(insert(META).values(name="pepper", value=fingerprint))
            return str(known or fingerprint)

    # ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def changes(self, since: Mark | None) -> tuple[Mark, list[tuple[str, str]] | None]:
        """The new position and the subjects changed since; ``None`` if unknown: then anything may have changed."""
        clock = select(CLOCK.c.seq).where(CLOCK.c.id == 1)
        query = select(CHANGE.c.seq, CHANGE.c.kind, CHANGE.c.subject, CHANGE.c.at).order_by(CHANGE.c.seq)
        async with reading(self.store) as sql:
            rows = (await sql.execute(query.where(CHANGE.c.seq >= since.seq))).all() if since is not None else []
            if not rows:  # none was ever written, all were pruned, or an older backup was restored
                rows = (await sql.execute(query.where(CHANGE.c.seq >= clock.scalar_subquery()))).all()
            marks = [Mark(row.seq, (row.kind, row.subject, row.at)) for row in rows]
            last = marks[-1] if marks else Mark(int((await sql.execute(clock)).scalar_one()), None)
        if since is None or since == last:
            return last, None if since is None else []
        # compare whole entries: after a backup is restored, new entries reuse the numbers of lost ones
        fresh = marks[1:] if marks[:1] == [since] else marks
        if not fresh or fresh[0].seq != since.seq + 1 or (fresh is marks and since.row is not None):
            return last, None
        return last, [mark.row[:2] for mark in fresh if mark.row is not None]


def clean(kind: str, id: str) -> str:  # noqa: A002 - the field's standard name
    """Validate an id chosen by a caller. Raises ``BadRequest``."""
    if not id or len(id) > 128 or not id.isprintable() or id != id.strip():
        raise BadRequest(f"{kind} ids are 1 to 128 printable characters")
    return id
