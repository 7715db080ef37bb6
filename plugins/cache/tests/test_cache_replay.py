"""A kept answer told again in every dialect and mode (C9, G5): nothing lost, and the official SDKs read it."""

import json

import pytest
from anthropic import AsyncAnthropic
from cache_world import DIALECTS, WIRES, chunk, sse, state, world
from google import genai
from google.genai import types
from openai import AsyncOpenAI

from gwcore.catalog import Catalog
from gwcore.events import gather
from gwcore.testing.upstream import Answer
from gwcore_cache.record import events_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
CODECS = {dialect.name: dialect for dialect in Catalog().dialects()}
MODES = [(False, False), (False, True), (True, False), (True, True)]


def read(dialect, stream, body):
    """Parts, why it ended, and usage: what a client can tell of an answer."""
    spoken = CODECS[dialect]
    reply = gather(events_of(spoken, body), dialect) if stream else spoken.chat.read_reply(json.loads(body))
    return (
        [[(type(part).__name__, *said(part)) for part in choice.parts] for choice in reply.choices],
        [choice.finish.reason for choice in reply.choices],
        reply.usage,
    )


def said(part):
    for name in ("text", "name", "arguments", "id", "signature", "data"):
        value = getattr(part, name, None)
        if value:
            yield name, json.loads(value) if name == "arguments" else value


TOOL = {"type": "object", "properties": {"city": {"type": "string"}}}
USAGE = {
    "prompt_tokens": 70, "completion_tokens": 30, "total_tokens": 100,
    "prompt_tokens_details": {"cached_tokens": 40}, "completion_tokens_details": {"reasoning_tokens": 12},
}  # fmt: skip
CALL = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
RICH = {
    "openai.chat": (
        {
            "id": "c1", "object": "chat.completion", "created": 1, "model": "m", "usage": USAGE,
            "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
                "role": "assistant", "reasoning_content": "thinking", "content": "let me see", "tool_calls": [CALL]}}],
        },
        [
            chunk({"role": "assistant", "content": ""}),
            chunk({"reasoning_content": "thin"}), chunk({"reasoning_content": "king"}),
            chunk({"content": "let me"}), chunk({"content": " see"}),
            chunk({"tool_calls": [{"index": 0, **CALL, "function": {"name": "weather", "arguments": ""}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Paris"}'}}]}),
            chunk({}, "tool_calls"),
            {**chunk({}), "choices": [], "usage": USAGE},
            "[DONE]",
        ],
    ),
    "anthropic.messages": (
        {
            "id": "m1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use", "stop_sequence": None,
            "content": [
                {"type": "thinking", "thinking": "thinking", "signature": "c2ln"},
                {"type": "text", "text": "let me see"},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}},
            ],
            "usage": {"input_tokens": 30, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 0, "output_tokens": 30},
        },
        [
            ("message_start", {"type": "message_start", "message": {
                "id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None, "stop_sequence": None,
                "usage": {"input_tokens": 30, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 0, "output_tokens": 1}}}),
            ("content_block_start", {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
            ("content_block_delta", {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "thinking"}}),
            ("content_block_delta", {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}}),
            ("content_block_stop", {"type": "content_block_stop", "index": 0}),
            ("content_block_start", {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}),
            ("content_block_delta", {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "let me see"}}),
            ("content_block_stop", {"type": "content_block_stop", "index": 1}),
            ("content_block_start", {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}}),
            ("content_block_delta", {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"city": "Paris"}'}}),
            ("content_block_stop", {"type": "content_block_stop", "index": 2}),
            ("message_delta", {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None},
                               "usage": {"input_tokens": 30, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 0, "output_tokens": 30}}),
            ("message_stop", {"type": "message_stop"}),
        ],
    ),
}  # fmt: skip
OPTIONS = {"openai.chat": {"stream_options": {"include_usage": True}}}


