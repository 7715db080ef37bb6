"""One record per call, whatever happens to it."""

import asyncio
import base64
import hmac
import math
from contextlib import suppress

import httpx2
import orjson
import pytest
from obs_world import Place, ask, gateway, ok, plugin_of, streamed, webhook
from test_prometheus import scrape, value

from gwcore.testing.upstream import Answer, FakeUpstream, chat_stream


async def test_a_call_is_one_record(tmp_path):
    async with FakeUpstream(ok()) as up, Place() as place, gateway(up, webhook(place, tmp_path)) as (url, _):
        answer = await ask(url, headers={"x-claude-code-session-id": "s-1", "user-agent": "tester/1"})
        await place.until(1)
    (record,) = place.records
    assert record["id"] == answer.headers["x-gwcore-request-id"]
    assert (record["state"], record["status"], record["model"], record["served_model"]) == ("ok", 200, "fast", "m")
    assert record["tokens"] == {"input": 7, "cache_read": 4, "output": 7}
    assert record["cost_nano"] == 7 * 1000 + 4 * 500 + 7 * 2000
    assert record["cost_source"] == "stack" and record["cost_version"]
    assert (record["session"], record["user_agent"]) == ("s-1", "tester/1")
    (attempt,) = record["attempts"]
    assert (attempt["upstream"], attempt["upstream_id"], attempt["status"]) == ("up", "up-1", 200)
    assert (
        record["started_ns"]
        <= attempt["started_ns"]
        <= attempt["first_ns"]
        <= attempt["ended_ns"]
        <= record["ended_ns"]
    )
    assert "content" not in record


async def test_every_way_to_end_is_one_record(tmp_path):
    async with (
        FakeUpstream(ok(), streamed(), Answer(500, body=b"{}"), Answer(body=chat_stream("a", "b", "c"), gap=30)) as up,
        Place() as place,
        gateway(up, webhook(place, tmp_path)) as (url, _),
    ):
        await ask(url)
        await ask(url, stream=True)
        await ask(url)
        await ask(url, model=None)
        left = asyncio.create_task(ask(url, stream=True))
        await up.received(4)
        left.cancel()
        await place.until(5)
    told = {(r["state"], r["stream"], r["reason"]) for r in place.records}
    assert told == {
        ("ok", False, None),
        ("ok", True, None),
        ("failed", False, "unavailable"),
        ("refused", False, "request"),
        ("cancelled", True, None),
    }
    assert len(place.ids) == 5


async def test_a_sink_that_is_down_misses_nothing(tmp_path):
    async with FakeUpstream() as up, Place(*[Answer(503)] * 3) as place:
        up.default = ok()
        async with gateway(up, webhook(place, tmp_path)) as (url, made):
            asked = [(await ask(url)).headers["x-gwcore-request-id"] for _ in range(20)]
            taken = lambda: {i for seen in place.requests[3:] for i in [r["id"] for r in seen.document]}  # noqa: E731
            async with asyncio.timeout(10):
                while taken() != set(asked):
                    await asyncio.sleep(0.01)
            assert plugin_of(made).health()["dropped"] == 0


async def test_a_reload_keeps_the_queue_and_takes_the_new_settings(tmp_path):
    async with FakeUpstream() as up, Place() as place:
        up.default = ok()
        watch = webhook(place, tmp_path, secret="first-signing-secret")
        async with gateway(up, watch) as (url, made):
            await ask(url)
            await place.until(1)
            before = plugin_of(made).outbox
            made.source = made.source.replace("first-signing-secret", "second-signing-secret")
            assert await made.reload()
            while made._drains:  # the old stack has given its transports back
                await asyncio.sleep(0.01)
            await ask(url)
            await place.until(2)
            assert plugin_of(made).outbox is before
    first, second = place.requests
    assert signed(first) == (True, False) and signed(second) == (False, True)


def signed(seen):
    """Whether with the first secret, whether with the second."""
    told = f"{seen.header('webhook-id')}.{seen.header('webhook-timestamp')}.".encode() + seen.body
    return tuple(
        seen.header("webhook-signature") == "v1," + base64.b64encode(hmac.digest(key, told, "sha256")).decode()
        for key in (b"first-signing-secret", b"second-signing-secret")
    )


