"""Operations over a list of items, embeddings and rerank: values, codecs, and how a long list is cut into batches."""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from gwcore.codec import Complaint, Crossing
from gwcore.usage import Usage

Item = str | list[int]
"""A text, or the ids of its tokens."""
Vector = list[float] | str
"""Numbers, or base64 of 32-bit floats, little-endian."""


@dataclass(slots=True)
class ListRequest:
    """A request over a list of items.

    Attributes:
        operation: ``embeddings`` or ``rerank``.
        items: in order; the reply answers in the same.
        query: what items are ranked by; ``None`` if they are not ranked.
        purpose: of the vectors: ``query``, ``document``, ``classification``, ``clustering``, ``similarity``.
        dimensions: of a vector.
        packed: vectors are wanted as base64.
        truncate: whether an item that is too long may be truncated.
        top: how many of the ranked items are wanted.
        shown: the reply repeats the items.
        user: the end user, as named by the client.
        extra: keys that no other dialect has: dropped by name.
    """

    operation: str
    dialect: str
    model: str
    items: list[Item]
    query: str | None = None
    purpose: str | None = None
    dimensions: int | None = None
    packed: bool = False
    truncate: bool | None = None
    top: int | None = None
    shown: bool = False
    user: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class ListReply:
    """The results: a vector for each item, or ``(index, score)`` of those that were ranked, in any order."""

    vectors: list[Vector] = field(default_factory=list)
    ranks: list[tuple[int, float]] = field(default_factory=list)
    usage: Usage | None = None
    id: str = ""


class UpstreamListCodec(Protocol):
    """One such operation in one dialect, as it is spoken to an upstream."""

    @property
    def operation(self) -> str:
        """What a provider's ``address`` is asked for."""
        ...

    def write_request(self, request: ListRequest, crossing: Crossing) -> dict[str, Any]:
        """Raises ``Untranslatable``."""
        ...

    def read_reply(self, document: Any) -> ListReply:
        """Raises ``Malformed``."""
        ...

    def read_error(self, status: int, body: bytes) -> Complaint:
        """An error body; its text where it is not JSON."""
        ...


class ListCodec(UpstreamListCodec, Protocol):
    """One both ways."""

    def read_request(self, document: dict[str, Any], model: str) -> ListRequest:
        """Raises ``BadRequest`` naming the place and the mend."""
        ...

    def write_reply(self, reply: ListReply, request: ListRequest, crossing: Crossing) -> dict[str, Any]:
        """Never refuses."""
        ...


def tokens_of(item: Item) -> int:
    """Practical upper bound of a text's tokens: two fifths of its bytes, except for text unlike any tokenizer's."""
    return len(item) if isinstance(item, list) else len(item.encode("utf-8", "surrogatepass")) * 2 // 5 + 1


def cut(request: ListRequest, most: int | None, tokens: int | None) -> Iterator[ListRequest]:
    """Split the request into batches of at most ``most`` items and ``tokens`` tokens; a larger item goes alone.

    The query counts once per ranked item.
    """
    each = tokens_of(request.query) if request.query is not None else 0
    batch: list[Item] = []
    size = 0
    for item in request.items:
        more = tokens_of(item) + each if tokens is not None else 0
        full = (most is not None and len(batch) >= most) or (tokens is not None and size + more > tokens)
        if batch and full:
            yield replace(request, items=batch)
            batch, size = [], 0
        batch.append(item)
        size += more
    if batch:
        yield replace(request, items=batch)


def merged(batches: list[ListRequest], replies: list[ListReply], top: int | None) -> ListReply:
    """The reply to the whole list: vectors in its order, ranks best first."""
    whole = ListReply(id=replies[0].id if replies else "")
    at = 0
    for batch, reply in zip(batches, replies, strict=True):
        whole.vectors += reply.vectors
        whole.ranks += [(index + at, score) for index, score in reply.ranks]
        at += len(batch.items)
    whole.ranks.sort(key=lambda rank: -rank[1])
    del whole.ranks[top if top is not None else len(whole.ranks) :]
    return whole


def packed(vector: Vector) -> str:
    """As base64."""
    return vector if isinstance(vector, str) else b64encode(_little(array("f", vector)).tobytes()).decode()


def unpacked(vector: Vector) -> list[float]:
    """As numbers. Raises ``ValueError``."""
    if not isinstance(vector, str):
        return vector
    numbers = array("f")
    numbers.frombytes(b64decode(vector, validate=True))
    return _little(numbers).tolist()


def _little(numbers: array[float]) -> array[float]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
