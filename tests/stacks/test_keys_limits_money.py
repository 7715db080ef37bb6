"""Auth, limits, router and budget in one stack: what a key may is enforced wherever the router goes."""

import asyncio
import json
import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_budget.ledger.verify import verify
from gwcore_ratelimit.plugin import RateLimit
from tests.stacks.raw import exchange

ADMIN = secrets.token_hex(32)
CHAT = "/v1/chat/completions"
BUSY = Answer(503, body=b'{"error": {"message": "overloaded"}}')


def ok(name):
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": name}}
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    document = {"id": "1", "object": "chat.completion", "model": name, "choices": [choice], "usage": usage}
    return Answer(body=json.dumps(document).encode())


@dataclass
class World:
    url: str
    gateway: Gateway
    ups: dict

    async def admin(self, path, body=None, *, method="POST", key=ADMIN):
        headers = [("authorization", f"Bearer {key}")]
        seen = await exchange(self.url, method, path, json.dumps(body).encode() if body is not None else b"", headers)
        assert seen.status == 200, seen.body
        return json.loads(seen.body)

    async def key(self, **body):
        return (await self.admin("/key/generate", body))["key"]

    async def ask(self, key, model="m", **more):
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
        return await exchange(self.url, "POST", CHAT, json.dumps(body).encode(), [("authorization", f"Bearer {key}")])

    @property
    def calls(self):
        return {name: len(up.requests) for name, up in self.ups.items()}


def text(urls, folder, *, ratelimit, fallback, prices, models, more):
    return json.dumps(
        {
            "gwcore": 1,
            "stores": {"book": f"sqlite:///{folder}/book.db"},
            "upstreams": {
                name: {
                    "provider": "openai-compatible",
                    "base_url": f"{url}/v1",
                    "prices": {
                        "*": {"input": f"${prices[name]}/M", "output": f"${prices[name]}/M", "max_output": 1000}
                    },
                }
                for name, url in urls.items()
            },
            "models": models,
            "stack": [
                {"auth": {"admin_key": ADMIN, "store": "book"}},
                *more,
                {"ratelimit": ratelimit},
                {"fallback": fallback},
                {"budget": {"store": "book", "mode": "direct", "patience": "5s"}},
            ],
        },
        indent=1,
    )


@asynccontextmanager
async def world(folder, *, ratelimit=None, fallback=None, prices=None, models=None, more=()):
    async with AsyncExitStack() as exits:
        ups = {name: await exits.enter_async_context(FakeUpstream()) for name in "abc"}
        for name, up in ups.items():
            up.default = ok(name)
        urls = {name: up.url for name, up in ups.items()}
        said = text(
            urls,
            folder,
            ratelimit=ratelimit or {},
            fallback=fallback or {},
            prices=prices or dict.fromkeys("abc", 1),
            models=models or {"m": ["a/m"], "n": ["b/n"], "k": ["c/k"]},
            more=more,
        )
        gateway = Gateway(said, serve_admin=True)
        await gateway.startup()
        yield World(await exits.enter_async_context(running(gateway)), gateway, ups)


# ── what the gateway answers itself ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limited", [True, False], ids=["", "control: no layer before what plugins answer"])
async def test_estimates_count_against_requests_and_use_no_tokens(tmp_path, monkeypatch, limited):
    monkeypatch.setattr(RateLimit, "throttles", limited)
    rules = {"rules": [{"per": "key", "requests": "2/min"}, {"per": "key", "tokens": "100/h"}]}
    async with world(tmp_path, ratelimit=rules, more=[{"rules": {"rules": []}}]) as w:
        key = await w.key()
        body = json.dumps({"model": "m", "max_tokens": 90, "messages": [{"role": "user", "content": "word " * 500}]})
        headers = [("authorization", f"Bearer {key}")]
        got = [await exchange(w.url, "POST", "/estimate", body.encode(), headers) for _ in range(4)]
        assert [seen.status for seen in got] == ([200, 200, 429, 429] if limited else [200] * 4)
        assert (await exchange(w.url, "POST", "/estimate", body.encode(), [])).status == 401
        assert (await exchange(w.url, "GET", "/v1/models", b"", headers)).status == 200
        assert w.calls == {"a": 0, "b": 0, "c": 0}


