"""The ``tokencount`` plugin."""

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_tokencount.plugin import TokenCount


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """What this distribution offers."""
    return [TokenCount]
