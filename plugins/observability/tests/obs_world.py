"""A gateway with a fake upstream, and a place that takes what sinks send."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import orjson

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream, chat_stream

CHAT = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 11,
        "completion_tokens": 7,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 4},
    },
}


def ok(**fields):
    return Answer(body=orjson.dumps({**CHAT, **fields}), headers=[("x-request-id", "up-1")])


def streamed():
    return Answer(body=chat_stream("hel", "lo", usage=(11, 7)))


class Place(FakeUpstream):
    """An endpoint that remembers the JSON records it was sent."""

    @property
    def records(self):
        return [record for seen in self.requests for record in seen.document]

    @property
    def ids(self):
        return [record["id"] for record in self.records]

    async def until(self, count, within=30.0):
        """Wait until so many different calls were told of."""
        async with asyncio.timeout(within):
            while len(set(self.ids)) < count:
                await asyncio.sleep(0.01)


STACK = """
gwcore: 1
upstreams:
  up: {{provider: openai, base_url: "{up}/v1", api_key: "sk-upstream-secret-0001", prices: {{m: {{input: $1/M, output: $2/M, cache_read: $0.5/M}}}}}}
models:
  fast: up/m
  "*": pass
server: {{open: true}}
{stack}
watch:
{watch}
"""


@asynccontextmanager
async def gateway(up, watch, stack="", env=None, admin=False, provider="openai", keys=()):
    """A running gateway; yields its URL and itself."""
    file = STACK.format(up=up.url, watch=watch, stack=stack)
    if provider != "openai":
        file = file.replace(f'openai, base_url: "{up.url}/v1"', f'{provider}, base_url: "{up.url}"')
    if keys:
        file = file.replace('api_key: "sk-upstream-secret-0001"', f"api_keys: {[*keys]}")
    made = Gateway(file, env=env or {}, serve_admin=admin)
    async with running(made) as url:
        yield url, made


def webhook(place, folder: Path | None, **settings):
    outbox = {"folder": str(folder) if folder else None, "backoff": "200ms", **settings.pop("outbox", {})}
    return "  - webhook: " + orjson.dumps({"url": place.url + "/hook", "outbox": outbox, **settings}).decode()


def plugin_of(made, name="webhook"):
    return next(p.plugin for p in made.stack.placed if p.name == name)


async def ask(url, text="hi", model="fast", *, stream=False, headers=None, **fields):
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}], **fields}
    async with httpx2.AsyncClient(timeout=20, verify=False) as client:
        return await client.post(f"{url}/v1/chat/completions", json=body, headers=headers or {})
