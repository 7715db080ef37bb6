"""Homes of the ledger, each fresh."""

import pytest

from gwcore_budget.ledger.postgres import PostgresHome
from gwcore_budget.ledger.sqlite import SqliteHome

HOMES = ("sqlite", "postgres")


@pytest.fixture(params=HOMES)
def make_home(request, tmp_path):
    """Makes homes that open the same ledger."""
    if request.param == "sqlite":
        return lambda **options: SqliteHome(tmp_path / "book.db", **options)
    url = request.getfixturevalue("postgres_url")
    return lambda **options: PostgresHome(url, **options)


@pytest.fixture
async def home(make_home):
    made = make_home()
    await made.open()
    yield made
    await made.aclose()
