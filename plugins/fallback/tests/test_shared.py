"""Replicas that share health through a real Redis (acceptance F4-F6). Times are a twentieth of the acceptance list's."""

import asyncio
import json
import time
import uuid
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from fallback_world import WIRES, stack_text, until

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_fallback.shared import Shared
from tests.stacks.raw import exchange

BUSY = Answer(500, body=b"{}")
OK = WIRES["openai.chat"].answer(False)
BODY = json.dumps({"model": "m", "messages": []}).encode()


class Fleet:
    """Several gateways, each a replica with its own connections, before two upstreams."""

    def __init__(self, exits, redis_url, fallback):
        self.exits = exits
        self.redis_url = redis_url
        self.fallback = fallback
        self.namespace = f"t{uuid.uuid4().hex}"
        self.gateways, self.urls = [], []

    async def start(self, count):
        self.a, self.b = [await self.exits.enter_async_context(FakeUpstream()) for _ in range(2)]
        self.a.default, self.b.default = BUSY, OK
        for _ in range(count):
            await self.join()

    def text(self):
        return stack_text(
            {"a": self.a.url, "b": self.b.url},
            WIRES["openai.chat"],
            fallback=f"{{store: hot, namespace: {self.namespace}, {self.fallback}}}",
            stores=f"{{hot: '{self.redis_url}'}}",
        )

    async def join(self):
        gateway = Gateway(self.text())
        self.urls.append(await self.exits.enter_async_context(running(gateway)))
        self.gateways.append(gateway)
        plugin = self.plugin(-1)
        await until(lambda: plugin.shared.state == "shared")

    def plugin(self, at):
        return next(p.plugin for p in self.gateways[at].stack.placed if p.name == "fallback")

    def breakers(self, name="a/m"):
        return [self.plugin(at).fleet.deployments[name].breaker for at in range(len(self.gateways))]

    async def ask(self, at):
        return await exchange(self.urls[at % len(self.urls)], "POST", "/v1/chat/completions", BODY)


@asynccontextmanager
async def fleet(redis_url, count, fallback="cooldown: 10s"):
    async with AsyncExitStack() as exits:
        made = Fleet(exits, redis_url, fallback)
        await made.start(count)
        yield made


async def calls_to_a_dead_primary(redis_url, seconds=3.0):
    """20 requests a second, in turn over 4 replicas; the cool-down is half a second."""
    async with fleet(redis_url, 4, "cooldown: 500ms") as f:
        end = time.monotonic() + seconds
        at = 0
        while time.monotonic() < end:
            assert (await f.ask(at)).status == 200
            at += 1
            await asyncio.sleep(0.05)
        return len(f.a.requests), at


async def test_f4_four_workers_call_a_dead_primary_no_more_than_one_would(redis_url):
    calls, requests = await calls_to_a_dead_primary(redis_url)
    assert calls <= 12 and requests > 20


async def test_f4_control_workers_that_do_not_talk_are_seen(redis_url, monkeypatch):
    monkeypatch.setattr(Shared, "report", lambda *_: None)
    calls, _ = await calls_to_a_dead_primary(redis_url, 2.0)
    assert calls > 12


async def test_what_one_learns_the_others_know_within_a_tenth_of_a_second(redis_url):
    """Both that a target is down and that it is back; the best of some rounds, since the machine has other work."""
    took = []
    for _ in range(4):
        async with fleet(redis_url, 3, "allowed_fails: 1") as f:
            assert (await f.ask(0)).status == 200
            began = time.monotonic()
            await until(lambda f=f: all(breaker.opens for breaker in f.breakers()))
            opened = time.monotonic() - began
            ends = [breaker.until for breaker in f.breakers()]
            f.a.default = OK
            f.breakers()[0].until = time.monotonic()
            assert (await f.ask(0)).headers["x-gwcore-upstream"] == "a"
            began = time.monotonic()
            await until(lambda f=f: not any(breaker.opens for breaker in f.breakers()))
            took.append((max(opened, time.monotonic() - began), max(ends) - min(ends)))
    assert min(took)[0] < 0.1 and min(spread for _, spread in took) < 0.05, took
    print({"known after": [round(seconds, 4) for seconds, _ in took]})


