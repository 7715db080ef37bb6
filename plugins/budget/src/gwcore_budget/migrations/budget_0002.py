"""A book that is append only as far as it is kept, and sums of what is not."""

from alembic import op

from gwcore_budget.ledger.schema import FORBID, metadata

revision = "budget_0002"
down_revision = "budget_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make what is missing."""
    bind = op.get_bind()
    metadata.create_all(bind)
    bind.exec_driver_sql("INSERT INTO budget_retention (id) VALUES (1)")
    for statement in FORBID[bind.dialect.name]:
        bind.exec_driver_sql(statement)
