"""JSON documents, one per line: how some servers stream."""

from __future__ import annotations

from gwcore.errors import Malformed
from gwcore.wire.sse import LIMIT, Frame


class NdjsonReader:
    """Splits a stream of arbitrary chunks into lines, one frame each, without blank ones. Linear in the bytes.

    Args:
        limit: bytes of one line. A longer one raises ``Malformed``.
    """

    __slots__ = ("_limit", "_parts", "_size")

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[Frame]:
        """The lines that this chunk completes."""
        *lines, rest = chunk.split(b"\n")
        frames: list[Frame] = []
        for line in lines:
            self._parts.append(line)
            frames += self._take()
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
            if self._size > self._limit:
                raise Malformed(f"a line of more than {self._limit} bytes in the upstream's stream")
        return frames

    def close(self) -> list[Frame]:
        """The last line, if no newline ends it."""
        return self._take()

    def _take(self) -> list[Frame]:
        line = b"".join(self._parts)
        self._parts, self._size = [], 0
        data = line.strip()
        return [Frame("", data, line + b"\n")] if data else []