def answers(dialect, stream, rich):
    if not rich:
        return WIRES[dialect].answer(stream)
    whole, frames = RICH[dialect]
    return Answer(body=sse(*frames)) if stream else Answer(body=json.dumps(whole).encode())


@pytest.mark.parametrize(("dialect", "rich"), [*((d, False) for d in DIALECTS), *((d, True) for d in RICH)])
@pytest.mark.parametrize(("first", "second"), MODES)
async def test_kept_in_one_mode_told_in_another(dialect, rich, first, second):
    """Tool calls, thoughts and usage are all there, whichever way it was kept and is told."""
    more = OPTIONS.get(dialect, {})
    async with world(dialect=dialect) as w:
        w.up.default = answers(dialect, first, rich)
        live = await w.ask(first, **(more if first else {}))
        await w.settled()
        replayed = await w.ask(second, **(more if second else {}))
        assert (state(live), state(replayed), w.asked) == ("miss", "hit", 1)
        assert read(dialect, second, replayed.body) == read(dialect, first, live.body)
        assert replayed.headers["content-type"].startswith("text/event-stream" if second else "application/json")


@pytest.mark.parametrize(("first", "second"), MODES)
async def test_a_stream_without_usage_stays_one(first, second):
    """OpenAI's streams tell usage only to who asks; who asks finds it in the cache, too."""
    async with world() as w:
        w.up.default = answers("openai.chat", first, rich=True)
        await w.ask(first)
        await w.settled()
        plain, told = await w.ask(True), await w.ask(True, stream_options={"include_usage": True})
        assert b'"usage":{' not in plain.body.replace(b" ", b"")
        assert b'"total_tokens":100' in told.body
        assert (state(plain), state(told), w.asked) == ("hit", "hit", 1)


SAME = {
    "openai.chat": {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]},
    "anthropic.messages": {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]},
    "gemini.generate": {
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 64},
    },
    "openai.responses": {
        "model": "m", "max_output_tokens": 64, "input": [{"type": "message", "role": "user", "content": "hi"}],
    },
}  # fmt: skip


@pytest.mark.parametrize("source", DIALECTS)
@pytest.mark.parametrize("target", DIALECTS)
@pytest.mark.parametrize(("first", "second"), MODES)
async def test_told_in_another_dialect(source, target, first, second):
    """The upstream speaks OpenAI's chat; who asked first may speak anything, and so may who asks next."""
    async with world(dialect="openai.chat", upstream={"dialect": "openai.chat"}) as w:
        w.up.default = w.wire.answer(first)
        one, two = WIRES[source], WIRES[target]
        assert one.body == SAME[source]
        live = await w.ask(first, wire=one)
        assert live.status == 200
        await w.settled()
        replayed = await w.ask(second, wire=two)
        assert (state(replayed), w.asked) == ("hit", 1)
        parts, ends, usage = read(target, second, replayed.body)
        assert (parts, ends) == ([[("Text", ("text", "hello"))]], ["stop"])
        if not (target == "openai.chat" and second):
            assert (usage.input, usage.output) == (7, 3)


async def test_what_another_dialect_cannot_say_is_asked_anew():
    """An answer with a thought that another vendor signed is not shown without it."""
    async with world() as w:
        w.up.default = answers("openai.chat", False, rich=True)
        await w.ask()
        await w.settled()
        seen = await w.ask(wire=WIRES["anthropic.messages"])
        parts, ends, usage = read("anthropic.messages", False, seen.body)
        assert ("ToolCall", ("name", "weather"), ("arguments", {"city": "Paris"}), ("id", "t1")) in parts[0]
        assert (ends, usage.total) == (["tool_calls"], 100)


