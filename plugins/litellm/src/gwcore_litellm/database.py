"""Reads the tables of LiteLLM's database; writes nothing."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import orjson

from gwcore.errors import BadConfig, StoreUnavailable

Row = dict[str, Any]

_TABLES: Final = {
    "budget": "LiteLLM_BudgetTable",
    "organization": "LiteLLM_OrganizationTable",
    "user": "LiteLLM_UserTable",
    "team": "LiteLLM_TeamTable",
    "member": "LiteLLM_TeamMembership",
    "leader": "LiteLLM_OrganizationMembership",
    "model": "LiteLLM_ModelTable",
    "customer": "LiteLLM_EndUserTable",
    "key": "LiteLLM_VerificationToken",
}
_PRISMA: Final = {
    "schema", "connection_limit", "connect_timeout", "pool_timeout", "socket_timeout", "pgbouncer", "statement_cache_size",
    "single_use_connections", "max_connection_lifetime", "max_idle_connection_lifetime", "sslaccept", "sslidentity", "sslpassword",
}  # fmt: skip
_WITHIN: Final = 30.0


def tables(url: str) -> dict[str, list[Row]]:
    """Rows by kind: budget, organization, user, team, member, leader, model, customer, key.

    A table that a release lacks is empty.

    Raises:
        BadConfig: the driver is missing, the URL is not PostgreSQL's, or the database holds no keys of LiteLLM.
        StoreUnavailable: the database cannot be reached or read.
    """
    return asyncio.run(_read(url))


async def _read(url: str) -> dict[str, list[Row]]:
    try:
        import asyncpg  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional driver
    except ImportError:
        raise BadConfig("reading LiteLLM's database needs asyncpg; pip install 'gwcore[postgres]'") from None
    try:
        address, schema = _understood(url)
        # a pooler in between shares connections, so named statements would collide
        connection = await asyncpg.connect(address, timeout=_WITHIN, statement_cache_size=0)
    except ValueError:
        raise BadConfig("the URL of LiteLLM's database is not one of PostgreSQL's") from None
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        # the text of a driver's error may quote the URL
        raise StoreUnavailable(f"LiteLLM's database does not answer: {type(error).__name__}") from None
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return await _rows(connection, schema)
    except asyncpg.InsufficientPrivilegeError as error:
        raise BadConfig(f"LiteLLM's database: {error}; the role needs SELECT on its tables") from None
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StoreUnavailable(f"LiteLLM's database could not be read: {type(error).__name__}") from None
    finally:
        await connection.close(timeout=_WITHIN)


async def _rows(connection: Any, schema: str) -> dict[str, list[Row]]:
    # pg_catalog also lists tables that the role may not read: reading one must fail, not count as empty
    there = await connection.fetch(
        "SELECT relname FROM pg_catalog.pg_class WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1)",
        schema,
    )
    names = {row["relname"] for row in there}
    if _TABLES["key"] not in names:
        raise BadConfig(f"that database is not LiteLLM's: it has no table {_TABLES['key']}")
    found = {}
    quoted = schema.replace('"', '""')
    for kind, table in _TABLES.items():
        rows = await connection.fetch(f'SELECT * FROM "{quoted}"."{table}"') if table in names else []  # noqa: S608 - quoted, and of the table above
        found[kind] = [{name: _plain(value) for name, value in row.items()} for row in rows]
    return found


def _understood(url: str) -> tuple[str, str]:
    """The URL without Prisma's own options, and the schema from the option ``schema``."""
    parts = urlsplit(url)
    options = parse_qsl(parts.query)
    query = urlencode([(name, value) for name, value in options if name not in _PRISMA])
    return urlunsplit(parts._replace(query=query)), dict(options).get("schema", "public")


def _plain(value: Any) -> Any:
    """Parse JSON columns, which asyncpg returns as text."""
    if isinstance(value, str) and value[:1] in {"{", "["}:
        try:
            return orjson.loads(value)
        except ValueError:
            return value
    return value
