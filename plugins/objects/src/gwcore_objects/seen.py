"""Reads the ids of a vendor's objects from an answer while it is relayed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from gwcore.call import Attempt, Call
from gwcore.errors import Malformed
from gwcore.relay import header
from gwcore.wire.sse import SseReader
from gwcore.wire.transport import Headers
from gwcore_objects.ids import parsed, told

_MOST: Final = 64 << 20
"""Most bytes of a document that is read; the ids of a larger one are not found."""
_ITEM: Final = b"response.output_item."
_NEW: Final = (b".added", b"container")
"""What marks an item's events that contain ids: its start, and an end that names a container."""
_OF_CODE: Final = (b"_output", b"container")
"""What marks a message's events that name what code execution created: result blocks, the message's start or end."""


class Seen:
    """Reads an answer, for :meth:`gwcore.reply.Reply.record`.

    Args:
        call: whose answer it is.
        kind: of the objects it names; ``None`` reads only the status.

    Attributes:
        served: the attempt that began the answer; ``call.served`` may be a later one.
    """

    __slots__ = ("_call", "_events", "_found", "_kind", "_parts", "_size", "served", "status")

    def __init__(self, call: Call, kind: str | None) -> None:
        self._call = call
        self._kind = kind
        self._events: SseReader | None = None
        self._parts: list[bytes] = []
        self._found: dict[tuple[str, str], None] = {}
        self._size = 0
        self.served: Attempt | None = None
        self.status = 0

    def commit(self, status: int, headers: Headers) -> None:
        """An answer begins; it may replace an earlier one."""
        self.status, self.served = status, self._call.served
        self._events = SseReader() if self._call.stream and b"json" not in header(headers, b"content-type") else None
        self._parts.clear()
        self._found.clear()
        self._size = 0

    def write(self, chunk: bytes) -> None:
        """Read a chunk of the answer."""
        if self._kind is None or self.status >= 300 or not chunk:
            return
        if self._events is None:
            self._size += len(chunk)
            if self._size <= _MOST:
                self._parts.append(chunk)
            return
        with suppress(Malformed):  # an event of many megabytes contains no ids
            for frame in self._events.feed(chunk):
                document = self._event(frame.raw, frame.data)
                if isinstance(document, dict):
                    self._found.update(dict.fromkeys(told(document, self._kind)))

    def _event(self, raw: bytes, data: bytes) -> Any:
        """The part of an answer in an event, in the answer's own format; only few events need parsing."""
        if self._kind == "message":
            if not any(word in raw for word in _OF_CODE):
                return None
            event = parsed(data)
            return event.get("message") or event.get("delta") or {"content": [event.get("content_block")]}
        # ids are in the first event, and where an item starts
        if _ITEM in raw and any(word in raw for word in _NEW):
            return {"output": [parsed(data).get("item")]}
        return None if self._found else parsed(data).get("response")

    def found(self) -> Sequence[tuple[str, str]]:
        """Kind and id of the objects that the answer names, its own first."""
        if self._parts and self._size <= _MOST:
            assert self._kind is not None
            return told(parsed(b"".join(self._parts)), self._kind)
        return list(self._found)
