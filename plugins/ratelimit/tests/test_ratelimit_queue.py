"""Pains C1 and C8: concurrent calls against one limit, and the queue."""

import asyncio
import random

import pytest
from ratelimit_calls import Upstream, ask, limiter, used

from gwcore_ratelimit import memory
from gwcore_ratelimit.gcra import TOKENS
from gwcore_ratelimit.memory import Memory, monotonic


async def ten_at_once(kind=Memory):
    gate = asyncio.Event()
    async with limiter({"per": "key", "tokens": "1000/min"}, kind=kind) as plugin:
        layer = plugin.call_layer(Upstream(used(400), gate=gate))
        tasks = [asyncio.create_task(ask(layer, max_tokens=360)) for _ in range(10)]
        await asyncio.sleep(0.01)
        gate.set()
        return [await task for task in tasks]


async def test_ten_concurrent_calls_cannot_pass_a_limit_for_two():
    """C1: reserved before the call, so what is counted only afterwards cannot slip through."""
    got = await ten_at_once()
    assert sorted(g.status for g in got) == [200, 200] + [429] * 8
    assert all(g.error.retry_after > 0 for g in got if g.status == 429)


class CountsAfterwards(memory.Memory):
    """Mutant: tokens are charged when the usage is known."""

    def decide(self, charges):
        return super().decide([(limit, key, 0 if limit.kind == TOKENS else cost) for limit, key, cost in charges])


async def test_negative_control_counting_afterwards_lets_all_pass():
    assert [g.status for g in await ten_at_once(CountsAfterwards)] == [200] * 10


RULE = {"per": "key", "requests": "20/s", "burst": 1}


async def test_waiting_calls_are_admitted_in_order_and_at_the_limit_s_pace():
    async with limiter(RULE, wait="5s", clock=monotonic) as plugin:
        order = []

        async def numbered(call):
            order.append(call.document["n_"])
            return await Upstream(used(1))(call)

        layer = plugin.call_layer(numbered)
        began = monotonic()
        got = await asyncio.gather(*(ask(layer, n_=n) for n in range(12)))
        assert order == list(range(12))
        assert all(g.status == 200 for g in got)
        assert monotonic() - began >= 11 * 50_000
        assert plugin.health()["waiting"] == 0


async def test_the_wait_is_bounded_and_so_is_the_queue():
    async with limiter({"per": "key", "requests": "1/min"}, wait="0.1s", queue=3, clock=monotonic) as plugin:
        layer = plugin.call_layer(Upstream(used(1)))
        assert (await ask(layer)).status == 200
        began = asyncio.get_running_loop().time()
        tasks = [asyncio.create_task(ask(layer)) for _ in range(5)]
        done, waiting = await asyncio.wait(tasks, timeout=0.05)
        assert (len(done), len(waiting)) == (2, 3)
        got = [await task for task in tasks]
        assert all(g.status == 429 and g.error.retry_after > 50 for g in got)
        assert asyncio.get_running_loop().time() - began >= 0.1
        assert got[0].headers[b"x-ratelimit-remaining-requests"] == b"0"


async def test_a_caller_that_leaves_is_out_of_the_queue_at_once_and_the_next_moves_up():
    async with limiter(RULE, {"per": "global", "parallel": 1}, wait="5s", clock=monotonic) as plugin:
        gate = asyncio.Event()
        layer = plugin.call_layer(Upstream(used(1), gate=gate))
        tasks = [asyncio.create_task(ask(layer)) for _ in range(20)]
        await asyncio.sleep(0.06)
        leaving = [tasks[0], *random.Random(4).sample(tasks[1:], 10)]
        for task in leaving:
            task.cancel()
        await asyncio.wait(leaving)
        assert plugin.health()["waiting"] <= 9
        gate.set()
        stayed = [task for task in tasks if task not in leaving]
        assert [(await task).status for task in stayed] == [200] * 9


async def test_a_small_call_does_not_overtake_a_large_one_that_waits():
    """Else small ones, which always find room, would keep a large one waiting until its time is up."""
    async with limiter({"per": "key", "tokens": "1000/min"}, wait="60s") as plugin:
        layer = plugin.call_layer(Upstream(used(900)))
        assert (await ask(layer, max_tokens=800)).status == 200
        large = asyncio.create_task(ask(layer, max_tokens=500))
        while plugin.health()["waiting"] != 1:
            await asyncio.sleep(0)
        small = asyncio.create_task(ask(layer, max_tokens=10))
        while plugin.health()["waiting"] != 2 and not small.done():
            await asyncio.sleep(0)
        assert not small.done()
        large.cancel()
        assert (await small).status == 200


async def test_calls_under_other_keys_do_not_wait():
    async with limiter({"per": "key", "requests": "1/min"}, wait="5s", clock=monotonic) as plugin:
        layer = plugin.call_layer(Upstream(used(1)))
        assert (await ask(layer, "a")).status == 200
        waits = asyncio.create_task(ask(layer, "a"))
        await asyncio.sleep(0)
        assert (await ask(layer, "b")).status == 200
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
