"""Azure's official client: each of its addresses leads to the same services as OpenAI's."""

import json

import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.stacks.sdk_marks import SDK_WARNINGS

pytestmark = [pytest.mark.timeout(120), *SDK_WARNINGS]
ASK = [{"role": "user", "content": "Hello!"}]
STACK = """\
gwcore: 1
upstreams:
  demo: {{provider: demo}}
  up: {{provider: azure, base_url: "{up}", api_key: k, api_version: "2024-10-21"}}
models: {{house: demo/demo, painter: up/painter}}
stack: []
"""


@pytest.fixture
async def up():
    async with FakeUpstream() as up:
        yield up


@pytest.fixture
async def url(up):
    async with running(Gateway(STACK.format(up=up.url))) as url:
        yield url


async def used(client):
    said = await client.chat.completions.create(model="house", messages=ASK)
    assert said.choices[0].message.content
    answered = await client.responses.create(model="house", input="Hello!")
    assert answered.output_text and answered.usage.output_tokens
    events = [event.type async for event in await client.responses.create(model="house", input="Hi", stream=True)]
    assert events[0] == "response.created" and events[-1] == "response.completed"
    assert len((await client.embeddings.create(model="house", input="a")).data) == 1
    assert [model.id async for model in client.models.list()] == ["house", "painter"]
    assert (await client.models.retrieve("house")).id == "house"


async def test_by_deployments(url):
    async with AsyncAzureOpenAI(azure_endpoint=url, api_key="sk-any", api_version="2025-04-01-preview") as client:
        await used(client)


async def test_the_v1_addresses(url):
    async with AsyncOpenAI(base_url=f"{url}/openai/v1/", api_key="sk-any") as client:
        await used(client)


async def test_pictures_are_edited(url, up):
    up.default = Answer(body=json.dumps({"created": 1, "data": [{"b64_json": "AA=="}]}).encode())
    async with AsyncAzureOpenAI(azure_endpoint=url, api_key="sk-any", api_version="2025-04-01-preview") as client:
        edited = await client.images.edit(model="painter", image=b"png", prompt="a hat")
    assert edited.data[0].b64_json == "AA=="
    # the version is the stack file's, once
    assert up.requests[0].target == "/openai/deployments/painter/images/edits?api-version=2024-10-21"
    assert b"a hat" in up.requests[0].body
