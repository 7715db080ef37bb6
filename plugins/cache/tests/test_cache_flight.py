"""One of many equal calls asks (C3, C4); old answers and a store that is away (C10, G8)."""

import asyncio
import json
import time
import uuid

import pytest
from cache_world import DIALECTS, state, until, world

from gwcore.testing.upstream import Answer
from gwcore_cache.plugin import Cache
from gwcore_cache.shelf import ShelfDown

BOTH = pytest.mark.parametrize("stream", [False, True])


async def together(w, count, stream=False, **more):
    return await asyncio.gather(*(w.ask(stream, **more) for _ in range(count)))


@BOTH
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_hundred_at_once_ask_once(dialect, stream):
    async with world(dialect=dialect) as w:
        w.up.default = w.wire.answer(stream, delay_head=0.1)
        seen = await together(w, 100, stream)
        assert {one.status for one in seen} == {200}
        assert len({one.body for one in seen}) == 1
        assert sorted(map(state, seen)) == ["hit"] * 99 + ["miss"]
        assert w.asked == 1
        assert sum(outcome.cost.nano for _, outcome in w.ended) == 13_000


async def test_control_without_flights_all_ask(monkeypatch):
    async def alone(self, ask):
        return await self.lead(ask, None, await self.shelf.turn(ask.key, ask.scope))

    monkeypatch.setattr(Cache, "_miss", alone)
    async with world() as w:
        w.up.default = w.wire.answer(False, delay_head=0.1)
        await together(w, 20)
        assert w.asked == 20


async def test_streams_and_documents_wait_for_each_other():
    async with world() as w:
        w.up.default = w.wire.answer(False, delay_head=0.1)
        first = asyncio.create_task(w.ask(False))
        await w.up.received()
        streams = await together(w, 10, True)
        assert {state(one) for one in streams} == {"hit"}
        assert b"[DONE]" in streams[0].body
        assert (await first).status == 200
        assert w.asked == 1


async def test_the_leader_leaves_and_the_next_one_asks():
    async with world() as w:
        w.up.script(w.wire.answer(True, gap=5))
        w.up.default = w.wire.answer(True)
        leader = asyncio.create_task(w.ask(True))
        await w.up.received()
        others = asyncio.create_task(together(w, 20, True))
        await until(lambda: any(len(f.waiters) == 20 for f in w.plugin.flights.values()))
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)
        seen = await asyncio.wait_for(others, 2)
        assert {one.status for one in seen} == {200}
        assert sorted(map(state, seen)) == ["hit"] * 19 + ["miss"]
        assert w.asked == 2


@pytest.mark.parametrize(
    "failure",
    [
        Answer(500, body=b'{"error":{"message":"leader"}}'),
        Answer(reset=True),
        Answer(429, body=b"{}"),
        Answer(401, body=b"{}"),
    ],
)
async def test_nobody_gets_the_leaders_error(failure):
    async with world() as w:
        w.up.script(Answer(failure.status, body=failure.body, reset=failure.reset, delay_head=0.1))
        w.up.default = w.wire.answer(False)
        seen = await together(w, 20)
        assert sorted(one.status for one in seen)[:19] == [200] * 19
        assert max(one.status for one in seen) >= 400
        assert w.asked == 2


async def test_but_all_get_the_refusal_of_a_request_that_cannot_be_served():
    async with world() as w:
        body = b'{"error":{"message":"bad","type":"invalid_request_error"}}'
        w.up.script(Answer(400, body=body, delay_head=0.1))
        w.up.default = w.wire.answer(False)
        seen = await together(w, 20)
        assert {(one.status, one.body) for one in seen} == {(400, body)}
        assert w.asked == 1
        assert (await w.ask()).status == 200


async def test_an_answer_that_may_not_be_kept_is_nobody_elses():
    """They then ask side by side, not one after the other."""
    async with world() as w:
        w.up.script(w.wire.answer(False, "mine", cut=True, delay_head=0.1))
        w.up.default = w.wire.answer(False, "other", delay_head=0.1)
        began = time.perf_counter()
        seen = await together(w, 20)
        assert sum(b"mine" in one.body for one in seen) == 1
        assert w.asked == 20
        assert time.perf_counter() - began < 20 * 0.1


