"""A second attempt while the first is silent (acceptance F13)."""

import asyncio
import time

import pytest
from fallback_world import WIRES, earn, until, world

from gwcore.testing.upstream import Answer


def slow(w, stream, pause):
    answer = w.wire.answer(stream)
    return Answer(body=answer.body, delay_first=pause) if stream else Answer(body=answer.body, delay_head=pause)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", WIRES)
async def test_the_first_to_answer_wins_and_the_other_is_cancelled(dialect, stream):
    async with world(dialect=dialect, fallback="{hedge: {delay: 50ms, share: 0.5}}") as w:
        w.ups["a"].default = w.wire.answer(stream, "from a")
        w.ups["b"].default = w.wire.answer(stream, "from b")
        earn(w)
        w.ups["a"].default = slow(w, stream, 5.0)
        began = asyncio.get_running_loop().time()
        seen = await w.ask(stream)
        assert b"from b" in seen.body and b"from a" not in seen.body and seen.whole
        assert seen.headers["x-gwcore-upstream"] == "b"
        closed = await w.ups["a"].requests[-1].gone()
        assert closed - began < 2.0
        assert w.calls == {"a": 1, "b": 1} and w.gateway.stack.upstreams["a"].transport.in_use == 0
        assert all(not one.inflight for one in w.plugin.fleet.deployments.values())


async def test_a_fast_first_needs_no_second():
    async with world(fallback="{hedge: {delay: 2s, share: 0.5}}") as w:
        w.ups["a"].default = w.wire.answer(False)
        for _ in range(5):
            await w.ask()
        assert w.calls == {"a": 5, "b": 0}


@pytest.mark.parametrize("stream", [False, True])
async def test_one_that_fails_leaves_the_other_running(stream):
    async with world("abc", fallback="{hedge: {delay: 50ms, share: 0.5}}") as w:
        for up in w.ups.values():
            up.default = w.wire.answer(stream)
        earn(w)
        w.ups["a"].default = slow(w, stream, answers := asyncio.Event())
        w.ups["b"].default = Answer(503, body=b"{}")
        asked = asyncio.create_task(w.ask(stream))
        await until(lambda: w.breaker("b/m").fails == 1)
        answers.set()
        seen = await asked
        assert seen.status == 200 and seen.headers["x-gwcore-upstream"] == "a" and w.calls["c"] == 0


async def test_both_fail_and_a_third_is_tried():
    async with world("abc", fallback="{hedge: {delay: 50ms, share: 0.5}}") as w:
        earn(w)
        w.ups["c"].default = w.wire.answer(False)
        w.ups["a"].default = Answer(503, body=b"{}", delay_head=0.2)
        w.ups["b"].default = Answer(503, body=b"{}", delay_head=0.2)
        seen = await w.ask()
        assert seen.status == 200 and seen.headers["x-gwcore-upstream"] == "c"
        assert seen.headers["x-gwcore-attempts"] == "3"


async def test_a_client_that_leaves_ends_both():
    async with world(fallback="{hedge: {delay: 20ms, share: 0.5}}") as w:
        earn(w)
        w.ups["a"].default = w.ups["b"].default = slow(w, False, 30.0)
        task = asyncio.create_task(w.ask())
        await until(lambda: w.calls["b"] == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await w.ups["a"].requests[-1].gone()
        await w.ups["b"].requests[-1].gone()
        await until(lambda: not w.gateway.stack.inflight)
        assert all(not one.inflight for one in w.plugin.fleet.deployments.values())


async def tail(w, count, hedged):
    """The 97th percentile and the calls to the second upstream, when one answer in twenty is late."""
    numbers = iter(range(10**6))
    w.ups["a"].default = lambda _: slow(w, True, 0.6 if next(numbers) % 25 == 24 else 0.0)
    w.ups["b"].default = w.wire.answer(True)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        assert (await w.ask(True)).status == 200
        times.append(time.perf_counter() - began)
    return sorted(times)[int(count * 0.97)], w.calls["b"]


async def test_f13_the_tail_is_cut_and_the_extra_calls_are_few():
    async with world(fallback="{}") as w:
        without, _ = await tail(w, 150, False)
    async with world(fallback="{hedge: {delay: 100ms}}") as w:
        hedged, extra = await tail(w, 150, True)
    assert extra <= 0.05 * 150 and hedged < 0.5 * without
