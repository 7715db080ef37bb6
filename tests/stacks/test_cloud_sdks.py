"""The vendors' own cloud SDKs as the oracle: what they send to a cloud, a plain SDK sends through the gateway.

And what the cloud answers, the plain SDK reads as the cloud's SDK would.
"""

import base64
import json
from urllib.parse import unquote

import anthropic
import httpx2
import openai
import pytest
from anthropic.lib.bedrock import AsyncAnthropicBedrock, AsyncAnthropicBedrockMantle
from anthropic.lib.vertex import AsyncAnthropicVertex
from google import genai
from google.genai import types
from google.oauth2.credentials import Credentials

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore.wire.eventstream import encode

TOKEN = b'{"access_token":"token-1","expires_in":3600}'
KEY = "bedrock-api-key-12345678"
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn", "stop_sequence": None,
    "content": [{"type": "text", "text": "Hi"}], "usage": {"input_tokens": 3, "output_tokens": 2},
}  # fmt: skip
EVENTS = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hé"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "llo"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 9},
    },
    {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 3}},
]
CALLS = {
    "plain": {},
    "everything": {
        "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        "tools": [{"name": "t", "input_schema": {"type": "object"}}],
        "extra_body": {"future_field": {"model": "x", "stream": [1.0, 1e400 > 1]}},
    },
    "betas": {"extra_headers": {"anthropic-beta": "context-1m-2025-08-07,interleaved-thinking-2025-05-14"}},
}


@pytest.fixture
def adc(tmp_path, monkeypatch, service_account):
    """Application Default Credentials whose tokens come from a fake upstream."""

    def give(up):
        (tmp_path / "adc.json").write_text(service_account(up.url))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "adc.json"))

    return give


def stack(**entry):
    return json.dumps({"gwcore": 1, "upstreams": {"up": entry}, "models": {"*": "pass"}, "stack": []}) + "\n"


def binary(*events):
    return b"".join(
        encode(
            {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"},
            json.dumps({"bytes": base64.b64encode(json.dumps(event).encode()).decode(), "p": "abc"}).encode(),
        )
        for event in events
    )


def thrown(kind, message):
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return encode(headers, json.dumps({"message": message}).encode())


def bedrock_stream(body, **how):
    return Answer(headers=[("content-type", "application/vnd.amazon.eventstream")], body=[body], **how)


def plain(url):
    return anthropic.AsyncAnthropic(
        base_url=url, api_key="client-key", max_retries=0, default_headers={"anthropic-version": "2023-06-01"}
    )


def asked(call, model="anthropic.claude-x@1", *, stream=False, **body):
    extra = {**CALLS[call], "extra_body": {**CALLS[call].get("extra_body", {}), **body}}
    messages = [{"role": "user", "content": "hé"}]
    return {"model": model, "max_tokens": 10, "messages": messages, "stream": stream, **extra}


async def send(client, **request):
    """Send, and read nothing: Bedrock's SDK needs botocore for that."""
    async with client, client.messages.with_streaming_response.create(**request):
        pass


def through(up, **entry):
    return running(Gateway(stack(base_url=up.url, **entry)))


BEDROCK = {"provider": "bedrock", "region": "us-east-1", "api_key": KEY}
VERTEX = {"provider": "vertex", "project": "p-1", "location": "us-east5"}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("stream", [False, True])
async def test_bedrock_hears_what_its_own_sdk_says(call, stream):
    async with FakeUpstream() as up:
        up.default = bedrock_stream(binary(*EVENTS)) if stream else Answer(body=json.dumps(MESSAGE).encode())
        async with through(up, **BEDROCK) as url:
            await send(plain(url), **asked(call, stream=stream))
        cloud = AsyncAnthropicBedrock(base_url=up.url, aws_region="us-east-1", api_key=KEY, max_retries=0)
        await send(cloud, **asked(call, stream=stream, anthropic_version="bedrock-2023-05-31"))
        ours, theirs = up.requests
        assert ours.document == theirs.document
        assert unquote(ours.target) == unquote(theirs.target)
        assert ours.header("authorization") == theirs.header("authorization") == f"Bearer {KEY}"
        assert ours.header("x-api-key") is None


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("stream", [False, True])
async def test_vertex_hears_what_its_own_sdk_says(call, stream, adc):
    async with FakeUpstream() as up:
        adc(up)
        sse = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in EVENTS).encode()
        up.default = Answer(body=[sse]) if stream else Answer(body=json.dumps(MESSAGE).encode())
        up.script(Answer(body=TOKEN))
        async with through(up, **VERTEX) as url:
            await send(plain(url), **asked(call, "claude-x@1", stream=stream))
        cloud = AsyncAnthropicVertex(
            base_url=f"{up.url}/v1", region="us-east5", project_id="p-1", access_token="token-1", max_retries=0
        )
        await send(cloud, **asked(call, "claude-x@1", stream=stream, anthropic_version="vertex-2023-10-16"))
        token, ours, theirs = up.requests
        assert token.target == "/token"
        assert ours.document == theirs.document
        assert ours.target == theirs.target
        assert ours.header("authorization") == theirs.header("authorization") == "Bearer token-1"
        assert ours.header("anthropic-beta") == theirs.header("anthropic-beta")
        assert ours.header("x-api-key") is None


