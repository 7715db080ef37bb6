"""What ``/metrics`` asks of the store for the budgets nearest to their limits."""

from budget_kit import budget, do, now_of, post, reserve
from sqlalchemy import event

from gwcore.resources import Lease, Resources
from gwcore.sql import engine_of
from gwcore_budget.gauges import Gauges


async def _all(_scope, _ids):
    return None


async def test_the_running_periods_are_found_by_an_index(home, store_url):
    """Of accounts there is one for each period that ever was: a look every ten seconds is not one at all of them."""
    await do(home, reserve("r:1", 1, budget(), now=await now_of(home)))
    await do(home, post("r:1", 1))
    lease = Lease(Resources())
    try:
        store = lease.store(store_url)
        asked = []
        event.listen(engine_of(store).sync_engine, "before_cursor_execute", lambda *a: asked.append((a[2], a[3])))
        await Gauges(store, _all).look()
        query, values = asked[-1]
    finally:
        await lease.release()
    if store_url.startswith("sqlite"):
        for at in range(1, len(values) + 1):
            query = query.replace("?", f"${at}", 1)
        plan = str(await home.rows(f"EXPLAIN QUERY PLAN {query}", *values))
        assert "budget_account_start (start=?)" in plan and "SCAN budget_account" not in plan, plan
    else:  # of so few rows PostgreSQL reads all, whatever indexes there are
        assert ("budget_account_start",) in await home.rows("SELECT indexname FROM pg_indexes")
