"""What alembic needs to find; the revisions are the plugins' own."""
