"""Costs end to end: the same in both framings, told in headers and comments, listed with the models, unpriced said so."""

import asyncio
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from openai import AsyncOpenAI

from gwcore.catalog import Catalog
from gwcore.gateway import Gateway
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.stacks.raw import connect, exchange, request_bytes

GWCORE = str(Path(sys.executable).with_name("gwcore"))
CARD = "{input: $2.50/M, cache_read: $0.25/M, output: $10/M, fees: {web_search: $10/k}, context_window: 1000, max_output: 100}"
USAGE = {
    "prompt_tokens": 1_000,
    "completion_tokens": 50,
    "total_tokens": 1_050,
    "prompt_tokens_details": {"cached_tokens": 600},
}
NANO = 400 * 2_500 + 600 * 250 + 50 * 10_000  # 1,650,000
DOLLARS = "0.001650000"
FLEX = {**USAGE, "prompt_tokens_details": {}}


class Ledger(Plugin):
    """Reads costs, as a budget does."""

    name, priced = "ledger", True
    told: list = []
    cards: list = []

    def attempt_layer(self, inner):
        async def ledger(attempt):
            self.cards.append(self.setup.prices.card(attempt.target))
            return await inner(attempt)

        return ledger

    @hookimpl
    def call_ended(self, call, outcome):
        attempt = call.attempts[-1]
        self.told.append((outcome.usage, outcome.cost, attempt.usage, attempt.cost))


class Extra:
    """A distribution that offers the plugin above."""

    @hookimpl
    def gwcore_plugins(self):
        return [Ledger]


@pytest.fixture
def ledger():
    Ledger.told.clear()
    Ledger.cards.clear()
    return Ledger


def stack(url, *, cost="auto", plugins="", prices=None):
    listed = prices if prices is not None else f"{{m: {CARD}}}"
    return (
        f"gwcore: 1\nserver: {{cost: {cost}}}\nupstreams:\n"
        f'  up: {{provider: openai-compatible, base_url: "{url}/v1", api_key: vendor-key-1, models: [m], prices: {listed}}}\n'
        f"models: {{house: up/m, other: up/unknown, '*': pass}}\nstack: [{plugins}]\n"
    )


def whole(usage=USAGE, **more):
    message = {"role": "assistant", "content": "hi"}
    document = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage, **more}
    document["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return Answer(body=json.dumps(document).encode())


def stream(usage=USAGE, **more):
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", **more}
    frames = [
        {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hi"}}]},
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**head, "choices": [], "usage": usage},
    ]
    return Answer(body=[*(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames), b"data: [DONE]\n\n"])


async def ask(url, model="up/m", **fields):
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}).encode()
    return await exchange(url, "POST", "/v1/chat/completions", body)


@pytest.mark.parametrize("model", ["up/m", "house"])
async def test_a_plugin_that_reads_costs_gets_the_same_of_both_framings(ledger, model):
    async with FakeUpstream() as upstream:
        gateway = Gateway(stack(upstream.url, plugins="ledger"), catalog=Catalog(Extra()))
        async with running(gateway) as url:
            upstream.script(whole(), stream())
            plain, streamed = await ask(url, model), await ask(url, model, stream=True)
    assert plain.headers["x-gwcore-cost-usd"] == DOLLARS
    assert "x-gwcore-cost-usd" not in streamed.headers and b"cost" not in streamed.body
    assert [told[1].nano for told in ledger.told] == [NANO, NANO]
    assert ledger.told[0] == ledger.told[1] and ledger.told[0][:2] == ledger.told[0][2:]
    assert ledger.told[0][1].source == "stack" and ledger.told[0][1].version
    assert ledger.cards[0] is ledger.cards[1]


async def test_nobody_asks_nothing_is_priced():
    async with FakeUpstream() as upstream, running(Gateway(stack(upstream.url))) as url:
        upstream.script(whole())
        assert "x-gwcore-cost-usd" not in (await ask(url)).headers


async def test_a_stream_ends_with_its_cost_where_configured_and_the_sdk_reads_on():
    async with FakeUpstream() as upstream, running(Gateway(stack(upstream.url, cost="stream"))) as url:
        upstream.default = stream()
        seen = await ask(url, stream=True)
        assert seen.body.endswith(b"data: [DONE]\n\n: x-gwcore-cost-usd %s\n\n" % DOLLARS.encode())
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-any", max_retries=0) as client:
            chunks = [c async for c in await client.chat.completions.create(model="up/m", messages=[], stream=True)]
    assert [c.choices[0].delta.content for c in chunks] == ["hi", None]