async def test_patience_ends():
    async with world(cache={"wait": "200ms"}) as w:
        w.up.script(Answer(delay_head=3600))
        w.up.default = w.wire.answer(False)
        leader = asyncio.create_task(w.ask())
        await w.up.received()
        assert (await w.ask()).status == 200
        assert w.asked == 2
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)


async def test_a_client_that_says_how_long_it_waits_waits_no_longer_for_another():
    async with world() as w:
        w.up.script(Answer(delay_head=3600))
        w.up.default = w.wire.answer(False)
        leader = asyncio.create_task(w.ask())
        await w.up.received()
        assert (await w.ask(headers=[("x-gwcore-timeout", "100ms")])).status == 200
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)


# ── old answers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def aged(w, seconds):
    """As if everything had been kept so long ago."""
    from dataclasses import replace

    entries, ms = w.plugin.home._entries, int(seconds * 1000)
    for key, one in entries.items():
        entries[key] = replace(one, made=one.made - ms, fresh=one.fresh - ms)


async def test_a_stale_answer_is_given_while_one_call_fetches_it_anew():
    async with world(cache={"ttl": 60, "stale_while_revalidate": "1h", "jitter": 0}) as w:
        w.up.script(w.wire.answer(False, "old"))
        w.up.default = w.wire.answer(False, "new", delay_head=0.1)
        await w.ask()
        await w.settled()
        aged(w, 61)
        seen = await together(w, 20)
        assert {state(one) for one in seen} == {"stale"}
        assert all(b"old" in one.body and int(one.headers["age"]) >= 61 for one in seen)
        await until(lambda: w.plugin.counts["kept"] == 2)
        fresh = await w.ask()
        assert (state(fresh), b"new" in fresh.body, w.asked) == ("hit", True, 2)
        refreshed = [
            (call, outcome)
            for call, outcome in w.ended
            if call.id not in {s.headers["x-gwcore-request-id"] for s in seen}
        ]
        assert sum(outcome.cost.nano for _, outcome in refreshed) == 26_000  # the first call and the refresh


async def test_early_refresh_is_rare_far_from_the_end_and_sure_near_it(monkeypatch):
    import gwcore_cache.plugin as module

    monkeypatch.setattr(module, "random", lambda: 1 - 1e-15)  # for the last 35 times of what it took to fetch
    async with world(cache={"ttl": 60, "jitter": 0, "early_refresh": 1}) as w:
        w.up.default = w.wire.answer(False, delay_head=0.1)
        await w.ask()
        await w.settled()
        await w.ask()
        assert w.plugin.counts["refresh"] == 0
        aged(w, 58)
        assert state(await w.ask()) == "hit"
        await until(lambda: w.plugin.counts["refresh"] == 1)
        await until(lambda: w.plugin.counts["kept"] == 2)
        assert w.asked == 2


FAILURES = [Answer(500, body=b"{}"), Answer(503, body=b"{}"), Answer(429, body=b"{}"), Answer(reset=True)]


@pytest.mark.parametrize("failure", FAILURES)
@BOTH
async def test_a_stale_answer_is_better_than_the_upstreams_error(failure, stream):
    async with world(cache={"ttl": 60, "stale_if_error": "10m", "jitter": 0}) as w:
        w.up.script(w.wire.answer(stream, "old"))
        w.up.default = failure
        await w.ask(stream)
        await w.settled()
        aged(w, 120)
        seen = await w.ask(stream)
        assert (seen.status, state(seen), b"old" in seen.body) == (200, "stale", True)
        assert w.asked >= 2  # a connection that was reset is tried anew
        aged(w, 600)
        assert (await w.ask(stream)).status >= 429


