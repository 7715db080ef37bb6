"""What happens to budgets is counted for ``/metrics``, and outlives a reload of the stack file (B28, D9)."""

import json

from budget_stack import ask, completion, holds, serving, stack

from gwcore.plugin import Setup
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_budget.gauges import EVENTS
from gwcore_budget.ledger.home import StoreDown


def budget_of(gateway):
    return next(p.plugin for p in gateway.stack.placed if p.name == "budget")


def told(plugin):
    """Event → how often, as ``/metrics`` shows it."""
    samples = [one for one in plugin.metrics() if one.name == "gwcore_budget_events"]
    assert all(one.kind == "counter" and set(one.labels) == {"event"} for one in samples)
    return {one.labels["event"]: one.value for one in samples}


async def reloaded(store_url):
    """Two underestimates, one on each side of a reload: what was counted, and what was held for each."""
    async with FakeUpstream() as up:
        up.default = completion(300)
        rules = [{"per": "key", "limit": "$10"}]
        async with serving(stack(up.url, store_url, mode="direct", rules=rules)) as (url, gateway, plugin):
            assert told(plugin) == dict.fromkeys(EVENTS, 0), "a counter that begins at 1 has not grown"
            await ask(url, max_tokens=100)
            await holds(plugin)
            assert await gateway.reload()
            fresh = budget_of(gateway)
            assert fresh is not plugin
            await ask(url, max_tokens=100)
            amounts = [row[0] for row in await holds(fresh, "amount")]
            return told(fresh), amounts


async def test_b28_an_underestimate_is_counted_and_remembered_over_a_reload(store_url):
    counts, (first, second) = await reloaded(store_url)
    assert counts["underestimates"] == 2 and counts["reaped"] == 0
    assert second * 4 >= first * 5


async def test_negative_control_counters_of_one_stack(store_url, monkeypatch):
    monkeypatch.setattr(Setup, "once", lambda _self, _key, make: make())
    counts, (first, second) = await reloaded(store_url)
    assert counts["underestimates"] == 1 and second == first


async def test_d9_refusals_and_unknown_outcomes_are_counted(store_url, monkeypatch):
    async with FakeUpstream() as up:
        silent = json.loads(completion(1).body)
        del silent["usage"]
        up.script(completion(600), Answer(body=json.dumps(silent).encode()), completion(1))
        rules = [{"per": "key", "limit": "$1"}]
        async with serving(stack(up.url, store_url, mode="direct", rules=rules)) as (url, _, plugin):
            assert (await ask(url)).header("x-gwcore-max-tokens")
            await holds(plugin)
            assert (await ask(url, max_tokens=300)).status == 200
            await holds(plugin)
            assert (await ask(url, max_tokens=300)).status == 429
            assert (await ask(url, max_tokens=90)).status == 200
            await holds(plugin)

            async def down(_ops):
                raise StoreDown("down")

            transact = plugin.ledger.home.transact
            monkeypatch.setattr(plugin.ledger.home, "transact", down)
            monkeypatch.setattr(plugin.ledger.group, "patience", 0.05)
            refused = await ask(url, max_tokens=1)
            assert (refused.status, refused.error["code"]) == (503, "budget_store_unavailable")
            monkeypatch.setattr(plugin.ledger.home, "transact", transact)
            counts = {event: count for event, count in told(plugin).items() if count}
            assert counts == {"clamped": 1, "reaped": 1, "exceeded": 1, "budget.exceeded": 1, "store_unavailable": 1}
