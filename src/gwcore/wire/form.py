"""One text field of a multipart/form-data body, found and replaced without touching any other byte (RFC 7578)."""

from __future__ import annotations

import re

from gwcore.errors import BadRequest

# RFC 2046 §5.1.1: at most 70 characters of this alphabet; a longer boundary is an attack on the parser.
_BOUNDARY = re.compile(
    rb'boundary=(?:"([0-9A-Za-z\'()+_,\-./:=? ]{1,70})"|([0-9A-Za-z\'()+_\-./:=?]{1,70}))(?:;|\s|$)', re.IGNORECASE
)
_DISPOSITION = re.compile(rb"\r\ncontent-disposition:[ \t]*[^;\r\n]*([^\r\n]*)", re.IGNORECASE)
# RFC 6266: quoted or a bare token; .NET writes name=model
_PARAMETER = re.compile(rb'[ \t]*;[ \t]*([^=;\s"]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^;\s"]+))')
_MAX_PARTS = 1000


def _is_named(head: bytes, name: bytes) -> bool:
    """Whether the header block of a part calls it ``name``."""
    match = _DISPOSITION.search(head)
    parameter = match and _PARAMETER.match(match[1])
    while match and parameter:  # one after the other: what stands inside a quoted value is none
        if parameter[1].lower() == b"name" and (parameter[2] or parameter[3]) == name:
            return True
        parameter = _PARAMETER.match(match[1], parameter.end())
    return False


def _spans(body: bytes, content_type: bytes, name: bytes) -> list[tuple[int, int]]:
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise BadRequest("the content-type of a multipart body must name its boundary")
    delimiter = b"--" + (match[1] or match[2])
    found: list[tuple[int, int]] = []
    at = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter)
    parts = 0
    while at >= 0:
        parts += 1
        if parts > _MAX_PARTS:
            raise BadRequest(f"a multipart body of more than {_MAX_PARTS} parts")
        head = body.find(b"\r\n", at + 2)
        end = body.find(b"\r\n" + delimiter, head)
        split = body.find(b"\r\n\r\n", head, end if end >= 0 else len(body))
        if head < 0 or end < 0 or split < 0:
            break
        # a header block beyond 8 KiB names nothing we look for
        if _is_named(body[head : min(split, head + 8192)], name):
            found.append((split + 4, end))
        at = end
    return found


def read_field(body: bytes, content_type: bytes, name: bytes) -> bytes | None:
    """The value of the field ``name``; ``None`` where there is none.

    Raises:
        BadRequest: no boundary, too many parts, or the field stands more than once.
    """
    spans = _spans(body, content_type, name)
    if len(spans) > 1:
        raise BadRequest(f"the form field {name.decode('ascii', 'replace')!r} stands more than once")
    return body[spans[0][0] : spans[0][1]] if spans else None


def replace_field(body: bytes, content_type: bytes, name: bytes, value: bytes) -> bytes:
    """The body with the value of the field ``name`` replaced, or unchanged where there is none."""
    spans = _spans(body, content_type, name)
    if not spans:
        return body
    start, end = spans[0]
    return body[:start] + value + body[end:]
