"""Which target is chosen: strategies, weights, tags, limits, sessions, keys, prices; chains by what went wrong."""

import asyncio
import json
from collections import Counter

import pytest
from fallback_world import WIRES, world

from gwcore.errors import BudgetExceeded
from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_fallback.plugin import Fallback
from tests.stacks.raw import exchange

BUSY = Answer(503, body=b"{}")
TOO_LONG = Answer(400, body=b'{"error": {"message": "no", "code": "context_length_exceeded"}}')
FILTERED = Answer(400, body=b'{"error": {"message": "no", "code": "content_filter"}}')
LIMITED = Answer(429, [("retry-after", "60")], b"{}")


def ok(text="hello", **more):
    return WIRES["openai.chat"].answer(False, text, **more)


def answer_all(w, **more):
    for name, up in w.ups.items():
        up.default = ok(name, **more)


async def served(w, count=1, **more):
    return Counter([(await w.ask(**more)).headers["x-gwcore-upstream"] for _ in range(count)])


# ── strategies ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_ordered_is_the_order_of_the_file():
    async with world("abc") as w:
        answer_all(w)
        assert await served(w, 5) == {"a": 5}


async def test_shuffle_goes_by_weight():
    deployments = "{a/m: {weight: 8}, b/m: {weight: 2}, c/m: {weight: 0}}"
    async with world("abc", fallback=f"{{strategy: shuffle, deployments: {deployments}}}") as w:
        answer_all(w)
        w.plugin.random.seed(5)
        seen = await served(w, 200)
        assert seen["c"] == 0 and 135 <= seen["a"] <= 185
        w.ups["a"].default = w.ups["b"].default = BUSY
        assert (await w.ask()).headers["x-gwcore-upstream"] == "c"  # weight 0 still is a fallback


async def test_least_busy_goes_where_nobody_waits():
    async with world("abc", fallback="{strategy: least-busy}") as w:
        answer_all(w, delay_head=0.2)
        await asyncio.gather(*(w.ask() for _ in range(9)))
        assert w.calls == {"a": 3, "b": 3, "c": 3}


async def test_fastest_goes_where_the_first_token_comes_soonest():
    wire = WIRES["openai.chat"]
    async with world("abc", fallback="{strategy: fastest}") as w:
        for name, pause in {"a": 0.06, "b": 0.0, "c": 0.06}.items():
            # the head comes at once everywhere, and the whole takes as long: only the first token tells
            frames = wire.frames("hello")
            w.ups[name].default = Answer(body=frames, delay_first=pause)
        w.plugin.random.seed(2)
        seen = Counter([(await w.ask(True)).headers["x-gwcore-upstream"] for _ in range(40)])
        assert seen["b"] >= 18 and min(seen.values()) >= 1  # two choices of three: b wins two times in three


def priced(**dollars):
    """Prices per million tokens, by upstream."""
    return {name: f", prices: {{m: {{input: ${price}/M, output: ${price}/M}}}}" for name, price in dollars.items()}


async def test_cheapest_by_price_and_the_unpriced_last():
    async with world("abc", fallback="{strategy: cheapest}", each=priced(b=50, c=9)) as w:
        answer_all(w)
        assert await served(w, 3) == {"c": 3}
        w.ups["c"].default = BUSY
        assert await served(w) == {"b": 1}
        w.ups["b"].default = BUSY
        assert await served(w) == {"a": 1}


async def test_usage_stays_under_every_limit_and_says_when():
    deployments = "{a/m: {requests: 3/min}, b/m: {requests: 6/min}}"
    async with world(fallback=f"{{strategy: usage, deployments: {deployments}}}") as w:
        answer_all(w)
        assert await served(w, 9) == {"a": 3, "b": 6}
        seen = await w.ask()
        assert (
            seen.status == 429 and 55 <= int(seen.headers["retry-after"]) <= 65
        )  # a minute, and the slice it began in
        assert w.calls == {"a": 3, "b": 6}
        assert w.plugin.health()["deployments"]["a/m"]["state"] == "requests"


