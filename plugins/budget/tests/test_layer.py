"""The layer on a real port: what is held, sent, refused, posted."""

import asyncio
from hashlib import sha256

import pytest
from budget_stack import CHAT, Anybody, ask, body, completion, holds, serving, settled, sound, stack

from gwcore.call import Principal
from gwcore.testing.upstream import Answer, FakeUpstream, chat_stream
from gwcore_budget.reports import tags
from tests.stacks.raw import exchange

DOLLAR = 1_000_000_000


KEY = [{"per": "key", "limit": "$1"}]


@pytest.mark.parametrize("mode", ["direct", "escrow", "auto"])
async def test_the_truth_is_posted_and_the_row_says_who_and_what(mode, store_url):
    async with FakeUpstream() as up:
        up.default = completion(100, prompt=20)
        async with serving(stack(up.url, store_url, mode=mode, rules=[{"per": "key", "limit": "$300"}])) as (
            url,
            _,
            plugin,
        ):
            assert (await ask(url, max_tokens=500)).status == 200
            row = (
                await holds(
                    plugin,
                    "state, settled, basis, key_id, model_asked, model, upstream, input, output, status, price_version, attempt",
                )
            )[0]
            assert row[:10] == (1, 20 * 1_000 + 100 * 1_000_000, "usage", "k", "up/m", "m", "up", 20, 100, 200)
            assert row[10].startswith("stack") and row[11] == 1
            report = await sound(plugin)
            assert report.posted == 100_020_000
            if mode == "direct":
                assert report.pending == 0


async def test_b9_what_is_left_becomes_max_tokens(store_url):
    async with FakeUpstream() as up:
        up.default = completion(9)
        rules = [{"per": "key", "limit": "$0.5"}]
        async with serving(stack(up.url, store_url, mode="direct", rules=rules)) as (url, _, plugin):
            answer = await ask(url)
            assert answer.status == 200
            sent = up.requests[0].document
            bytes_in = len(body(model="up/m")) + 8 + 64
            assert sent["max_tokens"] == (500_000_000 - bytes_in * 1_000) // 1_000_000
            assert answer.header("x-gwcore-max-tokens") == str(sent["max_tokens"])
            assert sent["model"] == "m"
            # worth of output if the upstream used all it may: never over the limit
            assert sent["max_tokens"] * 1_000_000 + bytes_in * 1_000 <= 500_000_000
            assert (await holds(plugin))[0][2] == 9_010_000


async def test_b9_negative_control_a_shrunk_hold_alone_overspends(store_url, monkeypatch):
    async with FakeUpstream() as up:
        up.default = lambda seen: completion(seen.document.get("max_tokens", 128_000))
        async with serving(stack(up.url, store_url, mode="direct", rules=KEY)) as (url, _, plugin):
            monkeypatch.setattr(type(plugin), "_clamp", lambda *_: None)
            await ask(url)
            await holds(plugin)
            assert (await sound(plugin)).posted > DOLLAR


async def test_an_exhausted_budget_is_a_429_that_says_everything(store_url):
    async with FakeUpstream() as up:
        up.default = completion(1_000)
        rules = [{"per": "key", "limit": "$1", "window": "month"}]
        async with serving(stack(up.url, store_url, mode="direct", rules=rules)) as (url, _, plugin):
            assert (await ask(url, max_tokens=1_000, messages=[])).status in {200, 429}
            await holds(plugin)
            await ask(url, max_tokens=900)
            refused = await ask(url, max_tokens=900)
            assert refused.status == 429
            error = refused.error
            assert error["code"] == "budget_exceeded"
            for part in ("key k", "$1.00 per month", "resets at"):
                assert part in error["message"]
            assert refused.header("x-should-retry") == "false"
            assert refused.header("x-gwcore-budget-scope") == "key"
            assert refused.header("x-gwcore-budget-id") == "k"
            assert refused.header("x-gwcore-budget-limit-usd") == "1.00"
            assert int(refused.header("retry-after")) > 0
            # another key has money of its own
            assert (await ask(url, key="other", max_tokens=900)).status == 200


async def test_402_is_selectable(store_url):
    async with FakeUpstream() as up:
        rules = [{"per": "key", "limit": "$0"}]
        async with serving(stack(up.url, store_url, status=402, rules=rules)) as (url, _, _):
            refused = await ask(url)
            assert refused.status == 402 and refused.header("x-should-retry") == "false"
            assert up.requests == []


async def test_money_held_by_others_is_told_apart(store_url):
    async with FakeUpstream() as up:
        settled = asyncio.Event()
        up.default = Answer(body=completion(10).body, delay_head=settled)
        async with serving(stack(up.url, store_url, mode="direct", rules=KEY, wait="100ms")) as (url, _, plugin):
            first = asyncio.ensure_future(ask(url, max_tokens=999))
            await up.received(1)
            refused = await ask(url, max_tokens=999)
            assert refused.status == 429 and refused.error["code"] == "budget_reserved"
            assert refused.header("x-should-retry") is None
            assert int(refused.header("retry-after")) >= 1
            settled.set()
            assert (await first).status == 200
            await holds(plugin)
            assert (await ask(url, max_tokens=900)).status == 200


