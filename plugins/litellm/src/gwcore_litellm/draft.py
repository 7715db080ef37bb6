"""The stack file as it grows."""

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
    """What is known of the stack file by now; sections as they will stand in it."""

    stores: dict[str, str] = field(default_factory=dict)
    shared: str | None = None
    """The redis store by which replicas agree, if there is one."""
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
        """The name of an upstream with these settings: one that is there, or a new one named after ``name``.

        Args:
            name: what it is called if it is new.
            settings: as they will stand in the file, but for prices.
            model: the deployment at it,
            about: and what there is to say of that one: where another is said to be the same, it is of an upstream of its own.
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
        """The name of a store with this address."""
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
        """The stack file as plain data, layers in the order in which they belong."""
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
    """``text`` as a name of the stack file."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-_.") or "model"


def seconds(value: Any) -> str:
    """A duration of so many, as a stack file has it; a reference to one stays one."""
    return value if isinstance(value, str) else f"{value}s"


def written(draft: Draft, head: Iterable[str]) -> str:
    """The stack file as text, under a comment of those lines."""
    yaml = YAML()
    yaml.width = _LINE
    yaml.indent(mapping=2, sequence=4, offset=2)
    out = io.StringIO()
    out.writelines(f"# {line}\n" for line in head)
    yaml.dump(_shaped(draft.data()), out)
    return out.getvalue()


def _shaped(value: Any, depth: int = 0) -> Any:
    """Short mappings and lists on one line, as people write them; the sections and their entries each on its own."""
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
