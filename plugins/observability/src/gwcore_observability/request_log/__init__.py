"""Calls as rows of a store, to be searched."""

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_observability.request_log.plugin import RequestLog


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """For the stack file."""
    return [RequestLog]
