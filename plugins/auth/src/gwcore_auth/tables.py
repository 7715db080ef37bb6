"""The tables of auth. Times are milliseconds since the epoch, UTC; documents are JSON as received by the admin API."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Index, MetaData, String, Table, Text

from gwcore.sql import Migrations

MIGRATIONS = Migrations("auth", "gwcore_auth.migrations", head="auth_0001")

metadata = MetaData()


def _thing(name: str, *columns: Column[object] | Index) -> Table:
    """A table with the columns common to keys, teams, users, organisations and end users, plus its own."""
    return Table(
        name,
        metadata,
        Column("id", String(128), primary_key=True),
        Column("alias", Text),
        Column("blocked", Boolean, nullable=False),
        Column("models", JSON, nullable=False),
        Column("tags", JSON, nullable=False),
        Column("metadata", JSON, nullable=False),
        Column("policies", JSON, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("created_by", String(128), nullable=False),
        Column("updated_at", BigInteger, nullable=False),
        Column("updated_by", String(128), nullable=False),
        *columns,
    )


KEY = _thing(
    "auth_key",
    Column("team_id", String(128), index=True),
    Column("user_id", String(128), index=True),
    Column("organisation_id", String(128), index=True),
    Column("aliases", JSON, nullable=False),
    Column("routes", JSON, nullable=False),
    Column("networks", JSON, nullable=False),
    Column("expires", BigInteger),
    Column("kind", String(16), nullable=False),
    Column("hint", String(16), nullable=False),
    Index("auth_key_alias", "alias", unique=True),
)
TEAM = _thing("auth_team", Column("organisation_id", String(128), index=True), Column("aliases", JSON, nullable=False))
USER = _thing("auth_user", Column("email", Text), Column("role", String(32), nullable=False))
ORGANISATION = _thing("auth_organisation")
END_USER = _thing("auth_end_user")

THINGS = {"key": KEY, "team": TEAM, "user": USER, "organisation": ORGANISATION, "end_user": END_USER}

SECRET = Table(
    "auth_secret",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("key_id", String(128), nullable=False, index=True),
    Column("digest", String(64), nullable=False),
    Column("until", BigInteger),
)
MEMBER = Table(
    "auth_member",
    metadata,
    Column("team_id", String(128), primary_key=True),
    Column("user_id", String(128), primary_key=True, index=True),
    Column("role", String(16), nullable=False),
    Column("models", JSON, nullable=False),
    Column("policies", JSON, nullable=False),
)
LEADER = Table(
    "auth_organisation_member",
    metadata,
    Column("organisation_id", String(128), primary_key=True),
    Column("user_id", String(128), primary_key=True, index=True),
    Column("role", String(32), nullable=False),
)
# one row, whose lock serialises writers, so that changes become visible in order of number, and none is missed
CLOCK = Table(
    "auth_clock", metadata, Column("id", BigInteger, primary_key=True), Column("seq", BigInteger, nullable=False)
)
CHANGE = Table(
    "auth_change",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(32), nullable=False),
    Column("subject", String(256), nullable=False),
    Column("at", BigInteger, nullable=False),
)
META = Table("auth_meta", metadata, Column("name", String(64), primary_key=True), Column("value", Text, nullable=False))
