"""The guide for those who come from LiteLLM: its stack file, and the one that the importer makes of its ``config.yaml``, serve
what the guide says, with LiteLLM's own words."""

import hashlib
import json
import re
import secrets
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import yaml

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_litellm.importer import imported
from tests.stacks.raw import exchange

GUIDE = Path(__file__).parents[2] / "docs/guide/from-litellm.md"
ADMIN = secrets.token_hex(32)
CHAT = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}
MESSAGE = {
    "id": "m1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 5, "output_tokens": 2},
}
DOWN = Answer(503, body=b'{"error": {"message": "down"}}')


def guides():
    """The stack file that the guide shows."""
    return re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)[0]


def importers():
    """The one that is made of the ``config.yaml`` that it shows."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(re.findall(r"```yaml config\n(.*?)```", GUIDE.read_text(), re.DOTALL)[0])
        text, findings = imported(file)
    assert {finding.status for finding in findings} == {"exact", "approximate"}
    return text


def stack_file(text, ups):
    """At upstreams of ours, and with a store in memory."""
    data = yaml.safe_load(text)
    assert set(data["upstreams"]) == set(ups)
    for name, up in ups.items():
        data["upstreams"][name]["base_url"] = up.url if name in {"anthropic", "azure"} else f"{up.url}/v1"
    data["stores"]["book"] = "memory://book"
    return data


@pytest.fixture(params=[guides, importers], ids=["guide", "import"])
def served(request, tmp_path, monkeypatch):
    """``served(without="")`` → a gateway of that stack file, without one plugin, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    text = request.param()
    return lambda without="": _served(text, without)


@asynccontextmanager
async def _served(text, without):
    names = ("azure", "openai", "anthropic", "vllm", "groq")
    ups = {name: FakeUpstream() for name in names}
    for name, up in ups.items():
        up.default = Answer(body=json.dumps(MESSAGE if name == "anthropic" else CHAT).encode())
    env = {f"{name.upper()}_API_KEY": f"up-{name}" for name in names}
    env |= {"GWCORE_ADMIN_KEY": ADMIN, "LITELLM_MASTER_KEY": ADMIN}
    async with AsyncExitStack() as opened:
        for up in ups.values():
            await opened.enter_async_context(up)
        data = stack_file(text, ups)
        entries = [{entry: {}} if isinstance(entry, str) else entry for entry in data["stack"]]
        next(entry for entry in entries if "budget" in entry)["budget"]["patience"] = (
            "10s"  # a busy machine is no outage
        )
        data["stack"] = [entry for entry in entries if without not in entry]
        url = await opened.enter_async_context(running(Gateway(yaml.safe_dump(data), env=env, serve_admin=True)))
        yield ups, url


async def post(url, path, document, key, header="authorization"):
    value = f"Bearer {key}" if header == "authorization" else key
    return await exchange(url, "POST", path, json.dumps(document).encode(), [(header, value)])


async def make(url, **body):
    seen = await post(url, "/key/generate", body, ADMIN)
    assert seen.status == 200, seen.body
    return json.loads(seen.body)["key"]


async def chat(url, key, model, **more):
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
    return await post(url, "/v1/chat/completions", body, key, **more)


@pytest.fixture(scope="module", autouse=True)
def _there_is_a_guide():
    assert "```yaml config\nmodel_list:" in GUIDE.read_text()


async def test_a_group_an_alias_a_wildcard_and_an_own_model_serve(served):
    async with served() as (ups, url):
        key = await make(url, key_alias="ci", max_budget=10, budget_duration="30d", rpm_limit=60)
        for model in ("gpt-4o", "gpt-4"):
            assert (await chat(url, key, model)).headers["x-gwcore-upstream"] in {"azure", "openai"}
        seen = await chat(url, key, "groq/llama-3.1-8b-instant")
        assert (seen.status, seen.headers["x-gwcore-model"]) == (200, "llama-3.1-8b-instant")
        assert (await chat(url, key, "house")).headers["x-gwcore-cost-usd"] == "0.000000000"
        assert ups["vllm"].requests[0].document["model"] == "house-7b"
        info = json.loads(
            (await exchange(url, "GET", f"/key/info?key={key}", b"", [("authorization", f"Bearer {ADMIN}")])).body
        )
        assert (info["info"]["max_budget"], info["info"]["rpm_limit"], info["info"]["key_alias"]) == (10, 60, "ci")