async def test_waiting_for_a_settlement(store_url):
    async with FakeUpstream() as up:
        up.default = Answer(body=completion(10).body, delay_head=0.3)
        rules = [{"per": "key", "limit": "$1", "on_short": "wait"}]
        async with serving(stack(up.url, store_url, mode="direct", rules=rules, wait="5s")) as (url, _, plugin):
            answers = await asyncio.gather(*(ask(url, max_tokens=900) for _ in range(3)))
            assert [a.status for a in answers] == [200] * 3
            await holds(plugin)
            assert (await sound(plugin)).posted == 3 * 10_010_000


async def test_b11_unpriced_models_under_each_policy(store_url):
    async with FakeUpstream() as up:
        up.default = completion(10)
        prices = {"m": {"input": "$1/M", "output": "$1/M"}}

        async def served(**budget):
            async with serving(stack(up.url, store_url, prices=prices, mode="direct", **budget)) as (url, _, plugin):
                before = len(up.requests)
                answer = await ask(url, model="up/unpriced", max_tokens=5)
                rows = await holds(plugin, "state, amount, settled, basis, model")
                return answer, len(up.requests) - before, rows[-1] if rows else None, plugin.counts

        answer, sent, row, counts = await served(rules=KEY)
        assert (answer.status, sent, row) == (400, 0, None) and answer.error["code"] == "model_unpriced"
        assert counts["unpriced_denied"] == 1
        answer, sent, row, _ = await served(rules=[{**KEY[0], "unpriced": "$0.25"}])
        assert (answer.status, sent, row) == (200, 1, (3, 250_000_000, 250_000_000, "no price", "unpriced"))
        answer, sent, row, counts = await served(rules=[{**KEY[0], "unpriced": "allow_unmetered"}])
        assert (answer.status, sent, row) == (200, 1, (1, None, None, "unmetered", "unpriced"))
        assert counts["unmetered"] == 1
        # no budget binds: it goes, and the row says that nobody knows what it cost
        answer, sent, row, _ = await served()
        assert (answer.status, sent, row[:2]) == (200, 1, (1, None))


async def test_b11_a_priced_model_with_an_unpriced_or_endless_tool(store_url):
    async with FakeUpstream() as up:
        up.default = completion(10)
        async with serving(stack(up.url, store_url, rules=KEY)) as (url, _, _):
            for tool in ({"type": "web_search"}, {"type": "web_search_20250305", "max_uses": 3}):
                refused = await ask(url, max_tokens=5, tools=[tool])
                assert refused.status == 400 and refused.error["code"] == "model_unpriced"
            named = {"type": "function", "function": {"name": "web_search", "parameters": {}}}
            assert (await ask(url, max_tokens=5, tools=[named])).status == 200
            assert len(up.requests) == 1


async def test_free_models_work_on_an_exhausted_budget(store_url):
    async with FakeUpstream() as up:
        up.default = completion(10)
        prices = {"m": {"input": "$1/M", "output": "$1/M"}, "free": {"free": True}}
        rules = [{"per": "key", "limit": "$0"}]
        async with serving(stack(up.url, store_url, prices=prices, rules=rules)) as (url, _, plugin):
            assert (await ask(url)).status == 429
            assert (await ask(url, model="up/free")).status == 200
            assert [row[2] for row in await holds(plugin)] == [0]


async def test_policies_of_a_principal_bind_and_change(store_url):
    async with FakeUpstream() as up:
        up.default = completion(10)
        async with serving(stack(up.url, store_url, mode="direct")) as (url, _, plugin):

            def who(key, team):
                policy = plugin.Policy.model_validate
                return Principal(
                    id="k1", team="t1", user="u1", policies={"budget": {"key": policy(key), "team": policy(team)}}
                )

            Anybody.who["k"] = who({"max_budget": 5}, {"max_budget": 0.0101, "budget_duration": "1mo"})
            refused = await ask(url, max_tokens=500)
            assert refused.error["code"] == "budget_exceeded" and "team t1" in refused.error["message"]
            Anybody.who["k"] = who({"max_budget": 5}, {"max_budget": 50, "budget_duration": "1mo"})
            assert (await ask(url, max_tokens=500)).status == 200
            Anybody.who["k"] = who({"max_budget": 5, "model_max_budget": {"m": 0.0}}, {})
            assert "key k1" in (await ask(url, max_tokens=500)).error["message"]
            await holds(plugin)
            rows = dict(await plugin.ledger.home.rows("SELECT budget, posted FROM budget_account"))
            assert rows["key:k1:total"] == rows["team:t1:month"] == 10_010_000


