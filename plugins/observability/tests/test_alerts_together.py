"""Alerts over reloads, over replicas of one Redis, and with the names that humans gave."""

import asyncio

import pytest
from alerts_world import Slack, alerts
from obs_world import STACK, ask, gateway, ok, plugin_of
from test_prometheus import AUTH, ONE

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_observability.alerts.board import Board
from gwcore_observability.alerts.claims import Claims
from gwcore_observability.alerts.plugin import Alerts

BAD = Answer(500, body=b"{}")


def to(place, **settings):
    return {"chat": {"slack": place.url + "/x", **settings}}


async def looks(made, count=4):
    """Until the plugin has looked so often."""
    await asyncio.sleep(count * 0.05)
    return plugin_of(made, "alerts")


@pytest.mark.parametrize("remembers", [True, False])
async def test_a_reload_tells_nothing_twice_and_no_end(tmp_path, monkeypatch, remembers):
    if not remembers:  # the mutant: what was told goes with the old stack
        own = property(lambda self: self.__dict__["own"], lambda self, _: self.__dict__.update(own=Board(Claims())))
        monkeypatch.setattr(Alerts, "board", own, raising=False)
    file = tmp_path / "stack.yaml"
    async with FakeUpstream() as up, Slack() as chat:
        up.default = BAD
        watch = alerts(to(chat), upstreams={"failures": 2}, errors=None)
        file.write_text(STACK.format(up=up.url, stack="", watch=watch))
        made = Gateway(file, env={})
        async with running(made) as url:
            for _ in range(3):
                await ask(url)
            await chat.until("Upstream up/m is down")
            file.write_text(file.read_text() + "  - access_log: {to: stderr}\n")
            assert await made.reload()
            await looks(made, 12)  # longer than it takes to be over
            again = len(chat.texts)
            up.default = ok()
            await ask(url)
            await chat.until("has recovered")
    assert (again == 1) is remembers


@pytest.mark.parametrize("agree", [True, False])
async def test_of_two_replicas_one_tells_where_they_share_a_redis(redis_url, agree):
    store = f'stores: {{hot: "{redis_url}"}}\n'
    async with FakeUpstream() as up, Slack() as chat:
        up.default = BAD
        watch = alerts(to(chat), upstreams={"failures": 2}, errors=None, store="hot" if agree else None)
        async with gateway(up, watch, stack=store) as (one, first), gateway(up, watch, stack=store) as (two, second):
            for url in (one, two, one, two):
                await ask(url)
            async with asyncio.timeout(10):
                while not all(plugin_of(made, "alerts").board.active() for made in (first, second)):
                    await asyncio.sleep(0.02)
            await chat.until("Upstream up/m is down")
            await looks(first, 8)
            told = sum(plugin_of(made, "alerts").mailboxes["chat"].told for made in (first, second))
            assert told == (1 if agree else 2)


async def test_a_budget_is_told_with_the_name_of_who_it_is_of(tmp_path):
    rules = "[{per: key, soft: $0.00001, window: day}]"
    stack = AUTH.replace("team: t1}}", "team: t1, alias: Nightly evaluation}}")
    stack += f"  - budget: {{store: rows, mode: direct, patience: 5s, unpriced: allow_unmetered, journal: {tmp_path}/j, rules: {rules}}}\n"
    stack += f'stores: {{rows: "sqlite:///{tmp_path}/book.db"}}\n'
    async with FakeUpstream() as up, Slack() as chat:
        up.default = ok()
        async with gateway(up, alerts(to(chat)), stack=stack) as (url, made):
            assert (await ask(url, headers=ONE, max_tokens=10)).status_code == 200
            async with asyncio.timeout(10):
                while not chat.texts:
                    await plugin_of(made, "budget").gauges.look()
                    await asyncio.sleep(0.02)
    (text,) = chat.texts
    assert "name: Nightly evaluation" in text and "Budget of key one (day): soft limit reached" in text
    assert ONE["authorization"][10:] not in text
