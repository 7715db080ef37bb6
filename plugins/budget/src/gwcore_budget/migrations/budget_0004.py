"""Whoever looks at the running periods looks at no other: of accounts there is one for every period that ever was."""

from alembic import op

from gwcore_budget.ledger.schema import account

revision = "budget_0004"
down_revision = "budget_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make what is missing."""
    bind = op.get_bind()
    for index in sorted(account.indexes, key=lambda index: str(index.name)):
        index.create(bind, checkfirst=True)
