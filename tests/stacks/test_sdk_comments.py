"""What the gateway writes between an answer's own events disturbs no official SDK: keep-alives, and the cost at the end."""

import asyncio
import json

import httpx2
import pytest
from anthropic import AsyncAnthropic
from google import genai
from openai import AsyncOpenAI

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_providers.gemini.generate import GeminiGenerate
from tests.stacks.sdk_marks import SDK_WARNINGS

pytestmark = SDK_WARNINGS
STACK = """\
gwcore: 1
upstreams:
  up: {{provider: openai-compatible, base_url: "{url}/v1", dialect: openai.chat, prices: {{"*": {{input: $1/M, output: $1/M}}}}}}
models: {{m: up/m}}
server: {{keepalive: 50ms, cost: stream}}
stack: []
"""
HI = [{"role": "user", "content": "hi"}]


def event(delta, finish=None, **more):
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    document = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
SLOW = Answer(
    headers=[("content-type", "text/event-stream")],
    body=[event({"role": "assistant", "content": "hel"}), event({"content": "lo"}),
          event({}, "stop", usage=USAGE) + b"data: [DONE]\n\n"],
    delay_head=0.3, gap=0.2,
)  # fmt: skip


@pytest.fixture
async def url():
    async with FakeUpstream() as up, running(Gateway(STACK.format(url=up.url))) as url:
        up.default = SLOW
        yield url


async def chat(url):
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="any") as client:
        stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
        return "".join([one.choices[0].delta.content or "" async for one in stream if one.choices])


async def responses(url):
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="any") as client:
        stream = await client.responses.create(model="m", input="hi", stream=True)
        return "".join([one.delta async for one in stream if one.type == "response.output_text.delta"])


async def messages(url):
    async with (
        AsyncAnthropic(base_url=url, api_key="any") as client,
        client.messages.stream(model="m", max_tokens=9, messages=HI) as stream,
    ):
        return "".join([text async for text in stream.text_stream])


async def generate(url):
    client = genai.Client(api_key="any", http_options={"base_url": url})
    made = await client.aio.models.generate_content_stream(model="m", contents="hi")
    return "".join([one.text or "" async for one in made])


async def generate_in_a_thread(url):
    """Its blocking client reads lines by other code."""
    client = genai.Client(api_key="any", http_options={"base_url": url})
    made = lambda: "".join(one.text or "" for one in client.models.generate_content_stream(model="m", contents="hi"))  # noqa: E731
    return await asyncio.to_thread(made)


@pytest.mark.parametrize("ask", [chat, responses, messages, generate, generate_in_a_thread])
async def test_every_sdk_reads_past_what_we_write(ask, url):
    assert await ask(url) == "hello"


async def test_there_is_something_to_read_past(url):
    async with httpx2.AsyncClient() as http:
        answer = await http.post(f"{url}/v1/chat/completions", json={"model": "m", "messages": HI, "stream": True})
    assert answer.text.count(": ping") > 3 and ": x-gwcore-cost-usd 0.000003000" in answer.text


async def test_control_comments_break_the_one_that_takes_them_for_data(url, monkeypatch):
    monkeypatch.setattr(GeminiGenerate, "keepalive", b": ping\n\n")
    with pytest.raises(genai.errors.UnknownApiResponseError):
        await generate(url)
