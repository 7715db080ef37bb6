"""What the router decides, on real upstreams (acceptance F1-F3, F7, F11, F12; pains F1, F4, F5, F7-F9)."""

import asyncio
import math
import time

import pytest
from fallback_world import WIRES, world

from gwcore.errors import BudgetExceeded, Forbidden
from gwcore.plugin import Plugin
from gwcore.testing.upstream import Answer
from gwcore_fallback.plugin import Fallback
from gwcore_fallback.retry import Budget

BUSY = Answer(503, body=b'{"error": {"message": "busy"}}')
NO_WAIT = "retry: {base: 1ms, cap: 2ms}"


def ok(text="hello"):
    return WIRES["openai.chat"].answer(False, text)


async def many(w, count, at_once=20):
    """Answers to so many requests, a few at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one():
        async with gate:
            return await w.ask()

    return await asyncio.gather(*(one() for _ in range(count)))


# ── retries ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def attempts_per_request(fallback, count=200):
    async with world("a", fallback=fallback) as w:
        w.ups["a"].default = BUSY
        answers = await many(w, count)
        assert {seen.status for seen in answers} == {503}  # the upstream's own class, never "no deployment" (F7)
        assert {seen.body for seen in answers} == {BUSY.body}
        return len(w.ups["a"].requests) / count


async def test_f1_an_upstream_that_is_down_gets_hardly_more_than_the_requests():
    assert await attempts_per_request(f"{{{NO_WAIT}}}") <= 1.25
    assert await attempts_per_request(f"{{{NO_WAIT}, allowed_fails: 1000, failure_rate: 1}}") <= 1.25 + 10 / 200


async def test_f1_control_plain_retries_are_seen(monkeypatch):
    monkeypatch.setattr(Budget, "take", lambda _: True)
    assert await attempts_per_request(f"{{{NO_WAIT}, allowed_fails: 100000, failure_rate: 1}}", 50) >= 3


async def test_f2_one_failure_in_ten_reaches_nobody():
    async with world("a", fallback=f"{{{NO_WAIT}}}") as w:
        numbers = iter(range(10_000))
        w.ups["a"].default = lambda _: BUSY if next(numbers) % 10 == 3 else ok()
        answers = await many(w, 400, at_once=5)
        assert sum(seen.status == 200 for seen in answers) >= 0.995 * 400
        assert len(w.ups["a"].requests) <= 1.15 * 400


async def test_f7_no_more_attempts_than_the_call_has():
    async with world("abcde", fallback="{retry: {attempts: 3}}") as w:
        for up in w.ups.values():
            up.default = BUSY
        seen = await w.ask()
        assert seen.headers["x-gwcore-attempts"] == "3" and w.calls == {"a": 1, "b": 1, "c": 1, "d": 0, "e": 0}
        assert seen.headers["x-gwcore-failed"] == "a/m 503, b/m 503, c/m 503"


@pytest.mark.parametrize("header", ["Retry-After: 1", "retry-after-ms: 1000", "x-ratelimit-reset-requests: 1s"])
async def test_f3_waits_as_told_where_there_is_nobody_else(header):
    name, _, value = header.partition(": ")
    headers = [(name, value), ("x-ratelimit-remaining-requests", "0")]
    async with world("a") as w:
        w.ups["a"].script(Answer(429, headers, b"{}"))
        w.ups["a"].default = ok()
        seen = await w.ask()
        first, second = w.ups["a"].requests
        assert seen.status == 200 and second.at - first.at >= 1.0


@pytest.mark.parametrize("deadline", ["5s", "30s"])
async def test_f3_a_healthy_peer_is_better_than_waiting(deadline):
    async with world(fallback=f"{{deadline: {deadline}}}") as w:
        w.ups["a"].default = Answer(429, [("retry-after", "7")], b"{}")
        w.ups["b"].default = ok()
        for _ in range(3):
            assert (await w.ask()).status == 200
        assert w.calls == {"a": 1, "b": 3}  # and nobody asks it again before its time


async def test_f3_too_long_for_the_deadline_is_told_to_the_client():
    async with world("a", fallback="{deadline: 5s}") as w:
        w.ups["a"].default = Answer(429, [("retry-after", "7")], b'{"error": {"message": "slow down"}}')
        began = time.monotonic()
        seen = await w.ask()
        assert (seen.status, seen.headers["retry-after"]) == (429, "7") and b"slow down" in seen.body
        again = await w.ask()  # while it cools: refused here, with what is left
        assert again.status == 429 and 1 <= int(again.headers["retry-after"]) <= 7 and w.calls == {"a": 1}
        assert time.monotonic() - began < 5


# ── breaker ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_dead_primary_is_left_alone_until_a_probe(monkeypatch):
    async with world(fallback="{cooldown: 200ms}") as w:
        w.ups["a"].default, w.ups["b"].default = BUSY, ok()
        answers = [await w.ask() for _ in range(20)]
        assert {seen.status for seen in answers} == {200} and w.calls == {"a": 5, "b": 20}
        assert answers[-1].headers["x-gwcore-attempts"] == "1"
        assert w.plugin.health()["deployments"]["a/m"]["state"] == "open"
        await asyncio.sleep(0.3)
        assert w.plugin.health()["deployments"]["a/m"]["state"] == "half_open"
        await asyncio.gather(*(w.ask() for _ in range(10)))
        assert w.calls["a"] == 6  # one probe, whoever asks
        await asyncio.sleep(0.6)
        w.ups["a"].default = ok("back")
        assert b"back" in (await w.ask()).body and b"back" in (await w.ask()).body
        assert w.plugin.health()["deployments"]["a/m"]["state"] == "closed"


async def test_f6_what_fails_later_in_a_chain_is_left_alone_too():
    async with world("abc", fallback="{}") as w:
        w.ups["a"].default = w.ups["b"].default = BUSY
        w.ups["c"].default = ok()
        for _ in range(12):
            assert (await w.ask()).status == 200
        assert w.calls == {"a": 5, "b": 5, "c": 12}


async def test_f7_panic_asks_the_one_that_failed_longest_ago():
    async with world(fallback="{allowed_fails: 1}") as w:
        w.ups["a"].default = w.ups["b"].default = BUSY
        assert (await w.ask()).status == 503
        assert w.calls == {"a": 1, "b": 1}
        assert (await w.ask()).status == 503
        assert w.calls == {"a": 2, "b": 1}
        w.ups["b"].default = ok()
        assert (await w.ask()).status == 200  # and one that answers is back
        assert (await w.ask()).status == 200 and w.calls == {"a": 2, "b": 3}


@pytest.mark.parametrize("panic", [True, False], ids=["", "control: no panic"])
async def test_a_last_one_with_too_much_to_do_is_spared_once_it_says_so(panic):
    """Three of four are down: the fourth takes everything, and as it asks to be left alone a call goes to one that is down."""
    async with world("abcd", fallback=f"{{allowed_fails: 1, cooldown: 60s, panic: {str(panic).lower()}}}") as w:
        w.ups["a"].default = w.ups["b"].default = w.ups["c"].default = BUSY
        w.ups["d"].default = ok()
        assert [(await w.ask()).status for _ in range(5)] == [200] * 5
        assert w.calls == {"a": 1, "b": 1, "c": 1, "d": 5}
        w.ups["d"].default = Answer(429, headers=[("retry-after", "60")], body=b"{}")
        assert (await w.ask()).status == 429
        w.ups["a"].default = ok("back")
        assert [(await w.ask()).status for _ in range(2)] == [200 if panic else 503] * 2
        assert w.calls == {"a": 3 if panic else 1, "b": 1, "c": 1, "d": 6}


async def test_without_panic_the_gateway_says_when():
    async with world("a", fallback="{allowed_fails: 1, panic: false, cooldown: 20s}") as w:
        w.ups["a"].default = BUSY
        assert (await w.ask()).status == 503
        seen = await w.ask()
        assert seen.status == 503 and 10 <= int(seen.headers["retry-after"]) <= 24 and w.calls == {"a": 1}


async def test_an_invalid_key_is_left_alone_whatever_the_model():
    async with world(models={"m": ["a/m", "b/m"], "n": ["a/n", "b/n"]}) as w:
        w.ups["a"].default, w.ups["b"].default = Answer(401, body=b"{}"), ok()
        for model in "mnmn":
            assert (await w.ask(model=model)).status == 200
        assert w.calls == {"a": 1, "b": 4}


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True])
async def test_f11_one_deadline_over_a_chain_that_hangs(stream):
    async with world("abc", fallback="{deadline: 4s}", upstream=", timeout: {first_byte: 1500ms}") as w:
        for up in w.ups.values():
            up.default = Answer(delay_head=math.inf)
        began = time.monotonic()
        seen = await w.ask(stream)
        assert seen.status == 504 and time.monotonic() - began < 8
        assert w.calls == {"a": 1, "b": 1, "c": 1}
        await asyncio.gather(*(up.requests[0].gone() for up in w.ups.values()))
        assert w.gateway.stack.upstreams["a"].transport.in_use == 0


@pytest.mark.parametrize(("header", "value"), [("x-gwcore-timeout", "100ms"), ("x-litellm-timeout", "0.1")])
async def test_f11_a_client_may_ask_for_less(header, value):
    async with world("a", fallback="{deadline: 30s}") as w:
        w.ups["a"].default = Answer(delay_head=math.inf)
        seen = await w.ask(headers=[(header, value)])
        assert seen.status == 504
        assert (await w.ask(headers=[(header, "soon")])).status == 400


@pytest.mark.parametrize("opened", [False, True])
async def test_f12_no_first_token_in_time_then_a_gap(opened):
    wire = WIRES["openai.chat"]
    upstream = ", timeout: {first_byte: 10s, idle: 400ms}"
    async with world(fallback="{first_token: 150ms}", upstream=upstream) as w:
        frames = wire.frames("hello")
        w.ups["a"].default = Answer(body=frames, stall_after=len(frames[0])) if opened else Answer(delay_head=math.inf)
        w.ups["b"].default = Answer(body=frames, stall_after=len(frames[0]) + len(frames[1]))
        seen = await w.ask(True)
        assert seen.headers["x-gwcore-upstream"] == "b" and b"hello" in seen.body
        assert b'"error"' in seen.body and b"[DONE]" not in seen.body and w.calls == {"a": 1, "b": 1}
        await w.ups["a"].requests[0].gone()
        assert w.breaker("a/m").fails == 1, "silence that our own clock ended is a failure, too"


async def test_a_slow_stream_is_not_cut_by_the_deadline():
    wire = WIRES["openai.chat"]
    async with world("a", fallback="{deadline: 150ms, first_token: 100ms}") as w:
        w.ups["a"].default = Answer(body=wire.frames("a", "b", "c"), gap=0.08)
        seen = await w.ask(True)
        assert seen.body.endswith(b"[DONE]\n\n")


# ── what the gateway itself refuses ──────────────────────────────────────────────────────────────────────────────────


class Refusing(Plugin):
    """Refuses targets in the attempt ring, as permission and money do."""

    name = "refusing"
    refuse = {}

    def attempt_layer(self, inner):
        async def refusing(attempt):
            error = self.refuse.get(attempt.target.upstream.name)
            if error is not None:
                raise error
            return await inner(attempt)

        return refusing


@pytest.fixture
def refusing(monkeypatch):
    original = Fallback.router

    def router(self, inner):
        return original(self, Refusing.attempt_layer(Refusing, inner))

    monkeypatch.setattr(Fallback, "router", router)
    monkeypatch.setattr(Refusing, "refuse", {})
    return Refusing.refuse


async def test_a_fallback_that_is_not_allowed_leaves_the_primarys_error(refusing):
    refusing["b"] = Forbidden("not this one")
    async with world() as w:
        w.ups["a"].default = BUSY
        seen = await w.ask()
        assert seen.status == 503 and seen.body == BUSY.body and w.calls["b"] == 0


async def test_a_fallback_without_money_is_refused_by_name(refusing):
    refusing["b"] = BudgetExceeded("budget of team t is spent")
    async with world() as w:
        w.ups["a"].default = BUSY
        seen = await w.ask()
        assert seen.status == 429 and b"budget of team t" in seen.body and w.calls["b"] == 0
        assert seen.headers["x-should-retry"] == "false"


async def test_money_is_no_reason_to_go_on_unless_asked(refusing):
    refusing["a"] = BudgetExceeded("spent")
    async with world() as w:
        assert (await w.ask()).status == 429 and w.calls == {"a": 0, "b": 0}
