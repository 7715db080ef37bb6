"""Holds whose end the store refuses: what they hold stays held, and is told."""

from alembic import op

from gwcore_budget.ledger.schema import metadata

revision = "budget_0003"
down_revision = "budget_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make what is missing."""
    metadata.create_all(op.get_bind())
