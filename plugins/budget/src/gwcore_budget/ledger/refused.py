"""What the store refuses for good about one operation: a text that it cannot hold, a number, a constraint of an operator's.

It is booked with its money and its accounts, and with less said of who and what. Where that is refused, too, what is held for it
stays held, it is asked again now and then, and a row in ``budget_refused`` lets ``gwcore ledger verify`` say so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gwcore_budget.ledger.ops import NOTHING_METERED, Facts, Metered, Op, Settle, Spent

LEAST = 2
"""The most that is left out: 1 cuts texts to a few plain letters, 2 says nothing but the money."""
AGAIN = 60.0
"""Seconds between two questions whether the store takes by now what it refused."""
_LETTERS, _NUMBER = 64, 10**12


def lessened(op: Op, less: int) -> Op | None:
    """The same money with less said of it; ``None`` where there is nothing to leave out."""
    if less > LEAST:
        return None
    if isinstance(op, Settle):
        return replace(op, metered=_metered(op.metered, less), less=less)
    if isinstance(op, Spent):
        return replace(
            op,
            holds=tuple(
                [replace(one, facts=fewer(one.facts, less), metered=_metered(one.metered, less)) for one in op.holds]
            ),
        )
    return None


def fewer(facts: Facts, less: int) -> Facts:
    """What any store takes."""
    if less == LEAST:
        return Facts(facts.request, facts.attempt)
    return Facts(*map(_plain, facts))._replace(request=facts.request, session=None, tags="[]")


def _metered(metered: Metered, less: int) -> Metered:
    if less == LEAST:
        return NOTHING_METERED
    return Metered._make(
        [
            value if isinstance(value, int) and 0 <= value < _NUMBER else least
            for value, least in zip(metered, NOTHING_METERED, strict=True)
        ]
    )


def _plain(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return "".join([char if char.isascii() and char.isprintable() else "?" for char in value[:_LETTERS]])


def held_by(op: Op) -> tuple[str, ...]:
    """Ids of the holds that an operation is to end."""
    if isinstance(op, Spent):
        return tuple([hold.id for hold in op.holds])
    return (op.hold,) if isinstance(op, Settle) else ()