async def test_a_stream_that_breaks_is_no_good_answer_and_a_refusal_no_first_token(tmp_path):
    """It has status 200: what broke after the client saw its beginning has an ending of its own."""
    frames = chat_stream("a", "b", "c")
    broken = Answer(body=frames, cut_after=sum(map(len, frames[:3])))
    async with (
        FakeUpstream(broken, Answer(503, body=b"{}")) as up,
        Place() as place,
        gateway(up, webhook(place, tmp_path)) as (url, _),
    ):
        with suppress(httpx2.HTTPError):
            await ask(url, stream=True)
        await ask(url, stream=True)
        await place.until(2)
    cut, refused = sorted(place.records, key=lambda one: one["started_ns"])
    assert (cut["state"], cut["status"], cut["reason"]) == ("failed", 200, "committed") and cut["first_ns"]
    assert cut["attempts"][0]["reason"] == "committed"
    assert (refused["status"], refused["reason"], refused["first_ns"]) == (503, "unavailable", None)


HEDGED = "stack: [{fallback: {models: {fast: {fallbacks: [up/n]}}, hedge: {delay: 50ms, share: 0.5}}}]"


@pytest.mark.parametrize("winner", ["m", "n"])
async def test_of_two_attempts_side_by_side_one_answers_and_the_other_is_given_up(tmp_path, winner):
    """It was told as the gateway's own fault, and its missing id as that of the answer."""
    second = asyncio.Event()

    def answer(seen):
        model = seen.document["model"]
        if model == "n":
            second.set()
        wait = math.inf if model != winner else second
        return Answer(body=ok().body, headers=[("x-request-id", f"id-{model}")], delay_head=wait)

    async with FakeUpstream(ok(), ok()) as up, Place() as place:
        watch = webhook(place, tmp_path) + f"\n  - access_log: {{to: {tmp_path}/calls.log}}\n"
        watch += "  - prometheus: {port: 0, litellm_names: true}\n"
        async with gateway(up, watch, stack=HEDGED) as (url, made):
            for _ in range(2):  # which earn the second attempt
                await ask(url)
            up.default = answer
            assert (await ask(url, "slow")).status_code == 200
            await place.until(3)
            found = await scrape(made)
    record = max(place.records, key=lambda one: one["started_ns"])
    lost = "n" if winner == "m" else "m"
    told = {one["model"]: (one["reason"], one["error"]) for one in record["attempts"]}
    assert told == {winner: (None, None), lost: ("left", "abandoned")}
    line = orjson.loads((tmp_path / "calls.log").read_bytes().splitlines()[-1])
    assert line["upstream_id"] == f"id-{winner}" and line["served_model"] == winner
    assert value(found, "gwcore_attempts_total", outcome="left") == 1
    assert not value(found, "litellm_deployment_failure_responses_total")


@pytest.mark.parametrize("winner", [1, 2])
async def test_of_two_credentials_side_by_side_the_one_that_answered_is_told(tmp_path, winner):
    second = asyncio.Event()

    def answer(seen):
        key = int(seen.header("authorization")[-1])
        if len(up.requests) == 4:
            second.set()
        wait = math.inf if (key == began[0]) != (winner == 1) else second
        return Answer(body=ok().body, headers=[("x-request-id", f"id-{key}")], delay_head=wait)

    began = []

    def notes(seen):
        began.append(int(seen.header("authorization")[-1]))
        up.default = answer
        return answer(seen)

    stack = "stack: [{fallback: {hedge: {delay: 50ms, share: 0.5}}}]"
    async with FakeUpstream(ok(), ok()) as up:
        watch = f"  - access_log: {{to: {tmp_path}/calls.log}}\n"
        async with gateway(up, watch, stack=stack, keys=("key-0000-1", "key-0000-2")) as (url, _):
            for _ in range(2):  # which earn the second attempt
                await ask(url)
            up.default = notes
            answered = await ask(url, "slow")
    line = orjson.loads((tmp_path / "calls.log").read_bytes().splitlines()[-1])
    assert line["failed"] == ["up/m left"] and answered.headers["x-request-id"] == line["upstream_id"]
    assert (line["upstream_id"] == f"id-{began[0]}") == (winner == 1)
