"""What is kept of an answer, and its form outside of this process."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

import orjson

from gwcore.usage import NO_FEES, Cost, Usage

VERSION: Final = 1
"""Of the form; part of every key, so that releases that differ in it never meet."""

Form = Literal["json", "sse"]
_LENGTH = struct.Struct(">I")
_USAGE = tuple(field.name for field in fields(Usage))
_NOTHING = Usage()


@dataclass(slots=True, frozen=True)
class Entry:
    """One answer. Times are milliseconds since the epoch, by the clock of whoever kept it.

    Attributes:
        dialect: the body is in; ``operation`` it answers.
        form: ``json`` is a whole document, ``sse`` a stream of events.
        shape: digest of what else decides how the stream looks; ``b""`` for a document.
        content_type: of the response.
        body: as the client received it, byte for byte; without comments of the gateway.
        made: when; ``fresh``: until when it is as good as new; ``kept``: until when it may be used at all.
        took: milliseconds that it took to make.
        usage: as the upstream reported; ``cost`` of it, where it is priced.
        dropped: names of what another dialect could not be told of the request, for ``x-gwcore-dropped``.
        model: as the client wrote it; ``scope`` and ``tags`` of the call: what a purge goes by.
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
        """Bytes that it takes, about."""
        return len(self.body) + 512

    def pack(self) -> bytes:
        """As bytes."""
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
        """From bytes. Raises ``ValueError`` for what :meth:`pack` did not make."""
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
