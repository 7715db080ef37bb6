"""Reading a stack file: every problem at once, or a :class:`StackConfig`.

The models are in :mod:`gwcore.stackmodels`; the settings of plugins and the options of providers are checked against
the models that a :class:`Registry` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema

from gwcore.dialect import Dialect
from gwcore.interpolate import Resolution, interpolate
from gwcore.optional import without_absent
from gwcore.stackfile import Explainer, Loc, StackErrors, StackSource, quotes
from gwcore.stackmodels import (
    STORES_THERE,
    AsgiEntry,
    Entry,
    ServerConfig,
    StackConfig,
    TimeoutConfig,
    TlsConfig,
    UpstreamConfig,
    When,
    is_loopback,
)
from gwcore.units import FOLDER, STORES, suggest

__all__ = [
    "AsgiEntry",
    "Entry",
    "Registry",
    "ServerConfig",
    "StackConfig",
    "TimeoutConfig",
    "TlsConfig",
    "UpstreamConfig",
    "When",
    "is_loopback",
    "json_schema",
    "read",
]

M = TypeVar("M", bound=BaseModel)
_PASS: Final = "pass"  # noqa: S105 - the word of the stack file, not a password
_WHEN: Final = "when"
_UPSTREAM_KEYS: Final = tuple(f.alias or key for key, f in UpstreamConfig.model_fields.items() if key != "options")
_WITHHELD: Final = "holds a value that is not known here (withheld, since it may be secret)"


class Registry(Protocol):
    """What reading needs to know of what is installed; implemented by :class:`gwcore.catalog.Catalog`."""

    def plugin_config(self, name: str) -> type[BaseModel] | None:
        """The settings model of a plugin; ``None`` when it is not installed."""
        ...

    def plugin_names(self) -> list[str]:
        """Names that ``stack`` may contain."""
        ...

    def watch_names(self) -> list[str]:
        """Names that ``watch`` may contain."""
        ...

    def provider_options(self, name: str) -> type[BaseModel] | None:
        """The model of a provider's own keys; ``None`` when it has none."""
        ...

    def provider_names(self) -> list[str]:
        """Names that ``provider`` may be."""
        ...

    def identifies(self, name: str) -> bool:
        """Whether that plugin authenticates callers."""
        ...

    def dialects(self) -> Sequence[Dialect]:
        """The dialects loaded so far."""
        ...

    def offered(self, name: str) -> list[str]:
        """What the distribution behind a name offers, as in ``the plugin stamp``; empty if it is not installed."""
        ...

    def install_hint(self, name: str) -> str | None:
        """What to install for a name: the distribution that offers it, or an extra it needs to be loaded."""
        ...


def read(source: StackSource, *, env: Mapping[str, str], registry: Registry) -> StackConfig:
    """Resolve references, then check everything.

    Args:
        source: from :func:`gwcore.stackfile.load`.
        env: for ``${VAR}``.
        registry: what is installed.

    Raises:
        StackErrors: with every problem that was found.
    """
    # errors derived from a malformed file would only be noise
    if not isinstance(source.data, dict):
        mend = "begin with: gwcore: 1"
        raise StackErrors(source.problems or [source.problem((), "is not a mapping", mend)])
    reader = _Reader(source, interpolate(source.data, env=env, folder=source.folder), registry)
    config = reader.config()
    if config is None or reader.problems:
        raise StackErrors(reader.problems)
    return config


