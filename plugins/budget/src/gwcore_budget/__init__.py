"""Budgets that cannot be overspent: a two-phase ledger for gwcore."""

from typing import Any

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_budget.plugin import BudgetPlugin


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """What this distribution offers."""
    return [BudgetPlugin]


@hookimpl
def gwcore_commands() -> list[Any]:
    """``gwcore spend``, ``budget`` and ``ledger``."""
    from gwcore_budget.cli import budget, ledger, spend  # noqa: PLC0415 - an optional part: a gateway needs no command line

    return [spend, budget, ledger]
