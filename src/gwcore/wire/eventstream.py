"""``application/vnd.amazon.eventstream``: binary messages in a stream, each with two checksums.

Source: "Event stream encoding" of the Smithy specification, https://smithy.io/2.0/aws/amazon-eventstream.html::

    total length u32 · headers length u32 · CRC-32 of these 8 bytes · headers · payload · CRC-32 of all before it
    header: name length u8 · name · type u8 · value            (integers are big-endian)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from zlib import crc32

from gwcore.errors import Broken, Malformed

LIMIT = 24 * 1024 * 1024
"""Bytes of one message; the specification's cap on a payload is 24 MiB."""

_PRELUDE = struct.Struct(">III")
_CHECKSUM = struct.Struct(">I")
_SMALLEST = _PRELUDE.size + _CHECKSUM.size

Value = bool | int | str | bytes
"""``int`` is a byte, short, int, long or a timestamp in milliseconds; ``bytes`` a byte array or a UUID."""

# type → how many bytes, what they are. Types 6 and 7 bring their own length.
_FIXED: dict[int, tuple[int, Callable[[bytes], Value]]] = {
    0: (0, lambda _: True),
    1: (0, lambda _: False),
    2: (1, lambda b: int.from_bytes(b, signed=True)),
    3: (2, lambda b: int.from_bytes(b, signed=True)),
    4: (4, lambda b: int.from_bytes(b, signed=True)),
    5: (8, lambda b: int.from_bytes(b, signed=True)),
    8: (8, lambda b: int.from_bytes(b, signed=True)),
    9: (16, bytes),
}
_BYTES, _STRING = 6, 7


@dataclass(slots=True)
class Message:
    """One message. ``:message-type`` is ``event``, ``exception`` or ``error``."""

    headers: dict[str, Value]
    payload: bytes

    def text(self, name: str) -> str:
        """A header's text; ``""`` when there is none."""
        value = self.headers.get(name)
        return value if isinstance(value, str) else ""


class EventStreamReader:
    """Splits a stream of arbitrary chunks into messages. Linear in the bytes, whatever the chunking.

    Args:
        limit: bytes of one message.
    """

    __slots__ = ("_limit", "_pending")

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> list[Message]:
        """The messages that ``chunk`` completes.

        Raises:
            Malformed: a checksum mismatch or impossible lengths; the stream cannot be continued.
        """
        pending = self._pending
        pending += chunk
        messages: list[Message] = []
        start = 0
        while len(pending) - start >= _PRELUDE.size:
            total, headers, checksum = _PRELUDE.unpack_from(pending, start)
            if crc32(pending[start : start + 8]) != checksum:
                raise Malformed("a message of the upstream's event stream has a wrong prelude checksum")
            if not headers + _SMALLEST <= total <= self._limit:
                raise Malformed(f"a message of the upstream's event stream has impossible lengths: {total}, {headers}")
            if len(pending) - start < total:
                break
            messages.append(_message(bytes(pending[start : start + total]), headers))
            start += total
        del pending[:start]  # moves the beginning of the bytearray, not its bytes
        return messages

    def close(self) -> None:
        """The stream has ended. Raises ``Broken`` when it did so inside a message."""
        if self._pending:
            raise Broken("the upstream's event stream ended inside a message")


def _message(raw: bytes, headers: int) -> Message:
    (checksum,) = _CHECKSUM.unpack_from(raw, len(raw) - 4)
    if crc32(raw[:-4]) != checksum:
        raise Malformed("a message of the upstream's event stream has a wrong checksum")
    split = _PRELUDE.size + headers
    return Message(_headers(raw[_PRELUDE.size : split]), raw[split:-4])


def _headers(raw: bytes) -> dict[str, Value]:
    found: dict[str, Value] = {}
    at = 0
    try:
        while at < len(raw):
            name, at = _piece(raw, at + 1, raw[at])
            kind, at = raw[at], at + 1
            value: Value
            if kind in {_BYTES, _STRING}:
                piece, at = _piece(raw, at + 2, int.from_bytes(raw[at : at + 2]))
                value = piece.decode() if kind == _STRING else piece
            else:
                size, read = _FIXED[kind]
                piece, at = _piece(raw, at, size)
                value = read(piece)
            if name.decode() in found:
                raise Malformed("a message of the upstream's event stream has a header twice")
            found[name.decode()] = value
    except (IndexError, KeyError, UnicodeDecodeError):
        raise Malformed("a message of the upstream's event stream has headers that cannot be read") from None
    return found


def _piece(raw: bytes, at: int, size: int) -> tuple[bytes, int]:
    """``size`` bytes at ``at``, and the offset after them. Raises ``IndexError`` if there are too few."""
    if at + size > len(raw):
        raise IndexError
    return raw[at : at + size], at + size


def encode(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message whose headers are all text, as the services send them."""
    block = b"".join(
        bytes((len(name.encode()),)) + name.encode() + b"\x07" + len(value.encode()).to_bytes(2) + value.encode()
        for name, value in headers.items()
    )
    lengths = struct.pack(">II", len(block) + len(payload) + _SMALLEST, len(block))
    front = lengths + _CHECKSUM.pack(crc32(lengths)) + block + payload
    return front + _CHECKSUM.pack(crc32(front))
