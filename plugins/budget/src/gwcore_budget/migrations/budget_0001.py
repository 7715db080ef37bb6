"""The ledger's tables."""

from alembic import op

from gwcore_budget.ledger.schema import metadata

revision = "budget_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them."""
    metadata.create_all(op.get_bind())
