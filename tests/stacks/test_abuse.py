"""What an attacker or a bad day sends: each is bounded, named, and leaves nothing behind."""

import asyncio
import gzip
import json
import zlib

import pluggy
import pytest

from gwcore import dispatch
from gwcore.errors import Refused
from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore.wire.decode import zstd
from tests.stacks.raw import connect, exchange, request_bytes

SSE = [("content-type", "text/event-stream")]
CHUNK = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
CHAT = "/v1/chat/completions"


def stack(url):
    return (
        f'gwcore: 1\nupstreams:\n  up: {{provider: openai-compatible, base_url: "{url}/v1", api_key: sk-upstream}}\n'
        "stack: [tokencount]\n"
    )


@pytest.fixture
async def served():
    async with FakeUpstream() as upstream:
        gateway = Gateway(stack(upstream.url))
        async with running(gateway) as url:
            yield url, upstream, gateway


def body(**fields):
    return json.dumps({"model": "up/m", "messages": [], **fields}).encode()


async def test_500_aborted_streams_leave_the_pool_empty(served):
    url, upstream, gateway = served
    upstream.default = Answer(headers=SSE, body=[CHUNK] * 50, gap=0.5)
    for _ in range(10):
        clients = [await connect(url) for _ in range(50)]
        for _, writer in clients:
            writer.write(request_bytes(url, "POST", CHAT, body(stream=True)))
        for reader, writer in clients:
            await reader.readuntil(b"data:")
            writer.transport.abort()
    transport = gateway.stack.upstreams["up"].transport
    for _ in range(100):
        if not transport.in_use and not gateway.stack.inflight:
            break
        await asyncio.sleep(0.02)
    assert transport.in_use == 0 and gateway.stack.inflight == 0
    await asyncio.wait_for(asyncio.gather(*(seen.gone() for seen in upstream.requests)), 5)
    assert len(upstream.requests) == 500
    upstream.default = Answer(body=b"{}")
    assert (await exchange(url, "POST", CHAT, body())).status == 200


async def test_a_15_mb_body_passes_and_a_21_mb_body_does_not(served):
    url, upstream, _ = served
    big = body(x="a" * 15_000_000)
    assert (await exchange(url, "POST", CHAT, big)).status == 200
    assert len(upstream.requests[-1].body) == len(big) - len("up/")
    reader, writer = await connect(url)
    writer.write(request_bytes(url, "POST", CHAT, b"", [("content-length", str(21_000_000))]))
    assert b" 413 " in await reader.readline()
    writer.close()


ENCODINGS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
    "gzip, zstd": lambda raw: zstd.compress(gzip.compress(raw)),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_encoded_bodies_are_decoded(served, encoding):
    url, upstream, _ = served
    seen = await exchange(url, "POST", CHAT, ENCODINGS[encoding](body()), [("content-encoding", encoding)])
    assert seen.status == 200 and upstream.requests[-1].document["model"] == "m"
    assert upstream.requests[-1].header("content-encoding") is None


