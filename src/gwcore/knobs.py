"""Where a request sets its output limit, its number of answers and its sampling parameters.

Each dialect has its own names and places; see :meth:`gwcore.dialect.Dialect.knobs`. The names on this side are those of
:class:`gwcore.chat.ChatRequest`: ``max_tokens``, ``n``, ``stop`` and :data:`gwcore.chat.KNOBS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Path = tuple[str, ...]
"""Members from the top of a document."""

Places = Sequence[Path]
"""The places of one knob; a request that does not set it yet gets it at the first."""

Knobs = Mapping[str, Places]

MAX_TOKENS: Places = (("max_tokens",),)
"""Default places of the output limit, for dialects that define none."""


def said(document: Mapping[str, Any], places: Places) -> list[Any]:
    """Every value that the document has in those places; ``null`` counts as unset."""
    found = []
    for path in places:
        value: Any = document.get(path[0])
        if value is None:
            continue
        for key in path[1:]:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found.append(value)
    return found


def largest(document: Mapping[str, Any], places: Places) -> int | None:
    """The largest count, or value that may be read as one, that the document has in those places.

    The largest, since an upstream may read any of several places.
    """
    found = said(document, places)
    if not found:  # as a rule
        return None
    return max([count for value in found if (count := _count(value)) is not None], default=None)


def _count(value: Any) -> int | None:
    """Lenient upstreams read ``5.0`` and ``"5"`` as 5, so they must count here too, or limits could be evaded."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        count = int(value) if not isinstance(value, str) else int(float(value))
    except (ValueError, OverflowError):
        return None
    return count if count >= 0 else None


def saying(document: Mapping[str, Any], places: Places, value: Any) -> dict[str, Any]:
    """Top-level members that set ``value``: wherever the document sets one already, else at the first place.

    A nested place whose parent object exists takes precedence, so as not to add a second spelling of that object.
    """
    there = [path for path in places if said(document, (path,))]
    if not there:
        there = [path for path in places if len(path) > 1 and isinstance(document.get(path[0]), dict)][:1]
    fields: dict[str, Any] = {}
    for path in there or places[:1]:
        top, *inner = path
        fields[top] = _with(fields.get(top, document.get(top)), inner, value)
    return fields


def _with(outer: Any, path: Sequence[str], value: Any) -> Any:
    """``outer`` with ``value`` at ``path`` below it; ``outer`` itself stays as it is."""
    if not path:
        return value
    known = outer if isinstance(outer, dict) else {}
    return {**known, path[0]: _with(known.get(path[0]), path[1:], value)}
