"""What vendors keep under an id: each reaches its own, where it is kept."""

from __future__ import annotations

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_objects.plugin import Objects


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """What this distribution offers."""
    return [Objects]
