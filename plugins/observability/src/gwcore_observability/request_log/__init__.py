"""Calls as searchable rows in a store."""

from typing import Any

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_observability.request_log.plugin import RequestLog


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """For the stack file."""
    return [RequestLog]


@hookimpl
def gwcore_commands() -> list[Any]:
    """``gwcore report``."""
    from gwcore_observability.request_log.cli import report  # noqa: PLC0415 - an optional part: a gateway needs no command line

    return [report]