@pytest.mark.parametrize("entry", [BEDROCK, VERTEX], ids=["bedrock", "vertex"])
async def test_betas_and_their_knobs_are_left_out_together(entry, adc):
    """What Claude Code sends to Anthropic, a cloud would refuse whole."""
    model = "claude-x" if entry is VERTEX else "anthropic.claude-x"
    betas = "claude-code-20250219,interleaved-thinking-2025-05-14, context-management-2025-06-27,fast-mode-2026-02-01"
    body = {"context_management": {"edits": []}, "speed": "fast", "mcp_servers": [], "metadata": {"speed": 1.50}}
    async with FakeUpstream() as up:
        adc(up)
        up.default = lambda seen: Answer(body=TOKEN if seen.target == "/token" else json.dumps(MESSAGE).encode())
        async with (
            through(up, **entry, betas=["interleaved-thinking-2025-05-14", "other"]) as url,
            plain(url) as client,
        ):
            await client.messages.create(
                **asked("plain", model) | {"extra_body": body, "extra_headers": {"anthropic-beta": betas}}
            )
        async with through(up, **entry, betas=[]) as url, plain(url) as client:
            await client.messages.create(**asked("betas", model))
        async with through(up, **entry) as url, plain(url) as client:
            await client.messages.create(
                **asked("plain", model) | {"extra_body": body, "extra_headers": {"anthropic-beta": betas}}
            )
    some, none, every = (seen for seen in up.requests if seen.target != "/token")
    assert sent_betas(some) == ["interleaved-thinking-2025-05-14"]
    assert {"context_management", "speed"}.isdisjoint(some.document)
    assert some.document["mcp_servers"] == [] and some.document["metadata"] == {"speed": 1.5}
    assert sent_betas(none) == []
    assert sent_betas(every) == [beta.strip() for beta in betas.split(",")] and every.document["speed"] == "fast"


def sent_betas(seen):
    header = seen.header("anthropic-beta")
    return seen.document.get("anthropic_beta", []) + ([beta.strip() for beta in header.split(",")] if header else [])


async def test_vertex_counts_tokens_as_its_own_sdk(adc):
    request = {"model": "claude-x@1", "messages": [{"role": "user", "content": "hé"}]}
    async with FakeUpstream() as up:
        adc(up)
        up.default = Answer(body=b'{"input_tokens":7}')
        up.script(Answer(body=TOKEN))
        async with through(up, **VERTEX) as url, plain(url) as client:
            assert (await client.messages.count_tokens(**request)).input_tokens == 7
        cloud = AsyncAnthropicVertex(
            base_url=f"{up.url}/v1", region="us-east5", project_id="p-1", access_token="token-1", max_retries=0
        )
        async with cloud:
            await cloud.messages.count_tokens(**request, extra_body={"anthropic_version": "vertex-2023-10-16"})
        _, ours, theirs = up.requests
        assert (ours.document, ours.target) == (theirs.document, theirs.target)