# ── limits in LiteLLM's words ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_key_s_limits_hold_at_once_and_end_at_once(tmp_path):
    async with world(tmp_path, ratelimit={"rules": [{"per": "key", "requests": "5/min"}]}) as w:
        strict, plain = await w.key(rpm_limit=2), await w.key()
        assert [(await w.ask(strict)).status for _ in range(3)] == [200, 200, 429]
        assert [(await w.ask(plain)).status for _ in range(6)] == [200] * 5 + [429]
        seen = await w.ask(strict)
        assert b"2 requests per 60 s" in seen.body and 1 <= int(seen.headers["retry-after"]) <= 30
        # the same bucket, as full as it is, runs out fifty times as fast
        await w.admin("/key/update", {"key": strict, "rpm_limit": 6000})
        async with asyncio.timeout(5):
            while (await w.ask(strict)).status != 200:
                await asyncio.sleep(0.01)


async def test_a_team_s_limits_bind_its_keys_together_and_a_model_s_its_model(tmp_path):
    async with world(tmp_path) as w:
        team = (await w.admin("/team/new", {"rpm_limit": 3}))["team_id"]
        keys = [await w.key(team_id=team) for _ in range(2)]
        assert [(await w.ask(keys[n % 2])).status for n in range(4)] == [200, 200, 200, 429]
        one = await w.key(model_rpm_limit={"m": 1})
        assert [(await w.ask(one, model)).status for model in ("m", "m", "n", "n")] == [200, 429, 200, 200]
        tokens = await w.key(tpm_limit=100)
        seen = [await w.ask(tokens, max_tokens=20) for _ in range(4)]  # each uses 30
        assert [one.status for one in seen] == [200, 200, 200, 429] and b"tokens" in seen[-1].body


async def test_places_of_a_key_are_for_calls_under_way(tmp_path):
    async with world(tmp_path) as w:
        key = await w.key(max_parallel_requests=1)
        go_on = asyncio.Event()
        w.ups["a"].default = Answer(body=ok("a").body, delay_head=go_on)
        first = asyncio.create_task(w.ask(key))
        while not w.calls["a"]:
            await asyncio.sleep(0.01)
        assert (await w.ask(key)).status == 429
        go_on.set()
        assert (await first).status == 200
        assert (await w.ask(key)).status == 200


async def test_a_call_that_the_budget_refuses_gives_its_place_back(tmp_path):
    async with world(tmp_path) as w:
        key = await w.key(rpm_limit=2, max_budget=0.0)
        seen = [await w.ask(key) for _ in range(5)]
        assert {one.status for one in seen} == {429} and all(b"budget" in one.body for one in seen)
        assert w.calls == {"a": 0, "b": 0, "c": 0}


# ── where the router goes ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fallback_that_the_key_may_not_use_is_not_used(tmp_path, stream):
    """Pain F1: the client is told the primary's error, and the other model is never asked."""
    chain = {"models": {"m": {"fallbacks": ["n"]}}, "retry": {"per_target": 0}}
    async with world(tmp_path, fallback=chain) as w:
        w.ups["a"].default = BUSY
        narrow, wide = await w.key(models=["m"]), await w.key(models=["m", "n"])
        seen = await w.ask(narrow, stream=stream)
        assert (seen.status, w.calls) == (503, {"a": 1, "b": 0, "c": 0}) and b"overloaded" in seen.body
        assert (await w.ask(wide)).headers["x-gwcore-upstream"] == "b"


async def test_a_fallback_is_permitted_by_the_name_that_clients_ask_for(tmp_path):
    """What a key may ask for it may be sent to, whatever the model is called upstream; by each list that binds it."""
    chain = {"models": {"small": {"fallbacks": ["large"]}}, "retry": {"per_target": 0}}
    models = {"small": ["a/qwen3"], "large": ["b/big-2025"], "other": ["c/big"]}
    async with world(tmp_path, fallback=chain, models=models) as w:
        w.ups["a"].default = BUSY
        team = (await w.admin("/team/new", {"models": ["small", "large"]}))["team_id"]
        mean = (await w.admin("/team/new", {"models": ["small", "other"]}))["team_id"]
        able = [await w.key(models=["small", "large"]), await w.key(models=["all-team-models"], team_id=team)]
        unable = [await w.key(models=["small", "other"]), await w.key(models=["all-team-models"], team_id=mean)]
        for key in able:
            assert (await w.ask(key, "small")).headers["x-gwcore-upstream"] == "b"
        for key in unable:
            assert (await w.ask(key, "small")).status == 503
        assert w.calls["b"] == 2


