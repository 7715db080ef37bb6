"""A current problem (:class:`Finding`), and a message about it (:class:`Alert`). Names and numbers, never content."""

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
    """One current problem.

    Attributes:
        subject: identifies the problem as long as it lasts; alerted once.
        step: severity; an increase is alerted at once.
        over: title of the message when it ends; empty for none.
        doubtful: it may be over or not: an active alert stays active, but no new one is sent.
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
        state: ``firing``, ``reminder``, ``over``; ``note`` for reports, and for summaries of alerts held back.
        at, since: ISO 8601, UTC: when it was sent, and when the problem was first seen.
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
        """The fields as a JSON document."""
        return {name: getattr(self, name) for name in self.__slots__}


def moment(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
