"""Calls in one dialect, served by a cloud in another: address, body, credential and framing, through official SDKs."""

import base64
import json
from urllib.parse import unquote

import anthropic
import openai
import pytest
from google import genai
from google.genai import types

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore.wire.eventstream import encode
from tests.stacks.raw import exchange

KEY = "cloud-api-key-12345678"
HOSTILE = [(1,), (3, 1, 7), (1 << 16,)]
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use", "stop_sequence": None,
    "content": [{"type": "text", "text": "Héllo"}, {"type": "tool_use", "id": "toolu_1", "name": "t", "input": {"a": "ü"}}],
    "usage": {"input_tokens": 3, "output_tokens": 9, "cache_read_input_tokens": 4},
}  # fmt: skip
EVENTS = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hé"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "llo"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "toolu_1", "name": "t", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a": "'}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": 'ü"}'}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
]  # fmt: skip
SSE = b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in EVENTS)
BINARY = b"".join(
    encode(
        {":message-type": "event", ":event-type": "chunk", ":content-type": "application/json"},
        json.dumps({"bytes": base64.b64encode(json.dumps(event).encode()).decode()}).encode(),
    )
    for event in EVENTS
)
GEMINI = {
    "responseId": "r1", "modelVersion": "g",
    "candidates": [{"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": [
        {"text": "Héllo"}, {"functionCall": {"name": "t", "args": {"a": "ü"}}, "thoughtSignature": "c2ln"}]}}],
    "usageMetadata": {"promptTokenCount": 7, "cachedContentTokenCount": 4, "candidatesTokenCount": 9, "totalTokenCount": 16},
}  # fmt: skip
GEMINI_SSE = b"data: " + json.dumps(GEMINI).encode() + b"\r\n\r\n"
BINARY_TYPE = [("content-type", "application/vnd.amazon.eventstream")]
CLAUDE_BEDROCK, CLAUDE_VERTEX = "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5@20250929"
TOOLS = [{"type": "function", "function": {"name": "t", "parameters": {"type": "object", "properties": {}}}}]


def stack(up, provider):
    entry = {"provider": provider, "base_url": up.url, "api_key": KEY}
    entry |= {"project": "p", "location": "us-east5"} if provider == "vertex" else {"region": "us-east-1"}
    return Gateway(
        json.dumps({"gwcore": 1, "upstreams": {"cloud": entry}, "models": {"*": "pass"}, "stack": []}) + "\n"
    )


def answers(model, *, stream, size):
    if model == CLAUDE_BEDROCK:
        return (
            Answer(headers=BINARY_TYPE, body=[BINARY], split=size)
            if stream
            else Answer(body=json.dumps(MESSAGE).encode(), split=size)
        )
    if model == CLAUDE_VERTEX:
        return Answer(body=[SSE], split=size) if stream else Answer(body=json.dumps(MESSAGE).encode(), split=size)
    return Answer(body=[GEMINI_SSE], split=size) if stream else Answer(body=json.dumps(GEMINI).encode(), split=size)


WAYS = [("bedrock", CLAUDE_BEDROCK), ("vertex", CLAUDE_VERTEX), ("vertex", "gemini-2.5-flash")]


def check_request(seen, model, *, stream):
    body = seen.document
    path = unquote(seen.target)
    if model == CLAUDE_BEDROCK:
        assert path == f"/model/{model}/" + ("invoke-with-response-stream" if stream else "invoke")
        assert body["anthropic_version"] == "bedrock-2023-05-31" and not {"model", "stream"} & set(body)
        assert seen.header("authorization") == f"Bearer {KEY}"
    elif model == CLAUDE_VERTEX:
        verb = "streamRawPredict" if stream else "rawPredict"
        assert path == f"/v1/projects/p/locations/us-east5/publishers/anthropic/models/{model}:{verb}"
        assert body["anthropic_version"] == "vertex-2023-10-16" and "model" not in body
        assert body.get("stream", False) is stream and seen.header("x-goog-api-key") == KEY
    else:
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        assert path == f"/v1beta1/projects/p/locations/us-east5/publishers/google/models/{model}:{verb}"
        assert "model" not in body and body["contents"] and seen.header("x-goog-api-key") == KEY


@pytest.mark.parametrize("size", HOSTILE)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("provider", "model"), WAYS)
async def test_openai_chat(provider, model, stream, size):
    async with FakeUpstream(answers(model, stream=stream, size=size)) as up, running(stack(up, provider)) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
            given = {"model": f"cloud/{model}", "messages": [{"role": "user", "content": "hi"}], "tools": TOOLS}
            if stream:
                text, arguments, finish, usage = "", "", None, None
                async for chunk in await client.chat.completions.create(
                    **given, stream=True, stream_options={"include_usage": True}
                ):
                    usage = chunk.usage or usage
                    for choice in chunk.choices:
                        text += choice.delta.content or ""
                        arguments += "".join(call.function.arguments or "" for call in choice.delta.tool_calls or ())
                        finish = choice.finish_reason or finish
            else:
                reply = await client.chat.completions.create(**given)
                choice, usage = reply.choices[0], reply.usage
                text, finish = choice.message.content, choice.finish_reason
                arguments = choice.message.tool_calls[0].function.arguments
        check_request(up.requests[0], model, stream=stream)
    assert (text, json.loads(arguments), finish) == ("Héllo", {"a": "ü"}, "tool_calls")
    assert (usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens_details.cached_tokens) == (7, 9, 4)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("provider", "model"), WAYS)
