"""Migrations of the plugin's tables: one module per revision."""
