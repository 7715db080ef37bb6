"""Owner and place of each id."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "objects_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the first release."""
    op.create_table(
        "objects_kept",
        sa.Column("id", sa.String(512), primary_key=True),
        sa.Column("owner", sa.String(300), primary_key=True),
        sa.Column("upstream", sa.String(200), primary_key=True),
        sa.Column("credential", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("made", sa.BigInteger, nullable=False),
    )
    op.create_index("objects_kept_made", "objects_kept", ["kind", "made"])
