"""The ``cache`` plugin: an answer that was given once need not be paid for twice."""

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_cache.plugin import Cache


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """What this distribution offers."""
    return [Cache]
