"""O7, H2, H3 for the sinks of vendors: their credentials and the prompt, through every failure of upstreams and sinks.

Each of ``otel``, ``langfuse`` and ``helicone`` sends to a stand-in that is well, to one that repeats the credential in a 401, one
in a 500, one that never answers, and one that is not there.
"""

import asyncio
import base64
import dataclasses
import gzip
import math
import re

import httpx2
import orjson
import pytest
from canary_world import ADMIN, BODY, CLIENT, FAULTS, HEADERS, PROMPT, SECRETS, SIGNING, UPSTREAM, hits
from endings_world import Everywhere, until
from obs_serving import Serving

from gwcore.testing.upstream import Answer, FakeUpstream

LANGFUSE, HELICONE, OTEL, CLAUDE, GOOGLE = (
    "canary-langfuse-secret-2b9d", "canary-helicone-key-66fe", "canary-otel-token-d41c", "canary-anthropic-key-a07b",
    "canary-google-key-e5c3",
)  # fmt: skip
PAIR = base64.b64encode(f"pk-public:{LANGFUSE}".encode()).decode()
OURS = (*SECRETS, LANGFUSE, PAIR, HELICONE, OTEL, CLAUDE, GOOGLE)

STACK = """
gwcore: 1
upstreams:
  up: {{provider: openai, base_url: "{up}/v1", api_key: "{UPSTREAM}", timeout: {{first_byte: 300ms, idle: 300ms}}}}
  claude: {{provider: anthropic, base_url: "{up}", api_key: "{CLAUDE}", timeout: {{first_byte: 300ms, idle: 300ms}}}}
  google: {{provider: gemini, base_url: "{up}", api_key: "{GOOGLE}", timeout: {{first_byte: 300ms, idle: 300ms}}}}
models: {{fast: up/m, sonnet: claude/m, flash: google/m}}
stack:
  - auth: {{admin_key: "{ADMIN}", keys: {{k: {{secret: "{CLIENT}"}}}}}}
watch:
  - prometheus: {{}}
{watch}
"""
PARTS = {"parts": [{"text": PROMPT}, {"inlineData": {"mimeType": "text/plain", "data": PROMPT}}]}
TOOL = {"name": "f", "description": PROMPT, "parameters": {}}
ROUTES = {
    "/v1/chat/completions": {"model": "fast", **BODY},
    "/v1/responses": {"model": "fast", "input": PROMPT, "instructions": PROMPT, "tools": [{"type": "function", **TOOL}]},
    "/v1/messages": {"model": "sonnet", "max_tokens": 9, "system": PROMPT, "messages": [{"role": "user", "content": PROMPT}]},
    "/v1beta/models/flash:generateContent": {"contents": [{"role": "user", **PARTS}], "systemInstruction": PARTS},
    "/v1/embeddings": {"model": "fast", "input": PROMPT},
}  # fmt: skip
SENT = {**HEADERS, "x-session-id": f"s {CLIENT}"}  # what a client writes itself, an upstream may tell it again
MARK = re.compile(rb"fault-(\d+)")


def entries(url, content):
    """One entry per sink."""
    outbox = {"backoff": "100ms", "timeout": "1s", "flush": 0}
    return [
        {"otel": {"endpoint": url, "headers": {"authorization": f"Bearer {OTEL}", "x-token": SIGNING}, "outbox": outbox, **content}},
        {"langfuse": {"public_key": "pk-public", "secret_key": LANGFUSE, "base_url": url, "outbox": outbox, **content}},
        {"helicone": {"api_key": HELICONE, "base_url": url, "outbox": outbox, **content}},
    ]  # fmt: skip


def repeating(status):
    """A sink that says what it was sent, credential and all."""

    def answer(seen):
        return Answer(status, [("x-leak", PROMPT)], repr(seen.headers).encode() + PROMPT.encode())

    return answer


def faulty(seen):
    """The fault that the request asks for, with the credential of the upstream that is asked."""
    fault = FAULTS[int(MARK.search(seen.body)[1])]
    answer = fault(seen) if callable(fault) else fault
    own = seen.header("x-api-key") or seen.header("x-goog-api-key") or UPSTREAM

    def said(data):
        return data and data.replace(UPSTREAM.encode(), own.encode())

    body = said(answer.body) if isinstance(answer.body, bytes) else answer.body
    headers = [(name, value.replace(UPSTREAM, own)) for name, value in answer.headers]
    return dataclasses.replace(answer, body=body, raw=said(answer.raw), headers=headers)