async def test_a_temporary_increase_is_of_max_budget_alone(store_url):
    """As in LiteLLM: a model's budget, another window and a rule of the stack file stay what they are."""
    async with FakeUpstream() as up:
        up.default = completion(10)
        rules = [{"per": "key", "limit": "$2", "on_short": "reject"}]
        async with serving(stack(up.url, store_url, mode="direct", on_short="reject", rules=rules)) as (url, _, plugin):
            raised = {"max_budget": 0.5, "temp_budget_increase": 100, "temp_budget_expiry": "2999-01-01T00:00:00Z"}

            async def with_(**more):
                policy = plugin.Policy.model_validate(raised | more)
                Anybody.who["k"] = Principal(id="k1", policies={"budget": {"key": policy}})
                return (await ask(url, max_tokens=900)).status, (await ask(url, max_tokens=2500)).status

            # the rule counts the same money: two dollars, whatever the key has on top
            assert await with_() == (200, 429)
            assert await with_(model_max_budget={"m": 0.5}) == (429, 429)
            assert await with_(budget_limits=[{"max_budget": 0.5, "budget_duration": "1h"}]) == (429, 429)
            assert await with_(budget_duration="1d") == (200, 429)
            Anybody.who["k"] = Principal(id="k2")
            assert (await ask(url, max_tokens=2500)).status == 429


async def test_b28_truth_above_the_estimate(store_url):
    async with FakeUpstream() as up:
        up.default = completion(300)
        rules = [{"per": "key", "limit": "$10"}]
        async with serving(stack(up.url, store_url, mode="direct", rules=rules)) as (url, _, plugin):
            await ask(url, max_tokens=100)
            first = (await holds(plugin))[0]
            assert first[2] == 300_010_000 > first[1]
            over = (await plugin.ledger.home.rows("SELECT excess FROM budget_account"))[0][0]
            assert over == first[2] - first[1]
            assert plugin.counts["underestimates"] == 1
            await ask(url, max_tokens=100)
            second = (await holds(plugin))[1]
            assert second[1] * 4 >= first[1] * 5
            await ask(url, max_tokens=100)
            third = (await holds(plugin))[2]
            assert third[1] * 16 >= first[1] * 25, "each time a quarter more"
            await sound(plugin)


async def test_streams_are_held_metered_and_posted(store_url):
    async with FakeUpstream() as up:
        up.default = Answer(body=chat_stream("a", "b", usage=(20, 30)))
        async with serving(stack(up.url, store_url, rules=KEY)) as (url, _, plugin):
            answer = await ask(url, stream=True, max_tokens=50)
            assert answer.status == 200
            row = (await holds(plugin))[0]
            assert (row[0], row[2], row[3]) == (1, 30_020_000, "usage")
            await sound(plugin)


async def test_b7_the_first_burst_of_an_unknown_end_user(store_url):
    """64 at once, a default budget for 3: exactly 3."""
    async with FakeUpstream() as up:
        up.default = Answer(body=completion(1).body, delay_head=2.0)  # all have asked before one is answered
        one = len(body(max_tokens=100)) + 72
        limit = 3 * (one * 1_000 + 100_000_000) + 1_000
        rules = [{"per": "end_user", "limit": f"{limit / DOLLAR:.9f}", "on_short": "reject"}]
        async with serving(stack(up.url, store_url, rules=rules)) as (url, _, plugin):
            Anybody.who["k"] = Principal(id="k", end_user="never seen")
            answers = await asyncio.gather(*(ask(url, max_tokens=100) for _ in range(64)))
            assert sorted(a.status for a in answers) == [200] * 3 + [429] * 61
            assert len(up.requests) == 3
            await holds(plugin)
            await sound(plugin)


async def test_a_tag_in_letters_of_all_the_world_has_its_budget(store_url):
    """Tags and sessions are words of the stack file and of keys, which are UTF-8; and one that is cut counts once."""
    rules = [{"per": "tag", "of": "größe", "limit": "$0"}, {"per": "session", "of": "日", "limit": "$0"}]
    async with FakeUpstream() as up:
        up.default = completion(5)
        async with serving(stack(up.url, store_url, rules=rules)) as (url, _, plugin):

            async def named(name, value):
                headers = [("authorization", "Bearer k"), (name, value.encode().decode("latin-1"))]
                return (await exchange(url, "POST", CHAT, body(), headers)).status

            assert await named("x-gwcore-tags", "a,größe") == 429
            assert await named("x-gwcore-session-id", "日") == 429
            assert await named("x-gwcore-tags", f"{'t' * 200}1,{'t' * 200}2") == 200
            await settled(plugin)
            assert [sums.attempts for _, sums in await tags(plugin.ledger.home)] == [1]


async def test_a_rule_may_name_more_models_than_an_index_takes(store_url):
    """PostgreSQL refused such a budget, and with it every call."""
    models = ["up/m", *(f"up/{sha256(b'%d' % n).hexdigest()}" for n in range(120))]
    rules = [{"per": "key", "limit": "$1", "models": some} for some in (models, models[:-1], models)]
    async with FakeUpstream() as up:
        up.default = completion(5)
        async with serving(stack(up.url, store_url, rules=rules)) as (url, _, plugin):
            assert (await ask(url, max_tokens=300)).status == 200
            await settled(plugin)
            spent = await plugin.ledger.home.rows("SELECT posted FROM budget_account")
            assert [posted for (posted,) in spent] == [5_010_000] * 2, "two lists, two accounts"
