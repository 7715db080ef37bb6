"""Budgets of ``/budget/new``: named values that the policies of keys, teams … refer to by ``budget_id``."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gwcore_budget.config import BudgetPolicy
from gwcore_budget.ledger.home import Home

_COLUMNS = "id, policy, created, created_by, updated, updated_by"


class Plan(NamedTuple):
    """A named budget; times in milliseconds since 1970."""

    id: str
    policy: BudgetPolicy
    created: int
    created_by: str
    updated: int
    updated_by: str


class Plans:
    """All named budgets, in memory; every worker checks for changes twice a second.

    Attributes:
        changed: called after plans have changed.
    """

    def __init__(self) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._all: Mapping[str, Plan] = {}
        self._seen: tuple[Any, ...] = (0, 0)

    def get(self, id_: str) -> BudgetPolicy | None:
        """A plan's policy, or ``None``."""
        plan = self._all.get(id_)
        return None if plan is None else plan.policy

    def listing(self) -> list[Plan]:
        """All plans, sorted by id."""
        return [self._all[id_] for id_ in sorted(self._all)]

    def plan(self, id_: str) -> Plan | None:
        """A plan with its history, or ``None``."""
        return self._all.get(id_)

    async def refresh(self, home: Home) -> None:
        """Reload all plans if any has changed. Raises ``StoreDown``."""
        # every write gives a row a new random stamp
        seen = (await home.rows("SELECT count(*), CAST(coalesce(sum(stamp), 0) AS BIGINT) FROM budget_plan"))[0]
        if seen == self._seen:
            return
        rows = await home.rows(f"SELECT {_COLUMNS} FROM budget_plan")  # noqa: S608 - constant columns
        self._all = {row[0]: Plan(row[0], BudgetPolicy.model_validate_json(row[1]), *row[2:]) for row in rows}
        self._seen = seen
        self.changed()

    async def create(self, home: Home, id_: str, policy: BudgetPolicy, by: str, now: int) -> bool:
        """Create a plan; ``False`` if the id is taken. Raises ``StoreDown``."""
        rows = await home.rows(
            f"INSERT INTO budget_plan ({_COLUMNS}, stamp) VALUES ($1,$2,$3,$4,$3,$4,$5) "  # noqa: S608 - likewise
            "ON CONFLICT (id) DO NOTHING RETURNING id",
            id_, _text(policy), now, by, secrets.randbits(31),
        )  # fmt: skip
        await self.refresh(home)
        return bool(rows)

    async def update(self, home: Home, id_: str, policy: BudgetPolicy, by: str, now: int) -> bool:
        """Replace a plan's policy; ``False`` if there is no such plan. Raises ``StoreDown``."""
        rows = await home.rows(
            "UPDATE budget_plan SET policy=$2, updated=$3, updated_by=$4, stamp=$5 WHERE id=$1 RETURNING id",
            id_, _text(policy), now, by, secrets.randbits(31),
        )  # fmt: skip
        await self.refresh(home)
        return bool(rows)

    async def delete(self, home: Home, id_: str) -> bool:
        """Delete a plan; ``False`` if there was none. Raises ``StoreDown``."""
        rows = await home.rows("DELETE FROM budget_plan WHERE id=$1 RETURNING id", id_)
        await self.refresh(home)
        return bool(rows)


def _text(policy: BudgetPolicy) -> str:
    return policy.model_dump_json(exclude_none=True)