async def test_f5_retry_after_binds_every_worker(redis_url):
    async with fleet(redis_url, 2) as f:
        f.a.script(Answer(429, [("retry-after-ms", "800")], b"{}"))
        f.a.default = OK
        assert (await f.ask(0)).headers["x-gwcore-upstream"] == "b"
        told = time.monotonic()
        await until(lambda: all(not breaker.closed(time.monotonic()) for breaker in f.breakers()))
        at, upstream = 0, "b"
        while upstream == "b":
            at += 1
            upstream = (await f.ask(at)).headers["x-gwcore-upstream"]
            await asyncio.sleep(0.02)
        assert 0.7 <= time.monotonic() - told <= 1.5 and len(f.a.requests) == 2


async def test_f5_control_a_worker_that_reads_late_is_seen(redis_url, monkeypatch):
    monkeypatch.setattr(Shared, "_heard", lambda *_: None)
    async with fleet(redis_url, 2) as f:
        f.a.default = Answer(429, [("retry-after", "15")], b"{}")
        for at in range(4):
            await f.ask(at)
        assert len(f.a.requests) == 2


async def test_f6_a_worker_that_starts_later_knows_the_deadline(redis_url):
    async with fleet(redis_url, 1, "allowed_fails: 2") as f:
        f.b.default = BUSY  # fails only as the second of a chain
        for _ in range(2):
            await f.ask(0)
        await asyncio.sleep(1)
        ends = {name: f.breakers(name)[0].until for name in ("a/m", "b/m")}
        await f.join()
        for name, end in ends.items():
            await until(lambda name=name: f.breakers(name)[1].opens)
            assert abs(f.breakers(name)[1].until - end) < 0.7  # one of its own would end a second later


async def test_one_probe_in_the_whole_fleet(redis_url):
    async with fleet(redis_url, 4, "allowed_fails: 1, cooldown: 300ms") as f:
        await f.ask(0)
        await until(lambda: all(breaker.opens for breaker in f.breakers()))
        await asyncio.sleep(0.4)
        f.a.default = Answer(500, body=b"{}", delay_head=0.2)
        answers = await asyncio.gather(*(f.ask(at) for at in range(20)))
        assert {seen.status for seen in answers} == {200} and len(f.a.requests) == 2


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0"])
async def test_without_the_store_every_worker_goes_by_what_it_sees(url):
    async with AsyncExitStack() as exits:
        f = Fleet(exits, url, "cooldown: 10s")
        f.a, f.b = [await exits.enter_async_context(FakeUpstream()) for _ in range(2)]
        f.a.default, f.b.default = BUSY, OK
        gateway = Gateway(f.text())
        f.urls.append(await exits.enter_async_context(running(gateway)))
        f.gateways.append(gateway)
        for _ in range(8):
            assert (await f.ask(0)).status == 200
        assert len(f.a.requests) == 5 and f.plugin(0).health()["store"] == "alone" and f.plugin(0).health()["degraded"]


async def test_the_store_comes_back(redis_url):
    """Cut off, it goes on alone; then it tells what it saw meanwhile."""
    async with fleet(redis_url, 2, "allowed_fails: 1") as f:
        shared = f.plugin(0).shared
        real, shared._client = shared._client, None
        await f.ask(0)
        await until(lambda: shared.state == "alone")
        assert not f.breakers()[1].opens
        shared._client = real
        await until(lambda: f.breakers()[1].opens)


class Silence:
    """In front of a store; while ``silent``, what goes either way is lost and every connection stays."""

    def __init__(self, url):
        self._port = int(url.rpartition(":")[2].partition("/")[0])
        self.silent = False

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _serve(self, reader, writer):
        there, away = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._pass(reader, away), self._pass(there, writer))

    async def _pass(self, reader, writer):
        with suppress(OSError):
            while data := await reader.read(65536):
                if not self.silent:
                    writer.write(data)
        writer.close()


async def test_one_answer_that_came_late_does_not_part_it_for_good(redis_url):
    """What listens is well, so nothing tells that a command failed: it is asked again."""
    async with fleet(redis_url, 2, "cooldown: 10s, deployments: {a/m: {requests: 600/min}}") as f:
        one = f.plugin(0).shared
        one._lost(TimeoutError())
        assert one.state == "alone"
        await until(lambda: one.state == "shared")
        for _ in range(5):
            await f.ask(1)
        await until(lambda: f.breakers()[0].opens)


async def test_a_store_that_is_gone_without_a_word_is_noticed(redis_url):
    """As after a failover: the connection that listens is neither closed nor answered."""
    async with Silence(redis_url) as proxy, fleet(proxy.url, 1) as f:
        shared = f.plugin(0).shared
        proxy.silent = True
        await until(lambda: shared.state == "alone", within=6)
        proxy.silent = False
        await until(lambda: shared.state == "shared", within=6)
