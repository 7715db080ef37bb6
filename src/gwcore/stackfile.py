"""The stack file as text: YAML 1.2 → plain data with line numbers, and problems that name their lines.

Scalars follow the core schema of YAML 1.2: ``yes`` and ``12:30`` and dates are text. Keys are text. Aliases and ``<<``
work; duplicate keys and tags are problems. :class:`Explainer` turns what pydantic found into the same kind of problem.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from gwcore.errors import BadConfig
from gwcore.units import suggest

Loc = tuple[str | int, ...]
Position = tuple[int, int]

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_MAX_NODES: Final = 100_000
"""Limit of nodes after alias expansion: a few lines can expand to billions."""
_MAX_DEPTH: Final = 64


def _whole(text: str) -> int:
    number = int(text, 0 if text[:2].lower() in {"0x", "0o", "0b"} else 10)
    str(number)  # raises where a hexadecimal one is longer than Python writes a number: a message about it would fail
    return number


_LITERALS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": _whole,
    "float": lambda text: float(re.sub(r"\.(inf|nan)", r"\1", text, flags=re.IGNORECASE)),
}
_TEXT_TAGS = {_TAG + kind for kind in ("str", "timestamp")}
_PLAIN_TAGS = {_TAG + kind for kind in ("map", "seq")}


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: what is wrong, where, and how to fix it. Contains no secret.

    Attributes:
        line: 1-based, as is ``col``.
        where: dotted path inside the file, e.g. ``stack.1.ratelimit.rpm``; empty for the file itself.
        plugin: the plugin whose settings are wrong, if they are a plugin's.
    """

    file: str
    line: int
    col: int
    where: str
    message: str
    mend: str | None = None
    plugin: str | None = None

    def __str__(self) -> str:
        path = f" {self.where}:" if self.where else ""
        mend = f". Mend: {self.mend}" if self.mend else ""
        return f"{self.file}:{self.line}:{self.col}:{path} {self.message}{mend}"


