"""A client that leaves (pain D3): the upstream sees it, whatever the phase, dialect and mode; nothing more is tried."""

import asyncio
import math
from dataclasses import replace

import pytest
from fallback_world import WIRES, until, world

from gwcore.testing.upstream import Answer, sse
from tests.stacks.raw import connect, request_bytes

WITHIN = 5.0  # seconds; the acceptance asks for 1 s of a machine of its own


def phases(wire, stream):
    """Name → what the first upstream does, and whether the client has read something when it leaves."""
    yield "awaiting the head", Answer(delay_head=math.inf), False
    if stream:
        opening, content = sse(*wire.opening), sse(wire.content("hel"))
        size = sum(map(len, opening))
        yield "awaiting the first token", Answer(body=[*opening, *content, *content], stall_after=max(size, 1)), False
        begun = size + len(content[0])
        yield "inside the stream", Answer(body=[*opening, *content, *content], stall_after=begun), True
    else:
        body = wire.answer(False).body
        yield "inside the body", Answer(body=body, stall_after=len(body) // 2), False


async def leaves(w, stream, *, reads, waits_for):
    path, body = w.wire.request(stream)
    reader, writer = await connect(w.url)
    writer.write(request_bytes(w.url, "POST", path, body))
    await until(waits_for)
    if reads:
        await reader.readuntil(b"hel")
    else:
        await asyncio.sleep(0.05)
    writer.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", WIRES)
async def test_the_upstream_sees_it_and_no_other_is_asked(dialect, stream):
    async with world("abc", dialect=dialect) as w:
        for name in "bc":
            w.ups[name].default = w.wire.answer(stream)
        for n, (phase, answer, reads) in enumerate(phases(w.wire, stream)):
            w.ups["a"].default = answer
            await leaves(w, stream, reads=reads, waits_for=lambda n=n: len(w.ups["a"].requests) > n)
            async with asyncio.timeout(WITHIN):
                await w.ups["a"].requests[n].gone()
            await asyncio.sleep(0.05)
            assert w.calls == {"a": n + 1, "b": 0, "c": 0}, phase
            assert w.breaker("a/m").fails == 0, phase  # the upstream is not to blame
            assert w.plugin.fleet.deployments["a/m"].inflight == 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_in_the_second_attempt_of_a_chain(stream):
    async with world("abc") as w:
        w.ups["a"].default, w.ups["b"].default = Answer(503, body=b"{}"), Answer(delay_head=math.inf)
        await leaves(w, stream, reads=False, waits_for=lambda: w.ups["b"].requests)
        async with asyncio.timeout(WITHIN):
            await w.ups["b"].requests[0].gone()
        await asyncio.sleep(0.05)
        assert w.calls == {"a": 1, "b": 1, "c": 0}


async def test_while_it_waits_to_try_again():
    async with world("a", fallback="{retry: {base: 1s, cap: 1s}}") as w:
        w.ups["a"].default = Answer(429, [("retry-after", "1")], b"{}")
        await leaves(w, False, reads=False, waits_for=lambda: w.ups["a"].requests)
        await asyncio.sleep(1.3)
        assert w.calls == {"a": 1}


async def test_control_an_upstream_that_is_not_left_is_seen():
    async with world("a") as w:
        w.ups["a"].default = replace(w.wire.answer(False), delay_head=0.3)
        path, body = w.wire.request(False)
        reader, writer = await connect(w.url)
        writer.write(request_bytes(w.url, "POST", path, body))
        await until(lambda: w.ups["a"].requests)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await w.ups["a"].requests[0].gone()
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()
