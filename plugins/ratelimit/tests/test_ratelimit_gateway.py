"""Through a real server: headers and SDKs (L10), abandoned and failing streams (L6), on memory and redis."""

import asyncio
import math
import random
from contextlib import asynccontextmanager
from uuid import uuid4

import orjson
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI, RateLimitError

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream, chat_stream

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
HELLO = [{"role": "user", "content": "Hello!"}]
DEMO = "gwcore: 1\nupstreams:\n  demo: {{provider: demo}}\nmodels:\n  house: demo/demo\nstack:\n  - ratelimit: {0}\n"


def stack(url, rules, *, upstream=None, **config):
    """A stack file, on redis where there is a URL."""
    settings = orjson.dumps({"rules": rules, **({"store": "hot", "timeout": "5s"} if url else {}), **config}).decode()
    text = DEMO.format(settings)
    if upstream:
        text = text.replace("{provider: demo}", f'{{provider: openai-compatible, base_url: "{upstream}/v1"}}')
    return text.replace("gwcore: 1\n", f"gwcore: 1\nstores: {{hot: '{url}'}}\n") if url else text


@pytest.fixture(params=["memory", "redis"])
async def store(request):
    """A URL of the store, empty; ``None`` for memory."""
    if request.param == "memory":
        return None
    url = request.getfixturevalue("redis_url")
    from redis.asyncio import Redis

    async with Redis.from_url(url) as client:
        keys = [key async for key in client.scan_iter("{gwcore}:*")]
        if keys:
            await client.delete(*keys)
    return url


@asynccontextmanager
async def openai(text, max_retries=0):
    async with (
        running(Gateway(text)) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=max_retries) as client,
    ):
        yield client


async def test_openai_s_sdk_reads_the_headers_and_waits_as_told(store):
    rules = [{"per": "key", "requests": "4/s", "burst": 1, "tokens": None}, {"per": "key", "tokens": "100k/min"}]
    async with openai(stack(store, rules), max_retries=1) as client:
        first = await client.chat.completions.with_raw_response.create(model="house", messages=HELLO)
        assert first.headers["x-ratelimit-limit-requests"] == "4"
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        assert first.headers["x-ratelimit-reset-requests"].endswith("ms")
        assert first.headers["x-ratelimit-limit-tokens"] == "100000"
        assert 98_900 <= int(first.headers["x-ratelimit-remaining-tokens"]) < 100_000
        # each is refused once, waits as told, and is admitted then
        for _ in range(3):
            await client.chat.completions.create(model="house", messages=HELLO)


async def test_a_refusal_names_limit_scope_and_value_and_its_wait_is_true(store):
    async with openai(stack(store, [{"per": "key", "requests": "1/s"}])) as client:
        await client.chat.completions.create(model="house", messages=HELLO)
        with pytest.raises(RateLimitError) as caught:
            await client.chat.completions.create(model="house", messages=HELLO)
        error, headers = caught.value, caught.value.response.headers
        assert "1 requests per 1 s for key anonymous" in error.message and error.code == "rate_limited"
        assert headers["x-ratelimit-remaining-requests"] == "0" and headers["x-ratelimit-limit-requests"] == "1"
        told = int(headers["retry-after-ms"]) / 1000
        assert int(headers["retry-after"]) == math.ceil(told) == 1
        await asyncio.sleep(told)
        await client.chat.completions.create(model="house", messages=HELLO)


async def test_anthropic_s_sdk_in_its_own_words(store):
    rules = [{"per": "key", "requests": "4/s", "burst": 1}]
    async with running(Gateway(stack(store, rules))) as url, AsyncAnthropic(base_url=url, api_key="x") as client:
        ask = {"model": "house", "messages": HELLO, "max_tokens": 20}
        first = await client.messages.with_raw_response.create(**ask)
        assert first.headers["anthropic-ratelimit-requests-limit"] == "4"
        assert first.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert first.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        assert not [name for name in first.headers if name.startswith("x-ratelimit")]
        for _ in range(3):
            await client.messages.create(**ask)


async def test_headers_of_the_upstream_give_way_to_ours():
    reply = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
    }
    theirs = [("x-ratelimit-limit-requests", "77"), ("x-ratelimit-limit-other", "78")]
    async with (
        FakeUpstream(Answer(headers=theirs, body=orjson.dumps(reply))) as up,
        openai(stack(None, [{"per": "key", "requests": "4/s"}], upstream=up.url)) as client,
    ):
        got = await client.chat.completions.with_raw_response.create(model="house", messages=HELLO)
        assert got.headers.get_list("x-ratelimit-limit-requests") == ["4"]
        assert got.headers["x-ratelimit-limit-other"] == "78"


