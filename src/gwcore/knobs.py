"""Where a request says how long its answer may be, how many answers there shall be, and how they are sampled.

Each dialect spells that in its own way and place; :meth:`gwcore.dialect.Dialect.knobs` tells. The names on this side are
those of :class:`gwcore.chat.ChatRequest`: ``max_tokens``, ``n``, ``stop`` and :data:`gwcore.chat.KNOBS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Path = tuple[str, ...]
"""Members from the top of a document."""

Places = Sequence[Path]
"""Where one knob may stand; a request that says nothing yet is to say it at the first."""

Knobs = Mapping[str, Places]

MAX_TOKENS: Places = (("max_tokens",),)
"""Where a request says how long its answer may be, if its dialect does not tell."""


def said(document: Mapping[str, Any], places: Places) -> list[Any]:
    """Every value that the document has there; ``null`` says nothing."""
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
    """Of what the document has there the largest that is a number of something, or may be read as one.

    Of two places an upstream may read either.
    """
    found = said(document, places)
    if not found:  # as a rule
        return None
    return max([count for value in found if (count := _count(value)) is not None], default=None)


def _count(value: Any) -> int | None:
    """Upstreams that check loosely read ``5.0`` and ``"5"`` as 5: who counts less than they would be deceived."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        count = int(value) if not isinstance(value, str) else int(float(value))
    except (ValueError, OverflowError):
        return None
    return count if count >= 0 else None


def saying(document: Mapping[str, Any], places: Places, value: Any) -> dict[str, Any]:
    """Top-level members that say ``value``: wherever the document says something already, else at the first place.

    Of places inside other objects, one whose object is there comes first: two spellings of an object are one too many.
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
