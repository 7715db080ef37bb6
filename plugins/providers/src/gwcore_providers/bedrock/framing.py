"""Bedrock's binary event streams → server-sent events, and its errors in the shape that clients know.

Sources: "InvokeModelWithResponseStream" and "ConverseStream" of the Bedrock API reference; the event names are those
that Anthropic's SDK gives the same frames.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import orjson

from gwcore.errors import Malformed
from gwcore.wire.eventstream import EventStreamReader, Message
from gwcore.wire.sse import encode
from gwcore.wire.transport import Headers, Response
from gwcore_providers.anthropic.cloud import error_body
from gwcore_providers.clouds import renamed

CONTENT_TYPE = b"application/vnd.amazon.eventstream"

# exceptions of a ResponseStream → the status that says the same of an API which can still send one
STATUS = {
    "internalServerException": 500,
    "modelStreamErrorException": 502,
    "modelTimeoutException": 504,
    "serviceUnavailableException": 503,
    "throttlingException": 429,
    "validationException": 400,
}


class Unframed:
    """An event stream read as server-sent events; one chunk per read that completed a message."""

    def __init__(self, response: Response, *, chunks: bool) -> None:
        self._response = response
        self._reader = EventStreamReader()
        self._chunks = chunks
        self.status = response.status
        self.headers: Headers = renamed(response.headers, content_type=b"text/event-stream", content_length=None)
        self.framed = response.framed

    async def read(self) -> bytes:
        """What the next complete messages say. Raises also ``Malformed``, and ``Broken`` for an end inside one."""
        while raw := await self._response.read():
            if frames := b"".join(map(self._frame, self._reader.feed(raw))):
                return frames
        self._reader.close()
        return b""

    def close(self) -> None:
        """Give the connection up."""
        self._response.close()

    def _frame(self, message: Message) -> bytes:
        kind = message.text(":message-type")
        if kind == "event":
            if self._chunks:
                return _chunk(message.payload)
            return encode(message.payload, _name(message.text(":event-type")))
        name = message.text(":exception-type") or message.text(":error-code")
        said = message_of(message.payload) or message.text(":error-message") or name
        if self._chunks:
            return encode(error_body(STATUS.get(name, 500), said, ""), "error")
        return encode(orjson.dumps({"message": said}), _name(name))


def _chunk(payload: bytes) -> bytes:
    """``{"bytes": base64 of an event's document, "p": padding}`` → the event, its document byte for byte."""
    try:
        data = b64decode(orjson.loads(payload)["bytes"], validate=True)
        document = orjson.loads(data)
    except (ValueError, LookupError, TypeError):
        raise Malformed("a chunk of the upstream's event stream cannot be read") from None
    kind = document.get("type") if isinstance(document, dict) else None
    return encode(data, _name(kind) or "completion")


def _name(text: Any) -> str | None:
    """An event's name, which must be one line."""
    return text if isinstance(text, str) and text.isidentifier() else None


def message_of(body: bytes) -> str:
    """The text of an error document of AWS, ``""`` if that is not what it is."""
    try:
        document = orjson.loads(body)
    except ValueError:
        return ""
    said = document.get("message") or document.get("Message") if isinstance(document, dict) else None
    return said if isinstance(said, str) else ""