@pytest.mark.parametrize(("outer", "inner", "told"), [("100/s", "7/s", "7"), ("7/s", "100/s", "7")])
async def test_rules_of_both_rings_tell_the_tightest_once(outer, inner, told):
    rules = [{"per": "key", "requests": outer}, {"per": "upstream", "requests": inner}]
    async with openai(stack(None, rules)) as client:
        got = await client.chat.completions.with_raw_response.create(model="house", messages=HELLO)
        assert got.headers.get_list("x-ratelimit-limit-requests") == [told]
        assert got.headers.get_list("x-ratelimit-remaining-requests") == ["6"]


# ── L6 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

CHAT = orjson.dumps({"model": "house", "stream": True, "messages": HELLO})
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
REQUEST = HEAD % len(CHAT) + CHAT


async def leave_at_random(port, random_):
    """One stream, of which some pieces are read before the client goes; or all, where it is short."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(REQUEST)
        await writer.drain()
        async with asyncio.timeout(random_.choice([0, 0.001, 0.005, 0.02, 0.05])):
            for _ in range(random_.randint(0, 12)):
                if not await reader.read(200):
                    break
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()


def any_answer(random_):
    stream = chat_stream("a", "b", "c", "d", "e")
    kinds = [
        Answer(502, body=b"{}"),
        Answer(504, body=b"{}"),
        Answer(body=stream, gap=0.002),
        Answer(body=stream, gap=0.002, cut_after=300),
        Answer(body=stream, reset=True, cut_after=200),
        Answer(body=stream, delay_head=math.inf),
        Answer(body=stream, stall_after=250),
    ]
    return lambda _seen: random_.choice(kinds)


async def storm(gateway, up, clients, each):
    random_ = random.Random(7)
    up.default = any_answer(random_)
    async with running(gateway) as url:
        port = int(url.rpartition(":")[2])

        async def client():
            for _ in range(each):
                await leave_at_random(port, random_)

        await asyncio.gather(*(client() for _ in range(clients)))
        plugin = gateway.stack.placed[0].plugin
        for _ in range(200):
            if plugin.health()["held"] == 0:
                break
            await asyncio.sleep(0.01)
        held = plugin.health()["held"]
        up.default = Answer(body=chat_stream("x"))
        gate = [asyncio.create_task(status(port)) for _ in range(10)]
        return held, [await task for task in gate]


async def status(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    line = await reader.readline()
    await reader.read(10_000)
    writer.close()
    return int(line.split()[1])


@pytest.mark.timeout(120)
async def test_a_thousand_abandoned_and_failing_streams_leave_no_place_taken(store):
    """L6."""
    async with FakeUpstream() as up:
        gateway = Gateway(stack(store, [{"per": "key", "parallel": 50}], upstream=up.url))
        held, admitted = await storm(gateway, up, clients=40, each=25)
    assert held == 0
    assert admitted == [200] * 10


async def test_negative_control_release_on_success_only(monkeypatch):
    """Mutant: places are given back when a call succeeds, as callbacks of success do (pains C2)."""
    from gwcore_ratelimit.plugin import RateLimit

    settle = RateLimit._settle

    def on_success(self, call, grant, lease, error):
        if error is None:
            settle(self, call, grant, lease, error)

    monkeypatch.setattr(RateLimit, "_settle", on_success)
    async with FakeUpstream() as up:
        gateway = Gateway(stack(None, [{"per": "key", "parallel": 50}], upstream=up.url))
        held, _ = await storm(gateway, up, clients=10, each=8)
    assert held > 0


@pytest.mark.parametrize("other", ["gwcore", "staging"])
async def test_gateways_with_a_namespace_each_share_no_limits(redis_url, other):
    """Two stack files on one Redis, production and staging: one's calls are not the other's."""
    space = uuid4().hex
    rules = [{"per": "model", "requests": "1/h", "burst": 1}]
    texts = [stack(redis_url, rules, namespace=f"{space}-{name}") for name in ("gwcore", other)]
    async with openai(texts[0]) as one, openai(texts[1]) as two:
        ask = {"model": "house", "messages": HELLO}
        await one.chat.completions.create(**ask)
        if other == "gwcore":
            with pytest.raises(RateLimitError):
                await two.chat.completions.create(**ask)
        else:
            await two.chat.completions.create(**ask)
