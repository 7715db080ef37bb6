"""Active checks, one prober for the fleet; limits that replicas share."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from fallback_world import WIRES, until, world
from test_shared import fleet

from gwcore.testing.upstream import Answer

OK = WIRES["openai.chat"].answer(False)


def by_path(check, chat=OK):
    return lambda seen: check if seen.target.endswith("/models") else chat


@pytest.mark.parametrize("sick", [Answer(500), Answer(401), Answer(reset=True)])
async def test_an_upstream_that_fails_its_checks_gets_no_calls_until_it_passes(sick):
    async with world(fallback="{checks: {interval: 30ms, timeout: 1s}}") as w:
        w.ups["a"].default, w.ups["b"].default = by_path(sick), by_path(Answer(404))
        credential = w.plugin.fleet.deployments["a/m"].credential
        await until(lambda: credential.opens)
        assert (await w.ask()).headers["x-gwcore-upstream"] == "b"
        assert w.plugin.health()["deployments"]["a/m"]["state"] == "credential"
        w.ups["a"].default = by_path(Answer(200))
        await until(lambda: not credential.opens)
        assert (await w.ask()).headers["x-gwcore-upstream"] == "a"


async def test_one_failed_check_is_no_reason():
    async with world("a", fallback="{checks: {interval: 20ms}}") as w:
        numbers = iter(range(10_000))
        flaky = lambda seen: Answer(500 if next(numbers) % 2 else 200)  # noqa: E731
        w.ups["a"].default = flaky
        await w.ups["a"].received(8)
        assert not w.plugin.fleet.deployments["a/m"].credential.opens


async def test_a_check_opens_no_credential_that_a_call_closed():
    async with world(fallback="{checks: {interval: 20ms}}") as w:
        w.ups["a"].default = by_path(Answer(200), Answer(401, body=b"{}"))
        w.ups["b"].default = OK
        await w.ask()
        await w.ups["a"].received(5)
        assert w.plugin.fleet.deployments["a/m"].credential.opens


async def test_only_one_of_the_fleet_asks(redis_url, monkeypatch):
    monkeypatch.setattr("gwcore_fallback.shared.TIMEOUT", 20.0)  # where the store is given up each asks
    async with fleet(redis_url, 3, "checks: {interval: 100ms, upstreams: {a: /models}}") as f:
        f.a.default = by_path(Answer(500))
        before, began = len(f.a.requests), time.monotonic()
        await asyncio.sleep(1.05)
        assert 5 <= len(f.a.requests) - before <= 10 * (time.monotonic() - began) + 2
        await until(lambda: all(f.plugin(at).fleet.deployments["a/m"].credential.opens for at in range(3)))
        assert not [seen for seen in f.b.requests if seen.method == "GET"]


async def test_a_limit_holds_over_all_replicas(redis_url, monkeypatch):
    monkeypatch.setattr("gwcore_fallback.shared.TIMEOUT", 20.0)  # where the store is given up each counts alone
    async with AsyncExitStack() as exits:
        f = await exits.enter_async_context(fleet(redis_url, 3, "deployments: {a/m: {requests: 30/min}}"))
        f.a.default = OK
        for at in range(60):
            assert (await f.ask(at)).status == 200
            await asyncio.sleep(0.02)
        # what arrives in a tenth of a second may be too much: five calls here
        assert 30 <= len(f.a.requests) <= 30 + 10
