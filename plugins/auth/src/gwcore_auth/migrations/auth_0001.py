"""Tables for keys and their owners, for changes, and for the pepper's fingerprint."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "auth_0001"
down_revision = None
branch_labels = None
depends_on = None


def _thing(name: str, *columns: sa.Column[object]) -> None:
    op.create_table(
        name,
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("alias", sa.Text),
        sa.Column("blocked", sa.Boolean, nullable=False),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("policies", sa.JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("updated_by", sa.String(128), nullable=False),
        *columns,
    )


def upgrade() -> None:
    """Create the tables of the first release."""
    _thing(
        "auth_key",
        sa.Column("team_id", sa.String(128), index=True),
        sa.Column("user_id", sa.String(128), index=True),
        sa.Column("organisation_id", sa.String(128), index=True),
        sa.Column("aliases", sa.JSON, nullable=False),
        sa.Column("routes", sa.JSON, nullable=False),
        sa.Column("networks", sa.JSON, nullable=False),
        sa.Column("expires", sa.BigInteger),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("hint", sa.String(16), nullable=False),
    )
    op.create_index("auth_key_alias", "auth_key", ["alias"], unique=True)
    _thing(
        "auth_team",
        sa.Column("organisation_id", sa.String(128), index=True),
        sa.Column("aliases", sa.JSON, nullable=False),
    )
    _thing("auth_user", sa.Column("email", sa.Text), sa.Column("role", sa.String(32), nullable=False))
    _thing("auth_organisation")
    _thing("auth_end_user")
    op.create_table(
        "auth_secret",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(128), nullable=False, index=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("until", sa.BigInteger),
    )
    op.create_table(
        "auth_member",
        sa.Column("team_id", sa.String(128), primary_key=True),
        sa.Column("user_id", sa.String(128), primary_key=True, index=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("policies", sa.JSON, nullable=False),
    )
    op.create_table(
        "auth_organisation_member",
        sa.Column("organisation_id", sa.String(128), primary_key=True),
        sa.Column("user_id", sa.String(128), primary_key=True, index=True),
        sa.Column("role", sa.String(32), nullable=False),
    )
    clock = op.create_table(
        "auth_clock", sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("seq", sa.BigInteger, nullable=False)
    )
    op.bulk_insert(clock, [{"id": 1, "seq": 0}])
    op.create_table(
        "auth_change",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(256), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "auth_meta", sa.Column("name", sa.String(64), primary_key=True), sa.Column("value", sa.Text, nullable=False)
    )
