"""Budgets that cannot be overspent: a two-phase ledger for gwcore."""
