"""What is installed, by name. Entry points are loaded only if a stack file names them, since vendor imports are slow.

An entry point's name in the group ``gwcore`` is the name used in the stack file. A distribution that offers several
names declares one entry point for each. Providers and dialects of ``gwcore-providers`` are a table behind one name.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy
from pydantic import BaseModel

from gwcore.dialect import Dialect
from gwcore.errors import AssemblyError, UnknownPlugin
from gwcore.hookspecs import PROJECT, Registration
from gwcore.plugin import Plugin
from gwcore.prices import PriceCard
from gwcore.provider import Provider, Upstream

GROUP = "gwcore"
PROVIDERS = "providers"
_KNOWN = {
    "auth": "gwcore-auth",
    "ratelimit": "gwcore-ratelimit",
    "cache": "gwcore-cache",
    "budget": "gwcore-budget",
    "fallback": "gwcore-fallback",
    "rules": "gwcore-rules",
    "objects": "gwcore-objects",
    "prometheus": "gwcore-observability",
    "langfuse": "gwcore-observability",
    "helicone": "gwcore-observability",
    "otel": "gwcore-observability",
    "access_log": "gwcore-observability",
    "request_log": "gwcore-observability",
    "webhook": "gwcore-observability",
    "alerts": "gwcore-observability",
    PROVIDERS: "gwcore-providers",
}

VERBS = {
    **dict.fromkeys(("keys", "teams", "users"), "gwcore-auth"),
    **dict.fromkeys(("spend", "budget", "ledger"), "gwcore-budget"),
    "cache": "gwcore-cache",
    "report": "gwcore-observability",
    "import": "gwcore-litellm",
}
"""Subcommands contributed by our own distributions."""


class Catalog:
    """One per gateway. ``extra`` modules or objects are registered as if installed (tests, embedding)."""

    def __init__(self, *extra: object) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Registration)
        self._found: dict[str, EntryPoint] = {}
        self._rivals: dict[str, set[str]] = {}
        for entry in entry_points(group=GROUP):
            self._found[entry.name] = entry
            self._rivals.setdefault(entry.name, set()).add(entry.dist.name if entry.dist else "?")
        self._loaded: set[str] = set()
        self._plugins: dict[str, type[Plugin]] = {}
        self._providers: dict[str, Provider] = {}
        self._dialects: dict[str, Dialect] = {}
        self._offers: dict[str, list[str]] = {}
        for source in extra:
            self._register(source, None)

    def _register(self, source: object, name: str | None) -> None:
        if self._manager.is_registered(source):
            return
        self._manager.register(source, name)
        plugins: list[type[Plugin]] = getattr(source, "gwcore_plugins", list)()
        providers: list[Provider] = getattr(source, "gwcore_providers", list)()
        dialects: list[Dialect] = getattr(source, "gwcore_dialects", list)()
        for kind in plugins:
            if self._plugins.setdefault(kind.name, kind) is not kind:
                places = " and ".join(f"{k.__module__}.{k.__qualname__}" for k in (self._plugins[kind.name], kind))
                raise AssemblyError(f"two plugins are named {kind.name!r}: {places}; rename one")
        self._providers.update((provider.name, provider) for provider in providers)
        self._dialects.update((dialect.name, dialect) for dialect in dialects)
        if name not in {None, PROVIDERS}:
            self._offers[str(name)] = [f"the plugin {p.name}" for p in plugins] + [
                f"the provider {p.name}" for p in providers
            ]
        self._manager.check_pending()

    def load(self, name: str) -> None:
        """Import the distribution behind an entry point, once; a name nobody installed is left for the caller."""
        entry = self._found.get(name)
        if entry is None or name in self._loaded:
            return
        if len(self._rivals[name]) > 1:  # which one runs would be chance
            raise AssemblyError(f"{' and '.join(sorted(self._rivals[name]))} both offer {name!r}: uninstall one")
        self._register(entry.load(), name)
        self._loaded.add(name)

    def installed(self) -> dict[str, tuple[str, str]]:
        """Entry points: name → (distribution, version); nothing is imported."""
        return {
            name: (entry.dist.name, entry.dist.version) if entry.dist else ("?", "?")
            for name, entry in sorted(self._found.items())
        }

    def load_all(self) -> dict[str, Exception]:
        """Import everything installed, for ``gwcore schema``, ``gwcore plugins`` and distributions' verbs.

        What cannot be imported, by its word: an extra that nobody installed, or somebody's mistake, leaves the others as they are.
        """
        failed: dict[str, Exception] = {}
        for name in self._found:
            try:
                self.load(name)
            except Exception as error:
                failed[name] = error
        return failed

    def commands(self) -> list[Any]:
        """Typer applications of the loaded distributions."""
        return [app for apps in self._manager.hook.gwcore_commands() for app in apps]

    def plugin(self, name: str) -> type[Plugin]:
        """The class that ``stack`` or ``watch`` means by ``name``. Raises ``UnknownPlugin``."""
        self.load(name)
        if name not in self._plugins:
            hint = self.install_hint(name)
            raise UnknownPlugin(f"no plugin named {name!r} is installed" + (f"; pip install {hint}" if hint else ""))
        return self._plugins[name]

    def provider(self, name: str) -> Provider:
        """The provider of that name. Raises ``UnknownPlugin``."""
        self.load(PROVIDERS)
        self.load(name)
        if name not in self._providers:
            raise UnknownPlugin(f"no provider named {name!r} is installed")
        return self._providers[name]

    def dialects(self) -> list[Dialect]:
        """Every dialect of the loaded distributions; its routes are served."""
        self.load(PROVIDERS)
        return list(self._dialects.values())

    def price(self, upstream: Upstream, model: str) -> PriceCard | None:
        """What the loaded distributions know of a model's price."""
        found: PriceCard | None = self._manager.hook.gwcore_price(upstream=upstream, model=model)
        return found

    def models(self, upstream: Upstream) -> list[str]:
        """What the loaded distributions know of an upstream's models."""
        found: list[str] | None = self._manager.hook.gwcore_models(upstream=upstream)
        return found or []

    # what the stack file's reader asks (:class:`gwcore.config.Registry`)

    def plugin_config(self, name: str) -> type[BaseModel] | None:
        """The settings model of a plugin, or ``None`` when it is not installed."""
        self.load(name)
        found = self._plugins.get(name)
        return found.Config if found else None

    def plugin_names(self) -> list[str]:
        """Names that ``stack`` may contain; for distributions not loaded yet, their entry points."""
        return sorted({*self._plugins, *self._found} - (self._loaded - self._plugins.keys()) - {PROVIDERS})

    watch_names = plugin_names

    def provider_options(self, name: str) -> type[BaseModel] | None:
        """The model of a provider's own keys, or ``None``."""
        self.load(PROVIDERS)
        self.load(name)
        found = self._providers.get(name)
        return found.Options if found else None

    def provider_names(self) -> list[str]:
        """Names that ``provider:`` may be."""
        self.load(PROVIDERS)
        return sorted(self._providers)

    def identifies(self, name: str) -> bool:
        """Whether a loaded plugin authenticates callers."""
        return bool(getattr(self._plugins.get(name), "identifies", False))

    def offered(self, name: str) -> list[str]:
        """What the distribution behind a loaded entry point offers, as in ``the plugin stamp``."""
        return self._offers.get(name, [])

    def install_hint(self, name: str) -> str | None:
        """What to install for a name: our distribution that offers it or, if installed, its extra of that name."""
        entry = self._found.get(name)
        if entry is None:
            return _KNOWN.get(name)
        extras = entry.dist.metadata.get_all("Provides-Extra") if entry.dist else None
        return f"'{entry.dist.name}[{name}]'" if entry.dist and name in (extras or ()) else None

    def plugin_classes(self) -> dict[str, type[Plugin]]:
        """Every loaded plugin class by name."""
        return dict(self._plugins)
