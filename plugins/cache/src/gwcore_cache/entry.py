"""A stored answer, and its serialized form."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

import orjson

from gwcore.usage import NO_FEES, Cost, Usage

VERSION: Final = 1
"""Version of the serialized form; part of every key, so that releases with different forms never share entries."""

Form = Literal["json", "sse"]
_LENGTH = struct.Struct(">I")
_USAGE = tuple(field.name for field in fields(Usage))
_NOTHING = Usage()


@dataclass(slots=True, frozen=True)
class Entry:
    """One answer. Times are milliseconds since the epoch, by the clock of the worker that stored it.

    Attributes:
        dialect: of the body.
        operation: that it answers.
        form: ``json`` is a complete document, ``sse`` an event stream.
        shape: the request's stream options as JSON, since they change the stream; ``""`` for a document.
        content_type: of the response.
        body: exactly as the client received it, but without comments in streams.
        made: time of the answer.
        fresh: end of its freshness.
        kept: end of any use.
        took: milliseconds that the attempt took.
        usage: as reported by the upstream.
        cost: of the usage, if priced.
        model: as the client wrote it; for purges, as ``scope`` and ``tags``.
        scope: of the call.
        tags: of the call.
        dropped: names of request features that were lost in translation, for ``x-gwcore-dropped``.
    """

    dialect: str
    operation: str
    form: Form
    shape: str
    content_type: bytes
    body: bytes
    made: int
    fresh: int
    kept: int
    took: int
    usage: Usage | None
    cost: Cost | None
    model: str
    scope: str
    tags: tuple[str, ...] = ()
    dropped: bytes = b""

    @property
    def size(self) -> int:
        """Approximate size in bytes."""
        return len(self.body) + 512

    def pack(self) -> bytes:
        """Serializes the entry."""
        cost = self.cost
        about = {
            "d": self.dialect,
            "o": self.operation,
            "f": self.form,
            "s": self.shape,
            "t": self.content_type.decode("latin-1"),
            "times": (self.made, self.fresh, self.kept, self.took),
            "u": _told(self.usage),
            "c": None if cost is None else (cost.nano, cost.source, cost.version, cost.unpriced),
            "m": self.model,
            "p": self.scope,
            "g": self.tags,
            "x": self.dropped.decode("latin-1"),
        }
        head = orjson.dumps(about)
        return _LENGTH.pack(len(head)) + head + self.body

    @classmethod
    def unpack(cls, packed: bytes) -> Entry:
        """Deserializes an entry. Raises ``ValueError`` for bytes not made by :meth:`pack`."""
        try:
            (length,) = _LENGTH.unpack_from(packed)
            head = orjson.loads(packed[4 : 4 + length])
            cost = head["c"]
            made, fresh, kept, took = head["times"]
            return cls(
                head["d"],
                head["o"],
                head["f"],
                head["s"],
                head["t"].encode("latin-1"),
                packed[4 + length :],
                made,
                fresh,
                kept,
                took,
                _read(head["u"]),
                None if cost is None else Cost(cost[0], cost[1], cost[2], tuple(cost[3])),
                head["m"],
                head["p"],
                tuple(head["g"]),
                head["x"].encode("latin-1"),
            )
        except (KeyError, TypeError, IndexError, AttributeError, struct.error) as error:
            raise ValueError("not an entry") from error


def _told(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    said = {name: value for name in _USAGE if (value := getattr(usage, name)) != getattr(_NOTHING, name)}
    if "fees" in said:
        said["fees"] = dict(usage.fees)
    return said


def _read(said: Mapping[str, Any] | None) -> Usage | None:
    return None if said is None else Usage(**{"fees": NO_FEES, **said})
