"""Table of finished calls."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "request_log_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table of the first release."""
    op.create_table(
        "request_log",
        sa.Column("event", sa.String(36), primary_key=True),
        sa.Column("id", sa.String(64), nullable=False, index=True),
        sa.Column("ended", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("operation", sa.String(64), nullable=False),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("served_model", sa.Text),
        sa.Column("upstream", sa.String(128)),
        sa.Column("key_id", sa.String(128)),
        sa.Column("team_id", sa.String(128)),
        sa.Column("user_id", sa.String(128)),
        sa.Column("organisation_id", sa.String(128)),
        sa.Column("end_user", sa.Text),
        sa.Column("session", sa.Text),
        sa.Column("reason", sa.String(64)),
        sa.Column("cache", sa.String(32)),
        sa.Column("micros", sa.BigInteger, nullable=False),
        sa.Column("first_token_micros", sa.BigInteger),
        sa.Column("tokens_in", sa.BigInteger, nullable=False),
        sa.Column("tokens_out", sa.BigInteger, nullable=False),
        sa.Column("cost_nano", sa.BigInteger),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("content", sa.Text),
    )
    op.create_index("request_log_ended", "request_log", ["ended", "event"])
    for column in ("key_id", "team_id", "user_id", "session"):
        op.create_index(f"request_log_{column}", "request_log", [column, "ended"])
