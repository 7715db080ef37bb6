"""The history of the tables of cache: one module per revision."""
