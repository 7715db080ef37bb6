"""Server-sent events, byte for byte: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream.

A relay may drop one frame and must forward the others unchanged, so every byte of the stream belongs to the ``raw`` of
exactly one :class:`Frame`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gwcore.errors import Malformed

_BOM = b"\xef\xbb\xbf"
_COLON = ord(":")
_CR, _LF = b"\r\n"  # as ints, which CPython searches for faster than for bytes
_TAIL = 3  # the longest incomplete blank line: CR LF CR
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r){2}")  # atomic, else one CR LF would be read as two line ends

BLANK_LINES = (b"\n\n", b"\n\r\n", b"\r\r")
"""The endings of a complete frame."""
LIMIT = 16 * 1024 * 1024
_HELD = 64 * 1024


@dataclass(slots=True)
class Frame:
    r"""One block of lines, up to and with the blank line that ends it.

    Attributes:
        event: the ``event`` field; ``""`` when there is none.
        data: the ``data`` fields, joined by LF; ``b""`` when there is none.
        raw: the frame's exact bytes, terminator included. Blank lines before the first field belong to it.
        comment: it has no field at all (``: ping``, or blank lines only): invisible to clients.
    """

    event: str
    data: bytes
    raw: bytes
    comment: bool = False


class SseReader:
    r"""Splits a stream of arbitrary chunks into frames. Linear in the bytes, whatever the chunking.

    Lines end with LF, CRLF or CR. A frame whose last byte so far is CR waits for the next byte, since an LF would
    belong to it. ``id`` and ``retry`` stay in ``raw``: they concern reconnecting, which answers to a POST do not
    support.

    Args:
        limit: maximum bytes of one frame.
    """

    __slots__ = ("_begun", "_cr", "_limit", "_pending", "_searched")

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._pending = bytearray()
        self._searched = 0  # no blank line begins before this offset of _pending
        self._cr = False  # a CR has been seen: then two LFs in a row are not the only blank line
        self._begun = False

    @property
    def pending(self) -> bool:
        """Whether there is an incomplete frame."""
        return bool(self._pending)

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that ``chunk`` completes. Raises :class:`~gwcore.errors.Malformed` for one over the limit."""
        if not self._cr and _CR in chunk:
            self._cr = True
        pending = self._pending
        data: bytes | bytearray = chunk
        if pending:
            pending += chunk
            data = pending
        frames: list[Frame] = []
        start = 0
        end = self._end(data, self._searched)
        while end > 0:
            self._check(end - start)
            frames.append(self._frame(bytes(data[start:end])))
            start = end
            end = self._end(data, start)
        rest = len(data) - start
        self._check(rest)
        if data is pending:
            del pending[:start]  # moves the beginning of the bytearray, not its bytes
        else:
            pending += data[start:]
        self._searched = max(0, rest - _TAIL)
        return frames

    def close(self) -> list[Frame]:
        """What a stream that ended *cleanly* left without a blank line, as a frame; at most one.

        The standard discards it. It is kept, since vendors omit the last newline, and the last frame carries the
        usage or the end mark. After a broken connection do not ask: half a frame is no frame.
        """
        rest = bytes(self._pending)
        self._pending.clear()
        self._searched = 0
        return [self._frame(rest)] if rest else []

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise Malformed(f"an event of the upstream's stream is over {self._limit} bytes")

    def _end(self, data: bytes | bytearray, start: int) -> int:
        """Offset behind the first blank line at or after ``start``, 0 if it is not complete."""
        if not self._cr:
            found = data.find(b"\n\n", start)
            return found + 2 if found >= 0 else 0
        blank = _BLANK_LINE.search(data, start)
        if blank is None or (blank.end() == len(data) and data[-1] == _CR):
            return 0
        return blank.end()

    def _frame(self, raw: bytes) -> Frame:
        # One LF-ended data line is what nearly all frames are.
        if not self._cr and raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2:
            self._begun = True
            return Frame("", raw[6:-2], raw)
        lines = raw if self._begun else raw.removeprefix(_BOM)
        self._begun = True
        event = b""
        data: list[bytes] = []
        comment = True
        for line in lines.splitlines():  # of bytes: at LF, CRLF and CR only
            if not line or line[0] == _COLON:
                continue
            comment = False
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            elif name == b"event":
                event = value.removeprefix(b" ")
        return Frame(event.decode("utf-8", "replace"), b"\n".join(data), raw, comment)


def scan(data: bytes) -> Iterator[Frame]:
    """The complete frames at the beginning of ``data``, one at a time: for who wants to see only the first."""
    reader = SseReader()
    reader._cr = _CR in data  # noqa: SLF001 - one parser in two forms
    start = 0
    while (end := reader._end(data, start)) > 0:  # noqa: SLF001
        yield reader._frame(data[start:end])  # noqa: SLF001
        start = end


def halved(data: bytes) -> tuple[bytes, bytes]:
    """The frames of ``data`` that are whole, and the beginning of one that is not.

    Nobody can read the beginning of a frame, and nothing that follows it can take it back. One that is long goes as it comes.
    """
    if data.endswith(BLANK_LINES):
        return data, b""
    at = max((found + len(end) for end in BLANK_LINES if (found := data.rfind(end)) >= 0), default=0)
    return (data[:at], data[at:]) if len(data) - at <= _HELD else (data, b"")


def encode(data: bytes, event: str | None = None) -> bytes:
    """One frame, LF-ended; every line of ``data`` becomes a ``data`` field.

    Raises ``ValueError`` if ``event`` holds a line end, which would let its rest pass for a field.
    """
    head = b""
    if event:
        if "\n" in event or "\r" in event:
            raise ValueError("a line end in an event name")
        head = b"event: " + event.encode() + b"\n"
    if _LF not in data and _CR not in data:
        return head + b"data: " + data + b"\n\n"
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return head + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"
