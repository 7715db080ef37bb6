"""B20: the outbox reaches its sink at least once, each row with its own id, whatever dies or fails in between."""

import asyncio
import json
import random
from collections import Counter

import pytest
from budget_kit import budget, eventually, now_of, post, reserve
from budget_stack import ask, completion, serving, stack

from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_budget import export
from gwcore_budget.config import Export
from gwcore_budget.export import Exporter
from gwcore_budget.ledger.home import Conflict

POSTS = 10_000


async def posts(home, count):
    """So many holds, posted; a few hundred to a transaction."""
    ids = [f"r{n}:1" for n in range(count)]
    everything = budget(limit=10**12)
    for at in range(0, count, 500):
        some = ids[at : at + 500]
        await home.transact([op for id_ in some for op in (reserve(id_, 10, everything), post(id_, 7))])
    return {f"{id_}:1" for id_ in ids}


class Sink:
    """Answers most batches; fails some before it has taken them, and some after."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.got = Counter()
        self.bodies = {}

    def __call__(self, seen):
        fate = self.random.random()
        if fate < 0.15:
            return Answer(status=500)
        for row in json.loads(seen.body):
            self.got[row["id"]] += 1
            assert self.bodies.setdefault(row["id"], row["body"]) == row["body"]
        return Answer(status=500 if fate < 0.25 else 204, reset=0.25 <= fate < 0.35)


@pytest.fixture
async def exporting(make_home):
    home = make_home(exports=True)
    await home.open()
    yield home
    await home.aclose()


async def drained(home, up, sink, monkeypatch, *, kills):
    """Exporters that die at random until the outbox is empty."""
    monkeypatch.setattr(export, "CLAIM", 600)
    began = await now_of(home)
    clock = asyncio.get_running_loop().time
    start = clock()
    up.default = sink
    counts = Counter()
    config = Export(url=up.url, batch=500, interval=0.01)

    def worker():
        made = Exporter(config, home, lambda: began + int((clock() - start) * 1000), counts)
        return asyncio.create_task(made.run())

    monkeypatch.setattr(export, "MOST_PAUSE", 0.02)
    workers = [worker(), worker()]
    try:
        async with asyncio.timeout(50):
            while (await home.rows("SELECT count(*) FROM budget_outbox"))[0][0]:
                await asyncio.sleep(sink.random.uniform(0.01, 0.2))
                if kills:
                    kills -= 1
                    victim = sink.random.randrange(2)
                    workers[victim].cancel()  # before or after the sink has it: nobody knows
                    workers[victim] = worker()
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def test_b20_nothing_is_missing_at_the_sink(exporting, monkeypatch):
    async with FakeUpstream() as up:
        ids = await posts(exporting, POSTS)
        sink = Sink(1)
        await drained(exporting, up, sink, monkeypatch, kills=10)
        assert ids <= set(sink.got)
        assert max(sink.got.values()) > 1, "some came twice, under the same id"
        spend = sum(body["change"] for body in sink.bodies.values() if "change" in body)
        assert spend == POSTS * 7


async def test_b20_negative_control_rows_deleted_before_they_are_taken(exporting, monkeypatch):
    claim = Exporter._claim

    async def pop(self):
        rows = await claim(self)
        if rows:
            await self._each("DELETE FROM budget_outbox WHERE id IN ({}) RETURNING id", rows)
        return rows

    monkeypatch.setattr(Exporter, "_claim", pop)
    async with FakeUpstream() as up:
        ids = await posts(exporting, POSTS)
        sink = Sink(1)
        await drained(exporting, up, sink, monkeypatch, kills=10)
        assert not ids <= set(sink.got)


async def test_what_ends_one_batch_does_not_end_them_all(exporting, monkeypatch):
    """Two workers' claims may meet in PostgreSQL, one of which it refuses; and a header's secret may be of any letters."""
    claim, failures = Exporter._claim, [Conflict("DeadlockDetectedError"), RuntimeError]

    async def refused(self):
        if failures:
            raise failures.pop()
        return await claim(self)

    monkeypatch.setattr(Exporter, "_claim", refused)
    async with FakeUpstream() as up:
        up.default = Answer(status=204)
        await posts(exporting, 1)
        began = await now_of(exporting)
        config = Export(url=up.url, interval=0.01, headers={"authorization": "Bearer größe"})
        task = asyncio.create_task(Exporter(config, exporting, lambda: began + 1_000, Counter()).run())
        try:
            await eventually(lambda: up.requests, 20)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert not failures and up.requests[0].header("authorization").encode("latin-1").decode() == "Bearer größe"


async def test_calls_and_threshold_events_are_pushed(store_url):
    async with FakeUpstream() as up, FakeUpstream() as hook:
        up.default = completion(400)
        hook.default = Answer(status=200)
        rules = [{"per": "key", "limit": "$0.7", "soft": "$0.3"}]
        sink = {"url": f"{hook.url}/hook", "headers": {"authorization": "Bearer hook-secret"}, "interval": "50ms"}
        async with serving(stack(up.url, store_url, mode="direct", rules=rules, export=sink)) as (url, _, plugin):
            assert (await ask(url, max_tokens=500)).status == 200

            def told():
                rows = [row for seen in hook.requests for row in json.loads(seen.body)]
                return {row["topic"]: row["body"] for row in rows}

            await eventually(lambda: {"ledger.spend", "budget.soft"} <= set(told()), 10)
            assert told()["ledger.spend"]["key_id"] == "k" and told()["ledger.spend"]["settled"] == 400_010_000
            assert told()["budget.soft"]["posted"] == 400_010_000
            assert hook.requests[0].header("authorization") == "Bearer hook-secret"
            await eventually(lambda: plugin.counts["exported"] >= 2)