@pytest.mark.parametrize(
    ("model", "answer", "why"),
    [
        ("up/unknown", whole(), "the model has no price"),
        ("up/m", whole(usage=None), "the answer says nothing"),
        ("up/m", whole(service_tier="priority"), "a service tier without a price"),
        ("up/m", whole({**USAGE, "server_tool_use_details": {"web_search_requests": 1, "x_search_calls": 2}}), "a fee without one"),
        ("up/m", Answer(500, body=b'{"error": {"message": "x"}}'), "an error"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
async def test_a_cost_that_is_not_wholly_known_is_not_told(model, answer, why):
    async with FakeUpstream() as upstream, running(Gateway(stack(upstream.url, cost="header"))) as url:
        upstream.script(answer)
        assert "x-gwcore-cost-usd" not in (await ask(url, model)).headers, why


async def test_the_tier_is_the_replys():
    prices = "{m: {input: $2/M, output: $4/M, service_tiers: {flex: {input: $1/M, output: $2/M}}}}"
    async with FakeUpstream() as upstream, running(Gateway(stack(upstream.url, cost="header", prices=prices))) as url:
        upstream.script(whole(FLEX, service_tier="flex"), whole(FLEX, service_tier="default"))
        costs = [(await ask(url, service_tier=asked)).headers["x-gwcore-cost-usd"] for asked in ("auto", "flex")]
    assert costs == ["0.001100000", "0.002200000"]  # 1000 * 1000 + 50 * 2000, and twice that


MESSAGES = {"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 50}
GENERATE = {"contents": [{"role": "user", "parts": [{"text": "Hello there"}]}]}
ROUTES = {
    "chat": ("/v1/chat/completions", "/v1/chat/completions", MESSAGES),
    "responses": ("/v1/responses", "/v1/responses", {"input": "Hello there"}),
    "messages": ("/v1/messages", "/v1/messages", MESSAGES),
    "gemini": ("/v1beta/models/m:generateContent", "/v1beta/models/m:streamGenerateContent?alt=sse", GENERATE),
}


@pytest.mark.parametrize("route", ROUTES)
async def test_every_streaming_route_is_metered_unasked(ledger, route):
    """No client here asks for usage: the gateway does, and hides what was not asked for (pains B5)."""
    plain, streaming, body = ROUTES[route]
    file = f"gwcore: 1\nupstreams: {{up: {{provider: demo, models: [m], prices: {{m: {CARD}}}}}}}\nstack: [ledger]\n"
    async with running(Gateway(file, catalog=Catalog(Extra()))) as url:
        for path, extra in ((plain, {}), (streaming, {"stream": True} if route != "gemini" else {})):
            seen = await exchange(url, "POST", path, json.dumps({"model": "m", **body, **extra}).encode())
            assert seen.status == 200, seen.body
        if route == "chat":
            assert b'"usage":{' not in seen.body
    (whole, cost, *_), (streamed, again, *_) = ledger.told
    assert whole == streamed and whole.input > 0 and whole.output > 0
    assert cost == again and cost.nano == whole.input * 2_500 + whole.output * 10_000


async def test_a_translated_answer_costs_the_same_in_both_framings(ledger):
    usage = {"input_tokens": 400, "cache_read_input_tokens": 600, "output_tokens": 50}
    message = {"id": "m1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
    whole = {**message, "content": [{"type": "text", "text": "hi"}], "usage": usage}
    events = [
        {"type": "message_start", "message": {**message, "content": [], "usage": {**usage, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 50}},
        {"type": "message_stop"},
    ]
    frames = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
    async with FakeUpstream() as upstream:
        upstream.script(Answer(body=json.dumps(whole).encode()), Answer(body=frames))
        file = stack(upstream.url, plugins="ledger", cost="stream").replace("openai-compatible", "anthropic")
        async with running(Gateway(file.replace("/v1", ""), catalog=Catalog(Extra()))) as url:
            plain, streamed = await ask(url), await ask(url, stream=True)
    assert plain.headers["x-gwcore-cost-usd"] == DOLLARS
    assert streamed.body.endswith(b"data: [DONE]\n\n: x-gwcore-cost-usd %s\n\n" % DOLLARS.encode())
    assert [told[1].nano for told in ledger.told] == [NANO, NANO] and ledger.told[0] == ledger.told[1]


async def test_a_stream_that_is_a_json_array_is_metered(ledger):
    """Google's answer to a client that does not ask for server-sent events."""
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 20, "thoughtsTokenCount": 100, "totalTokenCount": 130}
    pieces = [{"candidates": [{"content": {"parts": [{"text": "hi"}]}}]}, {"candidates": [], "usageMetadata": usage}]
    async with FakeUpstream() as upstream:
        body = json.dumps(pieces).encode()
        upstream.script(Answer(headers=[("content-type", "application/json")], body=[body[:50], body[50:]]))
        file = stack(upstream.url, plugins="ledger").replace("openai-compatible", "gemini").replace("/v1", "")
        async with running(Gateway(file, catalog=Catalog(Extra()))) as url:
            seen = await exchange(url, "POST", "/v1beta/models/up/m:streamGenerateContent", b'{"contents": []}')
    assert seen.body == body
    ((usage, cost, *_),) = ledger.told
    assert (usage.input, usage.output, usage.reasoning, usage.total) == (10, 20, 100, 130)  # pains B8
    assert cost.nano == 10 * 2_500 + 120 * 10_000


async def test_a_client_that_leaves_is_charged_for_what_was_read(ledger):
    begun = {"type": "message_start", "message": {"usage": {"input_tokens": 700, "output_tokens": 1}}}
    text = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}}
    frames = [b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in (begun, text)]
    for seen in (1, 2):  # the input alone, of which nothing reached the client; and the first content
        ledger.told.clear()
        async with FakeUpstream() as upstream:
            upstream.script(Answer(body=[*frames[:seen], b": x\n\n"], stall_after=len(b"".join(frames[:seen]))))
            file = stack(upstream.url, plugins="ledger").replace("openai-compatible", "anthropic").replace("/v1", "")
            async with running(Gateway(file, catalog=Catalog(Extra()))) as url:
                _, writer = await connect(url)
                writer.write(request_bytes(url, "POST", "/v1/messages", b'{"model": "up/m", "stream": true}'))
                while not upstream.requests:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                writer.close()
                await upstream.requests[0].gone()
                while not ledger.told:
                    await asyncio.sleep(0.01)
        assert [(usage.input, cost.nano) for _, _, usage, cost in ledger.told] == [(700, 700 * 2_500 + 10_000)]


async def test_lists_of_models_tell_limits_and_prices():
    async with FakeUpstream() as upstream, running(Gateway(stack(upstream.url))) as url:
        listed = json.loads((await exchange(url, "GET", "/v1/models")).body)["data"]
        info = json.loads((await exchange(url, "GET", "/v1/model/info")).body)["data"]
        gemini = json.loads((await exchange(url, "GET", "/v1beta/models")).body)["models"]
        anthropic = await exchange(url, "GET", "/v1/models", headers=[("anthropic-version", "2023-06-01")])
        one = json.loads((await exchange(url, "GET", "/v1/models/house")).body)
    by_name = {model["id"]: model for model in listed}
    assert list(by_name) == ["house", "other", "up/m", "m"]  # the only upstream needs no naming
    house = by_name["house"]
    assert (house["context_window"], house["max_output_tokens"]) == (1000, 100) and one == house
    assert house["pricing"] == {
        "input": "0.0000025",
        "cache_read": "0.00000025",
        "output": "0.00001",
        "web_search": "0.01",
    }
    assert by_name["other"]["pricing"] is None
    assert [entry["model_name"] for entry in info] == ["house", "other", "up/m", "m"]
    told = info[0]["model_info"]
    assert info[0]["litellm_params"] == {"model": "openai-compatible/m"} and "vendor-key" not in json.dumps(info)
    assert (told["max_input_tokens"], told["max_output_tokens"], told["max_tokens"]) == (1000, 100, 100)
    assert math.isclose(told["input_cost_per_token"], 2.5e-6) and math.isclose(
        told["cache_read_input_token_cost"], 2.5e-7
    )
    assert "input_cost_per_token" not in info[1]["model_info"]
    assert (gemini[0]["inputTokenLimit"], gemini[0]["outputTokenLimit"]) == (1000, 100)
    assert (json.loads(anthropic.body)["data"][0]["max_input_tokens"]) == 1000


async def test_models_without_a_price_are_logged_at_start():
    async with FakeUpstream() as upstream:
        with structlog.testing.capture_logs() as logs:
            async with Gateway(stack(upstream.url, cost="header")):
                pass
            assert [entry["models"] for entry in logs if entry["event"] == "models without a price"] == [["up/unknown"]]
            logs.clear()
            async with Gateway(stack(upstream.url, cost="header", prices=f"{{m: {CARD}, '*': free}}")):
                pass
            assert not logs


async def test_an_answer_without_usage_is_counted_and_said_once():
    async with FakeUpstream() as upstream, running(Gateway(stack(upstream.url, cost="header"))) as url:
        upstream.default = whole(usage=None)
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                await ask(url)
        upstream.default = whole()
        await ask(url)
        health = json.loads((await exchange(url, "GET", "/health")).body)
    assert health["unmetered"] == {"up chat": 3}
    assert [entry["log_level"] for entry in logs if "no usage" in entry["event"]] == ["warning"]


def test_check_lists_models_without_a_price(tmp_path):
    file = tmp_path / "stack.yaml"
    file.write_text(stack("http://127.0.0.1:9"))
    done = subprocess.run([GWCORE, "check", str(file)], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert "unpriced  up/unknown" in done.stdout and "up/m " not in done.stdout.partition("unpriced")[2]


START = """
import asyncio, sys
from gwcore.gateway import Gateway
async def main():
    async with Gateway(sys.argv[1]):
        print("genai_prices.data" in sys.modules)
asyncio.run(main())
"""


@pytest.mark.parametrize(("cost", "loaded"), [("auto", "False"), ("header", "True")])
def test_the_catalogue_is_loaded_only_where_prices_are_needed(tmp_path, cost, loaded):
    file = tmp_path / "stack.yaml"
    file.write_text(stack("http://127.0.0.1:9", cost=cost))
    done = subprocess.run(
        [sys.executable, "-c", START, str(file)], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.stdout.strip().splitlines()[-1:] == [loaded], done.stderr
