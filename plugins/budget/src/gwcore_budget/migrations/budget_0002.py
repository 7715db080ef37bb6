"""Append-only entries, sums of deleted rows, and indexes so that no report reads every attempt."""

from alembic import op

from gwcore_budget.ledger.schema import FORBID, hold, metadata

revision = "budget_0002"
down_revision = "budget_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create what is missing."""
    bind = op.get_bind()
    metadata.create_all(bind)
    for index in sorted(hold.indexes, key=lambda index: str(index.name)):
        index.create(bind, checkfirst=True)
    bind.exec_driver_sql("INSERT INTO budget_retention (id) VALUES (1)")
    for statement in FORBID[bind.dialect.name]:
        bind.exec_driver_sql(statement)
