"""B8: every attempt of a chain has a hold of its own; what does not fit is not sent. And a cached answer costs nothing."""

import asyncio
import json
import math

import pytest
from budget_stack import ask, completion, holds, serving, sound
from budget_stack import stack as plain
from test_budget_dialects import PRICE

from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_budget.ledger.ops import POSTED, REAPED, VOIDED


def stack(store, a, b, c, limit, *, hedge=None, first="300ms"):
    """``first``: how long the first upstream may take to begin; the others answer, however busy the machine."""
    upstream = {"provider": "openai-compatible", "api_key": "sk-upstream-test-0000000", "prices": {"*": PRICE}}
    return json.dumps({
        "gwcore": 1, "stores": {"book": store},
        "upstreams": {name: {**upstream, "base_url": f"{up.url}/v1", "timeout": {"first_byte": first if name == "a" else "20s"}} for name, up in (("a", a), ("b", b), ("c", c))},
        "models": {"chain": ["a/m", "b/m", "c/m"], "warm": "c/m"},
        "stack": [{"anybody": {}}, {"fallback": {"hedge": hedge} if hedge else {}}, {"budget": {"store": "book", "mode": "direct", "patience": "10s", "rules": [{"per": "key", "limit": limit, "on_short": "reject"}]}}],
    }, indent=1)  # fmt: skip


@pytest.fixture
async def ups():
    async with FakeUpstream() as a, FakeUpstream() as b, FakeUpstream() as c:
        a.default = Answer(delay_head=math.inf)
        b.default = Answer(status=500, body=b"{}")
        c.default = completion(10)
        yield a, b, c


async def states(plugin):
    """Upstream → (state, settled) of its one hold."""
    found = {}
    for upstream, state, settled, id_ in await holds(plugin, "upstream, state, settled, id"):
        assert upstream not in found, "one hold per attempt"
        found[upstream] = (state, settled, id_)
    return found


async def test_b8_a_chain_of_three(ups, store_url):
    async with serving(stack(store_url, *ups, "$10")) as (url, _, plugin):
        answer = await ask(url, model="chain", max_tokens=1000)
        assert answer.status == 200
        found = await states(plugin)
        assert (found["a"][0], found["b"][0], found["c"][0]) == (REAPED, VOIDED, POSTED)
        assert 1_000_000_000 < found["a"][1] < 1_100_000_000 and found["c"][1] == 10_010_000
        assert len({id_ for _, _, id_ in found.values()}) == 3
        assert (await sound(plugin)).posted == found["a"][1] + found["c"][1]


async def test_b8_a_fallback_that_does_not_fit_is_not_sent(ups, store_url):
    a, b, c = ups
    async with serving(stack(store_url, a, b, c, "$1.5")) as (url, _, plugin):
        answer = await ask(url, model="chain", max_tokens=1000)
        assert answer.status == 429 and "key k" in answer.error["message"]
        assert len(a.requests) == 1 and b.requests == [] and c.requests == []
        found = await states(plugin)
        assert list(found) == ["a"] and found["a"][0] == REAPED
        assert (await sound(plugin)).posted <= 1_500_000_000


async def test_b8_a_hedge_has_a_hold_of_its_own(ups, store_url):
    a, b, c = ups
    b.default = completion(10)
    text = stack(store_url, a, b, c, "$10", hedge={"delay": "50ms", "share": 0.5}, first="20s")
    async with serving(text) as (url, _, plugin):
        for _ in range(3):  # the first ones earn the right to one
            assert (await ask(url, model="warm", max_tokens=10)).status == 200
        await holds(plugin)
        await plugin.ledger.home.rows("UPDATE budget_hold SET upstream='c' || id RETURNING id")
        assert (await ask(url, model="chain", max_tokens=1000)).status == 200
        found = await states(plugin)
        assert found["b"][:2] == (POSTED, 10_010_000)
        # the loser was cancelled: whether it is billed is unknown, so it costs what was held
        assert found["a"][0] == REAPED and found["a"][1] > 1_000_000_000
        assert (await sound(plugin)).posted <= 10_000_000_000


async def test_b8_negative_control_one_hold_for_all_attempts(ups, store_url, monkeypatch):
    """Were the first attempt's hold reused, the second would go out on money that is gone."""
    a, b, c = ups
    a.default = Answer(status=500, body=b"{}", delay_head=0.1)
    async with serving(stack(store_url, a, b, c, "$1.5")) as (url, _, plugin):
        asked = plugin._asked
        kept = {}

        async def once(ledger, attempt, *terms):
            held = kept[attempt.call.id] = await asked(ledger, attempt, *terms)
            return held

        monkeypatch.setattr(plugin, "_asked", once)
        monkeypatch.setattr(plugin.ledger, "admit", lambda _hold, _amount, _budgets, facts: kept.get(facts.request))
        b.default = c.default = completion(900)
        await asyncio.gather(*(ask(url, model="chain", max_tokens=1000) for _ in range(3)))
        sent = len(a.requests) + len(b.requests) + len(c.requests)
        rows = await holds(plugin)
        assert sent > len(rows)


async def test_an_answer_out_of_the_cache_holds_and_costs_nothing(store_url):
    async with FakeUpstream() as up:
        up.default = completion(900)
        rules = [{"per": "key", "limit": "$1", "on_short": "reject"}]
        text = plain(up.url, store_url, mode="direct", rules=rules, more={"cache": {"store": "memory"}})
        async with serving(text) as (url, _, plugin):
            answers = [await ask(url, max_tokens=950, temperature=0) for _ in range(3)]
            assert [answer.status for answer in answers] == [200] * 3
            assert [answer.header("x-gwcore-cache") for answer in answers[1:]] == ["hit", "hit"]
            assert len(await holds(plugin)) == len(up.requests) == 1
            # what is not in the cache does not fit any more
            assert (await ask(url, max_tokens=950, temperature=0, seed=1)).status == 429
            assert (await sound(plugin)).posted == 900_010_000
