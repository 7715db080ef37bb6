"""Decodes content-encodings of request bodies without ever holding more than a cap allows.

A kilobyte can expand to a gigabyte. So every decompressor runs in steps of bounded output, and a running total stops
it.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Generator, Iterator

from gwcore.errors import BadRequest, TooLarge, UnsupportedEncoding

try:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
except ImportError:  # this Python was built where there was no libzstd: bodies in it get a 415
    zstd = None  # type: ignore[assignment]

_LAYERS = 2
_RATIO, _SMALL = 100, 1 << 20  # how much longer a body may become; prompts become three to ten times as long
_STEP = 64 * 1024
_MEMBERS = 4096  # each costs a decompressor; a body of nothing but empty ones would keep the loop busy for seconds
_ZSTD_WINDOW = 23  # 8 MiB as a power of two; RFC 9659: no zstd sender on the web may need more

Member = Callable[[bytes, int], Generator[bytes, None, int]]


def decode(raw: bytes, encodings: str, *, limit: int) -> bytes:
    """The body behind a ``Content-Encoding`` header.

    Knows ``gzip`` (also of several members), ``deflate`` (with zlib's wrapper, as RFC 9110 §8.4.1.2 says, or without,
    as some clients send), ``zstd`` and ``identity``; up to two of them on top of each other. An empty body stays so.

    Args:
        raw: the body as sent.
        encodings: the header's value, outermost encoding last; ``""`` if there is none.
        limit: bytes, for the result and every intermediate step. A hundredfold expansion counts as over the limit, too.

    Raises:
        UnsupportedEncoding: another encoding, or more than two.
        TooLarge: over ``limit``.
        BadRequest: corrupt, truncated, or followed by something else.
    """
    names = [name for part in encodings.lower().split(",") if (name := part.strip()) not in {"", "identity"}]
    if len(names) > _LAYERS or not _DECODERS.keys() >= set(names):
        raise UnsupportedEncoding(
            f"the body's content-encoding is none of {', '.join(_DECODERS)}, or more than {_LAYERS} of them"
        )
    _check(len(raw), limit)
    limit = min(limit, max(_SMALL, _RATIO * len(raw)))
    for name in reversed(names):
        if raw:
            raw = _decode(raw, name, limit)
    return raw


def _check(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(f"the body, decoded, is over {limit} bytes")


def _decode(raw: bytes, name: str, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    try:
        for piece in _DECODERS[name](raw):
            size += len(piece)
            _check(size, limit)
            pieces.append(piece)
    except (zlib.error, EOFError):
        complete = False
    else:
        complete = True
    if not complete:  # outside the handler, so that the decompressor's error is not chained
        raise BadRequest(f"the body is not valid {name}")
    return b"".join(pieces)


def _members(raw: bytes, member: Member) -> Iterator[bytes]:
    """The contents of consecutive members (RFC 1952 §2.2, RFC 8878 §3.1)."""
    at = 0
    for _ in range(_MEMBERS):
        at = yield from member(raw, at)
        if at == len(raw):
            return
    raise EOFError


def _inflate(raw: bytes, at: int, wbits: int) -> Generator[bytes, None, int]:
    """One zlib stream from ``at`` on; returns where it ends."""
    inflater = zlib.decompressobj(wbits)
    while not inflater.eof:
        chunk = inflater.unconsumed_tail
        if not chunk:
            chunk = raw[at : at + _STEP]
            at += len(chunk)
        piece = inflater.decompress(chunk, _STEP)
        if not (chunk or piece or inflater.eof):
            raise EOFError
        yield piece
    return at - len(inflater.unused_data)


def _unzstd(raw: bytes, at: int) -> Generator[bytes, None, int]:
    """One zstd frame from ``at`` on; returns where it ends."""
    frame = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW})
    while not frame.eof:
        chunk = raw[at : at + _STEP] if frame.needs_input else b""
        if frame.needs_input and not chunk:
            raise EOFError
        at += len(chunk)
        try:
            yield frame.decompress(chunk, _STEP)
        except zstd.ZstdError:
            raise EOFError from None
    return at - len(frame.unused_data)


def _gzip(raw: bytes) -> Iterator[bytes]:
    return _members(raw, lambda raw, at: _inflate(raw, at, zlib.MAX_WBITS + 16))


def _zstd(raw: bytes) -> Iterator[bytes]:
    return _members(raw, _unzstd)


def _deflate(raw: bytes) -> Iterator[bytes]:
    # RFC 1950 §2.2: method 8, and the first two bytes are a multiple of 31.
    wrapped = raw[0] & 0x0F == zlib.DEFLATED and int.from_bytes(raw[:2], "big") % 31 == 0
    end = yield from _inflate(raw, 0, zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
    if end != len(raw):
        raise EOFError


_DECODERS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
}
if zstd is not None:
    _DECODERS["zstd"] = _zstd
