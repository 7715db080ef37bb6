"""Alembic revisions of ``request_log``."""
