"""Tighten early (reliability 2.2): what a stream does not need any more is free while it runs, and never spent twice."""

import asyncio
import json
from collections import Counter
from types import SimpleNamespace

import pytest
from budget_kit import accounts, budget, eventually
from budget_stack import Got, holds, serving, sound
from test_budget_dialects import CLIENTS, stack
from test_escrow import close, hold, kill, quiet, within
from test_final_usage import DELTA, START, WORDS, named

from gwcore.call import Attempt
from gwcore.prices import MILLION, PriceCard
from gwcore.testing import fakes
from gwcore.testing.upstream import Answer, FakeUpstream, sse
from gwcore.usage import Usage
from gwcore_budget import early
from gwcore_budget.bound import Bound
from gwcore_budget.ledger.escrow import Escrow
from gwcore_budget.ledger.journal import Journal, recover
from gwcore_budget.ledger.ops import PENDING, POSTED, REAPED, Facts, Hold
from gwcore_budget.ledger.verify import verify
from tests.stacks.raw import exchange

G = "global:total"
LONG = "word " * 2_000
STOP = {"type": "message_stop"}
MESSAGES = named(START, *WORDS, DELTA, STOP)
COUNTED = {"promptTokenCount": 20, "candidatesTokenCount": 30, "totalTokenCount": 50}


def generated(text, used, **more):
    return {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **more}], "usageMetadata": used}  # fmt: skip


GENERATED = sse(
    *[generated("Hel", {**COUNTED, "candidatesTokenCount": n, "totalTokenCount": 20 + n}) for n in (1, 2, 3)],
    generated("lo", COUNTED, finishReason="STOP"),
)
FRAMES = {"anthropic.messages": MESSAGES, "gemini.generate": GENERATED}
READ, OUT = 20 * 1_000, 1_000_000


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(early, "EVERY", 0.1)


async def running(client, upstream, mode="direct", more=None):
    """What a stream of 100 tokens at most holds at first, and once its upstream has said that it has read 20."""
    path, document, name = CLIENTS[client]
    document = json.loads(json.dumps(document).replace('"hi"', json.dumps(LONG)))
    if name is None:
        path = path.replace(":generateContent", ":streamGenerateContent?alt=sse")
        document["generationConfig"] = {"maxOutputTokens": 100}
    else:
        document |= {"stream": True, name: 100}
    async with FakeUpstream() as up:
        up.default = Answer(body=FRAMES[upstream], gap=0.25)
        text = json.loads(stack(up, upstream, "$5"))
        text["stack"][1]["budget"]["mode"] = mode
        async with serving(json.dumps(text, indent=1)) as (url, _, plugin):
            headers = [("authorization", "Bearer k"), ("anthropic-version", "2023-06-01")]
            body = json.dumps({**document, **(more or {})}).encode()
            asked = asyncio.create_task(exchange(url, "POST", path, body, headers))
            await eventually(lambda: plugin.ledger.open)
            held = next(iter(plugin.ledger.open.values()))
            amounts = [held.amount]
            while not asked.done():
                if held.amount != amounts[-1]:
                    amounts.append(held.amount)
                await asyncio.sleep(0.01)
            seen = Got(await asked)
            assert seen.status == 200, seen.body
            state, amount, settled, _ = (await holds(plugin))[0]
            assert (state, settled) == (POSTED, READ + 30 * OUT) and amount == amounts[-1]
            assert not plugin._streams.under and plugin.counts["tightened"] == len(amounts) - 1
            assert plugin.counts["underestimates"] == 0
            await sound(plugin)
            return amounts


@pytest.mark.parametrize("mode", ["direct", "escrow"])
@pytest.mark.parametrize(
    ("client", "upstream"),
    [("anthropic.messages",) * 2, ("openai.chat", "anthropic.messages")],
)
async def test_a_stream_whose_input_is_told_holds_no_more_than_that(client, upstream, mode):
    first, then = await running(client, upstream, mode)
    assert first > 10_000 * 1_000 + 100 * OUT
    assert then == READ + 100 * OUT


async def test_where_the_first_count_is_not_the_last_the_hold_stays():
    """Gemini reads files and sound behind its first ``promptTokenCount``: 13 became 277 (recorded)."""
    assert len(await running("gemini.generate", "gemini.generate")) == 1


SERVER_TOOL = {"type": "web_fetch_20250910", "name": "web_fetch", "max_uses": 5}


