"""Reads a ``config.yaml`` with its includes, and its sections key by key, so that no key is silently ignored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gwcore.errors import BadConfig
from gwcore.stackfile import Loc, StackErrors, StackSource, load
from gwcore.units import suggest
from gwcore_litellm.findings import Finding, Status

_REFERENCE = re.compile(r"os\.environ/\s*(.+)", re.DOTALL)
_INSIDE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"(?i)(^|_)(api_?key|key|token|secret|password|credentials|access_key_id)$")
_YES = {"true", "yes", "on", "y", "1"}
"""Values read as true: LiteLLM reads YAML 1.1, in which unquoted ``yes`` and ``on`` are booleans."""


class Config:
    """One ``config.yaml`` with its ``include`` files merged in, recursively: lists are extended, mappings are updated.

    Attributes:
        data: the sections.
    """

    def __init__(self, path: Path) -> None:
        """Raises ``BadConfig`` if a file cannot be read or is not a mapping."""
        self._findings: dict[Loc, list[Finding]] = {}
        self._main = _loaded(path)
        self._origins: dict[Loc, tuple[StackSource, Loc]] = {}
        self.data: dict[str, Any] = dict(self._main.data)
        pending = self._included(path, path, self._main)
        seen = {path.resolve()}
        for file in pending:  # grows by the includes of included files
            if file.resolve() not in seen:
                seen.add(file.resolve())
                other = _loaded(file)
                self._include(other)
                pending += self._included(file, path, other)

    def _included(self, file: Path, main: Path, source: StackSource) -> list[Path]:
        """The files that a file includes: beside it if they exist there, else beside the main file, as in LiteLLM."""
        names = self.data.pop("include", None)
        if names is None:
            return []
        found: list[Path] = []
        if file != main:
            self._origins["include",] = (source, ("include",))
        self.add(Status.EXACT, ("include",), "put into this one stack file")
        for at, name in enumerate(names if isinstance(names, list) else [names]):
            if isinstance(names, list) and isinstance(name, str):
                beside = file.parent / name
                found.append(beside if beside.exists() else main.parent / name)
            else:
                self.add(Status.ERROR, ("include", at), "is not the name of a file in a list; LiteLLM does not start")
        return found

    def _include(self, other: StackSource) -> None:
        for key, value in other.data.items():
            mine = self.data.get(key)
            if isinstance(value, list) and isinstance(mine, list):
                self._origins.update({(key, len(mine) + at): (other, (key, at)) for at in range(len(value))})
                self.data[key] = [*mine, *value]
            elif isinstance(value, dict) and isinstance(mine, dict):
                said = f"LiteLLM takes that of {other.name} in its place; here the keys of both hold"
                self.add(Status.ERROR, (key,), said)
                self._origins.update({(key, below): (other, (key, below)) for below in value})
                self.data[key] = {**mine, **value}
            else:
                self._origins[key,] = (other, (key,))
                self.data[key] = value

    def add(self, status: Status, loc: Loc, said: str) -> None:
        """Add a finding for the value at ``loc``, and keep those it has."""
        source, there = self._main, loc
        for length in (2, 1):
            if (found := self._origins.get(loc[:length])) is not None:
                source, there = found[0], (*found[1], *loc[length:])
                break
        finding = Finding(status, source.name, source.position(there)[0], ".".join(map(str, loc)), said)
        self._findings.setdefault(loc, []).append(finding)

    def put(self, status: Status, loc: Loc, said: str) -> None:
        """Set the finding for the key at ``loc``, and drop those it has."""
        self._findings.pop(loc, None)
        self.add(status, loc, said)

    @property
    def findings(self) -> list[Finding]:
        """All findings, by file and line; the main file's first."""
        found = (finding for there in self._findings.values() for finding in there)
        return sorted(found, key=lambda one: (one.file != self._main.name, one.file, one.line))

    def section(self, *loc: str | int) -> Section:
        """The mapping at ``loc``; an empty one if there is none."""
        value: Any = self.data
        for part in loc:
            value = value.get(part) if isinstance(value, dict) else value[part]
        return Section(self, loc, value)


def _loaded(path: Path) -> StackSource:
    source = load(path)
    blank = all(line.lstrip().startswith(("#", "---")) or not line.strip() for line in source.text.splitlines())
    if source.problems and not (source.text and blank):
        raise StackErrors(source.problems)
    if not isinstance(source.data, dict):
        raise BadConfig(f"{path}: is not a mapping; LiteLLM's config.yaml has keys such as model_list:")
    return source


