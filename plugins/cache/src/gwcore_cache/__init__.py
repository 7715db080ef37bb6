"""The ``cache`` plugin: answers repeated requests without paying for them again."""

from typing import Any

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_cache.plugin import Cache


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """Plugins of this distribution."""
    return [Cache]


@hookimpl
def gwcore_commands() -> list[Any]:
    """Adds ``gwcore cache``."""
    from gwcore_cache.cli import cache  # noqa: PLC0415 - an optional part: a gateway needs no command line

    return [cache]