@pytest.mark.parametrize("cost", ["header", "stream"])
async def test_a_comment_of_the_gateways_is_not_kept(cost):
    from cache_world import stack

    async with world() as w:
        text = json.loads(stack({"a": w.up.url}, w.wire))
        text["server"] = {"cost": cost}
        w.gateway.source = json.dumps(text, indent=1)
        assert await w.gateway.reload()
        w.up.default = w.wire.answer(True)
        live = await w.ask(True)
        assert (b"x-gwcore-cost-usd" in live.body) == (cost == "stream")
        await w.settled()
        replayed = await w.ask(True)
        assert (state(replayed), b"x-gwcore" in replayed.body) == ("hit", False)
        assert read("openai.chat", True, replayed.body) == read("openai.chat", True, live.body)


# ── the official SDKs ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kept_as", [False, True])
async def test_openai_sdk(kept_as):
    async with world() as w, AsyncOpenAI(base_url=f"{w.url}/v1", api_key="sk-any", max_retries=0) as client:
        w.up.default = answers("openai.chat", kept_as, rich=True)
        await w.ask(kept_as, who="sk-any")
        await w.settled()
        body = SAME["openai.chat"]
        whole = await client.chat.completions.create(**body)
        assert whole.choices[0].message.tool_calls[0].function.arguments == '{"city": "Paris"}'
        assert whole.usage.prompt_tokens_details.cached_tokens == 40
        chunks = [
            c
            async for c in await client.chat.completions.create(
                **body, stream=True, stream_options={"include_usage": True}
            )
        ]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "let me see"
        assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 12
        assert w.asked == 1


@pytest.mark.timeout(120)
async def test_openai_sdk_responses_and_the_body_object():
    async with (
        world(dialect="openai.responses") as w,
        AsyncOpenAI(base_url=f"{w.url}/v1", api_key="sk-any", max_retries=0) as client,
    ):
        w.up.default = w.wire.answer(False)
        await w.ask(who="sk-any")
        await w.settled()
        body = SAME["openai.responses"]
        assert (await client.responses.create(**body)).output_text == "hello"
        events = [event async for event in await client.responses.create(**body, stream=True)]
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == "hello"
        assert w.asked == 1
        w.up.default = w.wire.answer(False, "anew")
        fresh = await client.responses.create(**body, extra_body={"cache": {"no-cache": True}})
        assert (fresh.output_text, "cache" in w.up.requests[-1].document) == ("anew", False)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kept_as", [False, True])
async def test_anthropic_sdk(kept_as):
    async with (
        world(dialect="anthropic.messages") as w,
        AsyncAnthropic(base_url=w.url, api_key="sk-any", max_retries=0) as client,
    ):
        w.up.default = answers("anthropic.messages", kept_as, rich=True)
        body = SAME["anthropic.messages"]
        if kept_as:
            async with client.messages.stream(**body) as stream:
                live = await stream.get_final_message()
        else:
            live = await client.messages.create(**body)
        await w.settled()
        whole = await client.messages.create(**body)
        async with client.messages.stream(**body) as stream:
            streamed = await stream.get_final_message()
        assert w.asked == 1
        for answer in (whole, streamed):
            assert [b.model_dump(exclude_none=True) for b in answer.content] == [
                b.model_dump(exclude_none=True) for b in live.content
            ]
            assert (answer.stop_reason, answer.usage.cache_read_input_tokens) == ("tool_use", 40)


@pytest.mark.timeout(120)
async def test_gemini_sdk():
    async with world(dialect="gemini.generate") as w:
        client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=w.url, api_version="v1beta"))
        w.up.default = w.wire.answer(False)
        ask = {"model": "m", "contents": "hi", "config": types.GenerateContentConfig(max_output_tokens=64)}
        assert (await client.aio.models.generate_content(**ask)).text == "hello"
        await w.settled()
        assert (await client.aio.models.generate_content(**ask)).text == "hello"
        chunks = [c async for c in await client.aio.models.generate_content_stream(**ask)]
        assert "".join(c.text for c in chunks) == "hello"
        assert chunks[-1].usage_metadata.total_token_count == 10
        assert w.asked == 1
        await client.aio.aclose()
        client.close()