async def test_who_waited_while_the_upstream_failed_gets_the_stale_answer_too():
    async with world(cache={"ttl": 60, "stale_if_error": "10m", "jitter": 0}) as w:
        w.up.script(w.wire.answer(False, "old"))
        w.up.default = Answer(500, body=b"{}", delay_head=0.2)
        await w.ask()
        await w.settled()
        aged(w, 120)
        seen = await together(w, 20)
        assert {(one.status, state(one)) for one in seen} == {(200, "stale")}
        assert w.asked == 2


async def test_calls_do_not_fail_one_after_the_other():
    """One more asks, and when that fails, all do; in a queue the last one's client would wait twenty times as long."""
    async with world() as w:
        under_way, most = 0, 0

        def fails(_seen):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            asyncio.get_running_loop().call_later(0.2, ends)
            return Answer(500, body=b"{}", delay_head=0.2)

        def ends():
            nonlocal under_way
            under_way -= 1

        w.up.default = fails
        seen = await together(w, 20)
        assert {one.status for one in seen} == {500}
        assert (w.asked, most) == (20, 18)


async def test_a_refresh_that_fails_is_no_hit():
    async with world(cache={"ttl": 60, "stale_while_revalidate": "1h", "stale_if_error": "1h", "jitter": 0}) as w:
        w.up.script(w.wire.answer(False, "old"))
        w.up.default = Answer(500, body=b"{}")
        await w.ask()
        await w.settled()
        aged(w, 61)
        assert state(await w.ask()) == "stale"
        await until(lambda: not w.gateway.stack.detached.running)
        assert sorted(outcome.status for _, outcome in w.ended) == [200, 200, 500]
        assert w.plugin.counts["stale"] == 1


async def test_but_not_than_a_refusal_of_the_request():
    async with world(cache={"ttl": 60, "stale_if_error": "10m", "jitter": 0}) as w:
        w.up.script(w.wire.answer(False, "old"))
        w.up.default = Answer(400, body=b"{}")
        await w.ask()
        await w.settled()
        aged(w, 120)
        assert (await w.ask()).status == 400


async def test_what_is_fetched_anew_is_waited_for_when_the_stack_stops():
    async with world(cache={"ttl": 60, "stale_while_revalidate": "1h", "jitter": 0}) as w:
        w.up.script(w.wire.answer(False, "old"))
        w.up.default = w.wire.answer(False, "new", delay_head=0.3)
        await w.ask()
        await w.settled()
        aged(w, 61)
        await w.ask()
        await w.up.received(2)
        assert w.gateway.stack.detached.running == 1
        plugin = w.plugin
        await w.gateway.shutdown()
        assert plugin.counts["kept"] == 2


# ── a store that is away ─────────────────────────────────────────────────────────────────────────────────────────────


class Proxy:
    """Before Redis: forwards, or hangs, or refuses."""

    def __init__(self, url):
        self.host, self.port = url.split("//")[1].split("/")[0].split(":")
        self.hang = False
        self.writers = set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_):
        self.cut()

    def cut(self):
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()

    async def serve(self, reader, writer):
        up_reader, up_writer = await asyncio.open_connection(self.host, int(self.port))
        self.writers |= {writer, up_writer}

        async def pump(source, sink):
            try:
                while data := await source.read(65536):
                    while self.hang:
                        await asyncio.sleep(0.01)
                    sink.write(data)
            except ConnectionError:
                pass
            finally:
                sink.close()

        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))


def redis(url, **more):
    return {"stores": {"hot": url}, "cache": {"store": "hot", "namespace": f"t{uuid.uuid4().hex}", **more}}