class StackErrors(BadConfig):
    """Everything that is wrong with a stack file, sorted by line; ``message`` has one problem per line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda p: (p.line, p.col))
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(slots=True)
class StackSource:
    """A parsed stack file.

    Attributes:
        name: how problems name the file.
        text: as read; ``""`` if it could not be.
        folder: what relative paths in the file start from.
        data: plain dicts with string keys, lists, strings, numbers, booleans and ``None``.
        problems: what is wrong with it as YAML.
    """

    name: str
    text: str = field(repr=False, default="")
    folder: Path = field(default_factory=Path)
    data: Any = field(repr=False, default=None)
    problems: list[Problem] = field(default_factory=list)
    _marks: dict[Loc, Position] = field(repr=False, default_factory=dict)

    def known(self, loc: Loc) -> Loc:
        """``loc`` without the parts that the file does not have: absent keys, and the tags pydantic puts in."""
        found: Loc = ()
        for part in loc:
            if (*found, part) in self._marks:
                found = (*found, part)
        return found

    def position(self, loc: Loc) -> Position:
        """Line and column, 1-based, of the key or list item; if absent, of its nearest existing parent."""
        return self._marks.get(self.known(loc), (1, 1))

    def problem(self, loc: Loc, message: str, mend: str | None = None, plugin: str | None = None) -> Problem:
        """A problem at ``loc``."""
        return Problem(self.name, *self.position(loc), ".".join(map(str, loc)), message, mend, plugin)

    def place(self, loc: Loc, mark: Any) -> None:
        """Record the position of ``loc``."""
        self._marks[loc] = (mark.line + 1, mark.column + 1)


Source = str | Path | StackSource
"""A stack file: its path, its text (anything with a line break), or an already loaded source."""


def load(source: Source, *, name: str = "stack.yaml") -> StackSource:
    """Read a stack file; never raises for its contents.

    Args:
        source: the file; a source already loaded is returned unchanged.
        name: how problems refer to a text; a path is named as it was given.
    """
    if isinstance(source, StackSource):
        return source
    if isinstance(source, str) and "\n" in source:
        return _parse(StackSource(name, source))
    path = Path(source)
    found = StackSource(str(source), folder=path.parent)
    try:
        found.text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        found.problems.append(found.problem((), "is not UTF-8 text", "save it as UTF-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        found.problems.append(found.problem((), f"cannot be read: {reason}", "name a file that exists and is readable"))
    else:
        _parse(found)
    return found


def _parse(source: StackSource) -> StackSource:
    try:
        yaml = YAML(typ="safe", pure=True)
        # its warning of an anchor that is used again quotes the file
        yaml.composer.warn_double_anchors = False
        root = yaml.compose(source.text)
        if root is None:
            source.problems.append(source.problem((), "is empty", "begin with: gwcore: 1"))
        else:
            source.place((), root.start_mark)
            source.data = _Builder(source).build(root, ())
    except MarkedYAMLError as error:
        source.problems.append(_syntax(source, error))
    except ReaderError as error:
        before = source.text[: error.position]
        line, col = before.count("\n") + 1, len(before) - before.rfind("\n")
        mend = "remove the control character"
        source.problems.append(Problem(source.name, line, col, "", "a character that YAML does not allow", mend))
    except (YAMLError, RecursionError) as error:
        mend = "check quotes, brackets and indentation"
        source.problems.append(source.problem((), f"is not YAML: {type(error).__name__}", mend))
    return source


def _syntax(source: StackSource, error: MarkedYAMLError) -> Problem:
    # only `problem` is shown: the rest of the exception quotes the file, and a secret may stand there
    mark = error.problem_mark or error.context_mark
    line, col = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    if error.context_mark and "end" in str(error.problem) and "stream" in str(error.problem):
        # an unclosed construct is detected at the end, but must be fixed where it was opened
        line, col = error.context_mark.line + 1, error.context_mark.column + 1
    lines = source.text.splitlines()
    here = lines[line - 1] if line <= len(lines) else ""
    said = str(error.problem or error.context or "not YAML")
    if said.startswith(("found undefined", "duplicate")):
        # these quote a word of the file: `api_key: *abc` is an alias to YAML, and a secret to its author
        said = said.partition(" '")[0]
    if re.search(r"[\[{,:]\s*\$\{", here) and "but got" in said:
        mend = 'inside { } and [ ] put quotes around references: "${VAR}"'
    elif "\\t" in said:
        mend = "indent with spaces"
    elif "mapping values" in said:
        mend = "put quotes around a value that holds ': ', and indent keys of one mapping alike"
    elif "cannot start" in said or "undefined" in said:
        mend = "put quotes around the value"
    else:
        mend = "check quotes, brackets and indentation"
    return Problem(source.name, line, col, "", f"is not YAML: {said}", mend)


class _Builder:
    """Nodes → plain data, recording the position of every key and item."""

    def __init__(self, source: StackSource) -> None:
        self._source = source
        self._nodes = 0
        self._over = False

    def build(self, node: Node, loc: Loc) -> Any:
        """The data of the node at ``loc``."""
        if not self._affordable(node, loc):
            return None
        if not isinstance(node, ScalarNode) and str(node.tag) not in _PLAIN_TAGS:
            self._wrong(loc, node, "YAML tags are not supported", "remove it")
        if isinstance(node, MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, SequenceNode):
            items = []
            for at, item in enumerate(node.value):
                self._source.place((*loc, at), item.start_mark)
                items.append(self.build(item, (*loc, at)))
            return items
        return self._scalar(node, loc)

    def _affordable(self, node: Node, loc: Loc) -> bool:
        """Count a node; past the limits, report it once and stop building."""
        self._nodes += 1
        if not self._over and (self._nodes > _MAX_NODES or len(loc) > _MAX_DEPTH):
            self._over = True
            self._wrong(loc, node, "is too large or too deep", "use fewer aliases; one cannot hold itself")
        return not self._over

    def _mapping(self, node: MappingNode, loc: Loc) -> dict[str, Any]:
        built: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in self._pairs(node, loc):
            if not isinstance(key_node, ScalarNode):
                self._wrong(loc, key_node, "a key that is not text", "write key: value")
                continue
            key, line = self._text(key_node, loc), key_node.start_mark.line + 1
            if key in lines:
                mend = "keep one of the two"
                self._wrong((*loc, key), key_node, f"the key occurs twice, first in line {lines[key]}", mend)
                continue
            lines[key] = line
            self._source.place((*loc, key), key_node.start_mark)
            built[key] = self.build(value_node, (*loc, key))
        return built

    def _pairs(self, node: MappingNode, loc: Loc) -> Iterator[tuple[Node, Node]]:
        """The node's own pairs, then those merged in by ``<<`` that it does not have itself."""
        merged: list[MappingNode] = []
        have: set[str] = set()
        for key, value in node.value:
            if key.tag != _MERGE:
                have.add(str(key.value))
                yield key, value
                continue
            sources = value.value if isinstance(value, SequenceNode) else [value]
            merged += [source for source in sources if isinstance(source, MappingNode) and source is not node]
            if len(merged) < len(sources):
                self._wrong(loc, key, "<< merges mappings only", "write <<: *anchor")
        for source in merged:
            for key, value in self._pairs(source, loc) if self._affordable(source, loc) else ():
                if str(key.value) not in have:
                    have.add(str(key.value))
                    yield key, value

    def _scalar(self, node: Node, loc: Loc) -> Any:
        text = self._text(node, loc)
        if node.tag in _TEXT_TAGS:
            return text
        literal = _LITERALS.get(str(node.tag).removeprefix(_TAG))
        if literal is None:
            self._wrong(
                loc, node, "YAML tags are not supported", "remove it, or put quotes around a value that begins with !"
            )
            return text
        try:
            return literal(text)
        except (ValueError, KeyError):
            return text

    def _text(self, node: Node, loc: Loc) -> str:
        """Combine surrogate pairs of escapes, with which JSON writes characters beyond 16 bits."""
        text = str(node.value)
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._wrong(
                loc, node, "half a character", r"write both of its escapes, \ud83d\ude00, or the character itself"
            )
            return ""

    def _wrong(self, loc: Loc, node: Node, message: str, mend: str) -> None:
        mark = node.start_mark
        where = ".".join(map(str, loc))
        self._source.problems.append(
            Problem(self._source.name, mark.line + 1, mark.column + 1, where, message, mend),
        )


