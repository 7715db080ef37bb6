"""The ``auth`` plugin: who may call, and who may use the admin API."""

from typing import Any

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_auth.plugin import Auth


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """What this distribution offers."""
    return [Auth]


@hookimpl
def gwcore_commands() -> list[Any]:
    """``gwcore keys``, ``teams`` and ``users``."""
    from gwcore_auth.cli import keys, teams, users  # noqa: PLC0415 - an optional part: a gateway needs no command line

    return [keys, teams, users]
