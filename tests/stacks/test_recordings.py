"""Recorded traffic through the gateway to the same vendor: both sides byte for byte.

Every exchange whose dialect and operation we serve is sent as its client sent it; the upstream answers with the recorded
bytes, split at hostile offsets. ``SKIPPED`` says why the others are not among them.
"""

import base64
import collections
import json
import random

import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.stacks.raw import exchange

# (dialect, endpoint) of the recordings → ingress path and dialect; {model} comes from the recorded URL
CHAT = "/v1/chat/completions"
SERVED = {
    ("openai-chat", "chat.completions"): CHAT,
    ("openai-chat", "openai-compat:chat.completions"): CHAT,
    ("openai-responses", "responses"): "/v1/responses",
    ("openai-responses", "responses.compact"): "/v1/responses/compact",
    ("openai-embeddings", "embeddings"): "/v1/embeddings",
    ("voyage-embeddings", "embeddings"): "/v1/embeddings",
    ("openai-completions", "completions"): "/v1/completions",
    ("openai-moderations", "moderations"): "/v1/moderations",
    ("openai-audio", "audio.speech"): "/v1/audio/speech",
    ("openai-images", "images.generations"): "/v1/images/generations",
    ("rerank", "rerank"): "/v1/rerank",
    ("anthropic-messages", "messages"): "/v1/messages?beta=true",
    ("anthropic-count-tokens", "messages.count_tokens"): "/v1/messages/count_tokens",
    ("anthropic-complete", "complete"): "/v1/complete",
    ("gemini-generate", "generateContent"): "/v1beta/models/{model}:generateContent",
    ("gemini-generate", "streamGenerateContent"): "/v1beta/models/{model}:streamGenerateContent",
    ("gemini-count-tokens", "countTokens"): "/v1beta/models/{model}:countTokens",
    ("gemini-embed", "embedContent"): "/v1beta/models/{model}:embedContent",
    ("gemini-embed", "batchEmbedContents"): "/v1beta/models/{model}:batchEmbedContents",
}
# vendors of the recordings that have a row of their own here under another word, or whose rows need an address
OTHER_PROVIDERS = {"vertex": "a cloud: test_recorded_clouds.py"}
# an error inside a 200 before any content becomes the HTTP status it stands for (pains D2): the one deliberate difference
IN_BAND = {"0ebf9f00fecfc4b9": 400}
HOSTILE = (lambda _body: None, lambda _body: 1, lambda body: max(1, len(body) // 7), lambda _body: "random")


def split(body, how):
    if how is None or not body:
        return [body]
    if how == "random":
        rng, out, at = random.Random(7), [], 0
        while at < len(body):
            step = rng.randint(1, 60)
            out.append(body[at : at + step])
            at += step
        return out
    pieces = [body[i : i + how] for i in range(0, min(len(body), 1500), how)]
    return [*pieces, body[len(pieces) * how :]] if len(pieces) * how < len(body) else pieces


def why_not(record):
    """Why an exchange is not replayed; ``None`` when it is."""
    request = record["request"]
    if record["provider"] in OTHER_PROVIDERS:
        return OTHER_PROVIDERS[record["provider"]]
    if (record["dialect"], record["endpoint"]) not in SERVED:
        return f"not a passthrough operation of this release: {record['dialect']} {record['endpoint']}"
    if request is None:
        return "only the response was recorded"
    if "body" not in request:
        return "the recorded request has no JSON body"
    in_path = "{model}" in SERVED[record["dialect"], record["endpoint"]] or record["endpoint"] == "moderations"
    return None if in_path or request["body"].get("model") else "the recorded request names no model"


def recorded_body(record):
    response = record["response"]
    return base64.b64decode(response["body_b64"]) if "body_b64" in response else response.get("body", "").encode()


def provider_for(record):
    dialect = record["dialect"]
    if dialect.startswith("anthropic"):
        return "anthropic"
    if dialect.startswith("gemini"):
        return "gemini"
    return "openai-compatible"


def stack_for(record, url):
    provider = provider_for(record)
    base = url if provider in {"anthropic", "gemini"} else f"{url}/v1"
    return f'gwcore: 1\nupstreams:\n  up: {{provider: {provider}, base_url: "{base}", api_key: vendor-key-123}}\nstack: []\n'


async def replay(gateway_url, upstream, record, how):
    request = record["request"]
    body = json.dumps(request["body"], ensure_ascii=False).encode()
    model = record["model"] or ""
    path = SERVED[record["dialect"], record["endpoint"]].replace(
        "{model}", request["path"].partition("/models/")[2].rpartition(":")[0]
    )
    if record["stream"] and "{model}" in SERVED[record["dialect"], record["endpoint"]]:
        path += "?alt=sse"
    kept = {k: v for k, v in record["response"]["headers"].items() if k == "content-type"}
    upstream.default = Answer(
        status=record["response"]["status"],
        headers=[(k, v) for k, v in (kept or {"content-type": "application/json"}).items()],
        body=split(recorded_body(record), how(recorded_body(record))),
    )
    answer = await exchange(gateway_url, "POST", path, body)
    return body, model, answer


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", range(len(HOSTILE)))
@pytest.mark.parametrize("provider", ["openai-compatible", "anthropic", "gemini"])
async def test_every_served_exchange_is_byte_exact(recordings, provider, how):
    chosen = [r for r in recordings if why_not(r) is None and provider_for(r) == provider]
    assert len(chosen) > 50
    wrong = []
    async with FakeUpstream() as upstream, running(Gateway(stack_for(chosen[0], upstream.url))) as url:
        for record in chosen:
            body, _, answer = await replay(url, upstream, record, HOSTILE[how])
            seen = upstream.requests[-1]
            if record["id"] in IN_BAND:
                assert answer.status == IN_BAND[record["id"]] and json.loads(answer.body)["error"]
                continue
            if seen.body != body:
                wrong.append((record["id"], "request", seen.body[:80]))
            if answer.status != record["response"]["status"]:
                wrong.append((record["id"], "status", answer.status, answer.body[:200]))
            elif answer.body != recorded_body(record):
                wrong.append((record["id"], "response", answer.body[-120:]))
    assert not wrong, (len(wrong), wrong[:5])


def test_the_coverage_is_what_we_say(recordings):
    reasons = collections.Counter(why_not(record) for record in recordings)
    assert sum(reasons.values()) == 629
    assert reasons[None] == 490, reasons