async def test_limits_on_tokens_go_by_what_was_used():
    async with world(fallback="{deployments: {a/m: {tokens: 700/min}}}") as w:
        answer_all(w)
        # each is estimated at 300 and some, and used 10
        assert await served(w, 20, max_tokens=300) == {"a": 20}
        assert await served(w, 2) == {"b": 2}


# ── tags, sessions, keys ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_tags_are_kept_even_when_their_targets_fail():
    deployments = "{a/m: {tags: [eu]}, c/m: {tags: [eu]}}"
    async with world("abc", fallback=f"{{deployments: {deployments}, models: {{m: {{fallbacks: [b/n]}}}}}}") as w:
        answer_all(w)
        eu = [("x-gwcore-tags", "eu")]
        assert await served(w, 3) == {"b": 3}
        assert await served(w, 3, headers=eu) == {"a": 3}
        w.ups["a"].default = BUSY
        assert await served(w, 1, headers=eu) == {"c": 1}
        w.ups["c"].default = BUSY
        assert (await w.ask(headers=eu)).status == 503
        assert w.calls["b"] == 3


async def test_tags_that_nobody_serves_are_the_clients_mistake():
    async with world("a", fallback="{deployments: {a/m: {tags: [eu]}}}") as w:
        assert (await w.ask()).status == 400 and w.calls == {"a": 0}


async def test_a_session_keeps_to_its_deployment():
    async with world("abcd", fallback="{strategy: shuffle, affinity: session}") as w:
        answer_all(w)
        homes = {}
        for session in map(str, range(12)):
            seen = await served(w, 3, headers=[("x-gwcore-session", session)])
            assert len(seen) == 1
            homes[session] = next(iter(seen))
        assert len(set(homes.values())) == 4
        lost = homes["0"]
        w.ups[lost].default = BUSY
        for session, home in homes.items():  # only the sessions of the lost one move
            seen = await served(w, 1, headers=[("x-gwcore-session", session)])
            assert (home in seen) is (home != lost)
        assert len(await served(w, 20, headers=[])) > 1


@pytest.mark.parametrize("dialect", WIRES)
async def test_calls_that_begin_alike_keep_together(dialect):
    async with world("abcd", dialect=dialect, fallback="{strategy: shuffle, affinity: prefix}") as w:
        for up in w.ups.values():
            up.default = w.wire.answer(False)
        assert len(await served(w, 6)) == 1
        homes = set()
        for n in range(12):
            key = "systemInstruction" if dialect == "gemini.generate" else "system"
            key = "instructions" if dialect == "openai.responses" else key
            homes |= set(await served(w, 1, **{key: f"you are number {n}"}))
        assert len(homes) > 1


async def test_several_keys_share_the_calls_and_fail_alone():
    keys = ", api_keys: [{key: sk-key-number-one, weight: 3}, sk-key-number-two]"
    async with world("a", upstream=keys) as w:
        revoked = set()

        def answer(seen):
            key = seen.header("authorization").removeprefix("Bearer ")
            used[key] += 1
            return Answer(401, body=b"{}") if key in revoked else ok()

        used = Counter()
        w.ups["a"].default = answer
        w.plugin.random.seed(3)
        for _ in range(80):
            assert (await w.ask()).status == 200
        assert 45 <= used["sk-key-number-one"] <= 73 and sum(used.values()) == 80
        revoked.add("sk-key-number-one")
        used.clear()
        for _ in range(20):
            assert (await w.ask()).status == 200
        assert used["sk-key-number-one"] == 1 and used["sk-key-number-two"] == 20
        shown = w.plugin.health()["deployments"]
        assert shown["a/m#1"]["state"] == "credential" and shown["a/m#2"]["state"] == "closed"
        assert "sk-key" not in json.dumps(w.plugin.health())


async def test_a_key_at_its_rate_limit_leaves_the_calls_to_the_others():
    async with world("a", upstream=", api_keys: [sk-key-number-one, sk-key-number-two]") as w:
        used = Counter()

        def answer(seen):
            key = seen.header("authorization")[-3:]
            used[key] += 1
            return LIMITED if key == "one" else ok()

        w.ups["a"].default = answer
        for _ in range(20):
            assert (await w.ask()).status == 200
        assert used == {"one": 1, "two": 20} or used == {"two": 20}
        assert w.plugin.health()["deployments"]["a/m#2"]["state"] == "closed"