async def test_mantle_hears_what_its_own_sdk_says():
    async with FakeUpstream() as up:
        up.default = Answer(body=json.dumps(MESSAGE).encode())
        async with through(up, provider="bedrock-mantle", region="us-east-1", api_key=KEY) as url:
            await send(plain(url), **asked("everything"))
        cloud = AsyncAnthropicBedrockMantle(
            base_url=f"{up.url}/anthropic", aws_region="us-east-1", api_key=KEY, max_retries=0
        )
        await send(cloud, **asked("everything"))
        ours, theirs = up.requests
        assert (ours.document, ours.target) == (theirs.document, theirs.target)
        assert ours.header("authorization") == f"Bearer {KEY}"


async def test_gemini_on_vertex_hears_what_its_own_sdk_says(adc):
    reply = {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}
    async with FakeUpstream() as up:
        adc(up)
        up.default = Answer(body=json.dumps(reply).encode())
        up.script(Answer(body=TOKEN))
        async with through(up, **VERTEX) as url:
            client = genai.Client(
                api_key="client-key", http_options=types.HttpOptions(base_url=url, api_version="v1beta")
            )
            said = await client.aio.models.generate_content(model="gemini-x", contents="hé")
            assert said.text == "Hi"
            await client.aio.aclose()
        cloud = genai.Client(
            vertexai=True,
            project="p-1",
            location="us-east5",
            credentials=Credentials("token-1"),
            http_options=types.HttpOptions(base_url=up.url, api_version="v1beta1"),
        )
        await cloud.aio.models.generate_content(model="gemini-x", contents="hé")
        await cloud.aio.aclose()
        _, ours, theirs = up.requests
        assert (ours.document, ours.target) == (theirs.document, theirs.target)
        assert ours.header("x-goog-api-key") is None and ours.header("authorization") == "Bearer token-1"


@pytest.mark.parametrize("split", [None, (1,), (3, 50, 7)])
async def test_a_client_reads_bedrocks_stream(split):
    async with FakeUpstream(bedrock_stream(binary(*EVENTS), split=split)) as up, through(up, **BEDROCK) as url:
        messages = [{"role": "user", "content": "x"}]
        async with (
            plain(url) as client,
            client.messages.stream(model="anthropic.m", max_tokens=10, messages=messages) as stream,
        ):
            assert "".join([text async for text in stream.text_stream]) == "Héllo"
            message = await stream.get_final_message()
        assert message.stop_reason == "end_turn" and message.usage.output_tokens == 9


async def streamed(up):
    """The error with which a stream through Bedrock ends."""
    async with through(up, **BEDROCK) as url, plain(url) as client:
        with pytest.raises(anthropic.APIStatusError) as raised:
            async with await client.messages.create(**asked("plain", stream=True)) as stream:
                async for _ in stream:
                    pass
    return raised.value


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (Answer(429, body=b'{"message":"Too many tokens"}'), anthropic.RateLimitError, "Too many tokens"),
        (Answer(403, body=b'{"Message":"not authorized"}'), anthropic.PermissionDeniedError, "not authorized"),
        (Answer(400, body=b'{"message":"Malformed input"}'), anthropic.BadRequestError, "Malformed input"),
        (Answer(503, body=b"<html>"), anthropic.InternalServerError, "Bedrock answered 503"),
        (bedrock_stream(thrown("throttlingException", "Slow down")), anthropic.RateLimitError, "Slow down"),
        (bedrock_stream(thrown("validationException", "Bad")), anthropic.BadRequestError, "Bad"),
        (bedrock_stream(thrown("serviceUnavailableException", "Busy")), anthropic.APIStatusError, "Busy"),
    ],
)
async def test_bedrocks_errors_are_anthropics(answer, kind, message):
    async with FakeUpstream(answer) as up:
        error = await streamed(up)
    assert isinstance(error, kind) and error.status_code >= 400
    assert error.body["error"]["message"] == message


async def test_an_error_after_content_ends_the_stream_by_name():
    body = binary(*EVENTS[:3]) + thrown("modelStreamErrorException", "The model broke")
    async with FakeUpstream(bedrock_stream(body)) as up:
        assert "The model broke" in str(await streamed(up))


@pytest.mark.parametrize("cut", [100, 700, -1, -90])
async def test_a_cut_stream_is_never_an_end(cut):
    body = binary(*EVENTS)
    async with FakeUpstream(bedrock_stream(body, cut_after=cut % len(body))) as up:
        await streamed(up)


