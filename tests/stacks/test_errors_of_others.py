"""Another vendor's errors, as clients know them: LangChain, LiteLLM and the SDKs' retries read these words."""

import json

import httpx
import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream

ASKED = {
    "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"model": "m", "input": "hi"},
    "/v1/messages": {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
}
WORDS = "maximum context length"
TOO_LONG = {
    "anthropic": "prompt is too long: 210000 tokens > 200000 maximum",
    "gemini": "The input token count (2000000) exceeds the maximum number of tokens allowed (1048575).",
}


async def answer_of(provider, path, answer):
    async with FakeUpstream() as up:
        up.script(answer)
        stack = f'gwcore: 1\nupstreams: {{up: {{provider: {provider}, base_url: "{up.url}", api_key: sk-vendor-key}}}}\nstack: []\n'
        async with running(Gateway(stack)) as url, httpx.AsyncClient() as client:
            return await client.post(url + path, json=ASKED[path])


def google(status, word, message="no", *details):
    return json.dumps({"error": {"code": status, "message": message, "status": word, "details": details}}).encode()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("provider", TOO_LONG)
async def test_an_overflow_is_told_in_openais_words(provider, path):
    error = {"type": "invalid_request_error", "message": TOO_LONG[provider]}
    got = await answer_of(provider, path, Answer(400, body=json.dumps({"type": "error", "error": error}).encode()))
    said = got.json()["error"]
    assert (got.status_code, said["code"]) == (400, "context_length_exceeded")
    assert said["message"] == f"This model's {WORDS} is exceeded: {TOO_LONG[provider]}"


async def test_who_says_it_in_openais_words_is_quoted():
    told = "Maximum context length is 8192 tokens"
    got = await answer_of("gemini", "/v1/chat/completions", Answer(400, body=google(400, "INVALID_ARGUMENT", told)))
    assert got.json()["error"]["message"] == told


@pytest.mark.parametrize("path", ASKED)
async def test_googles_wait_is_a_header_to_clients_of_others(path):
    wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "16.2s"}
    body = google(429, "RESOURCE_EXHAUSTED", "no", {"@type": "x"}, wait)
    got = await answer_of("gemini", path, Answer(429, body=body))
    said = got.json()["error"]
    assert (got.status_code, got.headers.get("retry-after")) == (429, "17")
    assert (said["type"], said["code"]) == ("rate_limit_error", "RESOURCE_EXHAUSTED")
    got = await answer_of("gemini", path, Answer(429, body=body.replace(b"16.2s", b"999999999999s")))
    assert got.headers.get("retry-after") == "86400"
    got = await answer_of("gemini", path, Answer(429, [("retry-after", "3")], body=body))
    assert got.headers.get_list("retry-after") == ["3"]


@pytest.mark.parametrize(
    ("status", "word", "kind"),
    [
        (400, "INVALID_ARGUMENT", "invalid_request_error"),
        (401, "UNAUTHENTICATED", "authentication_error"),
        (403, "PERMISSION_DENIED", "permission_error"),
        (404, "NOT_FOUND", "not_found_error"),
        (503, "UNAVAILABLE", "server_error"),
    ],
)
async def test_googles_errors_have_a_type_that_fits(status, word, kind):
    got = await answer_of("gemini", "/v1/chat/completions", Answer(status, body=google(status, word)))
    assert (got.status_code, got.headers.get("retry-after")) == (status, None)
    said = got.json()["error"]
    assert (said["type"], said["code"]) == (kind, word)


@pytest.mark.parametrize("version", ["", "/v1", "/v1beta"])
@pytest.mark.parametrize("verb", ["generateContent", "streamGenerateContent"])
async def test_gemini_clients_of_litellm_name_no_version(verb, version):
    stack = "gwcore: 1\nupstreams: {demo: {provider: demo}}\nstack: []\n"
    async with running(Gateway(stack)) as url, httpx.AsyncClient() as client:
        body = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
        got = await client.post(f"{url}{version}/models/demo/demo:{verb}", json=body)
    assert got.status_code == 200 and '"candidates"' in got.text
