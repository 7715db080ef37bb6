"""Migrations of the tables of auth: one module per revision."""
