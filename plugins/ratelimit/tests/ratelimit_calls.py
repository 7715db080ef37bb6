"""Calls through the plugin alone, under a clock that tests set."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

from ratelimit_homes import START

from gwcore.call import Attempt, Outcome, Principal
from gwcore.errors import GatewayError
from gwcore.testing.fakes import build, call, sent
from gwcore.usage import Usage
from gwcore_ratelimit.memory import Memory
from gwcore_ratelimit.plugin import RateLimit


class Clock:
    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += round(seconds * 1_000_000)


@asynccontextmanager
async def limiter(*rules, clock=None, kind=Memory, **config):
    """A started plugin whose home goes by ``clock``."""
    plugin = build(RateLimit, {"rules": list(rules), **config})
    home = plugin._store.shared["ratelimit"] = kind(clock=clock or Clock())
    async with plugin.lifespan():
        yield plugin
    assert home.held == 0
    await home.aclose()


class Upstream:
    """The inner side: one attempt per call with this usage, or this error."""

    def __init__(self, usage=None, *, error=None, gate=None, status=200):
        self.usage, self.error, self.gate, self.status = usage, error, gate, status
        self.calls = 0

    async def __call__(self, made):
        self.calls += 1
        attempt = Attempt(made, made.targets[0])
        await asyncio.sleep(0)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.error is not None:
                raise self.error
            attempt.status = self.status
            attempt.meter = SimpleNamespace(usage=self.usage)
            await made.reply.commit(200, [])
            await made.reply.end(b"{}")
        except BaseException as error:
            attempt.error = error if isinstance(error, GatewayError) else GatewayError("cancelled")
            raise
        return Outcome(200, usage=self.usage)


async def ask(layer, key="k", *, text="hi", **fields):
    """One call of a key; its status, its error and its headers."""
    who = fields.pop("principal", None) or Principal(key)
    made = call(text, **fields)
    made.principal = who
    try:
        await layer(made)
    except GatewayError as error:
        added = dict(made.reply.added())
        return SimpleNamespace(status=error.status, error=error, headers=added, call=made)
    return SimpleNamespace(status=200, error=None, headers=dict(sent(made).headers), call=made)


def used(total):
    return Usage(input=total)
