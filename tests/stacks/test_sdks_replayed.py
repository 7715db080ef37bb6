"""The official SDKs read recorded answers through the gateway: the text they show is the recordings' own digest."""

import importlib.util

import pytest
from anthropic import AsyncAnthropic
from google import genai
from google.genai import types
from openai import AsyncOpenAI

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from tests.conftest import RECORDINGS

pytestmark = [pytest.mark.timeout(200), pytest.mark.filterwarnings("ignore")]
HELLO = [{"role": "user", "content": "hi"}]


def replayer():
    spec = importlib.util.spec_from_file_location("gwcore_replay", RECORDINGS / "replay.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def openai_chat(client, stream):
    if not stream:
        whole = await client.chat.completions.create(model="up/m", messages=HELLO)
        return whole.choices[0].message.content or ""
    chunks = await client.chat.completions.create(model="up/m", messages=HELLO, stream=True)
    return "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices and c.choices[0].index == 0])


async def openai_responses(client, stream):
    if not stream:
        return (await client.responses.create(model="up/m", input="hi")).output_text
    events = await client.responses.create(model="up/m", input="hi", stream=True)
    return "".join([e.delta async for e in events if e.type == "response.output_text.delta"])


async def anthropic_messages(client, stream):
    if not stream:
        whole = await client.messages.create(model="up/m", max_tokens=9, messages=HELLO)
        return "".join(block.text for block in whole.content if block.type == "text")
    text = ""
    async for event in await client.messages.create(model="up/m", max_tokens=9, messages=HELLO, stream=True):
        if event.type == "content_block_delta" and event.delta.type == "text_delta":
            text += event.delta.text
    return text


def _shown(reply):
    parts = (reply.candidates[0].content.parts or []) if reply.candidates and reply.candidates[0].content else []
    return "".join(part.text or "" for part in parts if not part.thought)


async def gemini_generate(client, stream):
    if not stream:
        return _shown(await client.aio.models.generate_content(model="up/m", contents="hi"))
    chunks = await client.aio.models.generate_content_stream(model="up/m", contents="hi")
    return "".join([_shown(chunk) async for chunk in chunks])


CASES = {
    "openai-chat": ("openai", "openai-compatible", "/openai/v1", openai_chat),
    "openai-responses": ("openai", "openai-compatible", "/openai/v1", openai_responses),
    "anthropic-messages": ("anthropic", "anthropic", "/anthropic", anthropic_messages),
    "gemini-generate": ("gemini", "gemini", "/gemini", gemini_generate),
}


def client_for(dialect, url):
    if dialect.startswith("openai"):
        return AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
    if dialect.startswith("anthropic"):
        return AsyncAnthropic(base_url=url, api_key="x", max_retries=0)
    return genai.Client(api_key="x", http_options=types.HttpOptions(base_url=url, api_version="v1beta"))


@pytest.mark.parametrize("chunking", ["event", "random:7"])
@pytest.mark.parametrize("dialect", CASES)
async def test_recorded_text_arrives(recordings, dialect, chunking):
    vendor, provider, base, ask = CASES[dialect]
    chosen = [
        r
        for r in recordings
        if r["dialect"] == dialect
        and r["provider"] == vendor
        and r["endpoint"] in {"chat.completions", "responses", "messages", "generateContent", "streamGenerateContent"}
        and r["response"]["status"] == 200
        and r["digest"].get("text")
        and not r["digest"].get("stream_error")
        and (r["digest"].get("framing") == "sse") == r["stream"]
    ]
    assert len(chosen) > 10
    replay, server, port = await replayer().start([str(RECORDINGS / "dev.jsonl.gz")])
    stack = (
        f'gwcore: 1\nupstreams:\n  up: {{provider: {provider}, base_url: "http://127.0.0.1:{port}{base}"}}\nstack: []\n'
    )
    wrong = []
    async with server, running(Gateway(stack)) as url:
        client = client_for(dialect, url)
        for record in chosen:
            replay.queue[vendor] = [(record["id"], {"chunking": chunking})]
            text = await ask(client, record["stream"])
            if text.strip() != record["digest"]["text"].strip():
                wrong.append((record["id"], text[:80], record["digest"]["text"][:80]))
        await (client.aio.aclose() if dialect.startswith("gemini") else client.close())
    assert not wrong, (len(wrong), len(chosen), wrong[:4])
