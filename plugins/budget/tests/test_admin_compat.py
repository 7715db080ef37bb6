"""The admin API of money, asked as LiteLLM's clients ask."""

import json
import secrets
from contextlib import asynccontextmanager

import httpx2
import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream

ADMIN = secrets.token_hex(32)
ASK = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def served(up, store, names):
    entry = {"provider": "openai-compatible", "base_url": f"{up.url}/v1", "api_key": "sk-up-00000000"}
    text = json.dumps({
        "gwcore": 1, "stores": {"book": store},
        "upstreams": {
            "a": {**entry, "prices": {"*": {"input": "$1/M", "output": "$1000/M"}}},
            "b": {**entry, "prices": {"*": {"input": "$1/M", "output": "$2000/M"}}},
        },
        "models": names,
        "stack": [{"auth": {"admin_key": ADMIN}}, "ratelimit", {"budget": {"store": "book", "mode": "direct"}}],
    }, indent=1)  # fmt: skip
    headers = {"authorization": f"Bearer {ADMIN}"}
    async with (
        running(Gateway(text + "\n", serve_admin=True)) as url,
        httpx2.AsyncClient(base_url=url, headers=headers, timeout=20, trust_env=False) as http,
    ):
        yield http


@pytest.fixture
async def up():
    async with FakeUpstream() as upstream:
        yield upstream


@pytest.mark.parametrize(
    ("said", "cost"), [("m-1", 1.00001), ("m-1-2026-05-01", 1.00001), ("m-2", None), ("m-9", None)]
)
async def test_an_answer_of_ours_is_priced(up, tmp_path, said, cost):
    names = {"house": "a/m-1", "two": ["a/m-2", "b/m-2"]}
    usage = {"prompt_tokens": 10, "completion_tokens": 1000, "total_tokens": 1010}
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    up.default = Answer(
        body=json.dumps(
            {"id": "c", "object": "chat.completion", "model": said, "choices": [choice], "usage": usage}
        ).encode()
    )
    async with served(up, f"sqlite:///{tmp_path}/book.db", names) as http:
        answer = await http.post("/v1/chat/completions", json={"model": "house", "messages": ASK})
        assert answer.status_code == 200 and answer.json()["model"] == said
        asked = await http.post("/spend/calculate", json={"completion_response": answer.json()})
        if cost is None:  # two upstreams answer so, and do not cost the same
            assert asked.status_code == 400 and "several prices" in asked.text
            named = {"model": "two", "completion_response": answer.json()}
            cost, asked = 1.00001, await http.post("/spend/calculate", json=named)
        assert asked.json() == {"cost": cost}
        unknown = await http.post("/spend/calculate", json={"model": "m-1", "messages": ASK})
        assert unknown.status_code == 400 and "no model named" in unknown.text
