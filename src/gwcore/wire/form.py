"""One text field of a multipart/form-data body, found and replaced without touching any other byte (RFC 7578).

Policy and upstream must see the same field. Parsers disagree about folded lines, bare line feeds, ``name*=``, a second boundary
and more; anything ambiguous is rejected, as no known client writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gwcore.errors import BadRequest

# RFC 2046 §5.1.1: at most 70 characters of this alphabet; a longer boundary is an attack on the parser.
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{1,70}")
_MULTIPART = re.compile(rb"[ \t]*multipart/form-data[ \t]*", re.IGNORECASE)
# RFC 6266: quoted or a bare token; .NET writes name=model. Bare boundaries hold characters that no token has.
_PARAMETER = re.compile(rb'[ \t]*;[ \t]*([^=;\s"]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^;\s"]+))')
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\0]*)")
_NAME = re.compile(rb"[^\\]*")  # one parser takes an escape out, another takes it for a letter
_BARE_NAME = re.compile(rb"[!#$%&'+.^_`|~0-9A-Za-z\-\[\]]+")
_PLAIN = frozenset({b"7bit", b"8bit", b"binary"})
_MAX_PARTS = 1000
_MAX_HEAD = 8192
Span = tuple[int, int]


def _ambiguous(what: str) -> BadRequest:
    return BadRequest(f"the multipart body could be read in several ways: {what}")


def _parameters(text: bytes) -> tuple[list[tuple[bytes, bytes | None, bytes | None]], bytes]:
    """Name, quoted and bare value of each parameter, and the remaining text."""
    found: list[tuple[bytes, bytes | None, bytes | None]] = []
    at = 0
    while parameter := _PARAMETER.match(text, at):  # one after the other: what stands inside a quoted value is none
        found.append((parameter[1].lower(), parameter[2], parameter[3]))
        at = parameter.end()
    return found, text[at:].strip(b"; \t")


def _delimiter(content_type: bytes) -> bytes:
    kind = _MULTIPART.match(content_type)
    parameters, rest = _parameters(content_type[kind.end() :]) if kind else ([], b"")
    values = [quoted if bare is None else bare for name, quoted, bare in parameters if name.startswith(b"boundary")]
    if rest or len(values) != 1 or not values[0] or not _BOUNDARY.fullmatch(values[0]):
        raise BadRequest("the content-type of a multipart body must be multipart/form-data and name its boundary, once")
    return b"--" + values[0]


def _name(disposition: bytes) -> bytes | None:
    """The field that a part's content-disposition names."""
    parameters, rest = _parameters(disposition[len(disposition.partition(b";")[0]) :])
    names = [one for one in parameters if one[0].startswith(b"name")]
    if b"name" in rest.lower() or len(names) > 1 or any(name != b"name" for name, _, _ in names):
        raise _ambiguous("a part's name")
    if not names:
        return None
    _, quoted, bare = names[0]
    if not (_NAME.fullmatch(quoted) if bare is None and quoted is not None else _BARE_NAME.fullmatch(bare or b"")):
        raise _ambiguous("a part's name")
    return quoted if bare is None else bare


def _named(head: bytes, name: bytes) -> bool:
    """Whether the header block of a part calls it ``name``."""
    if len(head) > _MAX_HEAD:
        raise BadRequest(f"the headers of a part are over {_MAX_HEAD} bytes")
    found: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n") if head else ():
        header = _HEADER.fullmatch(line)
        if header is None or header[1].lower() in found:
            raise _ambiguous("a part's headers")
        found[header[1].lower()] = header[2].strip()
    if _name(found.get(b"content-disposition", b"")) != name:
        return False
    if found.get(b"content-transfer-encoding", b"binary").lower() not in _PLAIN:
        raise _ambiguous("an encoded field")
    return True


def _lines(body: bytes, delimiter: bytes) -> Iterator[int]:
    """Offsets at which the delimiter begins a line."""
    at = body.find(delimiter)
    for _ in range(_MAX_PARTS + 1):
        if at < 0:
            return
        before = body[max(0, at - 2) : at]
        if not before or before == b"\r\n":
            yield at
        elif before.endswith((b"\r", b"\n")):
            raise _ambiguous("a delimiter behind a bare line feed")
        at = body.find(delimiter, at + 1)
    raise BadRequest(f"a multipart body of more than {_MAX_PARTS} parts")


def _parts(body: bytes, content_type: bytes) -> Iterator[tuple[bytes, Span]]:
    """The header block of each part, and where its content is."""
    delimiter = _delimiter(content_type)
    start, closed = -1, False
    for at in _lines(body, delimiter):
        if closed:
            raise _ambiguous("a part behind the last")
        if start >= 0:
            # a part without headers begins with the empty line that ends them
            split = start - 2 if body.startswith(b"\r\n", start) else body.find(b"\r\n\r\n", start, at - 2)
            if split < 0:
                raise _ambiguous("a part without an end of its headers")
            yield body[start : max(start, split)], (split + 4, at - 2)
        rest = at + len(delimiter)
        end = body.find(b"\r\n", rest)
        line = body[rest : end if end >= 0 else len(body)]
        closed = line.startswith(b"--")
        if line[2:].strip(b" \t\r\n") if closed else end < 0 or line.strip(b" \t"):
            raise _ambiguous("a line that only begins with the boundary")
        start = end + 2
    if not closed:
        raise BadRequest("the multipart body does not end with its boundary")


def _spans(body: bytes, content_type: bytes, name: bytes) -> list[Span]:
    return [span for head, span in _parts(body, content_type) if _named(head, name)]


def count_files(body: bytes, content_type: bytes) -> int:
    """How many parts are files, or may be taken for such: a file's own bytes are not searched. Raises ``BadRequest``, as :func:`read_field`."""
    heads = [head.lower() for head, _ in _parts(body, content_type)]
    if any(b"multipart/" in head for head in heads):
        raise _ambiguous("a part of several parts")
    return sum(b"filename" in head or b"content-type" in head for head in heads)


def read_field(body: bytes, content_type: bytes, name: bytes) -> bytes | None:
    """The value of the field ``name``; ``None`` where there is none.

    Raises:
        BadRequest: no boundary, too many parts, a repeated field, or something that parsers would read differently.
    """
    spans = _spans(body, content_type, name)
    if len(spans) > 1:
        raise BadRequest(f"the form field {name.decode('ascii', 'replace')!r} occurs more than once")
    return body[spans[0][0] : spans[0][1]] if spans else None


def replace_field(body: bytes, content_type: bytes, name: bytes, value: bytes) -> bytes:
    """The body with the value of the field ``name`` replaced, or unchanged where there is none."""
    spans = _spans(body, content_type, name)
    if not spans:
        return body
    start, end = spans[0]
    return body[:start] + value + body[end:]
