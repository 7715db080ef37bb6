"""A base URL that holds too much, which users get wrong most often: the 404 says what to mend, in the client's dialect."""

import anthropic
import httpx
import openai
import pytest
from google.genai.errors import ClientError

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.fidelity.sdks import ASK, client_for, close

STACK = "gwcore: 1\nupstreams: {up: {provider: openai-compatible, base_url: 'http://127.0.0.1:9/v1'}}\nstack: []\n"
CASES = [
    ("openai.chat", "/v1", "/v1/chat/completions", "leave /v1 out of"),
    ("openai.chat", "/v1/chat", "/v1/chat/completions", "leave /v1/chat out of"),
    ("openai.responses", "/api", "/v1/responses", "leave /api out of"),
    ("anthropic.messages", "/v1", "/v1/messages", "leave /v1 out of"),
    ("anthropic.messages", "/anthropic", "/v1/messages", "leave /anthropic out of"),
    ("gemini.generate", "/v1beta", "/v1beta/models/up/m:generateContent", "leave /v1beta out of"),
]


@pytest.mark.parametrize(("client", "more", "served", "mend"), CASES)
async def test_what_a_base_url_has_too_much_is_named(client, more, served, mend):
    async with running(Gateway(STACK)) as url:
        sdk = client_for(client, url + more)
        with pytest.raises((openai.NotFoundError, anthropic.NotFoundError, ClientError)) as found:
            await ASK[client](sdk, "up/m", False)
        await close(sdk)
    said = str(found.value)
    assert f"but {served} is: {mend} the client's base URL" in said
    if client.startswith("anthropic"):
        assert found.value.body["error"]["type"] == "not_found_error"
    elif client.startswith("gemini"):
        assert found.value.status == "NOT_FOUND"
    else:
        assert found.value.type == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "//v1/chat/completions", "/v1//chat/completions"])
async def test_a_slash_too_many_is_told(path):
    async with running(Gateway(STACK)) as url, httpx.AsyncClient() as client:
        got = await client.post(url + path, json={})
    assert got.status_code == 404
    assert got.json()["error"]["message"] == f"POST {path} is not served, but /v1/chat/completions is"


OTHER_OPERATIONS = [
    "/v1/fim/completions", "/fim/completions", "/v1/agents/completions", "/v1/vector_stores/vs_1/files",
    "/v1/chat/completions/c_1/messages", "/v1/threads/t_1/messages", "/v1/containers/c_1/files", "/v1/responses/r_1/moderations",
]  # fmt: skip


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/no/such", "/x" * 4000, "/upload/v1/files", *OTHER_OPERATIONS])
async def test_nothing_is_guessed(path):
    async with running(Gateway(STACK)) as url, httpx.AsyncClient() as client:
        got = await client.post(url + path, json={})
    assert got.status_code == 404
    assert got.json()["error"]["message"].endswith(" is not served")


UPSTREAMS = {
    "openai.chat": ("openai", ""),
    "openai.responses": ("openai-compatible", "; if the server has no such API, set `dialect` of the upstream"),
    "anthropic.messages": ("anthropic", ""),
    "gemini.generate": ("gemini", ""),
}  # fmt: skip
NO_ROUTE = {"text": b"404 page not found", "nothing": b"", "a framework's": b'{"detail":"Not Found"}'}


@pytest.mark.parametrize("body", NO_ROUTE.values(), ids=NO_ROUTE)
@pytest.mark.parametrize("client", UPSTREAMS)
async def test_an_upstream_without_such_an_address_is_named_with_what_to_check(client, body):
    """Codex on a server that speaks chat completions only got ``Not Found``."""
    provider, mend = UPSTREAMS[client]
    async with FakeUpstream() as up:
        up.script(*[Answer(404, body=body)] * 9)
        stack = f'gwcore: 1\nupstreams: {{up: {{provider: {provider}, base_url: "{up.url}", api_key: sk-vendor-key}}}}\nstack: []\n'
        async with running(Gateway(stack)) as url:
            sdk = client_for(client, url)
            with pytest.raises((openai.NotFoundError, anthropic.NotFoundError, ClientError)) as found:
                await ASK[client](sdk, "up/m", False)
            await close(sdk)
    assert f"upstream 'up' answered 404 without an error of {client}: check its base_url{mend}" in str(found.value)


@pytest.mark.parametrize(
    "body", [b'{"error": "model \'m\' not found"}', b'{"detail": "no model m"}', b'{"message": "no"}']
)
async def test_an_apis_own_404_passes_as_it_is(body):
    async with FakeUpstream() as up:
        up.script(Answer(404, body=body))
        stack = f'gwcore: 1\nupstreams: {{up: {{provider: openai-compatible, base_url: "{up.url}/v1", api_key: sk-vendor-key}}}}\nstack: []\n'
        async with running(Gateway(stack)) as url, httpx.AsyncClient() as client:
            got = await client.post(url + "/v1/responses", json={"model": "m", "input": "hi"})
    assert (got.status_code, got.content) == (404, body)
