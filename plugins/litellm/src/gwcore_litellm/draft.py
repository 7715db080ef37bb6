"""The stack file under construction."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

_LINE: Final = 110
_SHORT: Final = 90
_ENTRY: Final = 2
"""Depth of an entry of `stack` and `watch`."""


@dataclass(slots=True)
class Draft:
    """The sections of the stack file, as far as they are known."""

    stores: dict[str, str] = field(default_factory=dict)
    shared: str | None = None
    """Name of the redis store that replicas share, if there is one."""
    upstreams: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, list[str]] = field(default_factory=dict)
    server: dict[str, Any] = field(default_factory=dict)
    auth: dict[str, Any] | None = None
    sampling: list[dict[str, Any]] = field(default_factory=list)
    limits: list[dict[str, Any]] = field(default_factory=list)
    cache: dict[str, Any] | None = None
    fallback: dict[str, Any] = field(default_factory=dict)
    routes: dict[str, dict[str, Any]] = field(default_factory=dict)
    deployments: dict[str, dict[str, Any]] = field(default_factory=dict)
    budget: dict[str, Any] | None = None
    watch: dict[str, dict[str, Any]] = field(default_factory=dict)
    _about: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def upstream(self, name: str, settings: dict[str, Any], model: str, about: tuple[Any, ...]) -> str:
        """The name of an upstream with these settings: an existing one, or a new one.

        Args:
            name: of a new upstream; numbered if it is taken.
            settings: its keys in the stack file, except prices.
            model: the deployment's model at it.
            about: the deployment's settings; one of the same model with other settings needs its own upstream.
        """
        for known, there in self.upstreams.items():
            bare = {key: value for key, value in there.items() if key != "prices"}
            if settings == bare and self._about.setdefault(f"{known}/{model}", about) == about:
                return known
        found, at = name, 2
        while found in self.upstreams:
            found, at = f"{name}-{at}", at + 1
        self.upstreams[found] = settings
        self._about[f"{found}/{model}"] = about
        return found

    def store(self, name: str, url: str) -> str:
        """The name of a store with this URL: an existing one, or a new one."""
        for known, there in self.stores.items():
            if there == url:
                return known
        found, at = name, 2
        while found in self.stores:
            found, at = f"{name}{at}", at + 1
        self.stores[found] = url
        return found

    def spend(self, rule: dict[str, Any]) -> None:
        """Add a rule of ``budget``, once."""
        self.budget = self.budget or {}
        rules = self.budget.setdefault("rules", [])
        if rule not in rules:
            rules.append(rule)

    def data(self) -> dict[str, Any]:
        """The stack file as plain data, with the layers in their proper order."""
        route = {**self.fallback, **({"models": self.routes} if self.routes else {})}
        if self.deployments:
            route["deployments"] = self.deployments
        layers = {
            "auth": self.auth,
            "rules": {"rules": self.sampling} if self.sampling else None,
            "ratelimit": {
                **({"store": self.shared} if self.shared else {}),
                **({"rules": self.limits} if self.limits else {}),
            },
            "cache": self.cache,
            "fallback": route,
            "budget": self.budget,
        }
        models = {name: targets[0] if len(targets) == 1 else targets for name, targets in self.models.items()}
        sections = {
            "gwcore": 1,
            "server": self.server,
            "stores": self.stores,
            "upstreams": self.upstreams,
            "models": models,
            "stack": [_entry(name, settings) for name, settings in layers.items() if settings is not None],
            "watch": [_entry(name, settings) for name, settings in self.watch.items()],
        }
        return {name: value for name, value in sections.items() if value or name == "stack"}


def _entry(name: str, settings: dict[str, Any]) -> Any:
    return {name: settings} if settings else name


def name_of(text: str) -> str:
    """``text`` as a valid name in a stack file."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-_.") or "model"


def seconds(value: Any) -> str:
    """A duration in seconds, as a stack file writes it; a text, such as a reference, is kept."""
    return value if isinstance(value, str) else f"{value}s"


def written(draft: Draft, head: Iterable[str]) -> str:
    """The stack file as text, after a comment with those lines."""
    yaml = YAML()
    yaml.width = _LINE
    yaml.indent(mapping=2, sequence=4, offset=2)
    out = io.StringIO()
    out.writelines(f"# {line}\n" for line in head)
    yaml.dump(_shaped(draft.data()), out)
    return out.getvalue()


def _shaped(value: Any, depth: int = 0) -> Any:
    """Put short mappings and lists on one line, but sections and their entries on lines of their own."""
    if isinstance(value, dict):
        shaped: Any = CommentedMap((key, _shaped(below, depth + 1)) for key, below in value.items())
    elif isinstance(value, list):
        shaped = CommentedSeq(_shaped(below, depth + 1) for below in value)
    else:
        return value
    entry = depth == _ENTRY and isinstance(value, dict) and len(value) == 1
    if depth and not entry and len(str(value)) < _SHORT and (depth > 1 or not any(map(_holds, _inside(value)))):
        shaped.fa.set_flow_style()
    return shaped


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _holds(value: Any) -> bool:
    return isinstance(value, dict | list)