async def test_defaults_of_a_model_are_those_of_its_rule(served):
    async with served() as (ups, url):
        key = await make(url)
        assert (await chat(url, key, "claude")).status == 200
        assert ups["anthropic"].requests[0].document["temperature"] == 0.2


async def test_fallbacks_go_where_the_key_may(served):
    async with served() as (ups, url):
        wide, narrow = await make(url), await make(url, models=["gpt-4o"])
        ups["azure"].default = ups["openai"].default = DOWN
        seen = await chat(url, wide, "gpt-4o")
        assert (seen.status, seen.headers["x-gwcore-upstream"]) == (200, "anthropic")
        assert (
            json.loads(seen.body)["choices"][0]["message"]["content"] == "hi"
            and "503" in seen.headers["x-gwcore-failed"]
        )
        seen = await chat(url, narrow, "gpt-4o")
        assert seen.status == 503 and len(ups["anthropic"].requests) == 1
        assert (await chat(url, narrow, "claude")).status == 403


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key", "x-goog-api-key", "x-litellm-api-key"])
async def test_keys_stand_where_clients_put_them(served, header):
    async with served() as (_, url):
        key = await make(url)
        assert (await chat(url, key, "gpt-4o", header=header)).status == 200
        assert (await chat(url, key + "x", "gpt-4o", header=header)).status == 401


async def test_limits_and_budgets_of_keys_are_kept(served):
    async with served() as (_, url):
        limited = await make(url, rpm_limit=1)
        assert [(await chat(url, limited, "house")).status for _ in range(2)] == [200, 429]
        poor = await make(url, max_budget=0)
        assert (await chat(url, poor, "house")).status == 200  # it costs nothing
        assert (await chat(url, poor, "gpt-4o")).status == 429


@pytest.mark.parametrize(("without", "limit"), [("ratelimit", "rpm_limit"), ("budget", "max_budget")])
async def test_a_limit_that_nobody_would_keep_is_refused(served, without, limit):
    async with served(without) as (_, url):
        seen = await post(url, "/key/generate", {limit: 5}, ADMIN)
        assert 400 <= seen.status < 500 and without.encode() in seen.body
        assert (await post(url, "/key/generate", {}, ADMIN)).status == 200


async def test_models_and_their_prices_in_litellms_shape(served):
    async with served() as (_, url):
        key = await make(url, models=["claude", "house"])
        seen = await exchange(url, "GET", "/model/info", b"", [("authorization", f"Bearer {key}")])
        listed = {one["model_name"]: one["model_info"] for one in json.loads(seen.body)["data"]}
        assert set(listed) == {"claude", "house"} and listed["claude"]["input_cost_per_token"] == 0.000003


async def test_a_field_that_nothing_keeps_is_refused_in_a_sentence(served):
    async with served() as (_, url):
        seen = await post(url, "/key/generate", {"guardrails": ["pii"]}, ADMIN)
        said = json.loads(seen.body)
        assert seen.status == 422
        assert said["error"]["message"] == "guardrails: not supported by this gateway; leave it out"
        assert said["detail"][0]["msg"] == said["error"]["message"]


async def test_a_key_of_litellms_table_goes_on_working():
    """As the guide has it: what the table holds is the digest of the key that clients send."""
    key = f"sk-{secrets.token_urlsafe(16)}"
    found = re.findall(r"```yaml\n(stack:\n  - auth:.*?)```", GUIDE.read_text(), re.DOTALL)
    (text,) = [
        re.sub(r"sha256: [0-9a-f]{64}", f"sha256: {hashlib.sha256(key.encode()).hexdigest()}", one) for one in found
    ]
    head = "gwcore: 1\nstores: {book: 'memory://book'}\nupstreams: {demo: {provider: demo}}\nmodels: {gpt-4o: demo/a, b: demo/b}\n"
    async with running(Gateway(head + text, env={"GWCORE_ADMIN_KEY": ADMIN}, serve_admin=True)) as url:
        assert (await chat(url, key, "gpt-4o")).status == 200
        assert (await chat(url, key, "b")).status == 403
        assert (await chat(url, key + "x", "gpt-4o")).status == 401
