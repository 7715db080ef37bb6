"""What the endpoints share: the ledger, ids and their aliases, days, pages, and amounts in LiteLLM's format."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

from gwcore.errors import BadRequest, NotServed, StoreUnavailable
from gwcore.plugin import Setup
from gwcore.ports import AdminCall, Directory
from gwcore.units import DOLLAR
from gwcore_budget.accounts import Accounts, UnknownPlan
from gwcore_budget.config import BudgetPolicy
from gwcore_budget.ledger.group import Unavailable
from gwcore_budget.ledger.home import Home, StoreDown
from gwcore_budget.ledger.ledger import Ledger
from gwcore_budget.plans import Plans

T = TypeVar("T")
_SETTLED = frozenset({"key", "user", "team", "member", "organisation", "end_user"})
"""Scopes whose ids may have settings of their own."""
_FIRST, _LAST = date(1970, 1, 1), date(9998, 12, 31)


class NotFound(NotServed):
    """404: no such budget, or nothing was spent on it yet."""

    code = "not_found_error"


class Desk:
    """One per plugin instance. ``running`` returns the open ledger, or ``None`` outside the plugin's lifespan."""

    def __init__(self, setup: Setup, accounts: Accounts, plans: Plans, running: Callable[[], Ledger | None]) -> None:
        self.setup = setup
        self.accounts = accounts
        self.plans = plans
        self._running = running

    @property
    def ledger(self) -> Ledger:
        """The open ledger. Raises ``StoreUnavailable`` while the gateway starts or stops."""
        ledger = self._running()
        if ledger is None:
            raise StoreUnavailable("the ledger is not open", retry_after=1)
        return ledger

    @property
    def home(self) -> Home:
        """The open ledger's home, to read from. Raises ``StoreUnavailable``."""
        return self.ledger.home

    def now(self) -> int:
        """The store's clock, in milliseconds."""
        return self.ledger.group.now()

    def today(self) -> date:
        """The UTC day by the store's clock."""
        return datetime.fromtimestamp(self.now() / 1000, UTC).date()

    # ── names ────────────────────────────────────────────────────────────────────────────────────────────────────

    def key_id(self, text: str | None) -> str | None:
        """The id of a key, from the key itself or from its id (:meth:`Directory.key_id`); ``None`` stays ``None``."""
        if text is None:
            return None
        directory = self.setup.offered(Directory)
        if directory is None:
            return "" if text.startswith("sk-") else text
        return directory.key_id(text)

    async def aliases(self, scope: str, ids: Iterable[str]) -> Mapping[str, str]:
        """Display names by id. Raises ``StoreUnavailable``."""
        directory = self.setup.offered(Directory)
        return {} if directory is None else await directory.aliases(scope, ids)

    async def policies(self, scope: str, ids: Collection[str]) -> Mapping[str, BudgetPolicy] | None:
        """The current budget settings of each id; ``None`` if they are unknown. Raises ``StoreUnavailable``."""
        said: Mapping[str, Mapping[str, Any]] = {}
        if scope in _SETTLED:
            directory = self.setup.offered(Directory)
            if directory is None:
                return None
            said = await directory.policies(scope, ids, "budget")
        return {id_: BudgetPolicy.model_validate(said.get(id_, {})) for id_ in ids}

    async def main(self, scope: str, ids: Collection[str]) -> Mapping[str, frozenset[str]] | None:
        """Ids of the budgets that :func:`gwcore_budget.reports.running` may report, by id. Raises ``StoreUnavailable``."""
        policies = await self.policies(scope, ids)
        return None if policies is None else self.main_of(scope, policies)

    def main_of(self, scope: str, policies: Mapping[str, BudgetPolicy]) -> Mapping[str, frozenset[str]]:
        """The same for known settings; an id whose plan does not exist is absent."""
        found = {}
        for id_, policy in policies.items():
            with suppress(UnknownPlan):
                found[id_] = self.accounts.main(scope, id_, policy)
        return found

    async def binding(self, scope: str, ids: Collection[str]) -> frozenset[str] | None:
        """Ids of all budgets of these ids; ``None`` if their settings are unknown. Raises ``StoreUnavailable``."""
        policies = await self.policies(scope, ids)
        if policies is None:
            return None
        return frozenset().union(*[self.accounts.ids(scope, id_, policy) for id_, policy in policies.items()])

    # ── days ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def days(self, call: AdminCall, *, default: int | None = None) -> tuple[str | None, str | None]:
        """First and last day requested, both included. Raises ``BadRequest``.

        Without either: the last ``default`` days, or ``None`` twice. A missing last day is today; a missing first day
        makes it ``default`` days, or 30.
        """
        first, last = call.query.get("start_date"), call.query.get("end_date")
        if not first and not last and default is None:
            return None, None
        end = day_of(last, "end_date") if last else self.today()
        begin = day_of(first, "start_date") if first else end - timedelta(days=(default or 30) - 1)
        if begin > end:
            raise BadRequest("start_date is after end_date")
        return begin.isoformat(), end.isoformat()


def day_of(text: str, name: str) -> date:
    """A day, from an ISO date or time. Raises ``BadRequest``."""
    try:
        day = date.fromisoformat(text[:10])
        if not _FIRST <= day <= _LAST:
            raise ValueError
        return day
    except ValueError:
        raise BadRequest(f"{name} is not a day; write it as 2026-11-21") from None


def began(day: str | None) -> int | None:
    """The millisecond at which a UTC day begins."""
    return None if day is None else int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def ended(day: str | None) -> int | None:
    """The last millisecond of a UTC day."""
    start = began(day)
    return None if start is None else start + 86_400_000 - 1


def money(nano: int | None) -> float | None:
    """Dollars, for display."""
    return None if nano is None else nano / DOLLAR


def iso(at: int | None) -> str | None:
    """A time in LiteLLM's format: ISO 8601 in UTC with milliseconds."""
    if at is None:
        return None
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def page_of(call: AdminCall, default: int, most: int) -> tuple[int, int]:
    """Page (from 1) and its size. Raises ``BadRequest``."""
    try:
        page, size = int(call.query.get("page", "1")), int(call.query.get("page_size", str(default)))
    except ValueError:
        raise BadRequest("page and page_size are whole numbers") from None
    if not 1 <= page <= 1_000_000 or not 1 <= size <= most:
        raise BadRequest(f"page begins at 1, and page_size is 1 to {most}")
    return page, size


def answering(endpoint: Callable[[AdminCall], Awaitable[T]]) -> Callable[[AdminCall], Awaitable[T]]:
    """Wrap an endpoint: a store that does not answer is a 503, not a fault."""

    async def answer(call: AdminCall) -> Any:
        try:
            return await endpoint(call)
        except (StoreDown, Unavailable):
            raise StoreUnavailable("the ledger's store does not answer", retry_after=1) from None

    return answer
