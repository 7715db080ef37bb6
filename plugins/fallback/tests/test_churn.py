"""What is easily lost on the way: a candidate, a probe, a limit, a wait; and what is said of it."""

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest
from fallback_world import WIRES, World, earn, stack_text, until, world
from test_shared import OK, fleet

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_fallback import journey
from gwcore_fallback.gate import Race
from gwcore_fallback.health import Latency
from gwcore_fallback.session import session_of

BUSY = Answer(503, body=b"{}")
LATE = Answer(503, body=b"{}", delay_head=0.3)
EARNED = "hedge: {delay: 20ms, share: 0.5}"


def earned(w):
    """A second attempt is paid for, and everyone answers."""
    for up in w.ups.values():
        up.default = w.wire.answer(False)
    earn(w)


# ── hedging ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_next_target_is_not_lost_where_no_second_attempt_is_left():
    async with world(fallback="{hedge: {delay: 20ms, share: 0.01}}") as w:
        w.ups["a"].default, w.ups["b"].default = LATE, w.wire.answer(False)
        assert (await w.ask()).status == 200 and w.calls == {"a": 1, "b": 1}


async def test_a_target_on_probation_is_no_second_but_comes_next():
    async with world(fallback=f"{{{EARNED}}}") as w:
        earned(w)
        w.ups["a"].default = LATE
        w.breaker("b/m").opens = 1
        seen = await w.ask()
        assert seen.headers["x-gwcore-upstream"] == "b" and w.breaker("b/m").opens == 0
        assert w.ups["b"].requests[-1].at - w.ups["a"].requests[-1].at > 0.25


async def test_looking_for_a_second_does_not_decide_which_models_come_after():
    models = {"m": ["a/m"], "n": ["b/m"], "limited": ["c/m"]}
    async with world(
        "abc", models=models, fallback=f"{{{EARNED}, models: {{m: {{rate_limit_fallbacks: [limited]}}}}}}"
    ) as w:
        earned(w)
        w.ups["a"].default = Answer(429, [("retry-after", "60")], b"{}", delay_head=0.3)
        assert (await w.ask()).headers["x-gwcore-upstream"] == "c"


async def test_one_that_comes_to_a_race_too_late_does_not_start():
    race = Race(SimpleNamespace(waited=0.0))
    race.winner = asyncio.current_task()
    with pytest.raises(asyncio.CancelledError):
        race.enter(None, None)


@pytest.mark.parametrize("failing", [True, False])
async def test_what_two_attempts_waited_is_no_sum(failing):
    async with world(fallback=f"{{{EARNED}, retry: {{per_target: 0}}}}") as w:
        earned(w)
        w.ups["a"].default = LATE
        w.ups["b"].default = Answer(503 if failing else 200, body=w.wire.answer(False).body, delay_head=0.5)
        seen = await w.ask()
        assert seen.status == (503 if failing else 200) and w.calls["b"] == 1
        assert float(seen.headers["x-gwcore-overhead-ms"]) >= 0.0


async def test_nobody_failed_where_the_other_was_faster():
    async with world(fallback=f"{{{EARNED}}}") as w:
        earned(w)
        w.ups["a"].default = Answer(200, body=b"{}", delay_head=60.0)
        seen = await w.ask()
        assert seen.headers["x-gwcore-attempts"] == "2" and "x-gwcore-failed" not in seen.headers


# ── probes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_another_replica_probes_is_no_rate_limit(redis_url):
    """Every target is half-open, and somebody else has both probes: one is asked all the same, as on one worker."""
    async with fleet(redis_url, 2) as f:
        f.a.default = f.b.default = OK
        for name in ("a/m", "b/m"):
            for breaker in f.breakers(name):
                breaker.opens = 1
            assert await f.plugin(0).shared.claim(f.breakers(name)[0])
        seen = await f.ask(1)
        assert seen.status == 200 and len(f.a.requests) + len(f.b.requests) == 1


