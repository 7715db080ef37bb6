"""What an answer tells of what a vendor keeps, read beside it as it goes by."""

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
"""Bytes of a document that is read; what is over it tells of nothing."""
_ITEM: Final = b"response.output_item."
_NEW: Final = (b".added", b"container")
"""What an event of an item has that tells of it: its beginning, and an end that names a container."""
_OF_CODE: Final = (b"_output", b"container")
"""What an event of a message has that tells of what code execution made: a block that is a result, the message's beginning or its end."""


class Seen:
    """An answer, as :meth:`gwcore.reply.Reply.record` shows it.

    Args:
        call: whose.
        kind: of what it tells; ``None``: its status is all that is wanted.

    Attributes:
        served: the attempt that began it; the call's own is the latest that was tried.
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
        """An answer begins, perhaps in place of another."""
        self.status, self.served = status, self._call.served
        self._events = SseReader() if self._call.stream and b"json" not in header(headers, b"content-type") else None
        self._parts.clear()
        self._found.clear()
        self._size = 0

    def write(self, chunk: bytes) -> None:
        """A piece of it."""
        if self._kind is None or self.status >= 300 or not chunk:
            return
        if self._events is None:
            self._size += len(chunk)
            if self._size <= _MOST:
                self._parts.append(chunk)
            return
        with suppress(Malformed):  # an event of many megabytes has none of it
            for frame in self._events.feed(chunk):
                document = self._event(frame.raw, frame.data)
                if isinstance(document, dict):
                    self._found.update(dict.fromkeys(told(document, self._kind)))

    def _event(self, raw: bytes, data: bytes) -> Any:
        """The part of an answer that an event brings, in the answer's own shape; few of them need be parsed."""
        if self._kind == "message":
            if not any(word in raw for word in _OF_CODE):
                return None
            event = parsed(data)
            return event.get("message") or event.get("delta") or {"content": [event.get("content_block")]}
        # ids stand in the first event, and where an item begins
        if _ITEM in raw and any(word in raw for word in _NEW):
            return {"output": [parsed(data).get("item")]}
        return None if self._found else parsed(data).get("response")

    def found(self) -> Sequence[tuple[str, str]]:
        """Kind and id of what it tells of, itself first."""
        if self._parts and self._size <= _MOST:
            assert self._kind is not None
            return told(parsed(b"".join(self._parts)), self._kind)
        return list(self._found)
