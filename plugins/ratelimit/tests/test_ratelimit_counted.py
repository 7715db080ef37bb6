"""Pains C7: the number that was counted can be read per request, and is the usage. And a model's limit under every name."""

import asyncio
from contextlib import asynccontextmanager

import httpx2
import orjson
import pytest
from ratelimit_calls import limiter

from gwcore.call import Principal
from gwcore.catalog import Catalog
from gwcore.gateway import Gateway
from gwcore.hookspecs import hookimpl
from gwcore.plugin import NO_MODELS, Plugin
from gwcore.testing.fakes import call
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream, chat_stream
from gwcore_ratelimit import counting, rules
from gwcore_ratelimit.config import RateLimitPolicy, Rule
from gwcore_ratelimit.plugin import RateLimit

USAGE = {
    "prompt_tokens": 1110,
    "completion_tokens": 250,
    "total_tokens": 1360,
    "prompt_tokens_details": {"cached_tokens": 1000},
    "completion_tokens_details": {"reasoning_tokens": 50},
}
WHOLE = {
    "id": "1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
    "usage": USAGE,
}
TRUTH = {
    "total": 1360,
    "total-uncached": 360,
    "input": 1110,
    "input-uncached": 110,
    "output": 250,
    "output-uncached": 250,
}
MANNERS = [(count, cached) for count in ("input", "output", "total") for cached in (True, False)]


def streamed():
    frames = chat_stream("a", "b")
    return [
        frame.replace(orjson.dumps(dict(orjson.loads(frame[6:])["usage"])), orjson.dumps(USAGE))
        if b'"usage":{' in frame
        else frame
        for frame in frames
    ]


class Watch(Plugin):
    """Keeps the facts of calls that are over; the first of them says who calls."""

    name = "watch_facts"
    policies: dict = {}
    facts: list = []
    identifies = True

    def call_layer(self, inner):
        async def watched(call):
            call.principal = self.policies.get("who", Principal("anybody"))
            return await inner(call)

        return watched

    @hookimpl
    def call_ended(self, call, outcome):
        self.facts.append(call.facts)


class Installed:
    @hookimpl
    def gwcore_plugins(self):
        return [Watch]


@pytest.fixture(autouse=True)
def _fresh():
    Watch.facts.clear()
    Watch.policies.clear()


@pytest.fixture(params=["memory", "redis"])
def store(request):
    return None if request.param == "memory" else request.getfixturevalue("redis_url")


@asynccontextmanager
async def gateway(url, up, *, models="house: up/m", ratelimit=(), more="", **config):
    settings = orjson.dumps({"rules": list(ratelimit), **({"store": "hot", "timeout": "5s"} if url else {}), **config})
    text = (
        f"gwcore: 1\n{f'stores: {{hot: {url!r}}}' if url else ''}\n"
        f"upstreams:\n  up: {{provider: openai-compatible, base_url: '{up.url}/v1', prices: {{'*': free}}}}\n"
        f"  twin: {{provider: openai-compatible, base_url: '{up.url}/v1', prices: {{'*': free}}}}\n"
        f"models: {{{models}}}\nstack:\n  - watch_facts\n  - ratelimit: {settings.decode()}\n{more}"
    )
    made = Gateway(text, catalog=Catalog(Installed()))
    async with running(made) as base, httpx2.AsyncClient(base_url=base, timeout=20, trust_env=False) as http:

        async def ask(model="house", **body):
            document = {"model": model, "messages": [{"role": "user", "content": "hi"}], **body}
            return await http.post("/v1/chat/completions", json=document)

        yield made, ask


async def counts(url, *, stream):
    """What header and record say of one call under each manner of counting, and what the limit was charged for it."""
    told, charged = {}, {}
    for n, (count, cached) in enumerate(MANNERS):
        rule = {"per": "key", "tokens": f"{100 + n}k/h", "count": count, "count_cached": cached}
        answer = Answer(body=streamed()) if stream else Answer(body=orjson.dumps(WHOLE))
        async with FakeUpstream(answer) as up, gateway(url, up, ratelimit=[rule]) as (_made, ask):
            first = await ask(stream=stream, max_tokens=9)
            assert first.status_code == 200
            for _ in range(100):
                if Watch.facts:
                    break
                await asyncio.sleep(0.01)
            (name, tokens), *others = Watch.facts.pop()["counted_tokens"].items()
            assert others == []
            told[name] = tokens
            if stream:
                assert "x-gwcore-counted-tokens" not in first.headers  # nobody knows it as the head leaves
            else:
                assert first.headers["x-gwcore-counted-tokens"] == f"{name}={tokens}"
            before = int(first.headers["x-ratelimit-remaining-tokens"])
            await asyncio.sleep(0.05)  # redis is told behind the call
            second = await ask(max_tokens=9)
            # both are charged alike beforehand; what is between them is what the first was corrected to
            charged[name] = before - int(second.headers["x-ratelimit-remaining-tokens"])
            Watch.facts.clear()
    return told, charged


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_c7_what_was_counted_is_told_and_is_the_usage(store, stream):
    told, charged = await counts(store, stream=stream)
    print({"told": told, "charged": charged})
    assert told == TRUTH
    for name, tokens in TRUTH.items():
        assert abs(charged[name] - tokens) <= 60, name  # less what has flowed back since, and the learned estimate


async def test_c7_negative_control_a_cache_that_is_not_told_apart(monkeypatch):
    """Mutant: everything counts as input and output, whatever the rule says."""
    monkeypatch.setattr(counting, "counted", lambda _limit, read, _cached, written: read + written)
    told, _ = await counts(None, stream=False)
    assert told != TRUTH


