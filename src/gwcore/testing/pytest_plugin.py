"""The pytest side of the conformance kit: real servers for the stores.

Started once per test process; see :mod:`gwcore.testing.servers`. A server from the environment may be shared, so use
your own namespace (key prefix, database).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest

from gwcore.testing.servers import postgres, redis


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of a running Redis or Valkey."""
    with redis() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a running PostgreSQL that does not wait for the disk (fsync off); its database is ``postgres``."""
    with postgres(durable=False) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of a fresh, empty database; dropped after the test."""
    import asyncpg  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional driver

    name = f"t{uuid.uuid4().hex}"

    async def run(statement: str) -> None:
        connection = await asyncpg.connect(postgres_server)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run(f"CREATE DATABASE {name}"))
    parts = urlsplit(postgres_server)
    yield urlunsplit(parts._replace(path=f"/{name}"))
    asyncio.run(run(f"DROP DATABASE {name} WITH (FORCE)"))
