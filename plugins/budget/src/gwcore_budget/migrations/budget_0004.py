"""An index to find the accounts of running periods without reading those of all past periods."""

from alembic import op

from gwcore_budget.ledger.schema import account

revision = "budget_0004"
down_revision = "budget_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create what is missing."""
    bind = op.get_bind()
    for index in sorted(account.indexes, key=lambda index: str(index.name)):
        index.create(bind, checkfirst=True)
