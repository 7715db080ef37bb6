"""O7, H2, H3: secrets and prompts in every field, through every failure: nothing of it is written down anywhere.

The negative control asks for content: then the same search must find the prompt, and still no secret.
"""

import asyncio

import httpx2
import orjson
import pytest
from obs_serving import Serving
from obs_world import Place, ok, streamed

from gwcore.testing.upstream import Answer, FakeUpstream, sse

PROMPT = "canary-prompt-7d1e"
UPSTREAM, HOOK, SIGNING, ADMIN, CLIENT, STRANGER, URLKEY = (
    "sk-canary-upstream-key-91f3aa", "canary-hook-token-8c2b", "canary-signing-secret-5e0d",
    "canary-4f8a1c7e9b2d6053-admin-key-value", "sk-canary-4f8a1c7e9b2d60531fae-client", "sk-canary-stranger-77aa11bb22",
    "AIzaCanaryUrlKey-1234567890",
)  # fmt: skip
SECRETS = (UPSTREAM, HOOK, SIGNING, ADMIN, CLIENT, STRANGER, URLKEY)

STACK = """
gwcore: 1
stores: {{rows: "sqlite:///{folder}/book.db"}}
upstreams:
  up: {{provider: openai, base_url: "{up}/v1", api_key: "{UPSTREAM}", timeout: {{first_byte: 300ms, idle: 300ms}}}}
  gone: {{provider: openai, base_url: "http://127.0.0.1:9/v1", api_key: "{UPSTREAM}"}}
models: {{fast: up/m, gone: gone/m}}
stack:
  - auth: {{admin_key: "{ADMIN}", store: rows, keys: {{k: {{secret: "{CLIENT}"}}}}}}
watch:
  - prometheus: {{litellm_names: true}}
  - access_log: {{to: {folder}/access.log, {content}}}
  - request_log: {{store: rows, {content}}}
  - webhook: {{url: "{place}/hook", secret: "{SIGNING}", headers: {{authorization: "Bearer {HOOK}"}}, outbox: {{backoff: 100ms, timeout: 1s}}, {content}}}
  - webhook: {{url: "{sick}/hook", secret: "{SIGNING}", headers: {{authorization: "Bearer {HOOK}"}}, outbox: {{backoff: 100ms, timeout: 1s, flush: 0}}, {content}}}
  - webhook: {{url: "{picky}/hook", secret: "{SIGNING}", outbox: {{backoff: 100ms, timeout: 1s}}, {content}}}
"""


def echo(status):
    """An error that repeats what it was sent, key and all."""

    def answer(seen):
        said = f"bad {PROMPT} key {seen.header('authorization')} in {seen.target}"
        body = {"error": {"message": said, "code": PROMPT, "type": UPSTREAM}}
        return Answer(status, body=orjson.dumps(body), headers=[("x-request-id", UPSTREAM), ("x-leak", PROMPT)])

    return answer


FAULTS = [
    ok(choices=[{"index": 0, "message": {"role": "assistant", "content": PROMPT}, "finish_reason": "stop"}]),
    streamed(),
    *[echo(status) for status in (400, 401, 403, 404, 413, 422, 429, 500, 503)],
    Answer(body=sse({"error": {"message": PROMPT, "code": 500}})),
    Answer(body=f"<html>{PROMPT} {UPSTREAM}".encode()),
    Answer(raw=f"{PROMPT} {UPSTREAM}\r\n\r\n".encode()),
    Answer(body=streamed().body, cut_after=120),
    Answer(reset=True),
    Answer(body=streamed().body, stall_after=100),
]
BODY = {
    "messages": [
        {"role": "system", "content": PROMPT},
        {"role": "user", "content": [{"type": "text", "text": PROMPT}]},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": PROMPT}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": PROMPT},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": PROMPT, "parameters": {}}}],
    "metadata": {"note": PROMPT, "session_id": f"s {CLIENT}"},
}
HEADERS = {
    "authorization": f"Bearer {CLIENT}",
    "user-agent": f"agent {CLIENT}",
    "x-session-id": UPSTREAM,
    "x-gwcore-tags": f"a,{ADMIN}",
    "cookie": PROMPT,
    "x-anything": f"{PROMPT} {CLIENT}",
}