# ── chains ───────────────────────────────────────────────────────────────────────────────────────────────────────────

CHAINS = (
    "{default_fallbacks: [e/m], models: {m: {fallbacks: [b/m], context_window_fallbacks: [c/m], "
    "content_policy_fallbacks: [d/m]}}}"
)


@pytest.mark.parametrize(
    ("failure", "chain"),
    [(BUSY, "ab"), (TOO_LONG, "ac"), (FILTERED, "ad"), (LIMITED, "ab"), (Answer(400, body=b"{}"), "a")],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_comes_next_depends_on_what_went_wrong(failure, chain, stream):
    async with world("abcde", models={"m": "a/m"}, fallback=CHAINS) as w:
        for up in w.ups.values():
            up.default = w.wire.answer(stream)
        w.ups["a"].default = failure
        seen = await w.ask(stream)
        assert seen.status == (200 if len(chain) > 1 else 400)
        assert w.calls == {name: int(name in chain) for name in "abcde"}


async def test_the_default_chain_comes_last():
    async with world("abcde", models={"m": "a/m"}, fallback=CHAINS) as w:
        for name in "abe":
            w.ups[name].default = BUSY
        assert (await w.ask()).status == 503
        assert {name: bool(n) for name, n in w.calls.items()} == {
            "a": True,
            "b": True,
            "c": False,
            "d": False,
            "e": True,
        }


async def test_rate_limits_have_a_chain_of_their_own():
    fallback = "{models: {m: {fallbacks: [b/m], rate_limit_fallbacks: [c/m]}}}"
    async with world("abc", models={"m": "a/m"}, fallback=fallback) as w:
        answer_all(w)
        w.ups["a"].default = LIMITED
        assert await served(w, 3) == {"c": 3} and w.calls["a"] == 1  # also while it cools


async def test_money_may_choose_the_next_cheaper_one(monkeypatch):
    original, poor = Fallback.router, {"a", "c"}

    def router(self, inner):
        async def budget(attempt):
            if attempt.target.upstream.name in poor:
                raise BudgetExceeded("spent")
            return await inner(attempt)

        return original(self, budget)

    monkeypatch.setattr(Fallback, "router", router)
    async with world("abcd", fallback="{budget_aware: true}", each=priced(a=10, b=90, c=5, d=2)) as w:
        answer_all(w)
        assert await served(w) == {"d": 1}  # b costs more than what was refused
        poor.add("d")
        assert (await w.ask()).status == 429 and w.calls == {"a": 0, "b": 0, "c": 0, "d": 1}


async def test_a_target_without_the_operation_gives_way():
    """One that does not serve the operation is passed over; if none does, the client is told."""
    body = json.dumps({"model": "m", "input": "hi"}).encode()
    text = """
gwcore: 1
upstreams:
  a: {{provider: anthropic, base_url: "{a}"}}
  b: {{provider: openai-compatible, base_url: "{b}/v1"}}
models: {{m: {models}}}
stack: [{{fallback: {{}}}}]
"""
    async with FakeUpstream() as a, FakeUpstream() as b:
        b.default = Answer(body=b'{"object": "list", "data": []}')
        # more of them than a call has attempts: what was not sent is none
        gateway = Gateway(text.format(a=a.url, b=b.url, models="[a/m, a/n, a/o, a/p, a/q, b/m]"))
        async with running(gateway) as url:
            seen = await exchange(url, "POST", "/v1/embeddings", body)
            assert seen.status == 200 and seen.headers["x-gwcore-upstream"] == "b"
            router = next(placed.plugin for placed in gateway.stack.placed if placed.name == "fallback")
            assert router.fleet.deployments["a/m"].breaker.fails == 0
        assert (len(a.requests), len(b.requests)) == (0, 1)
        async with running(Gateway(text.format(a=a.url, b=b.url, models="[a/m]"))) as url:
            seen = await exchange(url, "POST", "/v1/embeddings", body)
            assert 400 <= seen.status < 500 and b"embeddings" in seen.body and not a.requests