async def provoke(url):
    """Every route through every fault, whole and streamed; how many calls, and the errors that clients were told."""
    async with httpx2.AsyncClient(timeout=20, verify=False) as client:
        calls = []
        for path, body in ROUTES.items():
            for number in range(len(FAULTS)):
                said = orjson.loads(orjson.dumps(body).replace(PROMPT.encode(), f"{PROMPT} fault-{number} ".encode()))
                calls.append(client.post(url + path, json=said, headers=SENT))
                if path.endswith(":generateContent"):
                    streaming = path.replace(":g", ":streamG") + "?alt=sse"
                    calls.append(client.post(url + streaming, json=said, headers=SENT))
                elif path != "/v1/embeddings":
                    calls.append(client.post(url + path, json={**said, "stream": True}, headers=SENT))
        answers = []
        for start in range(0, len(calls), 20):
            found = await asyncio.gather(*calls[start : start + 20], return_exceptions=True)
            answers += [one for one in found if isinstance(one, httpx2.Response)]  # the others: cut, as they should be
        assert len({answer.status_code for answer in answers}) > 8, "the faults were not reached"
        errors = [one for one in answers if one.status_code >= 400]
        return len(calls), {f"answer {n}": one.content + repr(one.headers.raw).encode() for n, one in enumerate(errors)}


def sent(place):
    """Bodies as they were before they were packed: strings stand in protobuf as they are."""
    for number, seen in enumerate(place.requests):
        packed = seen.header("content-encoding") == "gzip"
        yield f"sent {seen.target} {number}", gzip.decompress(seen.body) if packed else seen.body


async def written(folder, content):
    """Everything that was written, sent or told as an error: name → bytes; ``answer …`` went to the client itself."""
    sick = (FakeUpstream(), FakeUpstream(), FakeUpstream())
    async with FakeUpstream() as up, Everywhere() as place, sick[0] as denying, sick[1] as failing, sick[2] as hanging:
        up.default = faulty
        denying.default, failing.default, hanging.default = repeating(401), repeating(500), Answer(delay_head=math.inf)
        places = (place.url, denying.url, failing.url, hanging.url, "http://127.0.0.1:9")
        watch = "\n".join("  - " + orjson.dumps(one).decode() for url in places for one in entries(url, content))
        values = {"UPSTREAM": UPSTREAM, "CLAUDE": CLAUDE, "GOOGLE": GOOGLE, "ADMIN": ADMIN, "CLIENT": CLIENT}
        serving = Serving(STACK.format(up=up.url, watch=watch, **values), folder)
        await asyncio.to_thread(serving.__enter__)
        try:
            count, answers = await provoke(serving.url)

            def arrived():
                logs = [seen for seen in place.requests if seen.target.endswith("/v1/log")]
                paths = ("/v1/traces", "/api/public/otel/v1/traces")
                roots = [sum(one.kind == one.SPAN_KIND_SERVER for one, _ in place.spans(path)) for path in paths]
                return len(logs) >= count and min(roots) >= count

            await until(arrived, within=60)
            async with httpx2.AsyncClient(verify=False) as client:
                admin = {"authorization": f"Bearer {ADMIN}"}
                found = {
                    path: (await client.get(serving.url + path, headers=admin)).content
                    for path in ("/metrics", "/health")
                }
        finally:
            await asyncio.to_thread(serving.__exit__)
        serving.file.unlink()
        assert all(one.requests for one in sick), "every sink that is not well was asked"
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return {**found, **answers, **dict(sent(place)), **files}


def leaks(found):
    """Credentials anywhere; the client's own may come back to it."""
    return [(name, canary) for name, canary in hits(found, OURS) if (name[:6], canary) != ("answer", CLIENT)]


@pytest.mark.timeout(180)  # processes start slowly on a busy machine
async def test_no_credential_and_no_prompt_in_what_sinks_of_vendors_send_and_keep(tmp_path):
    found = await written(tmp_path, {})
    assert leaks(found) == []
    assert hits({name: text for name, text in found.items() if not name.startswith("answer")}, [PROMPT]) == []
    for sink in ("otel", "langfuse", "helicone"):
        assert sum(f"{sink}-" in name and name.endswith(".seg") for name in found) >= 4, "what is not taken is kept"


@pytest.mark.timeout(180)  # processes start slowly on a busy machine
async def test_with_content_the_search_finds_the_prompt_and_still_no_credential(tmp_path):
    found = await written(tmp_path, {"content": "full"})
    assert leaks(found) == []
    where = [name for name, _ in hits(found, [PROMPT])]
    for target in ("/v1/traces", "/api/public/otel/v1/traces", "/v1/log"):
        assert any(name.startswith("sent ") and target in name for name in where), target
    for sink in ("langfuse", "helicone"):
        assert any(f"{sink}-" in name for name in where), f"{sink}'s spill"
