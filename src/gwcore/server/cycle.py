"""One request and its response on a client's connection: uvicorn's cycle with less work per header.

uvicorn matches every response header against two regular expressions, and writes head and body separately. Here the
head is joined, checked once, and written together with the first body bytes, as ASGI asks ("Response Start": "… should
not send until …").
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Any

from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")  # a field name in lower case, RFC 9110 §5.6.2
_CONTROLS = bytes({*range(32), 127} - {9})  # not allowed in a field value; the joined head is searched once
_FRAMING = frozenset({b"content-length: ", b"transfer-encoding: ", b"connection: "})
_BODILESS = frozenset({204, 304})
_names: dict[bytes, bytes] = {}  # header name -> b"name: "
_lines: dict[int, bytes] = {}  # status -> b"HTTP/1.1 200 OK\r\n"


class EdgeCycle(RequestResponseCycle):
    """The ASGI ``receive`` and ``send`` of one request."""

    head: list[bytes] | None = None
    """The response head, until the first body message."""

    async def run_asgi(self, app: Any) -> None:
        """As the base, but a call cut off by shutdown, or to signal a truncated answer, is not logged as an error.

        A traceback would be useless, or quote an upstream: the call's own record says what happened.
        """
        try:
            await app(self.scope, self.receive, self.send)
        except (asyncio.CancelledError, ConnectionAbortedError):
            self.transport.close()
        except Exception as error:
            self.logger.error("Exception in ASGI application\n", exc_info=error)
            await self._unfinished()
        else:
            if not self.response_complete and not self.disconnected:
                self.logger.error("ASGI callable returned without completing response.")
                await self._unfinished()
        finally:
            self.on_response = _nothing
            self.body = bytearray()  # what nobody has read, as of a refused call

    async def _unfinished(self) -> None:
        if self.response_started:
            self.transport.close()
        else:
            await self.send_500_response()

    async def send(self, message: Any) -> None:
        """ASGI: a response message. Raises ``RuntimeError`` if it is out of order or breaks the framing."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.body":
            if not self.response_started or self.response_complete:
                raise RuntimeError(f"{kind} {'after the end' if self.response_complete else 'before the start'}")
            self._body(message.get("body", b""), more=message.get("more_body", False))
        elif kind == "http.response.start" and not self.response_started:
            self._start(message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind}")

    def _start(self, status: int, headers: Any) -> None:
        self.waiting_for_100_continue = False
        parts = []
        closing = False
        for name, value in [*self.default_headers, *headers]:
            prefix = _names.get(name)
            if prefix is None:
                prefix = _name(name)
            if prefix in _FRAMING:
                if prefix == b"transfer-encoding: ":
                    continue  # framing is up to this server
                if prefix == b"connection: ":
                    closing = b"close" in value.lower()
                else:
                    self.expected_content_length = int(value)
                    self.chunked_encoding = False
            parts.append(prefix + value)
        if closing:
            self.keep_alive = False
        elif not self.keep_alive:
            parts.append(b"connection: close")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _BODILESS:
            self.chunked_encoding = True
            parts.append(b"transfer-encoding: chunked")
        head = b"\r\n".join(parts)
        joints = 2 * max(0, len(parts) - 1)
        if len(head) - len(head.translate(None, _CONTROLS)) != joints:
            raise RuntimeError("a response header holds a control character")
        self.response_started = True  # set only now: no body may follow a head that was rejected
        self.head = [_lines.get(status) or _line(status), head, b"\r\n\r\n" if parts else b"\r\n"]

    def _body(self, body: bytes, *, more: bool) -> None:
        out, self.head = self.head or [], None
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif self.chunked_encoding:
            if body:
                out += (b"%x\r\n" % len(body), body, b"\r\n")
            if not more:
                out.append(b"0\r\n\r\n")
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (not more and self.expected_content_length):
                raise RuntimeError("a response that is not as long as its content-length")
            out.append(body)
        if out:
            self.transport.write(b"".join(out))
        if not more:
            self._end()

    def _end(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    async def receive(self) -> ASGIReceiveEvent:
        """ASGI: the body so far, or the client's disconnect."""
        if not self.more_body and self.body and not self.disconnected and not self.response_complete:
            body, self.body = bytes(self.body), bytearray()
            self.message_event.clear()
            return {"type": "http.request", "body": body, "more_body": False}
        return await super().receive()


def _nothing() -> None:
    """Stands in for ``on_response`` once the cycle is over."""


def _name(name: bytes) -> bytes:
    lower = name.lower()
    if not _TOKEN.fullmatch(lower):
        raise RuntimeError("a response header with an invalid name")
    prefix = lower + b": "
    if len(_names) < 1024:  # names come from upstreams, too
        _names[name] = prefix
    return prefix


def _line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    line = _lines[status] = f"HTTP/1.1 {status} {phrase}\r\n".encode()
    return line
