"""Budgets that cannot be overspent: a two-phase ledger for gwcore."""

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_budget.plugin import BudgetPlugin


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """What this distribution offers."""
    return [BudgetPlugin]
