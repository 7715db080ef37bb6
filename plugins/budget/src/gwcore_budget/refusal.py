"""Errors for clients: which budget, whose, how much of it is spent, when it resets, and when to retry."""

from __future__ import annotations

from datetime import UTC, datetime

from gwcore.errors import BudgetExceeded, BudgetReserved, GatewayError, StoreUnavailable
from gwcore.units import DOLLAR
from gwcore_budget.ledger.group import Jumped, Unavailable, Unbooked
from gwcore_budget.ledger.ops import Short
from gwcore_budget.window import FOREVER

DOWN = "the budget's store does not answer"
JUMPED = "the clock of the gateway's host has jumped, so no budget period can begin; the gateway's log says by how much"
REFUSED = "the budget's store rejects the reservation for this call; the gateway's log says why"


def unheld(error: Unavailable) -> str:
    """Message for a hold that was neither made nor rejected."""
    return REFUSED if isinstance(error, Unbooked) else JUMPED if isinstance(error, Jumped) else DOWN


class BudgetStoreUnavailable(StoreUnavailable):
    """503: it is unknown whether money is left; nothing was sent."""

    code = "budget_store_unavailable"


class Unpriced(BudgetExceeded):
    """The model, or a tool of the request, has no price or no bound, and a budget applies."""

    code = "model_unpriced"
    status = 400


class PlanMissing(BudgetExceeded):
    """The caller's policies name a budget that does not exist."""

    code = "budget_missing"
    status = 400


def reserved(short: Short, lasting: float, plugin: str) -> GatewayError:
    """The error if the money is held by calls in progress, which last ``lasting`` seconds."""
    who, facts, when, headers = _told(short)
    return BudgetReserved(
        f"{who} is reserved by calls in flight: {facts}, reserved {dollars(short.pending)}{when}",
        retry_after=min(60.0, max(1.0, lasting)),
        plugin=plugin,
        headers=headers,
    )


def exceeded(short: Short, status: int, plugin: str) -> GatewayError:
    """The error if the budget is spent, or too little is left for this request."""
    who, facts, when, headers = _told(short)
    after = max(1.0, (short.resets - short.now) / 1000) if short.resets < FOREVER else None
    said = f"{who} is spent: {facts}{when}"
    if short.posted < short.limit:
        said = f"{who} has too little left: {facts}, and this call may cost {dollars(short.need)}{when}"
    error = BudgetExceeded(said, retry_after=after, plugin=plugin, headers=headers)
    error.status = status
    return error


def _told(short: Short) -> tuple[str, str, str, tuple[tuple[str, str], ...]]:
    budget = short.budget
    who = "the global budget" if budget.scope == "global" else f"the budget of {budget.scope} {budget.scope_id}"
    within = "in total" if budget.window.name == "total" else f"per {budget.window.name}"
    facts = f"limit {dollars(short.limit)} {within}, spent {dollars(short.posted)}"
    headers = [
        ("x-gwcore-budget-scope", budget.scope),
        ("x-gwcore-budget-id", budget.scope_id),
        ("x-gwcore-budget-window", budget.window.name),
        ("x-gwcore-budget-limit-usd", dollars(short.limit)[1:]),
        ("x-gwcore-budget-spent-usd", dollars(short.posted)[1:]),
    ]
    if short.resets >= FOREVER:
        return who, facts, "", tuple(headers)
    resets = f"{datetime.fromtimestamp(short.resets / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return who, facts, f"; it resets at {resets}", (*headers, ("x-gwcore-budget-resets", resets))


def dollars(nano: int) -> str:
    """``$1.25``: exact, at least two decimals."""
    whole, part = divmod(nano, DOLLAR)
    text = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"${whole}.{text}"