@pytest.mark.parametrize(
    ("raw", "headers", "status"),
    [
        (zstd.compress(b"a" * 60_000_000), [("content-encoding", "zstd")], 413),
        (gzip.compress(b"a" * 60_000_000), [("content-encoding", "gzip")], 413),
        (b"not gzip", [("content-encoding", "gzip")], 400),
        (b"x", [("content-encoding", "br")], 415),
        (b'{"model":"up/m","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}", [], 400),
        (b'{"model":"up/m","model":"up/n"}', [], 400),
        (b'{"model":"up/m","mod\\u0065l":"up/n"}', [], 400),
        (b'{"model":"up/m","x":NaN}', [], 400),
        (b'{"model":"up/m","x":1e400}', [], 400),
        (b"\xef\xbb\xbf" + b'{"model":"up/m"}', [], 400),
        (b'{"model":"up/m"} x', [], 400),
        (b"[]", [], 400),
        (b"", [], 400),
        (b'{"model":7}', [], 400),
    ],
)
async def test_bad_bodies_are_refused_in_the_clients_dialect(served, raw, headers, status):
    url, upstream, _ = served
    seen = await exchange(url, "POST", CHAT, raw, headers)
    assert seen.status == status
    error = json.loads(seen.body)["error"]
    assert error["message"] and error["type"] == "invalid_request_error"
    assert not upstream.requests


async def credentials_stay(served):
    url, upstream, _ = served
    names = (
        "authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "cookie",
        "x-forwarded-for",
        "x-gwcore-user",
        "openai-organization",
    )
    await exchange(url, "POST", f"{CHAT}?key=canary-q", body(), [(name, "Bearer canary-h") for name in names])
    seen = upstream.requests[-1]
    assert "canary-q" not in seen.target
    kept = [name for name, value in seen.headers if "canary-h" in value]
    assert kept == ["openai-organization"]
    assert seen.header("authorization") == "Bearer sk-upstream"


async def an_echo_is_redacted(served):
    url, upstream, _ = served
    echo = [("x-request-id", "of sk-upstream")]
    upstream.default = Answer(status=401, headers=echo, body=b'{"error":"bad key sk-upstream"}')
    seen = await exchange(url, "POST", CHAT, body())
    assert seen.status == 401 and b"sk-upstream" not in seen.body and b"[redacted]" in seen.body
    assert "sk-upstream" not in str(seen.headers) and seen.headers["x-request-id"] == "of [redacted]"


async def test_client_credentials_reach_no_upstream(served):
    await credentials_stay(served)


async def test_an_upstream_that_echoes_our_key_is_redacted(served):
    await an_echo_is_redacted(served)


async def test_a_header_of_the_stack_file_redacts_no_content_type():
    async with FakeUpstream() as upstream:
        text = stack(upstream.url).replace("sk-upstream", "sk-upstream, headers: {accept: application/json}")
        upstream.default = Answer(status=400, body=b'{"error":{"message":"no"}}')
        async with running(Gateway(text)) as url:
            seen = await exchange(url, "POST", CHAT, body())
    assert seen.status == 400 and seen.headers["content-type"] == "application/json"


def everything(call, fixed):
    return [*call.headers, *fixed]


def client_first(call, fixed):
    return [(b"authorization", b"Bearer " + call.credentials[0].encode()), *fixed]


def as_written(path, query):
    return f"{path}?{query.decode()}"


def unredacted(attempt, status, body, headers):
    return Refused("", status=status, body=body, headers=headers, dialect=attempt.call.dialect.name)


@pytest.mark.parametrize(
    ("name", "mutant", "check"),
    [
        ("_request_headers", everything, credentials_stay),
        ("_request_headers", client_first, credentials_stay),
        ("_with_query", as_written, credentials_stay),
        ("refused", unredacted, an_echo_is_redacted),
    ],
)
async def test_a_gateway_that_leaks_is_found(served, monkeypatch, name, mutant, check):
    """Negative control: with the guard replaced by a careless one, the test above fails."""
    monkeypatch.setattr(dispatch, name, mutant)
    with pytest.raises(AssertionError):
        await check(served)


async def test_serving_calls_no_pluggy_and_makes_no_clients(served, monkeypatch):
    url, upstream, gateway = served
    pools = len(gateway.resources.open)

    def called(*_, **__):
        raise AssertionError("pluggy was called while serving")

    monkeypatch.setattr(pluggy.HookCaller, "__call__", called)
    upstream.default = Answer(body=b'{"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}}')
    for _ in range(20):
        seen = await exchange(url, "POST", CHAT, body())
        assert seen.status == 200 and seen.headers["x-counted-by"] == "tokencount"
    monkeypatch.undo()
    assert len(gateway.resources.open) == pools and upstream.accepted <= 2
    health = json.loads((await exchange(url, "GET", "/health")).body)
    assert health["plugins"]["tokencount"]["tokens"] == {"up/m": 100}


async def test_usage_is_asked_for_and_hidden(served):
    url, upstream, _ = served
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}}\n\n'
    upstream.default = Answer(headers=SSE, body=[CHUNK, usage, b"data: [DONE]\n\n"])
    seen = await exchange(url, "POST", CHAT, body(stream=True))
    assert seen.body == CHUNK + b"data: [DONE]\n\n"
    assert upstream.requests[-1].document["stream_options"] == {"include_usage": True}
    health = json.loads((await exchange(url, "GET", "/health")).body)
    assert health["plugins"]["tokencount"]["tokens"] == {"up/m": 5}
