"""A layer that looks first, around a router and a cache: what broke behind it has never been there."""

import json
from contextlib import AsyncExitStack

import httpx2
import pytest
from pydantic import BaseModel

from gwcore.catalog import Catalog
from gwcore.gateway import Gateway
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream

HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}


class Nothing(BaseModel):
    pass


class Looks(Plugin):
    name = "looks"
    Config = Nothing

    def call_layer(self, inner):
        async def looks(call):
            async with call.reply.hold():
                return await inner(call)

        return looks


class Distribution:
    @hookimpl
    def gwcore_plugins(self):
        return [Looks]


def said(text, finish=None):
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish}
    return b"data: %s\n\n" % json.dumps({**HEAD, "choices": [choice]}).encode()


@pytest.mark.parametrize(
    "stack", ["[looks, fallback]", "[looks, looks, fallback]", "[looks, {cache: {ttl: 1m}}, fallback]"]
)
async def test_a_stream_that_broke_while_it_was_held_leaves_nothing(stack):
    first, second = FakeUpstream(), FakeUpstream()
    first.default = Answer(body=[said("half "), said("an ")], cut_after=len(said("half ")) + 5)
    second.default = Answer(body=[said("whole", "stop"), b"data: [DONE]\n\n"])
    async with AsyncExitStack() as opened:
        for up in (first, second):
            await opened.enter_async_context(up)
        text = (
            "gwcore: 1\nupstreams:\n"
            f"  a: {{provider: openai-compatible, base_url: '{first.url}/v1'}}\n"
            f"  b: {{provider: openai-compatible, base_url: '{second.url}/v1'}}\n"
            f"models: {{m: [a/m, b/m]}}\nstack: {stack}\n"
        )
        url = await opened.enter_async_context(running(Gateway(text, catalog=Catalog(Distribution()))))
        http = await opened.enter_async_context(httpx2.AsyncClient())
        for _ in range(2):
            answer = await http.post(f"{url}/v1/chat/completions", json=BODY)
            assert answer.status_code == 200
            assert "whole" in answer.text and "half" not in answer.text