class _Reader:
    """One pass over one file; collects problems instead of stopping at the first."""

    def __init__(self, source: StackSource, resolved: Resolution, registry: Registry) -> None:
        self._source = source
        self._data: dict[str, Any] = without_absent(resolved.data)
        self._registry = registry
        self._hidden = resolved.values
        self.problems = [*source.problems, *(source.problem(f.loc, f.message, f.mend) for f in resolved.faults)]
        # report each place once; a second problem there would only mislead
        self._said = {problem.where for problem in self.problems}
        stores = self._data.get("stores")
        self._context = {
            STORES: [*{**(stores if isinstance(stores, dict) else {}), **STORES_THERE}],
            FOLDER: source.folder,
        }

    def config(self) -> StackConfig | None:
        """The configuration, or ``None`` if its structure is wrong; complete only if there are no problems."""
        # a null section counts as empty; one of a wrong type is kept, so that the model reports it
        data = {key: value for key, value in self._data.items() if value is not None}
        if isinstance(data.get("upstreams"), dict):
            made = {name: self._upstream(name, raw) for name, raw in data["upstreams"].items()}
            data["upstreams"] = {name: upstream for name, upstream in made.items() if upstream is not None}
        for section, names in (("stack", self._registry.plugin_names), ("watch", self._registry.watch_names)):
            if isinstance(data.get(section), list):
                entries = [self._entry((section, at), raw, names) for at, raw in enumerate(data[section])]
                data[section] = [entry for entry in entries if entry is not None]
        for section in ("stack", "watch"):
            self._when_words(data.get(section))
        self._models()
        config = self._check(StackConfig, data, ())
        if config is not None:
            self._closed(config)
            config = config.model_copy(update={"stores": {**STORES_THERE, **config.stores}})
        return config

    # ── sections ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _entry(self, loc: Loc, raw: Any, names: Callable[[], list[str]]) -> Entry | None:
        settings = {raw: None} if isinstance(raw, str) else raw
        words = [key for key in settings if key != _WHEN] if isinstance(settings, dict) else []
        if not words:
            self._add(loc, "names no plugin", "write a plugin's name, or name: {settings}")
            return None
        for extra in words[1:]:
            mend = (
                f"indent it deeper than {words[0]} if it is a setting of it; begin a new item with - if it is a plugin"
            )
            self._add((*loc, extra), f"a second key beside {words[0]}", mend)
        name = words[0]
        at = (*loc, name) if isinstance(raw, dict) else loc
        when = None
        if settings.get(_WHEN) is not None:
            when = self._check(When, settings[_WHEN], (*loc, _WHEN), name)
        model = self._plugin(name, at, names)
        if model is None or len(words) > 1:
            return None
        values = {} if settings[name] is None else settings[name]
        if isinstance(values, dict) and _WHEN in values and _WHEN not in model.model_fields:
            self._add(
                (*at, _WHEN), "is inside the settings", f"write it next to {name}, with the same indentation", name
            )
            values = {key: value for key, value in values.items() if key != _WHEN}
        config = self._check(model, values, at, name)
        return None if config is None else Entry(name=name, config=config, when=when, loc=loc)

    def _when_words(self, entries: Any) -> None:
        """Check the words of conditions: one that no dialect has would silently disable its entry."""
        dialects = self._registry.dialects()
        known = {
            "dialects": sorted(d.name for d in dialects),
            "operations": sorted({route.operation for d in dialects for route in d.routes if not route.local}),
        }
        for entry in entries if isinstance(entries, list) else ():
            for key, words in known.items() if entry.when else ():
                for at, word in enumerate(getattr(entry.when, key)):
                    if word not in words:
                        loc = self._source.known((*entry.loc, _WHEN, key, at))
                        mend = suggest(word, words, f"known here: {', '.join(words) or 'none'}")
                        verb = "is named" if key == "dialects" else "has the operation"
                        self._add(loc, f"no dialect {verb} {word}", mend, entry.name)

    def _plugin(self, name: str, loc: Loc, names: Callable[[], list[str]]) -> type[BaseModel] | None:
        try:
            model = self._registry.plugin_config(name)
        except Exception as error:  # importing a distribution may raise anything
            hint = self._registry.install_hint(name) if isinstance(error, ImportError) else None
            mend = f"pip install {hint}" if hint else "install what it needs, or take the entry out"
            self._add(loc, f"the plugin {name} cannot be loaded: {type(error).__name__}: {error}", mend, name)
            return None
        if model is None:
            self._missing("plugin", name, loc, names())
        return model

    def _missing(self, kind: str, name: str, loc: Loc, known: list[str]) -> None:
        # one distribution contains all our providers
        hint = self._registry.install_hint(name if kind == "plugin" or known else "providers")
        offered = self._registry.offered(name)
        if offered:
            mend = f"the entry point {name} offers {', '.join(offered)}; "
            alike = any(kind in one for one in offered)
            mend += "make the two names equal" if alike else f"name one that offers a {kind}"
        elif hint:
            mend = f"pip install {hint}"
        else:
            mend = suggest(name, known, f"installed are: {', '.join(known) or 'none'}")
        self._add(loc, f"no {kind} named {name} is installed", mend)

    def _upstream(self, name: str, raw: Any) -> UpstreamConfig | None:
        loc: Loc = ("upstreams", name)
        if not isinstance(raw, dict):
            self._add(loc, "is not a mapping", "write {provider: …, api_key: …}")
            return None
        data = {key: value for key, value in raw.items() if key in _UPSTREAM_KEYS}
        own = {key: value for key, value in raw.items() if key not in _UPSTREAM_KEYS}
        provider = raw.get("provider")
        try:
            # loads the provider, so that it is among the known ones
            options = self._registry.provider_options(provider) if isinstance(provider, str) else None
        except Exception as error:  # importing a distribution may raise anything
            mend = "install what it needs, or take the upstream out"
            self._add((*loc, "provider"), f"{provider} cannot be loaded: {type(error).__name__}: {error}", mend)
            return None
        known = self._registry.provider_names()
        if provider not in known:
            if isinstance(provider, str):
                self._missing("provider", provider, (*loc, "provider"), known)
        else:
            if options is not None:
                data["options"] = self._check(options, own, loc, also=_UPSTREAM_KEYS)
            for key in own if options is None else ():
                mend = suggest(key, _UPSTREAM_KEYS, f"remove it; known here: {', '.join(_UPSTREAM_KEYS)}")
                self._add((*loc, key), "unknown key", mend)
        return self._check(UpstreamConfig, data, loc)

    def _models(self) -> None:
        """Check that every target names an existing upstream, and what else types cannot express of ``models``."""
        models = self._data.get("models")
        for name, meaning in models.items() if isinstance(models, dict) else ():
            loc: Loc = ("models", name)
            if name.count("*") > 1:
                self._add(loc, "has more than one *", "keep one")
            if isinstance(meaning, list):
                if not meaning:
                    self._add(loc, "names no target", "name a model as upstream/model")
                for at, target in enumerate(meaning):
                    self._target((*loc, at), name, target)
            elif meaning == _PASS:
                self._target(loc, name, name)
            else:
                self._target(loc, name, meaning)

    def _target(self, loc: Loc, name: str, target: Any) -> None:
        if not isinstance(target, str) or (target == name and "*" in name):
            # the model reports a wrong type; a wildcard that passes names through is resolved per call
            return
        raw = self._data.get("upstreams")
        upstreams: dict[str, Any] = raw if isinstance(raw, dict) else {}
        prefix, slash, model = target.partition("/")
        declared = [u.get("models") for u in upstreams.values() if isinstance(u, dict)]
        if "*" in target and "*" not in name:
            self._add(loc, "has a *, but the name has none", f"write a * in the name {name}, too, or name one model")
        elif (slash and model and prefix in upstreams) or any(isinstance(d, list) and target in d for d in declared):
            return
        elif slash:
            mend = suggest(prefix, upstreams, f"upstreams has: {', '.join(upstreams) or 'nothing'}")
            said = f"names the upstream {prefix}, which does not exist" if model else "names no model after the /"
            self._add(loc, said, mend)
        elif len(upstreams) != 1:
            self._add(loc, "names no upstream", "write upstream/model")

    def _closed(self, config: StackConfig) -> None:
        """Reject a stack without authentication, unless only this machine can reach it or it is explicitly open."""
        server, written = config.server, self._data.get("stack") or ()
        if server.open or is_loopback(server.host) or "server.host" in self._said:
            return
        # an unreadable entry may have been the auth plugin, and is already reported
        if len(config.stack) < len(written) or any(self._registry.identifies(entry.name) for entry in config.stack):
            return
        mend = "put an authentication plugin into stack, listen on 127.0.0.1, or set server.open: true"
        said = "has no authentication" if config.stack else "is empty"
        self._add(("stack",), f"{said}, and server.host is reachable from elsewhere: anybody could spend", mend)

    # ── problems ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _add(self, loc: Loc, message: str, mend: str | None = None, plugin: str | None = None) -> None:
        """Add a problem. Never shows a value that came from a reference."""
        if any(quotes(value, message) for value in self._hidden):
            message = _WITHHELD
        if mend and any(quotes(value, mend) for value in self._hidden):
            mend = "compare the value with what is configured"
        problem = self._source.problem(loc, message, mend, plugin)
        if problem.where not in self._said:
            self.problems.append(problem)

    def _check(
        self, model: type[M], data: Any, loc: Loc, plugin: str | None = None, also: Iterable[str] = ()
    ) -> M | None:
        try:
            return model.model_validate(data, context=self._context)
        except ValidationError as error:
            found = Explainer(self._source, loc, model, data, self._hidden, also, plugin).explain(error)
            self.problems += [problem for problem in found if problem.where not in self._said]
        except Exception as error:  # a plugin's own validator may raise anything; its text may hold a secret
            self._add(loc, f"cannot be checked: {type(error).__name__}", "report this to the plugin's author", plugin)
        return None