async def test_a_stream_that_has_begun_is_no_probe_any_more():
    async with world() as w:
        frames = w.wire.frames("hello")
        w.ups["a"].script(Answer(body=frames, stall_after=len(b"".join(frames[:-1]))))
        w.breaker("a/m").opens = 1
        stream = asyncio.create_task(w.ask(True))
        await until(lambda: w.calls["a"] and not w.breaker("a/m").opens)
        w.breaker("a/m").opens = 1  # down once more, and due for a probe
        w.ups["a"].default = w.wire.answer(False)
        seen = await w.ask()
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
        assert seen.headers["x-gwcore-upstream"] == "a" and not w.breaker("a/m").opens


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_deadline_is_over_once_an_answer_has_begun():
    async with world(fallback="{continuation: true, deadline: 1s}") as w:
        opening, text, *rest = w.wire.frames("one ", "two ")
        w.ups["a"].default = Answer(body=[opening + text, *rest], gap=1.5, cut_after=len(opening + text + rest[0]))
        w.ups["b"].default = w.wire.answer(True, "three")
        seen = await w.ask(True)
        assert b"three" in seen.body and b"error" not in seen.body


async def test_a_timer_that_fires_early_wastes_no_wait(monkeypatch):
    sleep = asyncio.sleep
    early = SimpleNamespace(sleep=lambda seconds: sleep(seconds - 0.0015))
    monkeypatch.setattr(journey, "asyncio", early)
    async with world("a") as w:
        w.ups["a"].script(Answer(429, [("retry-after-ms", "1500")], b"{}"))
        w.ups["a"].default = w.wire.answer(False)
        seen = await w.ask()
        assert seen.status == 200 and w.calls == {"a": 2}
        assert float(seen.headers["x-gwcore-overhead-ms"]) < 1500.0  # the wait was for the upstream


# ── limits, measures, sessions ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_limit_counts_what_an_upstream_was_asked():
    limits = "deployments: {'*/m': {requests: 100/min, tokens: 100k/min}}"
    async with world(dead="a", fallback=f"{{{limits}, retry: {{per_target: 0}}}}") as w:
        w.ups["b"].default = BUSY
        assert (await w.ask()).status == 503
        a, b = (w.plugin.fleet.deployments[name] for name in ("a/m", "b/m"))
        assert (a.requests.used(), a.tokens.used()) == (0, 0)  # not reached
        assert (b.requests.used(), b.tokens.used()) == (1, 0)  # refused: a request, and no tokens


async def test_a_reload_forgets_neither_a_wait_nor_what_was_used(tmp_path):
    async with AsyncExitStack() as exits:
        a, b, c = [await exits.enter_async_context(FakeUpstream()) for _ in range(3)]
        wire, path = WIRES["openai.chat"], tmp_path / "stack.yaml"
        a.default, b.default = Answer(429, [("retry-after", "60")], b"{}"), wire.answer(False)
        c.default = wire.answer(False)

        def write(first):
            limits = "{deployments: {b/m: {requests: 3/h}}, allowed_fails: 4}"
            path.write_text(stack_text({"a": first.url, "b": b.url}, wire, fallback=limits))

        write(a)
        gateway = Gateway(str(path))
        w = World(await exits.enter_async_context(running(gateway)), gateway, {"a": a, "b": b, "c": c})
        assert [(await w.ask()).status for _ in range(4)] == [200, 200, 200, 429]
        await gateway.reload()
        assert (await w.ask()).status == 429 and w.calls == {"a": 1, "b": 3, "c": 0}
        write(c)  # the same name at another place
        await gateway.reload()
        assert (await w.ask()).status == 200 and w.calls == {"a": 1, "b": 3, "c": 1}


