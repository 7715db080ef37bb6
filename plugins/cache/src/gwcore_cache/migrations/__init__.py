"""Migrations of the cache's tables: one module per revision."""
