"""What is left when the store gives no answer, a wrong one, or takes a worker for dead that comes back: nothing free that was spent."""

import asyncio
import json

import asyncpg
import pytest
from budget_kit import accounts, budget, do, eventually, reserve
from budget_stack import ask, completion, holds, serving, stack

from gwcore.resources import Lease, Resources
from gwcore.sql import migrate
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_budget.ledger.group import Unavailable
from gwcore_budget.ledger.home import StoreDown
from gwcore_budget.ledger.homes import LEDGER, home_of
from gwcore_budget.ledger.ops import NOTHING_METERED, POSTED, VOIDED, Bury, Facts, Hold
from gwcore_budget.ledger.verify import verify

PRICES = {"*": {"input": "$1/M", "output": "$1/M", "context_window": 1_000_000, "max_output": 1000}}


async def test_who_gave_up_before_a_lost_answer_was_repeated_leaves_no_hold(make_ledger, make_home):
    ledger = await make_ledger(mode="direct", patience=0.012)
    real, lost = ledger.home.transact, []

    async def lossy(ops):
        answer = await real(ops)
        if ops and not lost:
            lost.append(1)
            raise StoreDown("the answer was lost")
        return answer

    ledger.home.transact = lossy
    with pytest.raises(Unavailable):
        await ledger.hold("a:1", 100, (budget(limit=1000),), Facts("a"))
    await eventually(lambda: not ledger.group.backlog)
    await ledger.stop()
    home = make_home()
    await home.open()
    assert {amounts[1] for amounts in (await accounts(home)).values()} <= {0}
    assert {state for (state,) in await home.rows("SELECT state FROM budget_hold")} <= {VOIDED}
    await home.aclose()


async def test_what_the_store_refuses_for_good_is_spent_all_the_same(make_ledger, monkeypatch):
    ledger = await make_ledger(mode="direct", patience=2.0)
    held = await ledger.hold("a:1", 100, (budget(limit=1000),), Facts("a"))
    real = ledger.home.transact

    async def strict(ops):
        if any(getattr(op, "metered", NOTHING_METERED).error for op in ops):
            raise ValueError("a text that cannot be kept")
        return await real(ops)

    monkeypatch.setattr(ledger.home, "transact", strict)
    ledger.settle(held, POSTED, 70, "usage", NOTHING_METERED._replace(error="x"))
    await eventually(lambda: not ledger.group.backlog, 20)
    assert await ledger.home.rows("SELECT state, settled FROM budget_hold") == [(POSTED, 70)]


async def test_a_worker_whose_grants_move_while_it_is_buried(postgres_url):
    """A grant that comes between the look for its budgets and their locks: its budget is not locked, and must not be written."""
    lease = Lease(Resources())
    store = lease.store(postgres_url)
    await migrate(store, LEDGER)
    burier, worker, other = [home_of(store) for _ in range(3)]
    for home in (burier, worker, other):
        await home.open()
    one, two = budget("team:a", 10_000), budget("team:x", 10_000)
    await do(worker, reserve("w:1", 100, one, worker="W", chunk=900))
    await do(other, reserve("c:1", 100, two, worker="C"))
    raw = await asyncpg.connect(postgres_url.replace("postgresql+asyncpg", "postgresql"))
    held_up = raw.transaction()
    await held_up.start()
    await raw.execute("SELECT 1 FROM budget_budget WHERE id = 'team:a:total' FOR UPDATE")
    go, write = asyncio.Event(), burier._write

    async def slow(db, books):
        await go.wait()
        await write(db, books)

    burier._write = slow
    back = asyncio.create_task(do(worker, reserve("w:2", 100, two, worker="W", chunk=900)))
    await asyncio.sleep(0.3)
    burying = asyncio.create_task(burier.transact([Bury("W", burn=True)]))
    await asyncio.sleep(0.3)
    await held_up.rollback()
    await back
    between = asyncio.create_task(do(other, reserve("c:2", 500, two, worker="C")))
    await asyncio.wait([between], timeout=1)
    go.set()
    await asyncio.gather(burying, between, return_exceptions=True)
    assert (await verify(other)).problems == []
    assert (await accounts(other))["team:x:total"][1] >= 600
    for home in (burier, worker, other):
        await home.aclose()
    await raw.close()
    await lease.release()


@pytest.mark.parametrize("unpriced", ["allow_unmetered", "$0.01"])
async def test_a_call_without_a_bound_teaches_nothing_about_the_models_bounds(unpriced):
    usage = {"prompt_tokens": 50_000, "completion_tokens": 10, "total_tokens": 50_010}
    message = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    document = {"id": "c", "object": "chat.completion", "choices": [message], "usage": usage}
    async with FakeUpstream() as up:
        up.default = Answer(body=json.dumps(document).encode())
        rules = [{"per": "key", "limit": "$50", "unpriced": unpriced}]
        async with serving(stack(up.url, "memory:", mode="direct", prices=PRICES, rules=rules)) as (url, _, plugin):
            for _ in range(3):
                assert (await ask(url, tools=[{"type": "web_search"}], max_tokens=100)).status == 200
            assert [settled for _, _, settled, _ in await holds(plugin)] == [50_010_000] * 3
            assert not plugin._factors and plugin.counts["underestimates"] == 0


async def test_a_model_that_always_costs_more_is_held_for_64_times_and_no_more():
    async with serving(stack("http://up", "memory:", prices=PRICES)) as (_, _, plugin):
        for _ in range(40):
            plugin._over(Hold("h", "w", POSTED, 1, 2, (), 0, 0, Facts("h", model="m")))
        factor, of = plugin._factors["m"]
        assert 64 <= factor / of < 64 * 5 / 4


async def test_a_factor_that_grows_while_money_is_waited_for_cuts_nothing_below_zero():
    async with FakeUpstream() as up:
        up.default = completion(5)
        rules = [{"per": "key", "limit": "$0.0036"}]
        async with serving(stack(up.url, "memory:", mode="direct", prices=PRICES, rules=rules)) as (url, _, plugin):
            real = plugin.ledger.hold

            async def held(*args, **options):
                found = await real(*args, **options)
                plugin._factors["m"] = (5, 4)  # another call of the model came to more than was held, meanwhile
                return found

            plugin.ledger.hold = held
            messages = [{"role": "user", "content": "x " * 1500}]
            assert (await ask(url, messages=messages, max_tokens=1000)).status == 200
            assert 256 <= up.requests[0].document["max_tokens"] < 1000
