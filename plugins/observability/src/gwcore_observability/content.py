"""Contents of requests and responses for sinks: off by default, media only as a size note, never a secret.

Decided per call: the caller's policies for the sink's name override the sink's settings, and the narrowest scope that
sets a value wins (for example ``off`` for one key of a sink set to ``full``, or the reverse).
Capturing during a call only keeps references; copying and redaction happen off the request path.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, cast

import orjson

from gwcore.call import Call, Principal
from gwcore.chat import ChatReply
from gwcore.codec import ChatCodec, Crossing
from gwcore.dialect import Dialect, Document
from gwcore.errors import MISSHAPEN, GatewayError
from gwcore.events import gather
from gwcore.redact import Redactor, pieces
from gwcore.reply import Copy
from gwcore.wire.sse import scan

Level = Literal["off", "redacted", "full"]
SCOPES = ("key", "end_user", "member", "user", "team", "organisation")
"""Scopes of ``Principal.policies``, from narrow to wide."""

# replaced at level "redacted"; at the same position, the first match wins
PII = {
    "email": r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9._%+\-]{1,64}@[A-Za-z0-9.\-]{1,190}\.[A-Za-z]{2,24}",
    "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",
    "card": r"\b(?:\d[ \-]?){12,18}\d\b",
    "ssn": r"\b\d{3}-\d{2}-\d{4}\b",
    "ip": r"\b(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\b",
    # international, with the area code in brackets, or 3-3-4 digits; other digit sequences are no phone numbers
    "phone": r"\+\d(?:[ .\-/()]{0,2}\d){6,14}\b|\(\d{2,5}\)(?:[ .\-/]?\d){5,10}\b|\b\d{3}[ .\-]\d{3}[ .\-]\d{4}\b",
}
_DATA_URL = re.compile(r"data:([\w.+\-]+/[\w.+\-]+)?(?:;[\w=.\-]+)*;base64,[A-Za-z0-9+/=_\-\s]*")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-]{256,}={0,2}")
_NUMBERS = 32
"""Longest list of numbers kept; longer ones are vectors, not content."""


@dataclass(slots=True, frozen=True)
class Content:
    """Request and response of one call, in the client's dialect.

    Attributes:
        request: the document; a size note if the body is not JSON.
        response: the document, assembled from the events if streamed; text if it cannot be parsed; ``None`` if empty.
        truncated: something was left out because of its size.
    """

    request: Any
    response: Any
    truncated: bool


@dataclass(slots=True, frozen=True)
class Captured:
    """References to the request and response of a call, taken when it ended."""

    level: Level
    document: Document | None
    raw: int
    copy: Copy | None
    stream: bool
    model: str
    operation: str
    dialect: Dialect

    @property
    def size(self) -> int:
        """Approximate bytes kept in memory: a parsed document takes more than its text."""
        return 4 * self.raw + (sum(map(len, self.copy.parts)) if self.copy is not None else 0)


def level_for(principal: Principal | None, sink: str, default: Level) -> Level:
    """The content level of the sink for this caller's calls."""
    scopes = principal.policies.get(sink) if principal is not None else None
    if scopes:
        for scope in SCOPES:
            policy = scopes.get(scope)
            if policy is not None and policy.content is not None:
                level: Level = policy.content
                return level
    return default


def capture(call: Call, level: Level) -> Captured | None:
    """References to the content of a finished call; ``None`` for ``off``."""
    if level == "off":
        return None
    return Captured(
        level,
        call.document,
        len(call.raw),
        call.reply.copy,
        call.stream,
        call.model or "",
        call.operation,
        call.dialect,
    )


class Reader:
    """Makes :class:`Content` from :class:`Captured`. ``patterns`` are additional ones to replace in ``redacted``."""

    def __init__(self, redactor: Redactor, patterns: Sequence[str] = (), limit: int = 1 << 20) -> None:
        self._redactor = redactor
        named = [f"(?P<{name}>{pattern})" for name, pattern in PII.items()]
        self._pii = re.compile("|".join([*named, *(f"(?:{pattern})" for pattern in patterns)]))
        self._limit = limit

    def read(self, captured: Captured) -> Content:
        """The content, redacted. Slow for large bodies: about 50 ns per character."""
        walk = _Walk(self, captured.level == "redacted")
        if captured.document is not None:
            request = walk(captured.document)
        else:
            request = f"[{captured.raw} bytes]" if captured.raw else None
        copy = captured.copy
        response = walk(_response(captured, b"".join(copy.parts))) if copy is not None and copy.parts else None
        return Content(request, response, walk.cut or (copy is not None and copy.truncated))

    def clean(self, text: str, *, pii: bool) -> str:
        """The text without secrets and, if ``pii``, without personal data."""
        text = self._redactor.text(text)
        return "".join([self._pii.sub(_named, piece) for piece in pieces(text)]) if pii else text

    @property
    def limit(self) -> int:
        """Characters of one call that are kept."""
        return self._limit


def _named(match: re.Match[str]) -> str:
    return f"[{match.lastgroup or 'pii'}]"


class _Walk:
    """One pass over a request and its response, with a common limit of characters."""

    def __init__(self, reader: Reader, pii: bool) -> None:
        self._reader = reader
        self._pii = pii
        self._left = reader.limit
        self.cut = False

    def __call__(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if depth > 100:
            self.cut = True
            return None
        if isinstance(value, dict):
            return {self._text(key): self(one, depth + 1) for key, one in value.items()}
        if isinstance(value, list):
            if len(value) > _NUMBERS and all(isinstance(one, int | float) for one in value):
                return f"[{len(value)} numbers]"
            return [self(one, depth + 1) for one in value]
        return value

    def _text(self, text: str) -> str:
        if len(text) > 256 or "base64," in text:
            text = _DATA_URL.sub(lambda m: f"[{m[1] or 'media'}, {len(m[0])} bytes]", text)
            text = _BASE64.sub(lambda m: f"[base64, {len(m[0])} bytes]", text)
        if len(text) > self._left:
            # clean before cutting: a secret or an address cut in two would not be recognized
            text = self._reader.clean(text[: 2 * self._left + 1024], pii=self._pii)[: self._left]
            self.cut = True
        else:
            text = self._reader.clean(text, pii=self._pii)
        self._left -= len(text)
        return text


def _response(captured: Captured, body: bytes) -> Any:
    if not captured.stream or body.startswith(b"{"):  # errors are sent as one document, even if a stream was requested
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(body)
    if not captured.stream:
        return body.decode("utf-8", "replace") if b"\0" not in body[:1024] else f"[{len(body)} bytes]"
    codec = cast("ChatCodec | None", captured.dialect.chat)  # dialects of clients can both read and write
    if codec is not None and captured.operation == "chat":
        try:
            reader = codec.reader()
            events = [event for frame in scan(body) for event in reader.read(frame)]
            reply: ChatReply = gather([*events, *reader.close()], captured.dialect.name)
            return codec.write_reply(reply, Crossing(captured.model, asked=captured.model))
        except (GatewayError, *MISSHAPEN):
            pass  # truncated, or not readable by this codec: keep the raw text
    return body.decode("utf-8", "replace")