class Section:
    """A mapping of the file. Reading a key records a finding for it; :meth:`rest` reports the keys never read."""

    def __init__(self, config: Config, loc: Loc, value: Any) -> None:
        self.config, self.loc = config, loc
        self._data: dict[str, Any] = value if isinstance(value, dict) else {}
        self._taken: set[str] = set()
        if value is not None and not isinstance(value, dict):
            config.add(Status.ERROR, loc, "is not a mapping; check its indentation")

    def __contains__(self, key: str) -> bool:
        return self._data.get(key) is not None

    def peek(self, key: str) -> Any:
        """The raw value, ``None`` if there is none; records nothing."""
        return self._data.get(key)

    def say(self, status: Status, key: str, said: str) -> None:
        """Record the finding for a key."""
        self._taken.add(key)
        self.config.put(status, (*self.loc, key), said)

    def take(self, key: str, said: str, status: Status = Status.EXACT) -> Any:
        """The value, with references as a stack file writes them; records a finding if there is a value."""
        value = self._data.get(key)
        self._taken.add(key)
        if value is None:
            return None
        self.say(status, key, said)
        return self._referred((key,), value)

    def flag(self, key: str, said: str, status: Status = Status.EXACT) -> bool:
        """A boolean; false if there is none."""
        value = self.take(key, said, status)
        return str(value).lower() in _YES if value is not None else False

    def number(self, key: str, said: str, status: Status = Status.EXACT) -> Any:
        """A number of 0 or more, or a reference to one; anything else is reported, and ``None`` returned."""
        value = self._data.get(key)
        if isinstance(value, str):
            if _REFERENCE.match(value) or "${" in value:
                return self.take(key, said, status)
            value = _number(value)
        if key in self and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
            self.say(Status.ERROR, key, "is not a number of 0 or more; left out")
        elif key in self:
            self.say(status, key, said)
            return value
        return None

    def text(self, key: str, said: str, status: Status = Status.EXACT) -> str | None:
        """A text, or a number as text; anything else is reported, and ``None`` returned."""
        value = self._data.get(key)
        if key in self and (isinstance(value, bool) or not isinstance(value, str | int | float)):
            self.say(Status.ERROR, key, "is not text; left out")
            return None
        found = self.take(key, said, status)
        return None if found is None else str(found)

    def fill(self, values: Mapping[str, Any]) -> None:
        """Add values from another part of the file for keys that this section does not have."""
        self._data = {**values, **self._data}

    def below(self, key: str) -> Section:
        """The mapping under a key, as a section of its own; empty if there is none."""
        self._taken.add(key)
        found = Section(self.config, (*self.loc, key), self._data.get(key))
        if self._data.get(key) and not list(found) and isinstance(self._data[key], dict):
            self.say(Status.EXACT, key, "its keys have no values")
        return found

    def rest(self, known: Mapping[str, tuple[Status, str]], names: Mapping[str, frozenset[str]], here: str) -> None:
        """Report each key that was not read.

        Args:
            known: findings for keys that need nothing or have no counterpart.
            names: the keys that LiteLLM reads, per section of its file.
            here: name of this section in ``names``.
        """
        for key in self._data:
            if key in self._taken or self._data[key] is None:
                continue
            if key in known:
                status, said = known[key]
                self.say(status, key, said)
            elif key in names[here]:
                self.say(Status.UNSUPPORTED, key, "nothing here does this")
            elif homes := [name for name, keys in names.items() if key in keys]:
                self.say(Status.ERROR, key, f"LiteLLM reads this under {' or '.join(homes)}, and not here; left out")
            else:
                self._unknown(key, names[here], here)

    def _unknown(self, key: str, known: frozenset[str], here: str) -> None:
        mend = suggest(key, known, "")
        if here == "litellm_params" and not mend:
            self.say(Status.MANUAL, key, "LiteLLM hands it to the vendor with every request; here clients send it")
        else:
            self.say(Status.ERROR, key, f"unknown to LiteLLM{': ' if mend else ''}{mend}; left out")

    def __iter__(self) -> Iterator[str]:
        """The keys that have a value."""
        return (key for key, value in self._data.items() if value is not None)

    def _referred(self, below: Loc, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._referred((*below, key), inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._referred((*below, at), inner) for at, inner in enumerate(value)]
        return self._text(below, value) if isinstance(value, str) else value

    def _text(self, below: Loc, value: str) -> str:
        loc = (*self.loc, *below)
        if match := _REFERENCE.fullmatch(value):
            if _NAME.fullmatch(match[1].strip()):
                return f"${{{match[1].strip()}}}"
            self.config.add(Status.ERROR, loc, "names no variable behind os.environ/")
        elif "os.environ/" in value:
            self.config.add(
                Status.ERROR, loc, "LiteLLM reads os.environ/NAME only as a whole value; here it is a reference"
            )
            return _INSIDE.sub(r"${\1}", value)
        elif "${" in value:
            said = "LiteLLM takes ${…} as it stands, and expands only os.environ/NAME; here it is a reference"
            self.config.add(Status.ERROR, loc, said)
        elif _SECRET.search(str(loc[-1])) and len(value) > 12:
            said = "a secret stands in the file, and now in the stack file; better a reference: ${NAME}"
            self.config.add(Status.APPROXIMATE, loc, said)
        return value


def _number(text: str) -> float | int | None:
    try:
        return float(text) if any(sign in text for sign in ".eE") else int(text)
    except ValueError:
        return None