async def test_responses(provider, model, stream):
    async with FakeUpstream(answers(model, stream=stream, size=(5,))) as up, running(stack(up, provider)) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
            given = {"model": f"cloud/{model}", "input": "hi"}
            if stream:
                async with client.responses.stream(**given) as events:
                    reply = await events.get_final_response()
            else:
                reply = await client.responses.create(**given)
        check_request(up.requests[0], model, stream=stream)
    call = next(item for item in reply.output if item.type == "function_call")
    assert (reply.output_text, json.loads(call.arguments)) == ("Héllo", {"a": "ü"})
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (7, 9)


@pytest.mark.parametrize("stream", [False, True])
async def test_messages_from_gemini_on_vertex(stream):
    model = "gemini-2.5-flash"
    async with FakeUpstream(answers(model, stream=stream, size=(5,))) as up, running(stack(up, "vertex")) as url:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client:
            given = {"model": f"cloud/{model}", "max_tokens": 99, "messages": [{"role": "user", "content": "hi"}]}
            if stream:
                async with client.messages.stream(**given) as events:
                    reply = await events.get_final_message()
            else:
                reply = await client.messages.create(**given)
        check_request(up.requests[0], model, stream=stream)
    text = next(block.text for block in reply.content if block.type == "text")
    call = next(block for block in reply.content if block.type == "tool_use")
    assert (text, call.input, reply.stop_reason) == ("Héllo", {"a": "ü"}, "tool_use")
    assert (reply.usage.input_tokens, reply.usage.cache_read_input_tokens, reply.usage.output_tokens) == (3, 4, 9)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("provider", "model"), WAYS[:2])
async def test_gemini_clients_from_claude(provider, model, stream):
    async with FakeUpstream(answers(model, stream=stream, size=(5,))) as up, running(stack(up, provider)) as url:
        client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=url))
        given = {"model": f"cloud/{model}", "contents": "hi"}
        if stream:
            replies = [chunk async for chunk in await client.aio.models.generate_content_stream(**given)]
        else:
            replies = [await client.aio.models.generate_content(**given)]
        await client.aio.aclose()
        check_request(up.requests[0], model, stream=stream)
    parts = [
        part for reply in replies for candidate in reply.candidates or () for part in candidate.content.parts or ()
    ]
    assert "".join(part.text or "" for part in parts) == "Héllo"
    assert next(part.function_call for part in parts if part.function_call).args == {"a": "ü"}
    assert replies[-1].usage_metadata.candidates_token_count == 9


@pytest.mark.parametrize(
    ("provider", "model", "body", "said"),
    [
        ("bedrock", CLAUDE_BEDROCK, {"message": "Too many tokens"}, "Too many tokens"),
        ("vertex", CLAUDE_VERTEX, [{"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}}], "Quota"),
        ("vertex", "gemini-2.5-flash", {"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}}, "Quota"),
    ],
)  # fmt: skip
async def test_a_clouds_error_is_told_in_the_clients_dialect(provider, model, body, said):
    async with FakeUpstream(Answer(429, body=json.dumps(body).encode())) as up, running(stack(up, provider)) as url:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        async with client:
            with pytest.raises(openai.RateLimitError, match=said):
                await client.chat.completions.create(
                    model=f"cloud/{model}", messages=[{"role": "user", "content": "hi"}]
                )


async def test_an_exception_inside_bedrocks_stream_before_content_has_its_status():
    frame = encode({":message-type": "exception", ":exception-type": "throttlingException"}, b'{"message":"slow down"}')
    async with FakeUpstream(Answer(headers=BINARY_TYPE, body=[frame])) as up, running(stack(up, "bedrock")) as url:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        async with client:
            with pytest.raises(openai.RateLimitError, match="slow down"):
                await client.chat.completions.create(
                    model=f"cloud/{CLAUDE_BEDROCK}", messages=[{"role": "user", "content": "hi"}], stream=True
                )


@pytest.mark.parametrize("size", HOSTILE)
async def test_a_gemini_client_that_did_not_ask_for_events_reads_a_list(size):
    """``streamGenerateContent`` without ``alt=sse``."""
    async with FakeUpstream(Answer(body=[SSE], split=size)) as up, running(stack(up, "vertex")) as url:
        asked = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
        reply = await exchange(
            url, "POST", f"/v1beta/models/cloud/{CLAUDE_VERTEX}:streamGenerateContent", json.dumps(asked).encode()
        )
        check_request(up.requests[0], CLAUDE_VERTEX, stream=True)
    assert reply.status == 200 and reply.headers["content-type"].startswith("application/json")
    chunks = json.loads(reply.body)
    parts = [
        part
        for chunk in chunks
        for one in chunk.get("candidates", ())
        for part in one.get("content", {}).get("parts", ())
    ]
    assert "".join(part.get("text", "") for part in parts) == "Héllo"
    assert next(part["functionCall"] for part in parts if "functionCall" in part)["args"] == {"a": "ü"}
    assert chunks[-1]["usageMetadata"]["candidatesTokenCount"] == 9


async def test_counting_tokens_of_a_vendor_that_cannot_is_a_404_that_clients_know():
    """K2: Claude Code then counts by itself."""
    async with FakeUpstream() as up, running(stack(up, "vertex")) as url:
        client = anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0)
        async with client:
            with pytest.raises(anthropic.NotFoundError, match="count_tokens") as caught:
                await client.messages.count_tokens(
                    model="cloud/gemini-2.5-flash", messages=[{"role": "user", "content": "hi"}]
                )
        assert caught.value.body["error"]["type"] == "not_found_error" and not up.requests