# ── schema ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def json_schema(registry: Registry) -> dict[str, Any]:
    """The JSON Schema (2020-12) of stack files in this installation, for editors and ``gwcore schema``."""
    names = {*registry.plugin_names(), *registry.watch_names()}
    plugins = {name: model for name in sorted(names) if (model := registry.plugin_config(name)) is not None}
    options = {name: registry.provider_options(name) for name in registry.provider_names()}
    inlined: list[type[BaseModel]] = [StackConfig, UpstreamConfig, Entry, AsgiEntry]
    wanted: list[type[BaseModel]] = list(
        dict.fromkeys([*inlined, When, *plugins.values(), *(o for o in options.values() if o is not None)])
    )
    refs, top = models_json_schema([(model, "validation") for model in wanted], ref_template="#/$defs/{model}")
    keys = {model: refs[model, "validation"]["$ref"].rpartition("/")[2] for model in wanted}
    defs: dict[str, Any] = top["$defs"]
    words = {name: refs[model, "validation"] for name, model in plugins.items()}
    when = refs[When, "validation"]
    parts = dict(defs[keys[StackConfig]]["properties"])
    for section, known in (("stack", registry.plugin_names()), ("watch", registry.watch_names())):
        shapes = _entry_shapes({name: words[name] for name in known if name in words}, when)
        parts[section] = {**parts[section], "items": {"anyOf": shapes}}
    base = defs[keys[UpstreamConfig]]
    upstreams = [_upstream_shape(name, base, defs[keys[own]] if own else {}) for name, own in options.items()]
    parts["upstreams"] = {
        "type": "object",
        "description": parts["upstreams"]["description"],
        "additionalProperties": {"anyOf": upstreams} if upstreams else False,
    }
    middleware = {"type": "object", "minProperties": 1, "maxProperties": 1}
    parts["asgi"] = {**parts["asgi"], "items": {"anyOf": [{"type": "string"}, middleware]}}
    unused = {keys[model] for model in inlined}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **defs[keys[StackConfig]],
        "properties": parts,
        "$defs": {name: below for name, below in defs.items() if name not in unused},
    }
    changed: dict[str, Any] = _or_reference(schema)
    return changed