# ── what pydantic found ──────────────────────────────────────────────────────────────────────────────────────────────

_WITHHELD = "is not valid (the reason is withheld, since it quotes a value that may be secret)"
_MENDS = {
    "int": "write a whole number, such as 10",
    "float": "write a number, such as 0.5",
    "bool": "write true or false",
    "string": 'write text; put quotes around numbers, dates and true or false: "1"',
    "list": "write a list: [a, b]",
    "tuple": "write a list: [a, b]",
    "dict": "write a mapping: {key: value}",
    "model": "write a mapping: {key: value}",
    "dataclass": "write a mapping: {key: value}",
}


@dataclass(slots=True)
class Explainer:
    """Turns one model's validation errors for one part of the file into problems.

    Attributes:
        loc: position of the validated data.
        data: the validated data, references resolved.
        withheld: texts that no message may show, beside those of the model's secret fields.
        also: further keys that are allowed beside the model's own, for did-you-mean.
    """

    source: StackSource
    loc: Loc
    model: type[BaseModel]
    data: Any = field(repr=False)
    withheld: set[str] = field(repr=False, default_factory=set)
    also: Iterable[str] = ()
    plugin: str | None = None

    def explain(self, error: ValidationError) -> list[Problem]:
        """One problem per place; errors of a union's branches at the same place are joined."""
        try:
            schema = self.model.model_json_schema()
            secrets = self.withheld | set(_texts_under(self.data, set(_secret_keys(schema))))
        except Exception:  # a foreign type without a schema: no names to suggest, and everything may be secret
            schema, secrets = {}, self.withheld | set(_texts(self.data))
        found: dict[Loc, Problem] = {}
        for one in error.errors(include_url=False, include_input=False):
            problem, loc = self._problem(one, schema, secrets)
            if loc in found and problem.message not in found[loc].message:
                before = found[loc]
                joined = f"{before.message}; or: {problem.message}"
                mends = dict.fromkeys(filter(None, (before.mend, problem.mend)))
                problem = self.source.problem(loc, joined, "; or: ".join(mends) or None, self.plugin)
            found[loc] = problem
        return list(found.values())

    def _problem(self, error: Any, schema: Mapping[str, Any], secrets: set[str]) -> tuple[Problem, Loc]:
        kind, context = str(error["type"]), error.get("ctx", {})
        loc = self.source.known((*self.loc, *error["loc"]))
        relative: Loc = loc[len(self.loc) :]
        last = error["loc"][-1] if error["loc"] else None
        siblings = _properties(schema, relative if last in relative[-1:] else (*relative, ""))
        message = re.sub("^(Value error, |Assertion failed, |Input (?=should))", "", str(error["msg"]))
        message = re.sub(r"valid dictionary( or instance of \w+)?", "mapping", message)
        if kind == "missing" or (last in siblings and last not in relative[-1:]):
            loc = (*loc, str(last))
        said = siblings.get(str(last), {}).get("description")
        mend = context.get("mend") or self._mend(kind, context, f"{last}: {said}" if said else None)
        if kind == "extra_forbidden":
            allowed = [*siblings, *self.also]
            otherwise = f"remove it; known here: {', '.join(allowed)}" if allowed else "remove it; nothing is set here"
            message, mend = "unknown key", suggest(str(last), allowed, otherwise)
        elif kind == "missing":
            message, mend = "is missing", f"add {last}: …" + (f" ({said})" if said else "")
        if any(quotes(secret, message) for secret in secrets):
            message = _WITHHELD
        if mend and any(quotes(secret, mend) for secret in secrets):
            mend = None
        return self.source.problem(loc, message, mend, self.plugin), loc

    @staticmethod
    def _mend(kind: str, context: Mapping[str, Any], otherwise: str | None) -> str:
        if kind in {"literal_error", "enum"}:
            return f"write one of: {context.get('expected')}"
        wrong_type = kind.endswith(("_type", "_parsing", "_from_float"))
        fits = _MENDS.get(kind.partition("_")[0]) if wrong_type else None
        return fits or otherwise or "see `gwcore schema` for what fits here"


