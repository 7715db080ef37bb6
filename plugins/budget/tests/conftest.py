"""Homes of the ledger, each fresh."""

import pytest

from gwcore.resources import Lease, Resources
from gwcore.sql import migrate
from gwcore_budget.ledger.homes import LEDGER, home_of
from gwcore_budget.ledger.ledger import Ledger

HOMES = ("sqlite", "postgres")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Journals of what is no SQLite file lie in the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=HOMES)
def store_url(request, tmp_path):
    """URL of a store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/book.db"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
async def make_home(store_url):
    """Makes homes that open the same ledger."""
    lease = Lease(Resources())
    store = lease.store(store_url)
    await migrate(store, LEDGER)
    yield lambda **options: home_of(store, **options)
    await lease.release()


@pytest.fixture
async def home(make_home):
    made = make_home()
    await made.open()
    yield made
    await made.aclose()


@pytest.fixture
async def make_ledger(make_home, tmp_path):
    """Makes started ledgers on one store; those that still run are stopped."""
    made = []

    async def make(**options):
        ledger = Ledger(
            make_home(), tmp_path / "workers", **{"mode": "escrow", "chunk": 1_000, "patience": 5.0, **options}
        )
        await ledger.start()
        ledger._tasks[0].cancel()  # it looks for the dead each second, which might be between two steps of a test
        made.append(ledger)
        return ledger

    yield make
    for ledger in made:
        if ledger.worker._lock >= 0:
            await ledger.stop()
        else:
            await ledger.home.aclose()  # of one that a test has killed
