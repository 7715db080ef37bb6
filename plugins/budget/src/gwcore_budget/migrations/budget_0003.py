"""A table of holds whose end the store refuses: they stay held, and are reported."""

from alembic import op

from gwcore_budget.ledger.schema import metadata

revision = "budget_0003"
down_revision = "budget_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create what is missing."""
    metadata.create_all(op.get_bind())
