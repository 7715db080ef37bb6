"""Migrations of the ledger's tables: linear, forward only."""
