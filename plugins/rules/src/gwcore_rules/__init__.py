"""Model-selection rules for gwcore, and ``LLMChoiceMixin`` for agents that use them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_rules.plugin import Rules

__all__ = ["LLMChoiceMixin", "NoChoice", "Rules"]


def __getattr__(name: str) -> Any:
    """Import what agents use on demand: it needs an HTTP client, which the gateway does not."""
    if name in {"LLMChoiceMixin", "NoChoice"}:
        return getattr(import_module("gwcore_rules.mixin"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """What this distribution offers."""
    return [Rules]
