r"""Changes top-level members of a JSON object and leaves all other bytes as the client sent them.

The bytes are known to be one valid JSON object: orjson has accepted them. That allows cheap checks, in C:

* a quote without a preceding backslash delimits a string, so ``"model"`` without a preceding backslash is a whole
  string, and a key if a colon follows;
* a key is at the top level if the text before it is valid JSON once closed with one brace, or the text from it on once
  opened with one; for a deeper key neither is. orjson checks the shorter side.

For a key that occurs often, or may be written with escapes, all members are scanned instead.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

import orjson

Span = tuple[int, int]

_BACKSLASH = ord("\\")
_QUOTE = ord('"')
_OPENERS = frozenset(b"[{")
_CANDIDATES = 4  # occurrences of a key to check one by one
_EMPTY = re.compile(rb"\s*+}")
_COLON = re.compile(rb"\s*+:\s*+")
_COMMA = re.compile(rb"\s*+,\s*+")
_SCALAR = re.compile(rb"[^,}\s]*+")
_MEMBER = re.compile(rb'[{,\s]*+"([^"]*+)"\s*+:\s*+')
# Escapes of a letter, digit or "_", with which a key may be written. Not e.g. \u003c, which some encoders use for "<".
_ESCAPED_WORD = re.compile(rb"\\u00(?:3[0-9]|[46][1-9a-fA-F]|5[0-9aAfF]|7[0-9aA])")
# Finds the end of a value in C; numbers stay text. Not a regular expression, because CPython before 3.11.5 matches
# possessive groups wrongly (gh-106052).
_SCANNER = json.JSONDecoder(strict=False, parse_int=str, parse_float=str)


def replace_top_level(raw: bytes, key: str, value: bytes) -> bytes:
    """``raw`` with the value of ``key`` replaced by ``value``, itself JSON.

    If the key occurs several times, all values are replaced, so that no parser can pick another one.

    Raises:
        KeyError: the object has no such key.
        ValueError: ``key`` is not an ASCII identifier.
    """
    pieces: list[bytes] = []
    at = 0
    for start, end in top_level_spans(raw, frozenset((key,)))[key]:
        pieces += (raw[at:start], value)
        at = end
    pieces.append(raw[at:])
    return b"".join(pieces)


def insert_top_level(raw: bytes, key: str, value: bytes) -> bytes:
    """``raw`` with ``key: value`` added as the first member; the caller ensures that the key does not exist yet."""
    at = raw.index(b"{") + 1
    comma = b"" if _EMPTY.match(raw, at) else b","
    return b"".join((raw[:at], orjson.dumps(key), b":", value, comma, raw[at:]))


def remove_top_level(raw: bytes, keys: frozenset[str]) -> bytes:
    """``raw`` without these top-level members, including duplicates.

    Raises ``ValueError`` for a key that is not an ASCII identifier.
    """
    spans = sorted(span for found in top_level_spans(raw, keys).values() for span in found)
    for start, end in reversed(spans):
        # the key contains no quote, so the two quotes before its value delimit it
        before = raw[: raw.rfind(b'"', 0, raw.rfind(b'"', 0, start))]
        comma = _COMMA.match(raw, end)
        # for the last member, remove the comma before it
        raw = before + raw[comma.end() :] if comma else before.rstrip().removesuffix(b",") + raw[end:]
    return raw


def suspects(raw: bytes, keys: frozenset[str]) -> frozenset[str]:
    """Those of ``keys`` that may occur more than once at the top level; cheap, and usually empty.

    Raises ``ValueError`` for a key that is not an ASCII identifier.
    """
    if has_escaped_word(raw):
        return keys
    return frozenset([key for key in keys if raw.count(_quoted(key)) > 1])


def top_level_spans(raw: bytes, keys: frozenset[str]) -> dict[str, list[Span]]:
    """``(start, end)`` offsets of the values of these top-level keys, in order; keys not found are left out.

    Includes duplicates and keys written with escapes. Linear. Raises ``ValueError`` for a key that is not an ASCII
    identifier.
    """
    words = [(key, _quoted(key)) for key in keys]
    if has_escaped_word(raw):
        return _walk(raw, keys)
    spans = {}
    for key, quoted in words:
        found = _find(raw, quoted)
        if found is None:
            return _walk(raw, keys)
        if found:
            spans[key] = found
    return spans


@lru_cache(256)
def _quoted(key: str) -> bytes:
    if not (key.isascii() and key.isidentifier()):
        raise ValueError("only keys that are ASCII identifiers can be spliced")
    return b'"%b"' % key.encode()


def has_escaped_word(raw: bytes) -> bool:
    r"""Whether a letter, digit or "_" may be written as an escape: ``\u0061``. A backslash before it may itself be escaped."""
    return _BACKSLASH in raw and _ESCAPED_WORD.search(raw) is not None


def _find(raw: bytes, quoted: bytes) -> list[Span] | None:
    """The spans of a key written without escapes; ``None`` if a scan of all members is needed."""
    spans: list[Span] = []
    at = raw.find(quoted)
    for _ in range(_CANDIDATES):
        if at < 0:
            return spans
        colon = _COLON.match(raw, at + len(quoted))
        if colon and raw[at - 1] != _BACKSLASH and _at_top(raw, at):
            start = colon.end()
            if raw[start] in _OPENERS:
                return None
            end = _scalar_end(raw, start)
            if raw.find(b"\\", start, end) >= 0:  # the quote found may be an escaped one
                return None
            spans.append((start, end))
        at = raw.find(quoted, at + 1)
    return spans if at < 0 else None


def _at_top(raw: bytes, at: int) -> bool:
    """Whether the key at ``at`` belongs to the outermost object."""
    try:
        orjson.loads(raw[:at] + b'"":0}' if at * 2 < len(raw) else b"{" + raw[at:])
    except orjson.JSONDecodeError:
        return False
    return True


def _scalar_end(raw: bytes, start: int) -> int:
    if raw[start] == _QUOTE:
        return raw.index(b'"', start + 1) + 1
    scalar = _SCALAR.match(raw, start)
    return scalar.end() if scalar else start


def _walk(raw: bytes, keys: frozenset[str]) -> dict[str, list[Span]]:
    spans: dict[str, list[Span]] = {}
    # The same bytes with escaped backslashes and quotes masked, offsets kept: every quote left delimits a string.
    plain = raw.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in raw else raw
    text = plain.decode("latin-1")  # one character per byte
    at = 0
    while member := _MEMBER.match(plain, at):
        start = member.end()
        at = _SCANNER.raw_decode(text, start)[1]
        name = raw[member.start(1) : member.end(1)]
        key = orjson.loads(b'"%b"' % name) if b"\\" in name else name.decode()
        if key in keys:
            spans.setdefault(key, []).append((start, at))
    return spans