async def test_c7_what_is_not_known_counts_as_estimated_and_a_refusal_nothing():
    rule = {"per": "key", "tokens": "100k/h"}
    lost = Answer(body=streamed(), cut_after=450)
    async with FakeUpstream(lost, Answer(500, body=b"{}")) as up, gateway(None, up, ratelimit=[rule]) as (_, ask):
        broken = await ask(stream=True, max_tokens=500)
        assert broken.status_code == 200 and "[DONE]" not in broken.text
        refused = await ask()
        assert refused.status_code >= 500 and refused.headers["x-gwcore-counted-tokens"] == "total=0"
        assert Watch.facts[0]["counted_tokens"]["total"] > 500
        assert Watch.facts[1]["counted_tokens"] == {"total": 0}


async def test_c7_explain_says_what_counts():
    rule = {"per": "key", "tokens": "10k/min", "count": "input", "count_cached": False}
    async with limiter(rule) as plugin:
        said = plugin.explain(call())
        assert "10000 uncached input tokens per 60 s" in said and "input-uncached" in said


def test_every_manner_of_counting_has_a_word_of_its_own():
    names = set()
    for count, cached in MANNERS:
        rule = Rule.model_validate({"per": "key", "tokens": "1k/s", "count": count, "count_cached": cached})
        made = rules.Rules([rule], name="x", models=NO_MODELS).limits[0]
        names.add(made.manner)
        assert counting.counted(made, 1, 0, 0) == (count != "output")
    assert len(names) == len(MANNERS)


# ── a model's limit ──────────────────────────────────────────────────────────────────────────────────────────────────

MODELS = "house: up/m, nick: up/m, two: [twin/other, up/m], '*': pass"
FALLBACK = "  - fallback: {models: {safe: {fallbacks: [up/m]}}}\n"
ANSWER = orjson.dumps(WHOLE)


def limited(**policy):
    made = RateLimitPolicy(**policy)
    Watch.policies["who"] = Principal("k", policies={"ratelimit": {"key": made}})


async def ways(limit_on, *, names, more="", models=MODELS, policy="model_rpm_limit", amount=1):
    """Statuses of one call under each of the names, where the key may ask the model once a minute."""
    limited(**{policy: {limit_on: amount}})
    async with FakeUpstream() as up:
        up.default = Answer(body=ANSWER)
        async with gateway(None, up, models=models, more=more) as (_, ask):
            got = [(await ask(name)).status_code for name in names]
        return got, [r.document["model"] for r in up.requests]


EVERY = ["house", "nick", "up/m", "house"]


@pytest.mark.parametrize("limit_on", ["house", "nick", "up/m", "m", "hou*", "up/*"])
async def test_no_other_name_goes_round_a_model_s_limit(limit_on):
    got, asked = await ways(limit_on, names=EVERY)
    assert (got, asked) == ([200, 429, 429, 429], ["m"])


async def test_another_model_is_not_bound():
    got, _ = await ways("house", names=["up/other", "house", "up/other", "twin/x"])
    assert got == [200, 200, 200, 200]


@pytest.mark.parametrize("policy", ["model_rpm_limit", "model_tpm_limit"])
async def test_a_model_that_is_one_of_several_is_bound_where_it_is_asked(policy):
    """``two`` asks the twin first: that costs the limit of up/m nothing."""
    amount = 1 if policy == "model_rpm_limit" else 1000
    got, asked = await ways("up/m", names=["two", "house", "two", "nick"], policy=policy, amount=amount)
    assert (got, asked) == ([200, 200, 200, 429], ["other", "m", "other"])


async def test_a_fallback_does_not_go_round_it():
    limited(model_rpm_limit={"up/m": 1})
    models = "safe: twin/broken, house: up/m, '*': pass"
    async with FakeUpstream() as up:
        up.default = lambda seen: Answer(500, body=b"{}") if seen.document["model"] == "broken" else Answer(body=ANSWER)
        async with gateway(None, up, models=models, more=FALLBACK) as (_, ask):
            got = [(await ask(name)).status_code for name in ("safe", "safe", "house")]
        asked = [r.document["model"] for r in up.requests]
    assert got[0] == 200 and got[1] >= 429 and got[2] == 429
    assert asked.count("m") == 1


async def test_negative_control_a_limit_by_the_name_asked_for(monkeypatch):
    """Mutant: only the name that the client writes is looked at."""
    monkeypatch.setattr(rules.ModelName, "names", lambda self, call: self._match(call.model) is not None)
    monkeypatch.setattr(rules.ModelName, "covers", lambda _self, _target: False)
    got, asked = await ways("house", names=EVERY)
    assert got != [200, 429, 429, 429] and len(asked) > 1


async def test_negative_control_no_look_at_attempts(monkeypatch):
    """Mutant: the attempt ring forgets the policies."""
    monkeypatch.setattr(RateLimit, "attempt_layer", lambda _self, inner: inner)
    limited(model_rpm_limit={"up/m": 1})
    async with FakeUpstream() as up:
        up.default = lambda seen: Answer(500, body=b"{}") if seen.document["model"] == "broken" else Answer(body=ANSWER)
        async with gateway(None, up, models="safe: twin/broken, '*': pass", more=FALLBACK) as (_, ask):
            got = [(await ask("safe")).status_code for _ in range(3)]
    assert got == [200, 200, 200]
