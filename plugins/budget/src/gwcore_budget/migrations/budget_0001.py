"""The ledger's tables, and a book that is append only."""

from alembic import op

from gwcore_budget.ledger.schema import FORBID, metadata

revision = "budget_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make them."""
    bind = op.get_bind()
    metadata.create_all(bind)
    for statement in FORBID[bind.dialect.name]:
        bind.exec_driver_sql(statement)