async def provoke(url):
    """Every way to end, with canaries wherever a client can put one."""
    async with httpx2.AsyncClient(timeout=10, verify=False) as client:
        chat = f"{url}/v1/chat/completions"
        bodies = [{"model": "fast", "stream": stream, **BODY} for stream in (False, True) for _ in FAULTS]
        answers = await asyncio.gather(*(client.post(chat, json=body, headers=HEADERS) for body in bodies))
        assert len({answer.status_code for answer in answers}) > 8, "the faults were not reached"
        await client.post(f"{chat}?key={URLKEY}", json={"model": "fast", **BODY}, headers=HEADERS)
        for model in ("gone", f"none-{UPSTREAM}", CLIENT):
            await client.post(chat, json={"model": model, **BODY}, headers=HEADERS)
        await client.post(f"{url}/v1/embeddings", json={"model": "fast", "input": PROMPT}, headers=HEADERS)
        await client.post(chat, json={"model": "fast", **BODY}, headers={"authorization": f"Bearer {STRANGER}"})
        await client.post(chat, content=f'{{"model": "fast", "{PROMPT}'.encode(), headers=HEADERS)
        await client.post(chat, content=f'{{"model": "fast", "model": "{PROMPT}"}}'.encode(), headers=HEADERS)
        await client.get(f"{url}/{PROMPT}?key={URLKEY}", headers=HEADERS)
        with pytest.raises(httpx2.ReadTimeout):
            await client.post(chat, json={"model": "fast", "stream": True, **BODY}, headers=HEADERS, timeout=0.2)


async def written(tmp_path, content):
    """Everything that was written or sent: name → bytes."""
    async with (
        FakeUpstream(*FAULTS, *FAULTS, *FAULTS[:0]) as up,
        Place() as place,
        FakeUpstream() as sick,
        FakeUpstream() as picky,
    ):
        up.default = Answer(body=streamed().body, delay_first=5)
        sick.default, picky.default = Answer(503), echo(400)
        stack = STACK.format(
            folder=tmp_path, up=up.url, place=place.url, sick=sick.url, picky=picky.url, content=content,
            UPSTREAM=UPSTREAM, ADMIN=ADMIN, CLIENT=CLIENT, SIGNING=SIGNING, HOOK=HOOK,
        )  # fmt: skip
        (tmp_path / "run").mkdir()
        serving = Serving(stack, tmp_path / "run")
        await asyncio.to_thread(serving.__enter__)
        try:
            await provoke(serving.url)
            await place.until(2 * len(FAULTS) + 8, within=60)
            async with httpx2.AsyncClient(verify=False) as client:
                admin = {"authorization": f"Bearer {ADMIN}"}
                metrics = (await client.get(f"{serving.url}/metrics", headers=admin)).content
                health = (await client.get(f"{serving.url}/health", headers=admin)).content
        finally:
            await asyncio.to_thread(serving.__exit__)
        serving.file.unlink()
        found = {"metrics": metrics, "health": health}
        found |= {f"sent {n}": seen.body for n, seen in enumerate(place.requests)}
        found |= {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        return found


def hits(found, canaries):
    return sorted((name, canary) for name, text in found.items() for canary in canaries if canary.encode() in text)


@pytest.mark.timeout(180)  # processes start slowly on a busy machine
async def test_nothing_of_it_is_written_down(tmp_path):
    found = await written(tmp_path, "")
    assert hits(found, (*SECRETS, PROMPT)) == []
    kinds = {name.rpartition("/")[2].rpartition(".")[2] for name in found}
    assert {"seg", "jsonl", "db", "log", "txt"} <= kinds, "there must be something of each to search"


@pytest.mark.timeout(180)  # processes start slowly on a busy machine
async def test_the_search_finds_what_is_asked_for_and_still_no_secret(tmp_path):
    found = await written(tmp_path, "content: full")
    assert hits(found, SECRETS) == []
    where = {name.partition("/")[0].partition(" ")[0] for name, _ in hits(found, [PROMPT])}
    assert {"sent", "access.log", "book.db", "run"} <= where | {n.partition("-")[0] for n in where}
