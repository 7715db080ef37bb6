"""O7, H2, H3: secrets and prompts in every field, through every failure: nothing of it is written down anywhere.

The negative control asks for content: then the same search must find the prompt, and still no secret.
"""

import asyncio

import httpx2
import pytest
from canary_world import (
    ADMIN,
    BODY,
    CLIENT,
    FAULTS,
    HEADERS,
    HOOK,
    PROMPT,
    SECRETS,
    SIGNING,
    STRANGER,
    UPSTREAM,
    URLKEY,
    echo,
    hits,
)
from obs_serving import Serving
from obs_world import Place, streamed

from gwcore.testing.upstream import Answer, FakeUpstream

STACK = """
gwcore: 1
stores: {{rows: "sqlite:///{folder}/book.db"}}
upstreams:
  up: {{provider: openai, base_url: "{up}/v1", api_key: "{UPSTREAM}", timeout: {{first_byte: 1s, idle: 1s}}}}
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
