"""The ``fallback`` plugin: the router between the two rings."""

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_fallback.plugin import Fallback


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """What this distribution offers."""
    return [Fallback]
