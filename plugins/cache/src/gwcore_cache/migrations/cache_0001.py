"""Entries, their tags, and the number of purges."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "cache_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the first release."""
    op.create_table(
        "cache_entry",
        sa.Column("key", sa.LargeBinary(32), primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("made", sa.BigInteger, nullable=False),
        sa.Column("kept", sa.BigInteger, nullable=False),
        sa.Column("model", sa.String(512), nullable=False),
        sa.Column("scope", sa.String(512), nullable=False),
    )
    op.create_index("cache_entry_kept", "cache_entry", ["kept"])
    op.create_index("cache_entry_made", "cache_entry", ["made"])
    op.create_table(
        "cache_tag",
        sa.Column("key", sa.LargeBinary(32), primary_key=True),
        sa.Column("tag", sa.String(512), primary_key=True),
    )
    op.create_index("cache_tag_tag", "cache_tag", ["tag"])
    epoch = op.create_table(
        "cache_epoch",
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(epoch, [{"id": 1, "epoch": 0}])
