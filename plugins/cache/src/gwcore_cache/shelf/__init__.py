"""Storage of answers: one protocol, three implementations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from gwcore_cache.entry import Entry


class ShelfDown(Exception):
    """The store does not answer, or not in time. Contains no driver text."""


class ShelfFull(ShelfDown):
    """The store answers, but accepts no more data."""


class Turn(Enum):
    """Who asks the upstream."""

    OURS = "ours"
    """The caller, and no other worker that shares leases."""
    OTHERS = "others"
    """Another worker: try again soon."""
    ALONE = "alone"
    """Every call by itself, for example because the last answer could not be stored."""


@dataclass(slots=True)
class Turned:
    """Result of :meth:`Shelf.turn`; ``entry`` is the current entry, fresh or not.

    ``epoch`` is passed to :meth:`Shelf.put`: an answer that was begun before a purge is not stored after it.
    """

    turn: Turn
    entry: Entry | None = None
    epoch: int = 0


@dataclass(slots=True, frozen=True)
class Wanted:
    """What to purge: entries that match all given fields; all entries if none is given."""

    keys: tuple[bytes, ...] = ()
    model: str | None = None
    tag: str | None = None
    scope: str | None = None

    @property
    def everything(self) -> bool:
        """Whether no field is given."""
        return not self.keys and self.model is None and self.tag is None and self.scope is None

    def fits(self, key: bytes, entry: Entry) -> bool:
        """Whether an entry matches."""
        return (
            (not self.keys or key in self.keys)
            and (self.model is None or entry.model == self.model)
            and (self.tag is None or self.tag in entry.tags)
            and (self.scope is None or entry.scope == self.scope)
        )


class Shelf(Protocol):
    """Keys are 32 bytes. Every method but ``health`` may raise :class:`ShelfDown`."""

    leases: bool
    """Whether :meth:`turn` coordinates with other workers."""

    async def get(self, keys: Sequence[bytes], scope: str) -> list[Entry | None]:
        """Returns entries in the order of ``keys``; one that does not open is deleted, and ``None``."""
        ...

    async def turn(self, key: bytes, scope: str) -> Turned:
        """Take the turn to ask the upstream for this key, if it is free."""
        ...

    async def put(self, entries: Sequence[tuple[bytes, Entry]], turn: bytes | None, epoch: int) -> bool:
        """Store the entries and end the turn on ``turn``; returns whether they were stored."""
        ...

    async def leave(self, turn: bytes, *, alone: bool) -> None:
        """End a turn without an answer to store; ``alone``: for a moment, calls do not wait for each other."""
        ...

    async def purge(self, wanted: Wanted) -> int:
        """Delete matching entries; returns their number."""
        ...
