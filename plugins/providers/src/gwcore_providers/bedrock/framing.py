"""Bedrock's binary event streams → server-sent events, and its errors in the shape that clients expect.

Sources: "InvokeModelWithResponseStream" and "ConverseStream" of the Bedrock API reference; event names are the ones
that Anthropic's SDK uses for the same frames.
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

# exceptions of a ResponseStream → the equivalent HTTP status
STATUS = {
    "internalServerException": 500,
    "modelStreamErrorException": 502,
    "modelTimeoutException": 504,
    "serviceUnavailableException": 503,
    "throttlingException": 429,
    "validationException": 400,
}


class Unframed:
    """An event stream read as server-sent events.

    Args:
        response: the upstream's answer.
        chunks: the events carry ``{"bytes": …}`` chunks, as InvokeModel sends them.
    """

    def __init__(self, response: Response, *, chunks: bool) -> None:
        self._response = response
        self._reader = EventStreamReader()
        self._chunks = chunks
        self.status = response.status
        self.headers: Headers = renamed(response.headers, content_type=b"text/event-stream", content_length=None)
        self.framed = response.framed

    async def read(self) -> bytes:
        """Returns the next complete messages as frames. Also raises ``Malformed``, and ``Broken`` if one is cut off."""
        while raw := await self._response.read():
            if frames := b"".join(map(self._frame, self._reader.feed(raw))):
                return frames
        self._reader.close()
        return b""

    def close(self) -> None:
        """Release the connection."""
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
    """``{"bytes": base64 of an event's document, "p": padding}`` → the event with the document unchanged."""
    try:
        data = b64decode(orjson.loads(payload)["bytes"], validate=True)
        document = orjson.loads(data)
    except (ValueError, LookupError, TypeError):
        raise Malformed("a chunk of the upstream's event stream cannot be read") from None
    kind = document.get("type") if isinstance(document, dict) else None
    return encode(data, _name(kind) or "completion")


def _name(text: Any) -> str | None:
    """Returns an event's name if it is a plain identifier: anything else could break the frame."""
    return text if isinstance(text, str) and text.isidentifier() else None


def message_of(body: bytes) -> str:
    """Returns the message of an AWS error document; ``""`` if the body is something else."""
    try:
        document = orjson.loads(body)
    except ValueError:
        return ""
    said = document.get("message") or document.get("Message") if isinstance(document, dict) else None
    return said if isinstance(said, str) else ""
