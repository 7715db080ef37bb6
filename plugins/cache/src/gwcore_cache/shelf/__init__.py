"""Where answers are kept: one contract, three homes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from gwcore_cache.entry import Entry


class ShelfDown(Exception):
    """The store does not answer in time, or not at all. Holds no text of a driver's."""


class ShelfFull(ShelfDown):
    """The store answers, and takes nothing more."""


class Turn(Enum):
    """Who asks the upstream."""

    OURS = "ours"
    """The caller: nobody else in the fleet does."""
    OTHERS = "others"
    """Another worker does: come again soon."""
    ALONE = "alone"
    """Whoever wants: the last answer was one that nobody may keep."""


@dataclass(slots=True)
class Turned:
    """What :meth:`Shelf.turn` says; ``entry`` is what stands there now, fresh or not.

    ``epoch`` is handed back with the answer: one that was begun before a purge is not kept after it.
    """

    turn: Turn
    entry: Entry | None = None
    epoch: int = 0


@dataclass(slots=True, frozen=True)
class Wanted:
    """What to purge: everything that fits all that is given; of nothing, everything."""

    keys: tuple[bytes, ...] = ()
    model: str | None = None
    tag: str | None = None
    scope: str | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing narrows it."""
        return not self.keys and self.model is None and self.tag is None and self.scope is None

    def fits(self, key: bytes, entry: Entry) -> bool:
        """Whether an entry is among them."""
        return (
            (not self.keys or key in self.keys)
            and (self.model is None or entry.model == self.model)
            and (self.tag is None or self.tag in entry.tags)
            and (self.scope is None or entry.scope == self.scope)
        )


class Shelf(Protocol):
    """Keys are 32 bytes. Every method but ``health`` may raise :class:`ShelfDown`."""

    leases: bool
    """Whether :meth:`turn` knows of other workers."""

    async def get(self, keys: Sequence[bytes], scope: str) -> list[Entry | None]:
        """Entries, in the order of ``keys``; what does not open is deleted and ``None``."""
        ...

    async def turn(self, key: bytes, scope: str) -> Turned:
        """Take the turn to ask the upstream for this key, if it is free."""
        ...

    async def put(self, entries: Sequence[tuple[bytes, Entry]], turn: bytes | None, epoch: int) -> bool:
        """Keep them and end the turn on ``turn``; whether they were kept."""
        ...

    async def leave(self, turn: bytes, *, alone: bool) -> None:
        """End a turn without an answer to keep; ``alone``: for a moment let everybody ask for themselves."""
        ...

    async def purge(self, wanted: Wanted) -> int:
        """Forget; how many."""
        ...
