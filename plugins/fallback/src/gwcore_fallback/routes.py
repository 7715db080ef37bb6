"""The route of each model: its settings, and the models to try after it. Rejects names that do not exist."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gwcore.call import Target
from gwcore.errors import BadConfig, UnknownModel
from gwcore.models import Models
from gwcore.units import suggest
from gwcore_fallback.config import FallbackConfig, RouteConfig
from gwcore_fallback.plan import best

_KNOWN = 4096
_LISTS = {
    "again": "fallbacks",
    "elsewhere": "fallbacks",
    "larger": "context_window_fallbacks",
    "permissive": "content_policy_fallbacks",
    "cheaper": "fallbacks",
    "rate_limited": "rate_limit_fallbacks",
}


@dataclass(slots=True, frozen=True)
class Route:
    """One model's settings, merged. ``after``: need of the failure → models to try after its own targets."""

    settings: RouteConfig
    after: dict[str, tuple[str, ...]]


class Routes:
    """Routes by model. Raises ``BadConfig`` for an unknown name, or a model that falls back to itself."""

    def __init__(self, config: FallbackConfig, models: Models) -> None:
        self._config = config
        self._models = models
        self._known: dict[str, Route] = {}
        self._targets: dict[str, tuple[Target, ...]] = {}
        self._check()

    def of(self, model: str) -> Route:
        """Returns the route of a model, named as the client wrote it."""
        found = self._known.get(model)
        if found is None:
            found = self._make(model)
            if len(self._known) < _KNOWN:  # clients choose names
                self._known[model] = found
        return found

    def targets(self, name: str) -> tuple[Target, ...]:
        """Returns the targets of a fallback's name."""
        return self._targets[name]

    def _make(self, model: str) -> Route:
        config = self._config
        own = best(config.models, model)
        base = {name: getattr(config, name) for name in RouteConfig.model_fields}
        if own is not None:
            base |= {name: getattr(own, name) for name in own.model_fields_set}
        settings = RouteConfig.model_construct(**base)
        after = {}
        for need, field in _LISTS.items():
            names = base[field]
            if need in {"larger", "permissive"}:
                after[need] = tuple(names)
            else:
                listed = names or base["fallbacks"]
                after[need] = tuple(dict.fromkeys([*listed, *config.default_fallbacks]))
        return Route(settings, {need: tuple(name for name in names if name != model) for need, names in after.items()})

    def _check(self) -> None:
        config, known = self._config, list(self._models.known())
        for field in dict.fromkeys(_LISTS.values()):
            self._names(field, getattr(config, field), known)
            for model, route in config.models.items():
                self._names(f"models.{model}.{field}", getattr(route, field), known)
                if model in getattr(route, field):
                    raise BadConfig(
                        f"fallback.models.{model}.{field}: falls back to itself; its own targets are tried anyway"
                    )
        self._names("default_fallbacks", config.default_fallbacks, known)
        self._names("models", (name for name in config.models if "*" not in name), known)
        upstreams = self._models.upstreams
        for name in [n for n in config.deployments if "*" not in n.partition("/")[0]]:
            self._upstream(f"deployments.{name}", name.partition("/")[0], upstreams)
        for name in config.checks.upstreams if config.checks else ():
            self._upstream(f"checks.upstreams.{name}", name, upstreams)

    def _names(self, where: str, names: Iterable[str], known: list[str]) -> None:
        for name in names:
            try:
                self._targets[name] = self._models.means(name)
            except UnknownModel:
                mend = suggest(name, known, "write a name of `models`, or upstream/model")
                raise BadConfig(f"fallback.{where}: no model named {name!r}; {mend}") from None

    @staticmethod
    def _upstream(where: str, name: str, known: Iterable[str]) -> None:
        if name not in known:
            raise BadConfig(f"fallback.{where}: no upstream named {name!r}; {suggest(name, known, 'see upstreams')}")
