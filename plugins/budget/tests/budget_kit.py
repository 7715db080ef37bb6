"""What the tests of the ledger share."""

import asyncio

from gwcore_budget.ledger.ops import (
    NOTHING_METERED,
    PENDING,
    POSTED,
    REAPED,
    VOIDED,
    Budget,
    Charge,
    Facts,
    Hold,
    Reserve,
    Settle,
    Spent,
)
from gwcore_budget.window import Window

TOTAL = Window.parse("total")


def budget(name="global", limit=1_000, window=TOTAL, **fields):
    scope, _, scope_id = name.partition(":")
    return Budget(f"{name}:{window.name}", scope, scope_id, window, limit, **fields)


def charges(now, *budgets):
    return tuple(Charge(one, one.window.period(now)) for one in budgets)


def reserve(hold, amount, *budgets, now=1, worker="w1", **fields):
    return Reserve(hold, worker, amount, charges(now, *budgets), Facts(hold.partition(":")[0]), **fields)


def post(hold, amount, **fields):
    return Settle(hold, POSTED, amount, "usage", **fields)


def void(hold):
    return Settle(hold, VOIDED, worker="w1")


def reap(hold):
    return Settle(hold, REAPED, basis="unknown")


def spent(hold, held, accounts, state, amount, worker="w1", now=1):
    """A hold within grants, and its end."""
    one = Hold(hold, worker, PENDING, held, None, tuple(accounts), now, now, Facts(hold.partition(":")[0]))
    one.end(state, amount, "usage", NOTHING_METERED)
    return Spent(worker, (one,))


async def do(home, op):
    """One operation in a transaction of its own."""
    return (await home.transact([op])).results[0]


async def accounts(home):
    """budget id → (posted, pending, over), summed over its accounts."""
    query = "SELECT budget, CAST(sum(posted) AS BIGINT), CAST(sum(pending) AS BIGINT), CAST(sum(excess) AS BIGINT) FROM budget_account GROUP BY budget"
    return {row[0]: row[1:] for row in await home.rows(query)}


async def now_of(home):
    return (await home.transact([])).now


async def alive(home, seen):
    """A worker of whom nobody here knows more than when it was last seen, in milliseconds."""
    query = "INSERT INTO budget_worker (id, host, boot, folder, seen) VALUES ('w1', 'h', 'b', 'f', $1) RETURNING id"
    await home.rows(query, seen)


async def eventually(condition, within=5.0):
    """Wait until ``condition()`` (perhaps a coroutine) is true."""
    async with asyncio.timeout(within):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)