@pytest.mark.parametrize("name", ["large", "lar*", "b/big-2025", "big-2025"])
async def test_a_model_s_budget_holds_for_fallbacks_to_it(tmp_path, name):
    chain = {"models": {"small": {"fallbacks": ["large"]}}, "retry": {"per_target": 0}}
    models = {"small": ["a/qwen3"], "large": ["b/big-2025"], "also": ["b/big-2025"]}
    async with world(tmp_path, fallback=chain, models=models) as w:
        w.ups["a"].default = BUSY
        key = await w.key(model_max_budget={name: {"max_budget": 1e-8, "budget_duration": "1d"}})
        for model in ("large", "small"):
            assert (await w.ask(key, model)).status == 429
        # another name of the same is another's budget, where that name is what is asked for
        assert (await w.ask(key, "also")).status == (200 if name.startswith("lar") else 429)
        assert w.calls["b"] == name.startswith("lar")


async def test_money_that_does_not_reach_goes_to_a_cheaper_target_if_asked(tmp_path):
    models = {"m": ["a/m", "b/m", "c/m"]}
    prices = {"a": 1000, "b": 2000, "c": 1}
    body = {"max_tokens": 100}
    async with world(tmp_path, fallback={"budget_aware": True}, prices=prices, models=models) as w:
        key = await w.key(max_budget=0.01)  # a would cost ten times as much
        seen = await w.ask(key, **body)
        assert (seen.status, seen.headers["x-gwcore-upstream"]) == (200, "c")
        assert w.calls == {"a": 0, "b": 0, "c": 1}
        assert "budget" in seen.headers["x-gwcore-failed"]
    (tmp_path / "second").mkdir()
    async with world(tmp_path / "second", prices=prices, models=models) as w:
        key = await w.key(max_budget=0.01)
        seen = await w.ask(key, **body)
        # not asked for: the answer is shorter, or there is none; never somebody else's
        assert seen.headers.get("x-gwcore-upstream", "a") == "a" and w.calls["b"] == w.calls["c"] == 0


async def test_a_call_with_two_attempts_is_one_call_to_the_limits(tmp_path):
    async with world(tmp_path, models={"m": ["a/m", "b/m"]}) as w:
        key = await w.key(rpm_limit=2)
        w.ups["a"].default = BUSY
        assert [(await w.ask(key)).status for _ in range(3)] == [200, 200, 429]
        assert w.calls == {"a": 2, "b": 2, "c": 0}


async def test_health_shows_every_deployment_to_an_admin_only(tmp_path):
    async with world(tmp_path, models={"m": ["a/m", "b/m"]}) as w:
        w.ups["a"].default = BUSY
        for _ in range(6):
            await w.ask(ADMIN)
        shown = (await w.admin("/health", method="GET"))["plugins"]["fallback"]["deployments"]
        assert shown["a/m"]["state"] == "open" and shown["b/m"]["state"] == "closed"
        assert "deployments" not in (await exchange(w.url, "GET", "/health")).body.decode()
        key = await w.key()
        seen = await exchange(w.url, "GET", "/health", b"", [("authorization", f"Bearer {key}")])
        assert b"deployments" not in seen.body


async def test_a_hedged_call_pays_for_both_and_holds_nothing_afterwards(tmp_path):
    """B8: each attempt has its own hold; the loser's is settled at its worst case, since it may have been executed."""
    models = {"m": ["a/m", "b/m"]}
    async with world(tmp_path, fallback={"hedge": {"delay": "50ms", "share": 0.5}}, models=models) as w:
        key = await w.key(max_budget=1.0)
        for _ in range(2):  # hedges are saved up
            assert (await w.ask(key, max_tokens=50)).headers["x-gwcore-upstream"] == "a"
        w.ups["a"].default = Answer(body=ok("a").body, delay_head=5)
        seen = await w.ask(key, max_tokens=50)
        assert (seen.headers["x-gwcore-upstream"], seen.headers["x-gwcore-attempts"]) == ("b", "2")
        await w.ups["a"].requests[-1].gone()
        ledger = next(p.plugin for p in w.gateway.stack.placed if p.name == "budget").ledger
        async with asyncio.timeout(5):
            while ledger.open or ledger.group.backlog:
                await asyncio.sleep(0.01)
        report = await verify(ledger.home)
        assert report.problems == []
