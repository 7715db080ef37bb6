"""``${VAR}``, ``${VAR:-default}``, ``${file:path}`` and ``$${`` in the scalars of parsed data.

Only values are resolved, after parsing: substituted text cannot add keys, and line numbers do not change. It is not
resolved again. An unset or empty variable without a default is a fault, never the literal text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Loc = tuple[str | int, ...]

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_FILE = 64 * 1024


class Unresolved(Exception):
    """A reference that has no value. Holds names and paths as they stand in the file, never a value."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(message)
        self.message, self.mend = message, mend


@dataclass(slots=True, frozen=True)
class Fault:
    """An :class:`Unresolved` and where it stands."""

    loc: Loc
    message: str
    mend: str


@dataclass(slots=True)
class Resolution:
    """What became of the data.

    Attributes:
        data: a copy with every reference replaced; a scalar with a fault is left as it was written.
        values: every text substituted from outside the file. Some may be secrets, so no message may show any.
        faults: everything that could not be resolved, in file order.
    """

    data: Any = field(default=None, repr=False)
    values: set[str] = field(default_factory=set, repr=False)
    faults: list[Fault] = field(default_factory=list)


def interpolate(data: Any, *, env: Mapping[str, str], folder: Path) -> Resolution:
    """Resolve every string in it.

    Args:
        data: mappings with string keys, lists and scalars.
        env: the variables.
        folder: what paths of ``${file:path}`` are relative to.
    """
    result = Resolution()
    result.data = _walk(data, (), result, lambda body: _value(body, env, folder))
    return result


def _walk(data: Any, loc: Loc, result: Resolution, value: Callable[[str], tuple[str, bool]]) -> Any:
    if isinstance(data, dict):
        for key in data:
            if "${" in key:
                mend = "write the key out; only values are resolved"
                result.faults.append(Fault((*loc, key), "a key cannot hold a ${...} reference", mend))
        return {key: _walk(below, (*loc, key), result, value) for key, below in data.items()}
    if isinstance(data, list):
        return [_walk(below, (*loc, at), result, value) for at, below in enumerate(data)]
    if isinstance(data, str) and "${" in data:
        return _scalar(data, loc, result, value)
    return data


def _scalar(text: str, loc: Loc, result: Resolution, value: Callable[[str], tuple[str, bool]]) -> str:
    faults: list[Fault] = []

    def put(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        try:
            if not match[2]:
                raise Unresolved(
                    "a ${ without a closing }", "end it with }, or write $${ for the characters themselves"
                )
            found, hidden = value(match[1])
        except Unresolved as error:
            faults.append(Fault(loc, error.message, error.mend))
            return match[0]
        if hidden:
            result.values.add(found)
        return found

    resolved = _REFERENCE.sub(put, text)
    result.faults += faults
    return text if faults else resolved


def _value(body: str, env: Mapping[str, str], folder: Path) -> tuple[str, bool]:
    """The text, and whether it came from outside the file."""
    name, has_default, default = body.partition(":-")
    if "${" in body:
        raise Unresolved("a ${...} inside a ${...}", "a default is plain text: write it out")
    if body.startswith("file:"):
        return _file(body.removeprefix("file:"), folder), True
    if not _NAME.fullmatch(name):
        # the text between the braces may be a secret that was pasted there
        raise Unresolved(
            "an unknown form of reference",
            "write ${VAR}, ${VAR:-default} or ${file:path}; $${ stands for the characters themselves",
        )
    found = env.get(name)
    if found:
        return found, True
    if has_default:
        return default, False
    if found is None:
        raise Unresolved(f"the variable {name} is not set", f"set {name}, or write ${{{name}:-default}}")
    raise Unresolved(f"the variable {name} is empty", f"set {name}, or write ${{{name}:-}} where empty is meant")


def _file(path: str, folder: Path) -> str:
    where = f"the file {path}"
    try:
        file = folder / path
        if not file.is_file():
            raise Unresolved(f"{where} does not exist or is no regular file", "create it, or correct the path")
        with file.open("rb") as opened:
            raw = opened.read(_MAX_FILE + 1)
        text = raw.decode()
    except UnicodeDecodeError:
        # before ValueError, whose subclass it is
        raise Unresolved(f"{where} is not UTF-8 text", "store the value as plain text") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise Unresolved(f"{where} cannot be read: {reason}", "let the gateway's user read it") from None
    if len(raw) > _MAX_FILE:
        raise Unresolved(f"{where} is over {_MAX_FILE // 1024} KiB", "point to a file that holds the value alone")
    text = text.rstrip("\r\n")
    if not text:
        raise Unresolved(f"{where} is empty", "write the value into it")
    return text
