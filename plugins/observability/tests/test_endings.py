"""Each sink has one record for each route and each way that a call ends, and its cost is the ledger's to the nano-dollar."""

import asyncio
from collections import Counter
from dataclasses import replace

import httpx2
import pytest
from endings_world import WAYS, Everywhere, of_lines, until, upstream_of
from obs_world import gateway, plugin_of
from sqlalchemy import select, text
from test_prometheus import scrape, value
from test_trace_sinks import PAIR, sink

from gwcore.sql import reading
from gwcore.testing.upstream import FakeUpstream
from gwcore_observability.call_table import CALL

LAYERS = """stores: {{book: "sqlite:///{folder}/book.db"}}
stack:
  - cache: {{}}
  - budget: {{store: book, mode: direct, patience: 5s, drain_for: 2s, unpriced: allow_unmetered, rules: [{{per: global, limit: $5}}]}}
"""
SINKS = ("otel", "langfuse", "helicone", "webhook", "access_log", "request_log")


def watching(place, folder):
    return "\n".join([
        "  - prometheus: {port: 0}",
        sink("otel", folder, endpoint=place.url, metrics=False),
        sink("langfuse", folder, **PAIR, base_url=place.url),
        sink("helicone", folder, api_key="sk-helicone-1", base_url=place.url),
        sink("webhook", folder, url=place.url + "/hook"),
        sink("access_log", None, to=f"{folder}/calls.log"),
        sink("request_log", folder, store="book"),
    ])  # fmt: skip


async def endings(url, way, made, up, late):
    """Ask for each ending; call id → state of those that were answered, and how many the client did not wait for."""
    seen = {}
    async with httpx2.AsyncClient(verify=False, timeout=20) as client:

        async def end(text, state, status, **how):
            path, body = way.asked(text, **how)
            answer = await client.post(url + path, json=body)
            assert answer.status_code == status, (text, answer.text)
            seen[answer.headers["x-gwcore-request-id"]] = state
            return answer.headers.get("x-gwcore-cache")

        await end("one", "ok", 200)
        flights = plugin_of(made, "cache")
        await until(lambda: not flights._writes and not flights.flights)
        assert await end("one", "ok", 200) == "hit"
        if way.frames:
            assert await end("two", "ok", 200, stream=True) == "miss"
            await until(lambda: not flights._writes and not flights.flights)
            assert await end("two", "ok", 200, stream=True) == "hit"
        await end("fail", "failed", 500)
        path, _ = way.asked("none")
        broken = await client.post(url + path, content=b'{"model": ')
        assert broken.status_code == 400
        seen[broken.headers["x-gwcore-request-id"]] = "refused"

        assert (await client.get(f"{url}/v1/models")).status_code == 200  # a list is no call

        calls, framings = [], (False, True)[: 1 + bool(way.frames)]
        taps = made.stack.taps
        made.stack.taps = replace(taps, call_started=(*taps.call_started, ("test", calls.append)))
        left = [(text, stream) for text in ("leave", "late") for stream in framings]
        asked = [way.asked(f"{text} {stream}", stream=stream) for text, stream in left]
        tasks = [asyncio.create_task(client.post(url + path, json=body)) for path, body in asked]
        await up.received(len(up.requests) + len(left))
        for task in tasks:
            task.cancel()
        await until(lambda: len(calls) == len(left) and all(call.left for call in calls))
        late.set()
    return seen, len(left)


async def told(place, made, folder):
    """Sink → what it has been told."""
    async with reading(plugin_of(made, "request_log").store) as sql:
        rows = [tuple(row) for row in await sql.execute(select(CALL.c.id, CALL.c.state, CALL.c.cost_nano))]
    lines = of_lines((folder / "calls.log").read_text())
    return {
        "otel": place.otel(), "langfuse": place.langfuse(), "helicone": place.helicone(), "webhook": place.webhook(),
        "access_log": lines, "request_log": rows,
    }  # fmt: skip


async def ledger(made):
    """Call id → (what was posted, by ``usage`` or by how much it can have been); calls that asked nobody have no row."""
    async with reading(plugin_of(made, "request_log").store) as sql:
        rows = (await sql.execute(text("SELECT request, basis, settled FROM budget_hold"))).all()
    return {request: (settled, basis) for request, basis, settled in rows}


async def run(way, folder):
    """All endings of one route through one gateway that every sink watches."""
    async with FakeUpstream() as up, Everywhere() as place:
        late = asyncio.Event()
        up.default = upstream_of(way, late)
        async with gateway(up, watching(place, folder), stack=LAYERS.format(folder=folder), provider=way.provider) as (
            url,
            made,
        ):
            seen, left = await endings(url, way, made, up, late)
            count = len(seen) + left
            outboxes = [plugin_of(made, name).outbox for name in SINKS]
            await until(lambda: all(one.sent >= count for one in outboxes))
            assert not [one.name for one in outboxes if one.rejected or one.failed or one.dropped]
            metrics = await scrape(made)
            return seen, left, await told(place, made, folder), await ledger(made), metrics


def check(way, seen, left, sinks, posted):
    """Raises ``AssertionError`` for a sink that missed an ending, was told of it twice, or was told another cost."""
    for name, records in sinks.items():
        assert Counter(id_ for id_, *_ in records).most_common(1)[0][1] == 1, f"{name}: twice"
        assert len(records) == len(seen) + left, f"{name}: missing"
        assert {id_: state for id_, state, _ in records if id_ in seen} == seen, name
        assert [state for id_, state, _ in records if id_ not in seen] == ["cancelled"] * left, name
        costs = {id_: cost for id_, _, cost in records}
        for id_, cost in costs.items():
            settled, basis = posted.get(id_, (0, "usage"))
            if basis == "usage":
                assert (cost or 0) == settled, f"{name}: {id_}"
            else:  # the upstream did not say it all: the ledger posts the most that it can be, a sink what was heard
                assert (cost or 0) <= settled, f"{name}: {id_}"
        # whole and streamed, to a client that stays, and to one that has left before the end
        full = [cost for id_, cost in costs.items() if cost and posted[id_][1] == "usage"]
        assert full == [way.nano] * (4 if way.frames else 2), name


@pytest.mark.parametrize("route", WAYS)
async def test_one_record_for_each_route_and_ending_in_every_sink(tmp_path, route):
    way = WAYS[route]
    seen, left, sinks, posted, metrics = await run(way, tmp_path)
    check(way, seen, left, sinks, posted)
    assert value(metrics, "gwcore_requests_total") == len(seen) + left
    spent = sum(cost or 0 for _, _, cost in sinks["webhook"])
    assert round(value(metrics, "gwcore_cost_usd_total") * 1e9) == spent


async def test_the_check_sees_a_record_that_is_missing_or_costs_another_nano_dollar(tmp_path):
    """The negative control: a sink that leaves the failed out, and one that rounds."""
    way = WAYS["/embeddings"]
    seen, left, sinks, posted, _ = await run(way, tmp_path)
    check(way, seen, left, sinks, posted)
    for broken in (
        [one for one in sinks["otel"] if one[1] != "failed"],
        [*sinks["otel"], sinks["otel"][0]],
        [(id_, state, cost and cost + 1) for id_, state, cost in sinks["otel"]],
        [(id_, "ok", cost) for id_, state, cost in sinks["otel"]],
    ):
        with pytest.raises(AssertionError):
            check(way, seen, left, {**sinks, "otel": broken}, posted)
