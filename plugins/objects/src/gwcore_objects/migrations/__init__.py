"""The history of the tables of objects: one module per revision."""