@pytest.mark.parametrize("how", ["cut", "hang"])
async def test_a_store_that_goes_away_costs_one_wait(how, redis_url):
    async with Proxy(redis_url) as proxy, world(**redis(proxy.url, timeout="1s")) as w:
        w.up.default = w.wire.answer(False)
        assert [state(await w.ask()), await w.settled(), state(await w.ask())] == ["miss", None, "hit"]
        proxy.hang = how == "hang"
        if how == "cut":
            proxy.cut()
        failures = w.plugin.shelf.failures
        seen = [await w.ask() for _ in range(10)]
        assert {(one.status, state(one)) for one in seen} == {(200, "miss")}
        assert w.plugin.shelf.failures - failures <= 2  # the others did not wait; a second later one looks again
        assert w.plugin.health()["degraded"]
        # equal calls of one worker still ask once
        w.up.default = w.wire.answer(False, delay_head=0.1)
        before = w.asked
        await together(w, 20, temperature=0)
        assert w.asked - before == 1
        if how == "hang":
            proxy.hang = False
            async with asyncio.timeout(10):
                while state(await w.ask()) != "hit":
                    await asyncio.sleep(0.1)
            assert not w.plugin.health()["degraded"]


async def test_a_full_store_still_gives_what_it_has():
    from redis.asyncio import Redis

    from gwcore.testing.servers import redis as server

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GWCORE_TEST_REDIS_URL", raising=False)  # filled up, it must be our own
        with server() as url:
            async with world(cache={"store": "hot", "timeout": 5}, stores={"hot": url}) as w:
                w.up.default = w.wire.answer(False)
                await w.ask()
                await w.settled()
                async with Redis.from_url(url) as admin:
                    await admin.config_set("maxmemory-policy", "noeviction")
                    await admin.config_set("maxmemory", 1)
                    for _ in range(2):
                        seen = await w.ask(seed=7)
                        await w.settled()
                        assert (seen.status, state(seen)) == (200, "miss")
                        assert state(await w.ask()) == "hit"
                    assert w.plugin.health()["degraded"] is False
                    await admin.config_set("maxmemory", 0)
                assert state(await w.ask(seed=7)) == "miss"
                await w.settled()
                assert state(await w.ask(seed=7)) == "hit"


async def test_a_turn_is_given_back_whatever_happens_behind_it(redis_url, monkeypatch):
    """Else it would be renewed for ever, and nobody in the fleet could ask for that key again."""
    async with world(**redis(redis_url, timeout=5)) as w:
        hit, looks = w.plugin._hit, []

        async def breaks(ask, entry, **more):
            looks.append(entry)
            if len(looks) == 2:
                raise RuntimeError("behind the turn")
            return await hit(ask, entry, **more)

        monkeypatch.setattr(w.plugin, "_hit", breaks)
        w.up.default = w.wire.answer(False)
        assert (await w.ask()).status == 500
        await until(lambda: not w.plugin.home._turns and not w.plugin.flights)
        assert state(await asyncio.wait_for(w.ask(), 5)) == "miss"


async def test_a_store_that_was_never_there():
    async with world(**redis("redis://127.0.0.1:1/0")) as w:
        w.up.default = w.wire.answer(False)
        assert [(await w.ask()).status for _ in range(3)] == [200] * 3
        assert w.plugin.health()["degraded"]


async def test_control_without_a_guard_calls_fail(redis_url, monkeypatch):
    async with Proxy(redis_url) as proxy, world(**redis(proxy.url, timeout="150ms")) as w:
        w.up.default = w.wire.answer(False)
        monkeypatch.setattr(w.plugin, "shelf", w.plugin.home)
        proxy.cut()
        assert (await w.ask()).status == 500
        with pytest.raises(ShelfDown):
            await w.plugin.home.get([bytes(32)], "s")


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
async def test_sealed_in_a_store(kind, redis_url, tmp_path):
    seal = "kX9#mQ2$vL7@pR4!wT6&zB1^cN8*fD3%"
    url = redis_url if kind == "redis" else f"sqlite:///{tmp_path}/cache.db"
    async with world(**redis(url, seal=seal, timeout=5)) as w:
        w.up.default = w.wire.answer(True)
        first = await w.ask(True)
        await w.settled()
        second = await w.ask(True)
        assert (state(second), second.body == first.body) == ("hit", True)
        assert state(await w.ask(False)) == "hit"
        assert json.loads((await w.ask(False)).body)["usage"]["total_tokens"] == 10
