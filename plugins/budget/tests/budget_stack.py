"""A gateway with a budget on a real port, in front of a scripted upstream, and someone who says who calls."""

import json
from contextlib import asynccontextmanager

from budget_kit import eventually

from gwcore.call import Principal
from gwcore.catalog import Catalog
from gwcore.gateway import Gateway
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer
from gwcore_budget.ledger.verify import verify
from tests.stacks.raw import Seen, exchange

IN, OUT = 1, 1000
"""Dollars per million tokens of input and output, so that output decides."""


class Anybody(Plugin):
    """The key is what the client writes; its policies are what the test put under ``who``."""

    name = "anybody"
    who: dict[str, Principal] = {}

    def call_layer(self, inner):
        async def anybody(call):
            key = call.credentials[0] if call.credentials else "nobody"
            call.principal = self.who.get(key) or self.who.setdefault(key, Principal(id=key))
            return await inner(call)

        return anybody


class Extra:
    """Registers the plugin as if installed."""

    @staticmethod
    @hookimpl
    def gwcore_plugins():
        return [Anybody]


def stack(upstream, store, *, more="", prices=None, **budget):
    prices = prices or {
        "*": {"input": f"${IN}/M", "output": f"${OUT}/M", "context_window": 100_000, "max_output": 128_000}
    }
    ups = upstream if isinstance(upstream, dict) else {"up": upstream}
    return json.dumps(
        {
            "gwcore": 1,
            "stores": {"book": store},
            "upstreams": {
                name: {
                    "provider": "openai-compatible",
                    "base_url": f"{url}/v1",
                    "api_key": "sk-upstream-test-0000000",
                    "prices": prices,
                }
                for name, url in ups.items()
            },
            "stack": [
                {"anybody": {}},
                *([more] if more else []),
                {"budget": {"store": "book", "patience": 2.0, **budget}},
            ],
        },
        indent=1,
    )


@asynccontextmanager
async def serving(text, catalog=None):
    """Yields (url, gateway, budget plugin)."""
    Anybody.who = {}
    gateway = Gateway(text + "\n", catalog=catalog or Catalog(Extra))
    async with running(gateway) as url:
        plugin = next(p.plugin for p in gateway.stack.placed if p.name == "budget")
        yield url, gateway, plugin


def completion(output, prompt=10, text="hi"):
    """A chat completion that reports so much usage."""
    usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return Answer(
        body=json.dumps(
            {
                "id": "c",
                "object": "chat.completion",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": usage,
            }
        ).encode()
    )


async def sound(plugin):
    """The books hold."""
    report = await verify(plugin.ledger.home)
    assert report.problems == []
    return report


CHAT = "/v1/chat/completions"


def body(**fields):
    return json.dumps({"model": "up/m", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


class Got:
    """A response."""

    def __init__(self, seen: Seen):
        self.status = seen.status
        self.headers = seen.headers
        self.body = seen.body
        self.chunks = seen.chunks

    def header(self, name):
        return self.headers.get(name)

    @property
    def error(self):
        return json.loads(self.body)["error"]


async def ask(url, key="k", path=CHAT, **fields):
    return Got(await exchange(url, "POST", path, body(**fields), [("authorization", f"Bearer {key}")]))


async def settled(plugin, within=5.0):
    """Until every hold is settled and every settlement durable."""
    ledger = plugin.ledger
    await eventually(lambda: not ledger.open and not ledger.escrow.unwritten and not ledger.group.backlog, within)


async def holds(plugin, columns="state, amount, settled, basis"):
    await settled(plugin)
    return await plugin.ledger.home.rows(f"SELECT {columns} FROM budget_hold ORDER BY created, id")