async def test_a_client_that_leaves_ends_bedrocks_stream():
    body = binary(*EVENTS)
    async with FakeUpstream(bedrock_stream(body, stall_after=len(body) - 100)) as up, through(up, **BEDROCK) as url:
        async with plain(url) as client, await client.messages.create(**asked("plain", stream=True)) as stream:
            async for event in stream:
                if event.type == "content_block_delta":
                    break
        await up.requests[0].gone()


async def test_a_damaged_stream_is_told():
    body = bytearray(binary(*EVENTS))
    body[len(body) // 2] ^= 1
    async with FakeUpstream(bedrock_stream(bytes(body))) as up:
        assert "checksum" in str(await streamed(up))


async def test_bedrock_counts_tokens():
    request = {"model": "us.anthropic.claude-x", "messages": [{"role": "user", "content": "x"}], "system": "s"}
    async with FakeUpstream(Answer(body=b'{"inputTokens":42}')) as up, through(up, **BEDROCK) as url:
        async with plain(url) as client:
            assert (await client.messages.count_tokens(**request)).input_tokens == 42
        (seen,) = up.requests
    assert seen.target == "/model/anthropic.claude-x/count-tokens"
    body = json.loads(base64.b64decode(seen.document["input"]["invokeModel"]["body"]))
    del request["model"]
    assert body == {"max_tokens": 1, "anthropic_version": "bedrock-2023-05-31", **request}


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        (BEDROCK, "/openai/v1/chat/completions"),
        ({**BEDROCK, "provider": "bedrock-mantle"}, "/v1/chat/completions"),
        ({**VERTEX, "location": "global"}, "/v1/projects/p-1/locations/global/endpoints/openapi/chat/completions"),
    ],
)
async def test_openai_compatible_endpoints(entry, path, adc):
    chunk = b'data: {"id":"1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
    async with FakeUpstream() as up:
        adc(up)
        token = Answer(body=TOKEN)
        up.default = lambda seen: token if seen.target == "/token" else Answer(body=[chunk, b"data: [DONE]\n\n"])
        async with through(up, **entry) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k") as client:
            stream = await client.chat.completions.create(
                model="google/gemini-x", messages=[{"role": "user", "content": "x"}], stream=True
            )
            assert [c.choices[0].delta.content async for c in stream] == ["Hi"]
        seen = up.requests[-1]
        assert seen.target == path and seen.document["model"] == "google/gemini-x"
        assert seen.header("authorization") in {f"Bearer {KEY}", "Bearer token-1"}


async def test_without_credentials_the_client_is_told_which(adc):
    async with FakeUpstream(Answer(400, body=b'{"error":"invalid_grant"}')) as up:
        adc(up)
        async with through(up, **VERTEX) as url, plain(url) as client:
            with pytest.raises(anthropic.InternalServerError) as raised:
                await client.messages.create(**asked("plain", "claude-x@1"))
        assert raised.value.status_code == 502
        assert "no Google credentials: RefreshError" in raised.value.body["error"]["message"]
        assert [seen.target for seen in up.requests] == ["/token"]


async def test_googles_errors_are_anthropics_for_its_clients(adc):
    said = b'[{"error":{"code":404,"message":"no such model","status":"NOT_FOUND"}}]'
    async with FakeUpstream() as up:
        adc(up)
        up.script(Answer(body=TOKEN), Answer(404, body=said))
        async with through(up, **VERTEX) as url, plain(url) as client:
            with pytest.raises(anthropic.NotFoundError) as raised:
                await client.messages.create(**asked("plain", "claude-x@1"))
        assert raised.value.body["error"]["type"] == "not_found_error"
        assert raised.value.body["error"]["message"] == "no such model"


async def test_a_cloud_that_echoes_the_token_shows_it_to_nobody(adc):
    async with FakeUpstream() as up:
        adc(up)
        up.script(Answer(body=b'{"access_token":"ya29.secret-token","expires_in":3600}'))
        up.default = lambda seen: Answer(401, body=f"bad {seen.header('authorization')}".encode())
        async with through(up, **VERTEX) as url, httpx2.AsyncClient() as client:
            answer = await client.post(f"{url}/v1beta/models/g:generateContent", json={"contents": []})
        assert answer.status_code == 401 and answer.text == "bad Bearer [redacted]"
