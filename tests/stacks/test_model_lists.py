"""Lists of models: what wildcards reach, one deployment, and a model that is not there."""

import secrets

import httpx2
import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running

ADMIN = secrets.token_hex(32)
STACK = """\
gwcore: 1
stores: {{book: "sqlite:///{folder}/book.db"}}
upstreams:
  openai: {{provider: openai, api_key: sk-00000000}}
  anthropic: {{provider: anthropic, api_key: sk-00000000}}
  own: {{provider: openai-compatible, base_url: "http://127.0.0.1:9/v1", models: [llama-9, qwen-9]}}
models: {models}
stack:
  - auth: {{admin_key: {admin}}}
"""
WILD = '{house: [openai/gpt-4o, anthropic/claude-opus-4-1], "c-*": anthropic/claude-*, "gpt-4*": openai/gpt-4*}'


@pytest.fixture
async def serve(tmp_path):
    opened = []

    async def open_(models):
        context = running(Gateway(STACK.format(folder=tmp_path, models=models, admin=ADMIN), serve_admin=True))
        opened.append(context)
        return httpx2.AsyncClient(base_url=await context.__aenter__(), trust_env=False, timeout=60)

    yield open_
    for context in opened:
        await context.__aexit__(None, None, None)


async def got(http, path, key=ADMIN, status=200, **headers):
    answer = await http.get(path, headers={"authorization": f"Bearer {key}", **headers})
    assert answer.status_code == status, answer.text
    return answer.json()


async def ids(http, path, key=ADMIN, **headers):
    return [model["id"] for model in (await got(http, path, key, **headers))["data"]]


async def test_wildcards_are_listed_as_what_they_reach(serve):
    async with await serve(WILD) as http:
        listed = await ids(http, "/v1/models")
        assert {"house", "c-opus-4-1", "c-sonnet-4-5", "gpt-4o-mini", "gpt-4.1", "own/llama-9"} <= set(listed)
        assert not [name for name in listed if "*" in name or name.startswith(("claude", "gpt-5"))]
        assert len(set(listed)) == len(listed)
        priced = {model["id"]: model for model in (await got(http, "/v1/models"))["data"]}
        assert priced["c-opus-4-1"]["pricing"]["input"] and priced["own/llama-9"]["pricing"] is None
        wild = await ids(http, "/v1/models?return_wildcard_routes=true")
        assert set(wild) - set(listed) == {"c-*", "gpt-4*"}
        assert "c-opus-4-1" in await ids(http, "/v1/models", **{"anthropic-version": "2023-06-01"})
        assert (await got(http, "/v1/models/c-opus-4-1"))["id"] == "c-opus-4-1"
        googles = {"x-goog-api-key": ADMIN}  # Google's newer SDKs ask for v1
        assert {"models/c-opus-4-1"} <= {one["name"] for one in (await got(http, "/v1/models", **googles))["models"]}
        assert (await got(http, "/v1/models/c-opus-4-1", **googles))["name"] == "models/c-opus-4-1"
        made = await http.post(
            "/key/generate", json={"models": ["c-opus*"]}, headers={"authorization": f"Bearer {ADMIN}"}
        )
        own = await ids(http, "/v1/models", made.json()["key"])
        assert own and all(name.startswith("c-opus") for name in own)


@pytest.mark.parametrize("models", ['{"*": pass}', "{}"])
async def test_what_passes_is_listed_as_it_is_written(serve, models):
    async with await serve(models) as http:
        listed = await ids(http, "/v1/models")
        assert {"anthropic/claude-opus-4-1", "openai/gpt-4o", "own/qwen-9"} <= set(listed)
        assert "gpt-4o" not in listed


async def test_one_deployment(serve):
    async with await serve(WILD) as http:
        (one,) = (await got(http, "/v1/model/info?litellm_model_id=anthropic/claude-sonnet-4-5"))["data"]
        assert one["model_name"] == "c-sonnet-4-5" and one["model_info"]["id"] == "anthropic/claude-sonnet-4-5"
        both = (await got(http, "/model/info?litellm_model_id=openai/gpt-4o"))["data"]
        assert [entry["model_name"] for entry in both] == ["house", "gpt-4o"]
        assert (await got(http, "/model/info?litellm_model_id=x"))["data"] == []


async def test_groups(serve):
    async with await serve(WILD) as http:
        (house,) = (await got(http, "/model_group/info?model_group=house"))["data"]
        assert house["model_group"] == "house" and house["providers"] == ["anthropic", "openai"]
        assert (
            house["input_cost_per_token"] > 0 and house["supports_prompt_caching"] and not house["supports_audio_input"]
        )
        own = {group["model_group"]: group for group in (await got(http, "/model_group/info"))["data"]}["own/llama-9"]
        assert own["input_cost_per_token"] is None and own["providers"] == ["openai-compatible"]
        assert house["supports_vision"] is own["supports_vision"] is None, "what nobody said is not false"


async def test_a_model_that_is_not_there(serve):
    async with await serve(WILD) as http:
        answer = await http.get("/v1/models/nope", headers={"authorization": f"Bearer {ADMIN}"})
    error = answer.json()["error"]
    assert answer.status_code == 404 and (error["code"], error["param"]) == ("model_not_found", "model")
    assert error["message"] == "The model `nope` does not exist or is not accessible"
    assert answer.json()["request_id"] == answer.headers["x-gwcore-request-id"] != ""
