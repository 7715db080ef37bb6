"""A client's request body, checked for what JSON parsers disagree about.

Policy and upstream must see the same request, so anything that two parsers may read differently is rejected.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import orjson

from gwcore.errors import BadRequest
from gwcore.wire.splice import suspects, top_level_spans

MAX_DEPTH = 64
MAX_ITEMS = 1_000_000
_SMALL = 4096


def parse(raw: bytes, *, unique: frozenset[str], max_depth: int = MAX_DEPTH, most: int = MAX_ITEMS) -> dict[str, Any]:
    """Parse ``raw`` as one JSON object.

    Also rejected: a byte order mark, any encoding but UTF-8, NaN, numbers beyond a double, lone surrogates,
    raw control characters, and anything after the object (RFC 8259 allows none of them, some parsers all).

    Args:
        raw: the body, decoded (:func:`gwcore.wire.decode.decode`).
        unique: top-level keys that policy acts on, e.g. ``model``. RFC 8259 §4 leaves open which one of two
            duplicates counts. ASCII identifiers. A key that differs from one of them only in case is rejected, too:
            upstreams written in Go read ``Model`` as ``model``.
        max_depth: levels of objects and arrays, the outermost included; at most 250, which orjson can encode.
        most: limit of commas and opening brackets, even inside strings. A megabyte of text costs nothing; a million
            values block the loop for tenths of a second.

    Raises:
        BadRequest: with a message that never quotes the body.
    """
    if len(raw) > most and sum(_occurs(raw, mark) for mark in (b",", b"{", b"[")) > most:
        raise BadRequest(f"the body has more than {most} commas and brackets; server.json_items allows no more")
    document = _load(raw)
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object")
    # In a small body counting brackets is the cheaper way to see that it cannot be deep; in a large one, walking it.
    shallow = len(raw) < _SMALL and _occurs(raw, b"{") + _occurs(raw, b"[") <= max_depth
    if not shallow and _deeper(document, max_depth):
        raise BadRequest(f"the body is nested more than {max_depth} levels deep")
    _refuse_other_spellings(document, unique)
    # What encodes to the very same bytes holds no duplicate: a cheap proof for compact bodies, which most clients send.
    compact = raw.find(b'": ', 0, 64) < 0
    if not (compact and orjson.dumps(document) == raw):
        _refuse_duplicates(raw, unique.intersection(document))
    return document


def _occurs(raw: bytes, mark: bytes) -> int:
    """How often a byte occurs. CPython's ``count`` looks at every byte for itself, ``replace`` lets the C library find them."""
    return len(raw) - len(raw.replace(mark, b""))


def _refuse_duplicates(raw: bytes, keys: frozenset[str]) -> None:
    if doubtful := suspects(raw, keys):
        for key, spans in top_level_spans(raw, doubtful).items():
            if len(spans) > 1:
                raise BadRequest(f"the key {key!r} occurs {len(spans)} times")


def _refuse_other_spellings(document: dict[str, Any], keys: frozenset[str]) -> None:
    names = "".join(document)
    if names.isascii() and names.islower():  # nearly always: one look instead of one for each
        return
    folded = _folded(keys)
    for key in document.keys() - keys:
        if key.casefold() in folded:
            raise BadRequest(f"a key differs from {folded[key.casefold()]!r} only in upper and lower case")


@cache
def _folded(keys: frozenset[str]) -> Mapping[str, str]:
    return {key.casefold(): key for key in keys}


def _load(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        message = _describe(raw, error)
    # outside the handler: the parser's error holds the whole body, which must not be chained as __context__
    raise BadRequest(message)


def _describe(raw: bytes, error: orjson.JSONDecodeError) -> str:
    if not raw:
        return "the body is empty"
    if not error.doc:  # orjson hands the text over, unless it could not decode it
        return "the body is not UTF-8"
    if error.msg in {"depth limit exceeded", "failed to allocate memory"}:
        return "the body is nested too deeply"
    return f"the body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"


def _deeper(document: dict[str, Any], max_depth: int) -> bool:
    """Whether containers nest deeper than ``max_depth``; level by level, since recursion has its own limit."""
    level: list[Any] = [document]
    for _ in range(max_depth):
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return False
    return True