async def test_a_reload_forgets_no_stream_that_is_under_way(tmp_path):
    async with AsyncExitStack() as exits:
        a, b = [await exits.enter_async_context(FakeUpstream()) for _ in range(2)]
        wire, path = WIRES["openai.chat"], tmp_path / "stack.yaml"
        frames = wire.frames("hello")
        a.default = Answer(body=frames, stall_after=len(b"".join(frames[:-1])))
        b.default = wire.answer(False)
        path.write_text(stack_text({"a": a.url, "b": b.url}, wire, models={"m": ["a/m", "b/m"], "n": ["a/m"]}, fallback="{strategy: least-busy}"))  # fmt: skip
        gateway = Gateway(str(path))
        w = World(await exits.enter_async_context(running(gateway)), gateway, {"a": a, "b": b})
        streams = [asyncio.create_task(w.ask(True, model="n")) for _ in range(3)]
        await a.received(3)
        await gateway.reload()
        assert w.plugin.health()["deployments"]["a/m"]["inflight"] == 3
        for _ in range(8):
            assert (await w.ask()).headers["x-gwcore-upstream"] == "b"
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        await until(lambda: w.plugin.health()["deployments"]["a/m"]["inflight"] == 0)


FULL = Answer(429, body=b"{}")


async def test_targets_at_their_limits_that_name_no_time_hide_no_other():
    """Four attempts a call, and five targets that would take them all, call after call."""
    async with world("abcdef") as w:
        for up in w.ups.values():
            up.default = FULL
        w.ups["f"].default = w.wire.answer(False)
        assert (await w.ask()).status == 429
        assert [(await w.ask()).status for _ in range(3)] == [200] * 3
        assert w.plugin.health()["deployments"]["a/m"]["state"] == "yielding"


async def test_one_that_yields_is_asked_before_none_is():
    async with world("ab", models={"m": ["a/m"], "n": ["b/m"]}, fallback="{models: {m: {fallbacks: [n]}}}") as w:
        w.ups["a"].script(FULL)
        w.ups["a"].default = w.ups["b"].default = w.wire.answer(False)
        assert (await w.ask()).headers["x-gwcore-upstream"] == "b"
        assert (await w.ask()).headers["x-gwcore-upstream"] == "b" and w.calls == {"a": 1, "b": 2}
        w.ups["b"].default = BUSY
        seen = await w.ask()
        assert seen.headers["x-gwcore-upstream"] == "a" and seen.headers["x-gwcore-failed"] == "b/m 503"
        w.breaker("a/m").yields = 0.0
        assert (await w.ask()).headers["x-gwcore-upstream"] == "a"


async def test_a_limit_on_tokens_says_when_enough_of_it_is_free():
    async with world("a", fallback="{deployments: {a/m: {tokens: 1000/min}}}") as w:
        w.ups["a"].default = w.wire.answer(False)
        w.plugin.fleet.deployments["a/m"].tokens.add(600)
        seen = await w.ask(max_tokens=900)
        assert seen.status == 429 and 55 <= int(seen.headers["retry-after"]) <= 65


async def test_health_names_what_bars_a_target_and_not_what_was_before():
    async with world("a", fallback="{retry: {per_target: 0}}") as w:
        w.ups["a"].script(BUSY, Answer(401, body=b"{}"))
        await w.ask()
        await w.ask()
        shown = w.plugin.health()["deployments"]["a/m"]
        assert (shown["state"], shown["reason"]) == ("credential", "credential")


async def test_what_was_slow_is_measured_anew():
    async with world(fallback="{strategy: fastest}") as w:
        for up in w.ups.values():
            up.default = w.wire.answer(False)
        a, b = (w.plugin.fleet.deployments[name].ttft[False] for name in ("a/m", "b/m"))
        a.add(30.0)
        b.add(5.0)
        for _ in range(Latency.STALE + 5):
            await w.ask()
        assert w.calls["a"] >= 1 and a.average < 30.0 / 2


@pytest.mark.parametrize("field", ["prompt", "query", "input"])
def test_calls_without_messages_begin_differently(field):
    def session(**document):
        return session_of(SimpleNamespace(session=None, document=document, principal=None), "prefix")

    assert session(**{field: "one"}) != session(**{field: "two"})
    assert session(**{field: "one"}) == session(**{field: "one"})
    assert session(model="m") is None


def test_a_conversation_keeps_its_beginning_as_it_grows():
    def session(turns):
        return session_of(SimpleNamespace(session=None, document={"messages": turns}, principal=None), "prefix")

    said = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    assert session(said[:2]) == session(said)
    assert session(said[1:2]) == session(said[1:]) != session(said)
