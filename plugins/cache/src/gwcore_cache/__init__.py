"""The ``cache`` plugin: an answer that was given once need not be paid for twice."""

from typing import Any

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_cache.plugin import Cache


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """What this distribution offers."""
    return [Cache]


@hookimpl
def gwcore_commands() -> list[Any]:
    """``gwcore cache``."""
    from gwcore_cache.cli import cache  # noqa: PLC0415 - an optional part: a gateway needs no command line

    return [cache]
