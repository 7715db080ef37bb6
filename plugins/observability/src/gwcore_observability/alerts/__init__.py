"""Notifies people of budgets, errors, slow and hanging requests, upstreams that are down, and spend reports."""

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_observability.alerts.plugin import Alerts


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """For the stack file."""
    return [Alerts]