@pytest.mark.parametrize("more", [{"tools": [SERVER_TOOL]}, {"mcp_servers": []}, {"context_management": {}}])
async def test_where_more_may_be_read_later_the_hold_stays(more):
    assert len(await running("anthropic.messages", "anthropic.messages", more=more)) == 1


async def test_negative_control_a_vendors_tool_taken_for_the_clients(monkeypatch):
    monkeypatch.setattr(early, "exact", lambda _attempt: True)
    assert len(await running("anthropic.messages", "anthropic.messages", more={"tools": [SERVER_TOOL]})) == 2


async def crashed(make_ledger):
    """800 of a grant of 1,000 shrink to 100, 850 are held out of the rest, and the worker dies."""
    dead, alive = await make_ledger(), await make_ledger()
    one = budget(limit=8_000)
    first = await hold(dead, "a:1", 800, one)
    assert within(first)
    assert dead.shrink(first, 100) and not dead.shrink(first, 200)
    second = await hold(dead, "b:1", 850, one)
    assert within(second)
    assert {found.id: found.settled for found in recover(dead.escrow.journal.path, "w")}["b:1"] == 850
    kill(dead)
    await alive.bury_the_dead()
    await quiet(alive)
    found = await alive.home.rows("SELECT id, state, settled FROM budget_hold ORDER BY id")
    posted = (await accounts(alive.home))[G]
    report = await verify(alive.home)
    await close(dead)
    return found, posted, report


async def test_a_worker_that_dies_behind_a_shrunk_hold_spends_nothing_twice(make_ledger):
    found, posted, report = await crashed(make_ledger)
    assert found == [("a:1", REAPED, 100), ("b:1", REAPED, 850)]
    assert posted == (950, 0, 0), "no more than was granted"
    assert report.problems == []


async def test_negative_control_freed_before_the_journal_knows(make_ledger, monkeypatch):
    def free(self, held, amount):
        for grant in held.grants:
            grant.free += held.amount - amount
        held.amount = amount
        return True

    monkeypatch.setattr(Escrow, "shrink", free)
    _, posted, _ = await crashed(make_ledger)
    assert posted[0] > 1_000, "more than was granted"


async def test_a_journal_that_cannot_be_written_shrinks_nothing(make_ledger, monkeypatch):
    ledger = await make_ledger()
    one = budget(limit=8_000)
    first = await hold(ledger, "a:1", 800, one)

    def full(_self, _hold):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "dispatched", full)
        assert not ledger.shrink(first, 100)
    assert first.amount == 800 and first.grants[0].free == 200
    ledger.settle(first, POSTED, 50)
    assert not ledger.shrink(first, 10)
    await quiet(ledger)
    assert (await verify(ledger.home)).problems == []


async def test_who_waits_gets_what_a_stream_does_not_need_any_more(make_ledger):
    ledger = await make_ledger(mode="direct")
    one = budget(limit=1_000)
    first = await hold(ledger, "a:1", 900, one)
    waiting = asyncio.create_task(hold(ledger, "b:1", 500, one, wait=30))
    await eventually(lambda: ledger._settled is not None)
    assert ledger.shrink(first, 300)
    assert (await waiting).amount == 500
    ledger.settle(first, REAPED)
    ledger.settle(waiting.result(), POSTED, 1)
    await quiet(ledger)
    assert (await accounts(ledger.home))[G] == (301, 0, 0)
    assert (await verify(ledger.home)).problems == []


def test_a_fee_stays_held_and_so_does_what_worst_cases_have_been_too_low_by():
    attempt = Attempt(call := fakes.call(stream=True), call.targets[0])
    attempt.card = PriceCard(
        "m", {name: ((0, price * MILLION),) for name, price in {"input": 1, "output": 10, "request": 7}.items()}
    )
    attempt.meter = SimpleNamespace(heard=True, usage=Usage(20))
    streams, lowered = early.Streams(Counter()), []
    hold = Hold("a:1", "w", PENDING, 10_000, None, (), 0, 0, Facts("a"))
    streams.under[hold.id] = hold, attempt, Bound(0, 10 * MILLION, 5), (5, 4)
    streams.look(SimpleNamespace(shrink=lambda _hold, amount: not lowered.append(amount)))
    assert lowered == [97] == [-(-(20 + 7 + 50) * 5 // 4)]
