"""A form sends upstream the model that was permitted; a stream's error and a redirect carry no credential away."""

import json

import pytest

from gwcore import dispatch, relay
from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.stacks.raw import exchange

SECRET = "sk-upstream-canary-0123"
FORM = ("content-type", "multipart/form-data; boundary=B")
EVENTS = [("content-type", "text/event-stream")]
CONTENT = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
ERROR = f'data: {{"error":{{"message":"bad key {SECRET}"}}}}\n\n'.encode()


@pytest.fixture
async def served():
    async with FakeUpstream() as up:
        text = (
            f'gwcore: 1\nupstreams:\n  up: {{provider: openai, base_url: "{up.url}/v1", api_key: {SECRET}}}\n'
            "models: {allowed: up/allowed, m: up/m}\n"
        )
        async with running(Gateway(text)) as url:
            yield url, up


def form(model):
    parts = (("model", model), ("file", "x"))
    return (
        "".join(f'--B\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in parts) + "--B--\r\n"
    ).encode()


async def path_and_form_differ(served):
    url, up = served
    up.default = Answer(body=b'{"text":"x"}')
    path = "/openai/deployments/allowed/audio/transcriptions"
    assert (await exchange(url, "POST", path, form("forbidden"), [FORM])).status == 200
    assert b"forbidden" not in up.requests[-1].body and b"allowed" in up.requests[-1].body


async def test_the_model_of_the_path_goes_upstream_whatever_the_form_names(served):
    await path_and_form_differ(served)


async def test_control_a_form_left_alone_names_another(served, monkeypatch):
    monkeypatch.setattr(dispatch, "replace_field", lambda body, *_: body)
    with pytest.raises(AssertionError):
        await path_and_form_differ(served)


async def test_two_content_types_are_refused(served):
    url, up = served
    other = ("content-type", "multipart/form-data; boundary=C")
    for types in ([FORM, other], [other, FORM]):
        assert (await exchange(url, "POST", "/v1/audio/transcriptions", form("allowed"), types)).status == 400
    assert up.requests == []
    up.default = Answer(body=b'{"text":"x"}')
    assert (await exchange(url, "POST", "/v1/audio/transcriptions", form("allowed"), [FORM])).status == 200


async def told(served, body):
    """What a client of another dialect hears of a stream."""
    url, up = served
    up.default = Answer(headers=EVENTS, body=body)
    asked = {"model": "m", "max_tokens": 5, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    answer = await exchange(url, "POST", "/v1/messages", json.dumps(asked).encode())
    assert b"bad key" in answer.body
    return answer.body


@pytest.mark.parametrize("body", [[ERROR], [CONTENT, ERROR]])
async def test_an_error_in_a_translated_stream_echoes_no_credential(served, body, monkeypatch):
    said = await told(served, body)
    assert SECRET.encode() not in said and b"[redacted]" in said
    monkeypatch.setattr(relay, "_heard", lambda _attempt, message: message)  # the control
    assert SECRET.encode() in await told(served, body)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/embeddings"])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_an_error_that_says_what_to_mend(served, path, status):
    """It is no answer: it would be told as one, without its Location, and never be tried elsewhere."""
    url, up = served
    async with FakeUpstream() as elsewhere:
        up.default = Answer(status=status, headers=[("location", elsewhere.url)], body=b"<html>moved</html>")
        asked = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
        answer = await exchange(url, "POST", path, json.dumps(asked).encode())
        assert elsewhere.requests == []
    assert answer.status == 502 and b"correct its base_url" in answer.body
    assert "location" not in answer.headers
