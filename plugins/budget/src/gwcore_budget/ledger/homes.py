"""The ledger's home for a store."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from gwcore.errors import BadConfig
from gwcore.resources import Store
from gwcore.sql import Migrations, engine_of
from gwcore_budget.ledger.home import Home
from gwcore_budget.ledger.sqlite import SqliteHome

LEDGER = Migrations("budget", "gwcore_budget.migrations", head="budget_0004")


def home_of(store: Store, *, exports: bool = False, **options: Any) -> Home:
    """The home in a migrated store (:func:`gwcore.sql.migrate`). Raises ``BadConfig`` for redis, or without asyncpg."""
    engine = engine_of(store)
    if store.scheme == "postgresql":
        try:
            postgres = importlib.import_module("gwcore_budget.ledger.postgres")  # needs the optional driver
        except ImportError:
            raise BadConfig("a postgresql: store needs asyncpg; pip install 'gwcore[postgres]'") from None
        home: Home = postgres.PostgresHome(store.url, exports=exports, **options)
        return home
    assert engine.url.database is not None
    return SqliteHome(engine.url.database, durable=store.scheme == "sqlite", exports=exports, **options)


def folder_of(store: Store, configured: Path | None) -> Path:
    """The folder of workers' locks and journals: ``configured``, else beside a SQLite file, or ``gwcore-ledger``."""
    if configured is not None:
        return configured
    if store.scheme == "postgresql":
        return Path("gwcore-ledger")
    return Path(f"{engine_of(store).url.database}.workers")
