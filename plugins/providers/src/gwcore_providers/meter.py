"""Usage out of the bytes that pass. Chunks that cannot hold usage cost one search and are never parsed."""

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
"""A document of the reply → what it says of usage, kept in ``Facts``; the same for a whole reply and for its frames."""
FINAL, HEARD = "final", "heard"
"""Kept among the facts once the usage is all there will be."""
Judge = Callable[[dict[str, Any]], bool]
Total = Callable[[Facts], Usage | None]
"""The facts → the usage; called when somebody asks."""


class FixedMeter:
    """For operations whose reply says nothing: what is billed is known from the request."""

    void = final = heard = False

    def __init__(self, usage: Usage) -> None:
        self.usage: Usage | None = usage

    def feed(self, chunk: bytes) -> bytes:
        """The chunk."""
        return chunk

    def finish(self) -> bytes:
        """Nothing is held back."""
        return b""

    def whole(self, body: bytes) -> None:
        """Nothing to read."""


class JsonMeter:
    """For operations that answer with one document.

    Args:
        gather: what a document says.
        total: what it comes to.
        facts: known before the reply.
        judge: whether a document is an answer that says nothing, and not why.
    """

    void = False
    _usage: Usage | None = None
    _counted = False
    _size = 0

    def __init__(self, gather: Gather, total: Total, facts: Facts | None = None, judge: Judge | None = None) -> None:
        self._judge = judge
        self._facts: Facts = {} if facts is None else facts
        self._gather = gather
        self._total = total
        self._parts: list[bytes] = []

    @property
    def usage(self) -> Usage | None:
        """What the reply said so far; ``None`` where it cannot be understood: who settles must not fail by it."""
        if not self._counted:  # each plugin that counts asks
            self._counted = True
            try:
                self._usage = self._total(self._facts)
            except MISSHAPEN:
                self._usage = None
        return self._usage

    @property
    def heard(self) -> bool:
        """Whether what was read is told, all of it, while the answer is still written."""
        return HEARD in self._facts

    @property
    def final(self) -> bool:
        """Whether the usage is all there will be, however the stream ends."""
        return FINAL in self._facts

    def feed(self, chunk: bytes) -> bytes:
        """A piece of a document that is relayed as it comes (Google's streams without ``alt=sse``); kept until its end."""
        self._size += len(chunk)
        if self._size <= WHOLE_CAP:
            self._parts.append(chunk)
        return chunk

    def finish(self) -> bytes:
        """Nothing is held back."""
        if self._parts and self._size <= WHOLE_CAP:
            self.whole(b"".join(self._parts))
        return b""

    def whole(self, body: bytes) -> None:
        """A complete reply; one that is not JSON has no usage."""
        try:
            document = orjson.loads(body)
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
            pass  # of another shape: it says nothing, and passes


@cache
def _mark(member: bytes) -> re.Pattern[bytes]:
    """Also across the lines of a frame, each of which begins with ``data:``."""
    return re.compile(rb"%b[\s:]*+(?:data:[\s:]*+)*\{" % member)


class StreamMeter(JsonMeter):
    """For event streams: a frame is parsed only where a ``member`` of it is an object.

    Args:
        gather: what a frame's document says.
        total: what it comes to.
        member: what a frame with usage holds, an identifier. Others may hold it with ``null``.
        hide: whether to keep a frame from the client: its document → hidden; ``None`` hides nothing.
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
        """The chunk, less a frame the client did not ask for."""
        if self._skip:
            return chunk
        plain = 0 if self._reader.pending else self._plain(chunk)
        if plain == len(chunk):
            return chunk
        try:
            frames = self._reader.feed(chunk[plain:])
        except Malformed:
            self._skip = True  # a frame beyond any cap: relay, and count nothing
            return chunk
        return self._keep(frames, chunk, plain)

    def finish(self) -> bytes:
        """What the reader still holds."""
        return b"" if self._skip else self._keep(self._reader.close(), b"", 0)

    def _plain(self, chunk: bytes) -> int:
        """How many bytes at the beginning are whole frames that cannot hold usage."""
        # nearly always there is none, which is seen far faster so
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
