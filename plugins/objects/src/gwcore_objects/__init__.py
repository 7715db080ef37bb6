"""Objects that vendors store under an id: each caller reaches only its own, where they are stored."""

from __future__ import annotations

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_objects.plugin import Objects


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """What this distribution offers."""
    return [Objects]
