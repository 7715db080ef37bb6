"""What is wrong now (:class:`Finding`), and what is told of it (:class:`Alert`). Names and numbers, never content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args

Kind = Literal["budget", "errors", "slow", "hanging", "upstream", "report"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
State = Literal["firing", "reminder", "over", "note"]
Fact = str | int | float


@dataclass(slots=True, frozen=True)
class Finding:
    """One thing that is wrong now.

    Attributes:
        subject: what it is about; the same as long as it is the same thing. One subject is told once.
        step: how bad; a higher one than was told is told at once.
        over: the title of its end; without one the end is not told.
        doubtful: it may be over, or not: what was told goes on, and nothing new is.
    """

    kind: str
    subject: str
    title: str
    facts: Mapping[str, Fact] = field(default_factory=dict)
    step: int = 0
    over: str = ""
    doubtful: bool = False


@dataclass(slots=True, frozen=True)
class Alert:
    """One message.

    Attributes:
        state: ``firing``, ``reminder``, ``over``; of a report and of what a limit held back ``note``.
        at, since: ISO 8601, UTC: when it was told, and when it was first seen.
        text: lines below the title.
    """

    kind: str
    state: State
    subject: str
    title: str
    at: str
    since: str
    facts: Mapping[str, Fact] = field(default_factory=dict)
    text: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def moment(seconds: float) -> str:
    """ISO 8601, UTC, of seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
