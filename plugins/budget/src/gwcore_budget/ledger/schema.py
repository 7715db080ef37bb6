"""Tables of the ledger, the same in both homes. The migrations create them; see ``books`` for their meaning."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from gwcore_budget.ledger.ops import POSTED, Facts, Metered

metadata = MetaData()
_Int = BigInteger().with_variant(Integer, "sqlite")
_NUMBERS = {"attempt", "stream", "status", "first_byte_ms", "duration_ms", *(
    name for name in Metered._fields if name not in {"error", "fees", "upstream_id"})}  # fmt: skip


def _columns(row: type[Facts | Metered], required: set[str]) -> list[Column[object]]:
    return [
        Column(name, _Int if name in _NUMBERS else Text, nullable=name not in required, server_default=_default(name))
        for name in row._fields
    ]


_MOSTLY: dict[str, object] = {
    **Facts._field_defaults, **Metered._field_defaults, "state": POSTED, "basis": "usage", "status": 200,
}  # fmt: skip
"""The values that most attempts have: defaults of their columns, so that they need not be written."""


def _default(name: str) -> str | None:
    value = _MOSTLY.get(name)
    return None if value is None else str(value)


def _some(name: str, where: str, *columns: str) -> Index:
    """A partial index of holds: other rows cost nothing."""
    return Index(f"budget_hold_{name}", *columns, postgresql_where=text(where), sqlite_where=text(where))


budget = Table(
    "budget_budget",
    metadata,
    Column("id", Text, primary_key=True),
    Column("scope", Text, nullable=False),
    Column("scope_id", Text, nullable=False),
    Column("span", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("generation", Integer, nullable=False, server_default="0"),
    Column("recall", Integer, nullable=False, server_default="0"),
    Column("origin", Text, nullable=False, server_default="rule"),
    Index("budget_budget_scope", "scope", "scope_id"),
    sqlite_strict=True,
)
account = Table(
    "budget_account",
    metadata,
    Column("id", _Int, primary_key=True, autoincrement=True),
    Column("budget", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("start", _Int, nullable=False),
    Column("lim", _Int),
    Column("soft", _Int),
    Column("posted", _Int, CheckConstraint("posted >= 0"), nullable=False, server_default="0"),
    Column("pending", _Int, CheckConstraint("pending >= 0"), nullable=False, server_default="0"),
    Column("excess", _Int, nullable=False, server_default="0"),
    Column("told", Integer, nullable=False, server_default="0"),
    UniqueConstraint("budget", "generation", "start"),
    Index("budget_account_start", "start"),
    sqlite_strict=True,
)
hold = Table(
    "budget_hold",
    metadata,
    # compared byte by byte, so that a range of ids contains all attempts of a request
    Column("id", Text().with_variant(Text(collation="C"), "postgresql"), primary_key=True),
    Column("worker", Text, nullable=False),
    Column("state", Integer, nullable=False, server_default=_default("state")),
    Column("amount", _Int, CheckConstraint("amount >= 0")),
    Column("settled", _Int, CheckConstraint("settled >= 0")),
    Column("accounts", Text, nullable=False),
    Column("created", _Int, nullable=False),
    Column("expires", _Int, nullable=False),
    Column("basis", Text, nullable=False, server_default=_default("basis")),
    Column("ended", _Int),
    *_columns(Facts, {"request", "attempt", "tags", "dialect", "operation", "model", "upstream", "stream"}),
    *_columns(Metered, set()),
    _some("open", "state = 0", "worker", "expires"),
    _some("upstream_id", "upstream_id IS NOT NULL", "upstream_id"),
    Index("budget_hold_created", "created"),
    Index("budget_hold_key", "key_id", "created"),
    Index("budget_hold_team", "team", "created"),
    *(_some(name, f"{name} IS NOT NULL", name, "created") for name in ("user_id", "end_user", "organisation")),
    sqlite_strict=True,
)
plan = Table(
    "budget_plan",
    metadata,
    Column("id", Text, primary_key=True),
    Column("policy", Text, nullable=False),
    Column("created", _Int, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("updated", _Int, nullable=False),
    Column("updated_by", Text, nullable=False),
    Column("stamp", _Int, nullable=False),
    sqlite_strict=True,
)
grant = Table(
    "budget_grant",
    metadata,
    Column("worker", Text, primary_key=True),
    Column("account", _Int, primary_key=True),
    Column("amount", _Int, CheckConstraint("amount >= 0"), nullable=False),
    Column("turn", _Int, nullable=False, server_default="0"),
    sqlite_strict=True,
)
entry = Table(
    "budget_entry",
    metadata,
    Column("seq", _Int, primary_key=True, autoincrement=True),
    Column("hold", Text, nullable=False),
    Column("accounts", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("pending", _Int, nullable=False),
    Column("posted", _Int, nullable=False),
    Column("at", _Int, nullable=False),
    sqlite_strict=True,
)
worker = Table(
    "budget_worker",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("boot", Text, nullable=False),
    Column("folder", Text, nullable=False),
    Column("seen", _Int, nullable=False),
    sqlite_strict=True,
)
outbox = Table(
    "budget_outbox",
    metadata,
    Column("id", Text, primary_key=True),
    Column("topic", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created", _Int, nullable=False),
    Column("due", _Int, nullable=False),
    Column("tries", SmallInteger().with_variant(Integer, "sqlite"), nullable=False, server_default="0"),
    Index("budget_outbox_due", "due"),
    sqlite_strict=True,
)
DIMENSIONS = ("day", "organisation", "team", "user_id", "end_user", "key_id", "model_asked", "model", "upstream")
SUMS = ("spend", "attempts", "failed", "input", "output", "cache_read", "cache_write")
daily = Table(
    "budget_daily",
    metadata,
    *(Column(name, Text, primary_key=True, server_default="") for name in DIMENSIONS),
    *(Column(name, _Int, nullable=False, server_default="0") for name in SUMS),
    Index("budget_daily_key", "key_id", "day"),
    Index("budget_daily_team", "team", "day"),
    Index("budget_daily_user", "user_id", "day"),
    sqlite_strict=True,
)
daily_tag = Table(
    "budget_daily_tag",
    metadata,
    Column("day", Text, primary_key=True),
    Column("tag", Text, primary_key=True),
    *(Column(name, _Int, nullable=False, server_default="0") for name in SUMS),
    sqlite_strict=True,
)

retention = Table(
    "budget_retention",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
    Column("since", _Int, nullable=False, server_default="0"),
    Column("due", _Int, nullable=False, server_default="0"),
    sqlite_strict=True,
)
"""One row: since when the books are complete, and when closing is due next."""
carried = Table(
    "budget_carried",
    metadata,
    Column("account", _Int, primary_key=True, autoincrement=False),
    *(Column(name, _Int, nullable=False, server_default="0") for name in ("pending", "posted", "settled")),
    sqlite_strict=True,
)
"""Sums of deleted rows by account: ``pending``, ``posted`` of entries, ``settled`` of holds. Account 0: all holds."""
refused = Table(
    "budget_refused",
    metadata,
    Column("hold", Text, primary_key=True),
    Column("worker", Text, nullable=False),
    Column("at", _Int, nullable=False),
    sqlite_strict=True,
)
"""Holds whose end the store refuses, even with fewer details; see :mod:`gwcore_budget.ledger.refused`."""

_NEVER = "BEGIN SELECT RAISE(ABORT, 'budget_entry is append only'); END"
_KEPT = "coalesce((SELECT since FROM budget_retention), 0)"
FORBID = {
    "sqlite": [
        statement
        for verb, when in (("update", ""), ("delete", f" WHEN OLD.at >= {_KEPT}"))
        for statement in (
            f"DROP TRIGGER IF EXISTS budget_entry_{verb}",
            f"CREATE TRIGGER budget_entry_{verb} BEFORE {verb} ON budget_entry{when} {_NEVER}",
        )
    ],
    "postgresql": [
        f"""CREATE OR REPLACE FUNCTION budget_entry_forbid() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN
            IF TG_OP = 'DELETE' AND OLD.at < {_KEPT} THEN RETURN OLD; END IF;
            RAISE EXCEPTION 'budget_entry is append only';
        END $$""",
        """CREATE OR REPLACE TRIGGER budget_entry_forbid BEFORE UPDATE OR DELETE ON budget_entry
        FOR EACH ROW EXECUTE FUNCTION budget_entry_forbid()""",
    ],
}
"""Statements per dialect that make ``budget_entry`` append-only: only closed entries can be deleted."""

HOLD_COLUMNS = tuple(str(column.name) for column in hold.columns)
HOLD_DEFAULTS = tuple(_MOSTLY.get(name, ...) for name in HOLD_COLUMNS)
"""The columns' defaults; ``...`` if there is none."""
