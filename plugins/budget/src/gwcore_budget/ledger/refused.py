"""Operations that the store refuses for good: for a text or number that it cannot store, or an operator's constraint.

Such an operation is booked with its money and accounts, but with fewer details. If that is refused, too, its holds stay
held, it is retried now and then, and a row in ``budget_refused`` lets ``gwcore ledger verify`` report it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gwcore_budget.ledger.ops import NOTHING_METERED, Facts, Metered, Op, Settle, Spent

LEAST = 2
"""The highest level of details left out: 1 shortens texts to plain ones or drops them, 2 keeps ids and money alone."""
AGAIN = 60.0
"""Seconds between retries of what the store refused."""
_LETTERS, _NUMBER = 64, 10**12


def lessened(op: Op, less: int) -> Op | None:
    """The operation with the same money but fewer details; ``None`` if there is nothing to leave out."""
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
    """Facts that any store accepts."""
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
    """Ids of the holds that an operation ends."""
    if isinstance(op, Spent):
        return tuple([hold.id for hold in op.holds])
    return (op.hold,) if isinstance(op, Settle) else ()
