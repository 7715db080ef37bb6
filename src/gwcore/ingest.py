"""ASGI request → the fields of a ``Call``: headers, credentials, body within its caps, document, model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from gwcore.aim import read_tags
from gwcore.call import Call
from gwcore.credentials import CREDENTIALS, credential
from gwcore.dialect import Route
from gwcore.errors import BadRequest, TooLarge, UnsupportedEncoding
from gwcore.load import Load
from gwcore.stackmodels import ServerConfig
from gwcore.wire.decode import decode
from gwcore.wire.document import parse
from gwcore.wire.form import read_field

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Door = Callable[[Call], Awaitable[None]]
"""See :meth:`gwcore.plugin.Plugin.knock`."""
FREE = 64 * 1024
"""Bytes of body that are read and parsed before authentication."""


class ClientGone(Exception):
    """The client disconnected before its request was complete."""


def _headers(call: Call, scope: MutableMapping[str, Any]) -> bytes | None:
    """Fill ``headers`` and ``credentials``; returns the content-encoding, if there is one."""
    headers = []
    credentials: list[str] = []
    encoding = None
    for pair in scope["headers"]:
        name = pair[0]
        if name in CREDENTIALS:
            value = credential(pair[1])
            if value and value not in credentials:
                credentials.append(value)
        elif name == b"content-encoding":
            encoding = pair[1].strip().lower()
        else:
            headers.append(pair)
    if call.query and b"key=" in call.query:
        said = parse_qs(call.query.decode("latin-1")).get("key", ())
        credentials = list(dict.fromkeys((*credentials, *said)))  # anyone may send thousands
    call.headers = headers
    read_tags(call)
    call.credentials = tuple(credentials)
    return encoding if encoding != b"identity" else None


def _length(call: Call, limit: int) -> int | None:
    """The body's length by its header; ``None`` if that is missing."""
    said = call.header(b"content-length")
    if said is None or not said.isdigit():
        return None
    length = int(said)
    if length > limit:
        raise TooLarge(f"the body has {length} bytes; server.max_body allows {limit}")
    return length


async def _body(receive: Receive, limit: int, hold: Callable[[int], None] | None) -> bytes:
    """``hold``: told of each piece."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    first: bytes = message.get("body", b"")
    if hold is not None:
        hold(len(first))
    if not message.get("more_body", False):
        if len(first) > limit:
            raise TooLarge(f"the body is over the {limit} bytes that server.max_body allows")
        return first
    parts = [first]
    size = len(first)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise TooLarge(f"the body is over the {limit} bytes that server.max_body allows")
        if hold is not None:
            hold(len(piece))
        parts.append(piece)
    return b"".join(parts)


def _decoded(route: Route, raw: bytes, encoding: bytes | None, limit: int) -> bytes:
    if not encoding:
        return raw
    if route.body == "raw":
        raise UnsupportedEncoding("this operation takes no content-encoding")
    return decode(raw, encoding.decode("latin-1"), limit=limit)


async def ingest(
    call: Call,
    scope: MutableMapping[str, Any],
    receive: Receive,
    server: ServerConfig,
    load: Load,
    *,
    door: Door | None = None,
) -> None:
    """Read the request to its end and fill the call.

    Args:
        call: to fill.
        scope: of ASGI.
        receive: of ASGI.
        server: its limits.
        load: counts a body that is long, encoded or of unknown length.
        door: called before such a body is read.

    Raises:
        BadRequest, TooLarge, UnsupportedEncoding: the body is invalid; see :mod:`gwcore.wire.decode` and ``document``.
        ClientGone: the client disconnected while sending.
        Overloaded: the bodies of other calls take the memory that there is.
        GatewayError: raised by the door.
    """
    encoding = _headers(call, scope)
    route, dialect = call.route, call.dialect
    length = _length(call, server.max_body)
    hold = None
    if route.body != "none" and (length is None or length > FREE or encoding):
        if door is not None:
            await door(call)
        await load.admit(call, length or 0)
        hold = None if length is not None else partial(load.hold, call)
    call.raw = raw = _decoded(route, await _body(receive, server.max_body, hold), encoding, server.max_body)
    if encoding:
        load.hold(call, len(raw))
    form = _form(call) if route.body == "form" else None
    if route.body == "json" or (route.body == "form" and form is None):
        call.document = parse(raw, unique=dialect.unique, max_depth=server.json_depth, most=server.json_items)
        if route.stream == "body":
            stream = call.document.get("stream", False)
            if stream is not None and not isinstance(stream, bool):
                raise BadRequest("stream must be true or false")
            call.stream = bool(stream)
    if route.stream == "always":
        call.stream = True
    if route.model != "none":
        _name(call, form)


def _form(call: Call) -> bytes | None:
    """The content-type of a form; ``None`` for JSON, which operations on files may accept too, with URLs instead."""
    kinds = [value for name, value in call.headers if name == b"content-type"]  # all of them go upstream
    return None if len(kinds) == 1 and kinds[0].startswith(b"application/json") else b", ".join(kinds)


def _name(call: Call, form: bytes | None) -> None:
    route, dialect, document = call.route, call.dialect, call.document
    if form is not None:
        field = read_field(call.raw, form, b"model")
        document = {} if field is None else {"model": field.decode("utf-8", "replace")}
    if route.model == "optional" and not (document or {}).get("model"):
        return
    call.model = call.asked = dialect.model_of(route, document, call.params)
    if call.model is not None and "\0" in call.model:  # no model name has NUL, and PostgreSQL cannot store it
        raise BadRequest("the model's name contains a NUL character")
