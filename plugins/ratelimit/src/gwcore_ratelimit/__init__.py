"""Exact rate limits for gwcore: requests, tokens, parallel calls."""

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_ratelimit.plugin import RateLimit


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """Plugins of this distribution."""
    return [RateLimit]
