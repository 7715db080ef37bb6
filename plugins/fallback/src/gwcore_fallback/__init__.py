"""The ``fallback`` plugin: the router between the call layers and the attempt layers."""

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_fallback.plugin import Fallback


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """Plugins of this distribution."""
    return [Fallback]
