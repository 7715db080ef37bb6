"""``gwcore ledger reconcile``: holds posted at their worst case are corrected, once, to what the vendor billed."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import PydanticCustomError

from gwcore.units import DOLLAR, parse_money
from gwcore_budget.ledger.home import Conflict, Home, Unfit, attempts_of, day_of, places
from gwcore_budget.ledger.ops import POSTED, REAPED, Done, Missing, Result, Settle
from gwcore_budget.ledger.refused import LEAST, lessened

_BATCH = 200


class BadBill(ValueError):
    """A bill that cannot be read."""


@dataclass(slots=True)
class Deltas:
    """The result of a reconciliation; nano-USD.

    Attributes:
        corrected: number of holds corrected from worst case to the bill. ``kept``: number that needed no correction.
        missing: ids of bills for which there is no hold, or more than one candidate.
        refused: holds whose correction the store refuses; they stay as they were.
        by: (day, upstream/model) → posted before, and after.
    """

    corrected: int = 0
    kept: int = 0
    missing: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    by: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The result for printing, in dollars."""
        return {
            "corrected": self.corrected,
            "kept": self.kept,
            "missing": self.missing,
            "refused": self.refused,
            "days": [
                {"day": day, "model": model, "before": a / DOLLAR, "after": b / DOLLAR, "change": (b - a) / DOLLAR}
                for (day, model), (a, b) in sorted(self.by.items())
            ],
        }


def read_bills(lines: Iterable[str]) -> dict[str, int]:
    """Id → nano-USD, from a CSV with the columns ``id`` and ``cost`` (dollars). Raises ``BadBill``."""
    bills: dict[str, int] = {}
    reader = csv.DictReader(lines)
    if not {"id", "cost"} <= set(reader.fieldnames or ()):
        raise BadBill("the first line must name the columns: id,cost")
    for row in reader:
        try:
            nano = parse_money(row["cost"])
        except PydanticCustomError:
            raise BadBill(f"line {reader.line_num}: cost is not an amount of dollars") from None
        if not row["id"] or row["id"] in bills:
            raise BadBill(f"line {reader.line_num}: " + ("no id" if not row["id"] else "this id occurs twice"))
        bills[row["id"]] = nano
    return bills


async def reconcile(home: Home, bills: Mapping[str, int]) -> Deltas:
    """Post the billed amount of every REAPED hold that has a bill. A repeat changes nothing.

    A bill with a request's id applies to its one attempt of unknown outcome; if there are several, the bill needs the
    attempt's id. The vendor's own ids are known for attempts of unknown outcome that were answered.

    Raises ``StoreDown``.
    """
    deltas = Deltas()
    names = list(bills)
    for at in range(0, len(names), _BATCH):
        await _some(home, names[at : at + _BATCH], bills, deltas)
    return deltas


async def _some(home: Home, names: list[str], bills: Mapping[str, int], deltas: Deltas) -> None:
    ranges = [id_ for name in names for id_ in attempts_of(name)]
    first = len(names) + 1
    wanted = [
        f"id IN ({places(len(names))})",
        f"upstream_id IN ({places(len(names))})",
        *(f"id BETWEEN ${n} AND ${n + 1}" for n in range(first, first + len(ranges), 2)),
    ]
    query = f"SELECT id, request, state, created, upstream, model, settled, upstream_id FROM budget_hold WHERE {' OR '.join(wanted)}"
    rows = await home.rows(query, *names, *ranges)
    settles: list[tuple[str, Settle, tuple[str, str], int]] = []
    for name in names:
        own = next(filter(None, ([row for row in rows if name == row[at]] for at in (0, 1, 7))), [])
        reaped = [row for row in own if row[2] == REAPED]
        if not own or len(reaped) > 1:
            deltas.missing.append(name)
        elif not reaped:
            deltas.kept += 1
        else:
            id_, _, _, created, upstream, model, settled, _ = reaped[0]
            key = (day_of(created), f"{upstream}/{model}")
            settles.append((name, Settle(id_, POSTED, bills[name], "reconciled"), key, settled or 0))
    results = await _corrected(home, [settle for _, settle, _, _ in settles])
    for (name, settle, key, before), result in zip(settles, results, strict=True):
        if isinstance(result, Done):
            deltas.corrected += 1
            sums = deltas.by.setdefault(key, [0, 0])
            sums[0] += before
            sums[1] += settle.amount
        elif result is None:
            deltas.refused.append(settle.hold)
        elif isinstance(result, Missing):  # closed meanwhile
            deltas.missing.append(name)
        else:
            deltas.kept += 1


async def _corrected(home: Home, ops: Sequence[Settle], less: int = 0) -> list[Result | None]:
    """The results; ``None`` for what the store refuses, without affecting the others."""
    try:
        return [*(await home.transact([lessened(op, less) or op for op in ops] if less else ops)).results]
    except (Conflict, Unfit) as error:
        half = len(ops) // 2
        if half:
            return [*await _corrected(home, ops[:half]), *await _corrected(home, ops[half:])]
        return await _corrected(home, ops, less + 1) if less < LEAST and isinstance(error, Unfit) else [None]
