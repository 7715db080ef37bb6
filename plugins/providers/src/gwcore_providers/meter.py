"""Reads usage from the bytes passing through. Chunks that cannot contain usage cost one search and are never parsed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import orjson

from gwcore.errors import MISSHAPEN, Malformed
from gwcore.usage import Usage
from gwcore.wire.sse import Frame, SseReader

WHOLE_CAP = 64 << 20
Facts = dict[str, Any]
Gather = Callable[[Mapping[str, Any], Facts], None]
"""Collects what a document of the reply says about usage into ``Facts``; used for whole replies and for frames."""
FINAL, HEARD = "final", "heard"
"""Keys of ``Facts``, set once the usage is complete, and once all input tokens have been reported."""
Judge = Callable[[dict[str, Any]], bool]
Total = Callable[[Facts], Usage | None]
"""The facts → the usage; called when the usage is read."""


class FixedMeter:
    """For operations whose replies report no usage: the billed amount is known from the request."""

    void = final = heard = False

    def __init__(self, usage: Usage) -> None:
        self.usage: Usage | None = usage

    def feed(self, chunk: bytes) -> bytes:
        """The chunk, unchanged."""
        return chunk

    def finish(self) -> bytes:
        """Nothing is held back."""
        return b""

    def whole(self, body: bytes) -> None:
        """Nothing to read."""


class JsonMeter:
    """For operations that answer with one document.

    Args:
        gather: collects a document's facts.
        total: computes the usage from them.
        facts: known before the reply.
        judge: whether a document is an answer with neither content nor reason.
        tail: all facts are in ``usage``, so that of a reply that ends with it no more is parsed.
    """

    void = False
    _usage: Usage | None = None
    _counted = False
    _size = 0

    def __init__(
        self,
        gather: Gather,
        total: Total,
        facts: Facts | None = None,
        judge: Judge | None = None,
        *,
        tail: bool = False,
    ) -> None:
        self._judge = judge
        self._tail = tail
        self._facts: Facts = {} if facts is None else facts
        self._gather = gather
        self._total = total
        self._parts: list[bytes] = []

    @property
    def usage(self) -> Usage | None:
        """Usage reported so far; ``None`` if it cannot be interpreted, which must not make the settlement fail."""
        if not self._counted:  # several plugins read it
            self._counted = True
            try:
                self._usage = self._total(self._facts)
            except MISSHAPEN:
                self._usage = None
        return self._usage

    @property
    def heard(self) -> bool:
        """Whether all input tokens have been reported, while the answer is still being generated."""
        return HEARD in self._facts

    @property
    def final(self) -> bool:
        """Whether the usage is complete, however the stream ends."""
        return FINAL in self._facts

    def feed(self, chunk: bytes) -> bytes:
        """Keep a piece of a streamed JSON document (Google's streams without ``alt=sse``) until the end; returns it."""
        self._size += len(chunk)
        if self._size <= WHOLE_CAP:
            self._parts.append(chunk)
        return chunk

    def finish(self) -> bytes:
        """Read the document that was streamed, if any; no bytes are held back."""
        if self._parts and self._size <= WHOLE_CAP:
            self.whole(b"".join(self._parts))
        return b""

    def whole(self, body: bytes) -> None:
        """Read a complete reply; one that is not JSON has no usage."""
        try:
            document = (_tail(body) if self._tail else None) or orjson.loads(body)
        except orjson.JSONDecodeError:
            return
        if isinstance(document, dict):
            self._gathered(document)
            self.void = self._judge is not None and self._judge(document)
        elif isinstance(document, list):
            for one in document:
                if isinstance(one, dict):
                    self._gathered(one)

    def _gathered(self, document: dict[str, Any]) -> None:
        self._counted = False
        try:
            self._gather(document, self._facts)
        except MISSHAPEN:
            pass  # unknown shape: nothing is counted


def _tail(body: bytes) -> dict[str, Any] | None:
    """The members from the last ``usage`` on, if it is one of the outermost object: what follows then closes one brace."""
    at = body.rfind(b'"usage"')
    try:
        return orjson.loads(b"{" + body[at:]) if at >= 0 else None
    except orjson.JSONDecodeError:
        return None


@cache
def _mark(member: bytes) -> re.Pattern[bytes]:
    """A pattern for a member that is an object, also across the ``data:`` lines of a frame."""
    return re.compile(rb"%b[\s:]*+(?:data:[\s:]*+)*\{" % member)


class StreamMeter(JsonMeter):
    """For event streams: a frame is parsed only if its ``member`` is an object.

    Args:
        gather: collects the facts of a frame's document.
        total: computes the usage from them.
        member: name of the member that frames with usage have. In other frames it may be ``null``.
        hide: whether to withhold a frame from the client, given its document; ``None`` hides nothing.
        facts: known before the reply.
    """

    def __init__(
        self,
        gather: Gather,
        total: Total,
        member: str,
        hide: Callable[[dict[str, Any]], bool] | None = None,
        facts: Facts | None = None,
    ) -> None:
        super().__init__(gather, total, facts)
        self._member = b'"%b"' % member.encode()
        self._mark = _mark(self._member)
        self._hide = hide
        self._reader = SseReader()
        self._skip = False

    def feed(self, chunk: bytes) -> bytes:
        """The chunk, without frames the client did not ask for."""
        if self._skip:
            return chunk
        plain = 0 if self._reader.pending else self._plain(chunk)
        if plain == len(chunk):
            return chunk
        try:
            frames = self._reader.feed(chunk[plain:])
        except Malformed:
            self._skip = True  # a frame exceeds the size limit: relay the rest without counting
            return chunk
        return self._keep(frames, chunk, plain)

    def finish(self) -> bytes:
        """The bytes that the reader still holds."""
        return b"" if self._skip else self._keep(self._reader.close(), b"", 0)

    def _plain(self, chunk: bytes) -> int:
        """How many bytes at the beginning are complete frames that cannot contain usage."""
        # nearly always the member is absent, which a plain search finds far faster
        at = chunk.find(self._member)
        found = self._mark.search(chunk, at) if at >= 0 else None
        end = chunk.rfind(b"\n\n", 0, found.start() if found else len(chunk))
        return end + 2 if end >= 0 else 0

    def _keep(self, frames: list[Frame], chunk: bytes, plain: int) -> bytes:
        kept = [frame.raw for frame in frames if not (self._mark.search(frame.data) and self._hidden(frame.data))]
        return chunk if self._hide is None else chunk[:plain] + b"".join(kept)

    def _hidden(self, data: bytes) -> bool:
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError:
            return False
        if not isinstance(document, dict):
            return False
        self._gathered(document)
        return self._hide is not None and self._hide(document)
