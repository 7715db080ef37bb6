"""The rows of a SQLite home are those that were given, however few of their values are bound."""

import sqlite3

import pytest

from gwcore_budget.ledger.sqlite import ROWS, _insert

MANY, FEW = ROWS
DEFAULTS = {"id": ..., "state": "posted", "count": 0, "who": ..., "whom": ...}


@pytest.mark.parametrize("many", [1, 2, FEW - 1, FEW, FEW + 1, 3 * FEW + 5, MANY, 2 * MANY + FEW + 5])
@pytest.mark.parametrize("odd", [None, "state", "count", "who", "whom"])
@pytest.mark.parametrize("at", [0, -1, 1])
@pytest.mark.parametrize("value", ["other", None, 7])
def test_what_rows_have_in_common_is_each_row_s_own(many, odd, at, value):
    rows = [{"id": f"row {n}", "state": "posted", "count": 0, "who": "somebody", "whom": None} for n in range(many)]
    if odd is not None:
        rows[at % many][odd] = value
    given = [tuple(row.values()) for row in rows]
    with sqlite3.connect(":memory:", isolation_level=None) as db:
        db.execute("CREATE TABLE t (id ANY, state ANY DEFAULT 'posted', count ANY DEFAULT 0, who ANY, whom ANY) STRICT")
        _insert(db, "t", DEFAULTS, given)
        assert db.execute("SELECT * FROM t ORDER BY rowid").fetchall() == given
    db.close()


def test_a_sqlite_that_binds_few_values_gets_few():
    """Before 3.32 it took 999 per statement."""
    given = [(f"row {n}", "posted", n, "somebody", None) for n in range(2 * MANY)]
    with sqlite3.connect(":memory:", isolation_level=None) as db:
        db.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 99)
        db.execute("CREATE TABLE t (id, state DEFAULT 'posted', count DEFAULT 0, who, whom)")
        _insert(db, "t", DEFAULTS, given)
        assert db.execute("SELECT * FROM t ORDER BY rowid").fetchall() == given
    db.close()
