"""The official SDKs against the demo provider: chat, tools, streams, embeddings, models, token counts; then errors."""

import json
from typing import Literal

import pytest
from anthropic import AsyncAnthropic
from anthropic import NotFoundError as AnthropicNotFound
from google import genai
from google.genai import types
from openai import AsyncOpenAI, NotFoundError
from pydantic import BaseModel, Field

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from tests.stacks.sdk_marks import SDK_WARNINGS

pytestmark = [pytest.mark.timeout(120), *SDK_WARNINGS]

STACK = """\
gwcore: 1
upstreams:
  demo: {provider: demo}
  other: {provider: demo}
models:
  house: demo/demo
  "*": pass
stack: []
"""
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ASK = [{"role": "user", "content": "What is the weather in Paris? Use get_weather."}]


class Stop(BaseModel):
    city: str
    nights: int


class Trip(BaseModel):
    """With references, and a list that may not be empty."""

    kind: Literal["short", "long"]
    first: Stop
    others: list[Stop] = Field(min_length=1)


@pytest.fixture
async def url():
    async with running(Gateway(STACK)) as url:
        yield url


@pytest.fixture
async def openai(url):
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-any", max_retries=0) as client:
        yield client


@pytest.fixture
async def anthropic(url):
    async with AsyncAnthropic(base_url=url, api_key="sk-any", max_retries=0) as client:
        yield client


@pytest.fixture
async def gemini(url):
    client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=url, api_version="v1beta"))
    yield client
    await client.aio.aclose()
    client.close()


async def test_openai_chat(openai):
    hello = [{"role": "user", "content": "Hello!"}]
    whole = await openai.chat.completions.create(model="house", messages=hello)
    assert whole.choices[0].message.content and whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 0
    text, usages = "", []
    stream = await openai.chat.completions.create(
        model="house", messages=hello, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        usages += [chunk.usage] if chunk.usage else []
    assert text == whole.choices[0].message.content
    assert [u.total_tokens for u in usages] == [whole.usage.total_tokens]


async def test_openai_tools(openai):
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]
    whole = await openai.chat.completions.create(model="house", messages=ASK, tools=tools)
    called = whole.choices[0].message.tool_calls[0]
    assert whole.choices[0].finish_reason == "tool_calls"
    assert called.function.name == "get_weather" and "city" in json.loads(called.function.arguments)
    name = arguments = ""
    async for chunk in await openai.chat.completions.create(model="house", messages=ASK, tools=tools, stream=True):
        for delta in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            name += delta.function.name or ""
            arguments += delta.function.arguments or ""
    assert (name, json.loads(arguments)) == ("get_weather", json.loads(called.function.arguments))


async def test_openai_responses(openai):
    whole = await openai.responses.create(model="house", input="Hello!")
    assert whole.output_text and whole.usage.total_tokens > 0
    text, kinds = "", []
    async for event in await openai.responses.create(model="house", input="Hello!", stream=True):
        kinds.append(event.type)
        text += event.delta if event.type == "response.output_text.delta" else ""
    assert text == whole.output_text
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"


async def test_structured_output(openai, anthropic, gemini):
    """What is asked for in a shape is answered in that shape, nonsense as it may be: agents would repeat anything else."""
    plan = [{"role": "user", "content": "Plan a trip!"}]
    chat = await openai.chat.completions.parse(model="house", messages=plan, response_format=Trip)
    trip = chat.choices[0].message.parsed
    assert (trip.kind, len(trip.others)) == ("short", 1)
    async with openai.chat.completions.stream(model="house", messages=plan, response_format=Trip) as stream:
        assert (await stream.get_final_completion()).choices[0].message.parsed == trip
    assert (await openai.responses.parse(model="house", input="Plan a trip!", text_format=Trip)).output_parsed == trip
    message = await anthropic.messages.parse(model="house", max_tokens=9, messages=plan, output_format=Trip)
    assert message.parsed_output == trip
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Trip)
    assert (await gemini.aio.models.generate_content(model="house", contents="Plan!", config=config)).parsed == trip
    form = {"type": "json_object"}
    free = await openai.chat.completions.create(model="house", messages=plan, response_format=form)
    assert json.loads(free.choices[0].message.content) == {"said": "Plan a trip!"}


async def test_openai_embeddings_and_models(openai):
    default = await openai.embeddings.create(model="house", input=["a", "b"])
    floats = await openai.embeddings.create(model="house", input=["a", "b"], encoding_format="float")
    assert len(default.data) == 2
    assert default.data[1].embedding == pytest.approx(floats.data[1].embedding, abs=1e-6)
    assert default.data[0].embedding != default.data[1].embedding
    assert "house" in [model.id async for model in openai.models.list()]
    assert (await openai.models.retrieve("house")).id == "house"


async def test_anthropic_messages(anthropic):
    hello = [{"role": "user", "content": "Hello!"}]
    whole = await anthropic.messages.create(model="house", max_tokens=200, messages=hello)
    assert whole.content[0].text and whole.stop_reason == "end_turn" and whole.usage.output_tokens > 0
    async with anthropic.messages.stream(model="house", max_tokens=200, messages=hello) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert (await anthropic.messages.count_tokens(model="house", messages=hello)).input_tokens > 0
    assert "house" in [model.id async for model in anthropic.models.list()]


async def test_anthropic_tools(anthropic):
    tools = [{"name": "get_weather", "description": "weather", "input_schema": WEATHER}]
    whole = await anthropic.messages.create(model="house", max_tokens=200, messages=ASK, tools=tools)
    used = next(block for block in whole.content if block.type == "tool_use")
    assert whole.stop_reason == "tool_use" and used.name == "get_weather" and "city" in used.input
    async with anthropic.messages.stream(model="house", max_tokens=200, messages=ASK, tools=tools) as stream:
        final = await stream.get_final_message()
    assert next(block for block in final.content if block.type == "tool_use").input == used.input


async def test_gemini(gemini):
    whole = await gemini.aio.models.generate_content(model="house", contents="Hello!")
    assert whole.text and whole.usage_metadata.total_token_count > 0
    text = ""
    async for chunk in await gemini.aio.models.generate_content_stream(model="house", contents="Hello!"):
        text += chunk.text or ""
    assert text == whole.text
    counted = await gemini.aio.models.count_tokens(model="house", contents="Hello!")
    assert counted.total_tokens > 0
    vectors = await gemini.aio.models.embed_content(model="house", contents=["a", "b"])
    assert len(vectors.embeddings) == 2 and vectors.embeddings[0].values


async def test_gemini_tools(gemini):
    declared = types.FunctionDeclaration(name="get_weather", parameters_json_schema=WEATHER)
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[declared])],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    whole = await gemini.aio.models.generate_content(model="house", contents=ASK[0]["content"], config=config)
    assert whole.function_calls[0].name == "get_weather" and "city" in whole.function_calls[0].args


async def test_errors_speak_the_clients_dialect(openai, anthropic, gemini):
    with pytest.raises(NotFoundError) as caught:
        await openai.chat.completions.create(model="nobody/x/", messages=[])
    assert caught.value.code == "model_not_found" and "nobody" in caught.value.message
    with pytest.raises(AnthropicNotFound) as named:
        await anthropic.messages.create(model="nobody", max_tokens=1, messages=[{"role": "user", "content": "x"}])
    assert named.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(genai.errors.ClientError) as coded:
        await gemini.aio.models.generate_content(model="nobody", contents="x")
    assert coded.value.code == 404 and coded.value.status == "NOT_FOUND"