def _entry_shapes(plugins: Mapping[str, Any], when: Any) -> list[dict[str, Any]]:
    """What an item of ``stack`` may be: a name, or a name with its settings."""
    named = [
        {
            "type": "object",
            "properties": {name: {"anyOf": [settings, {"type": "null"}]}, _WHEN: when},
            "required": [name],
            "additionalProperties": False,
        }
        for name, settings in plugins.items()
    ]
    return [{"type": "string", **({"enum": [*plugins]} if plugins else {})}, *named]


def _upstream_shape(provider: str, base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    shared = {key: value for key, value in base["properties"].items() if key != "options"}
    return {
        "type": "object",
        "properties": {**own.get("properties", {}), **shared, "provider": {"const": provider}},
        "required": ["provider", *own.get("required", [])],
        "additionalProperties": False,
    }


def _or_reference(schema: Any) -> Any:
    """The schema, extended so that numbers, booleans and enumerated strings may also be written as ``${…}``."""
    if isinstance(schema, list):
        return [_or_reference(below) for below in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: _or_reference(below) for key, below in schema.items()}
    kind = schema.get("type")
    # a property may be named "type": then this is not a schema but a mapping of schemas
    if isinstance(kind, str) and (kind in {"integer", "number", "boolean"} or (kind == "string" and "enum" in schema)):
        return {"anyOf": [changed, {"type": "string", "pattern": r"\$\{"}]}
    return changed
