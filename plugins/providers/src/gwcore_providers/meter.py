"""Usage out of the bytes that pass. Chunks that cannot hold usage cost one search and are never parsed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from gwcore.errors import Malformed
from gwcore.usage import Usage
from gwcore.wire.sse import SseReader

Read = Callable[[dict[str, Any], Usage | None], Usage | None]
"""A document and the usage so far → the usage now."""


class JsonMeter:
    """For operations that answer with one document."""

    def __init__(self, read: Read) -> None:
        self.usage: Usage | None = None
        self._read = read

    def feed(self, chunk: bytes) -> bytes:
        """Nothing to read in pieces."""
        return chunk

    def finish(self) -> bytes:
        """Nothing is held back."""
        return b""

    def whole(self, body: bytes) -> None:
        """A complete reply; one that is not JSON has no usage."""
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            return
        if isinstance(document, list):  # Google's streams without alt=sse
            for one in document:
                self._one(one)
        else:
            self._one(document)

    def _one(self, document: Any) -> None:
        if isinstance(document, dict):
            self.usage = self._read(document, self.usage)


class StreamMeter(JsonMeter):
    """For event streams: a frame is parsed only where ``mark`` stands in it.

    Args:
        read: usage out of a frame's document.
        mark: what a frame with usage holds.
        hide: whether to keep a frame from the client: its document → hidden; ``None`` hides nothing.
    """

    def __init__(self, read: Read, mark: bytes, hide: Callable[[dict[str, Any]], bool] | None = None) -> None:
        super().__init__(read)
        self._mark = mark
        self._hide = hide
        self._reader = SseReader()
        self._skip = False

    def feed(self, chunk: bytes) -> bytes:
        """The chunk, less a frame the client did not ask for."""
        if self._skip:
            return chunk
        try:
            frames = self._reader.feed(chunk)
        except Malformed:
            self._skip = True  # a frame beyond any cap: relay, and count nothing
            return chunk
        return self._keep(frames, chunk)

    def finish(self) -> bytes:
        """What the reader still holds."""
        return b"" if self._skip else self._keep(self._reader.close(), b"")

    def _keep(self, frames: list[Any], chunk: bytes) -> bytes:
        hidden = False
        kept = []
        for frame in frames:
            if self._mark in frame.data and self._hidden(frame.data):
                hidden = True
            else:
                kept.append(frame.raw)
        if self._hide is None:
            return chunk
        del hidden
        return b"".join(kept)

    def _hidden(self, data: bytes) -> bool:
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError:
            return False
        if not isinstance(document, dict):
            return False
        self.usage = self._read(document, self.usage)
        return self._hide is not None and self._hide(document)