def quotes(secret: str, message: str) -> bool:
    """Whether the message reveals the text or a significant part of it; under 4 characters do not count."""
    secret, message = secret.casefold(), message.casefold()
    if len(secret) < 4:
        return False
    return any(secret[at : at + 8] in message for at in range(max(1, len(secret) - 7)))


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, Mapping):
        for below in data.values():
            yield from _texts(below)
    elif isinstance(data, list):
        for below in data:
            yield from _texts(below)
    elif data is not None and not isinstance(data, bool):
        yield str(data)


def _texts_under(data: Any, keys: set[str]) -> Iterator[str]:
    if isinstance(data, Mapping):
        for key, below in data.items():
            yield from _texts(below) if key in keys else _texts_under(below, keys)
    elif isinstance(data, list):
        for below in data:
            yield from _texts_under(below, keys)


def _secret_keys(schema: Any) -> Iterator[str]:
    """Names of all properties, at any depth, that hold a ``SecretStr``: their schema says ``writeOnly``."""
    if isinstance(schema, Mapping):
        for name, below in schema.get("properties", {}).items():
            if "'writeOnly': True" in str(below):
                yield name
        for below in schema.values():
            yield from _secret_keys(below)
    elif isinstance(schema, list):
        for below in schema:
            yield from _secret_keys(below)


def _properties(schema: Mapping[str, Any], loc: Loc) -> dict[str, Any]:
    """The properties of whatever holds ``loc``, in every branch of a union."""
    definitions = schema.get("$defs", {})

    def expand(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if "$ref" in node:
            yield from expand(definitions[node["$ref"].rpartition("/")[2]])
        for branch in ("anyOf", "oneOf", "allOf"):
            for below in node.get(branch, ()):
                yield from expand(below)
        yield node

    nodes = list(expand(schema))
    for part in loc[:-1]:
        below = [n.get("items") if isinstance(part, int) else _child(n, part) for n in nodes]
        nodes = [each for node in below if isinstance(node, Mapping) for each in expand(node)]
    return {name: below for node in nodes for name, below in node.get("properties", {}).items()}


def _child(node: Mapping[str, Any], key: str) -> Any:
    return node.get("properties", {}).get(key) or node.get("additionalProperties")
