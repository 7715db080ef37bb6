"""Where the budget meets what others send: lists in batches, tags, prompts in lists, numbers that are no numbers."""

import json
from contextlib import suppress

import pytest
from budget_stack import CHAT, Anybody, ask, completion, holds, serving, settled, sound, stack

from gwcore.call import Attempt, Principal
from gwcore.prices import PriceCard
from gwcore.testing import fakes
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_budget import accounts
from gwcore_budget.bound import MOST, bound
from gwcore_providers.openai.chat import OpenAIChat
from tests.stacks.raw import exchange

CARD = PriceCard("m", {"input": ((0, 1),), "output": ((0, 1_000),)}, {}, max_output=1_000)


def bounded(card=CARD, **document):
    made = fakes.call("hi", **document)
    return bound(Attempt(made, made.targets[0]), card, 256)


# ── a list in batches, of which one is refused ───────────────────────────────────────────────────────────────────────


def one_item_is_refused(seen):
    texts = seen.document["inputs"] if "inputs" in seen.document else seen.document["input"]
    if "bad" in texts:
        return Answer(status=400, body=b'{"error": {"message": "too long"}}')
    data = [{"object": "embedding", "index": at, "embedding": [0.5]} for at in range(len(texts))]
    usage = {"prompt_tokens": 1_000, "total_tokens": 1_000}
    return Answer(body=json.dumps({"object": "list", "data": data, "model": "m", "usage": usage}).encode())


async def refused_in_part(store_url):
    """What is posted for a list of three batches of which the last is refused, in microdollars."""
    async with FakeUpstream() as up:
        up.default = one_item_is_refused
        text = json.loads(stack(up.url, store_url, rules=[{"per": "key", "limit": "$1"}]))
        text["upstreams"]["up"]["provider"] = "tei"
        text["upstreams"]["up"]["base_url"] = up.url
        async with serving(json.dumps(text)) as (url, _, plugin):
            answer = await ask(url, path="/v1/embeddings", input=["good"] * 64 + ["bad"])
            assert answer.status == 400 and len(up.requests) == 3
            await holds(plugin)
            return (await sound(plugin)).posted // 1_000


async def test_batches_that_were_answered_are_paid_although_another_was_refused(store_url):
    assert await refused_in_part(store_url) == 2_000


async def test_negative_control_a_refusal_that_frees_the_whole_hold(store_url, monkeypatch):
    from gwcore_budget import plugin as module

    monkeypatch.setattr(module, "judged", lambda *_: (module.VOIDED, 0, "request"))
    assert await refused_in_part(store_url) == 0


# ── more budgets than a call can bind ────────────────────────────────────────────────────────────────────────────────


async def crowded(store_url):
    """A team without money, and a client that names many tags: what it is told, and whether the upstream was asked."""
    rules = [{"per": "tag", "limit": "$1000"}, {"per": "team", "limit": "$0"}]
    async with FakeUpstream() as up:
        up.default = completion(9)
        async with serving(stack(up.url, store_url, rules=rules)) as (url, _, _plugin):
            Anybody.who["k"] = Principal(id="k", team="t", tags=frozenset(f"tag{n}" for n in range(20)))
            return (await ask(url)).status, len(up.requests)


async def test_tags_crowd_no_budget_out(store_url):
    assert await crowded(store_url) == (400, 0)


async def test_negative_control_the_first_sixteen(store_url, monkeypatch):
    merged = accounts.Accounts._merged

    def first(budgets, attempt):
        kept = sorted({b.id: b for b in budgets}.values(), key=lambda b: b.id)[: accounts.MOST_ACCOUNTS]
        return merged(kept, attempt)

    monkeypatch.setattr(accounts.Accounts, "_merged", staticmethod(first))
    assert (await crowded(store_url))[0] == 200


# ── worst cases ──────────────────────────────────────────────────────────────────────────────────────────────────────


def per_answer(terms):
    return terms.per_token * terms.tokens // (1_000 * 1_000)


@pytest.mark.parametrize(
    ("document", "answers"),
    [
        ({}, 1),
        ({"n": 4}, 4),
        ({"n": "4"}, 4),
        ({"n": 4.0}, 4),
        ({"n": True}, 1),
    ],
)
def test_every_answer_is_held(document, answers):
    assert per_answer(bounded(**document)) == answers


@pytest.mark.parametrize(
    ("prompt", "answers"), [("a", 1), (["a", "b", "c"], 3), ([[1, 2], [3]], 2), ([1, 2, 3], 1), ([], 1)]
)
def test_text_completions_answer_every_prompt(prompt, answers):
    made = fakes.call("hi", prompt=prompt)
    made.operation = "completions"
    assert per_answer(bound(Attempt(made, made.targets[0]), CARD, 256)) == answers


def test_a_query_is_read_with_every_document_and_long_documents_are_several():
    made = fakes.call("hi", query="q" * 900, documents=["d"] * 50)
    made.operation = "rerank"
    by_token = PriceCard("m", {"input": ((0, 1_000_000),)}, {})
    by_search = PriceCard("m", {"rerank": ((0, 1_000_000),)}, {})
    assert bound(Attempt(made, made.targets[0]), by_token, 256).amount >= 50 * 901
    assert bound(Attempt(made, made.targets[0]), by_search, 256).amount >= 2


def test_what_the_moderation_of_some_vendors_costs_is_held():
    made = fakes.call("hi", input="x" * 100)
    made.operation = "moderations"
    assert bound(Attempt(made, made.targets[0]), PriceCard("m", {"input": ((0, 1_000_000),)}, {}), 256).amount >= 100
    assert bound(Attempt(made, made.targets[0]), None, 256).amount == 0


@pytest.mark.parametrize("huge", [{"max_tokens": 10**18}, {"n": 10**15}, {"n": 1e300}, {"max_tokens": 1e300}])
async def test_no_number_is_too_large_for_the_books(huge, store_url):
    prices = {"*": {"input": "$1/M", "output": "$1000/M"}}
    async with FakeUpstream() as up:
        up.default = completion(9)
        async with serving(stack(up.url, store_url, prices=prices)) as (url, _, plugin):
            assert (await ask(url, **huge)).status == 400 and not up.requests
            assert (await ask(url)).status == 200
            assert len(await holds(plugin)) == 1
    assert 2**63 // MOST > 1_000


# ── allow_unmetered is for what has no price ─────────────────────────────────────────────────────────────────────────


async def test_an_endless_tool_makes_no_priced_model_free(store_url):
    rules = [{"per": "key", "limit": "$1000"}]
    async with FakeUpstream() as up:
        up.default = completion(100, prompt=20)
        async with serving(stack(up.url, store_url, rules=rules, unpriced="allow_unmetered")) as (url, _, plugin):
            assert (await ask(url, max_tokens=500, tools=[{"type": "web_search"}])).status == 200
            assert await holds(plugin, "settled, basis") == [(100_020_000, "usage")]
            assert (await sound(plugin)).posted == 100_020_000


# ── what is sent in another shape ────────────────────────────────────────────────────────────────────────────────────


async def test_a_clamp_reaches_a_request_in_the_shape_of_responses(store_url):
    prices = {"*": {"input": "$1/M", "output": "$1000/M"}}
    async with FakeUpstream() as up:
        up.default = completion(9)
        async with serving(stack(up.url, store_url, prices=prices, rules=[{"per": "key", "limit": "$2"}])) as (
            url,
            _,
            _,
        ):
            raw = b'{"model": "up/m", "input": "hi", "max_tokens": 1, "max_output_tokens": 100000}'
            await exchange(url, "POST", CHAT, raw, [("authorization", "Bearer k")])
            sent = up.requests[0].document
            assert sent["max_output_tokens"] == (2_000_000_000 - (len(raw) + 8 + 64) * 1_000) // 1_000_000


# ── an answer that cannot be read was billed ─────────────────────────────────────────────────────────────────────────


async def test_an_unreadable_answer_is_the_upstreams_fault_and_frees_no_money(store_url):
    frames = b'data: {"choices": [{"delta": {"content": [7]}}]}\n\ndata: [DONE]\n\n'
    async with FakeUpstream() as up:
        up.default = Answer(headers=[("content-type", "text/event-stream")], body=frames)
        text = json.loads(stack(up.url, store_url, rules=[{"per": "key", "limit": "$1000"}]))
        text["upstreams"]["up"]["provider"] = "groq"
        async with serving(json.dumps(text)) as (url, _, plugin):
            answer = await ask(url, path="/v1/messages", max_tokens=5)
            assert answer.status == 502
            assert [(state, basis) for state, basis in await holds(plugin, "state, basis")] == [(3, "broken")]


async def test_a_count_that_nobody_can_have_used_is_no_usage(store_url):
    async with FakeUpstream() as up:
        up.default = completion(2**64 - 1, prompt=2**64 - 1)
        async with serving(stack(up.url, store_url, rules=[{"per": "key", "limit": "$1000"}])) as (url, _, plugin):
            assert (await ask(url, max_tokens=5)).status == 200
            assert len(await holds(plugin, "state")) == 1
            await sound(plugin)


# ── text that a store refuses ────────────────────────────────────────────────────────────────────────────────────────


async def with_nul(store_url):
    """A model's name with a NUL, of which a wildcard makes one that the upstream knows: answers, and what is posted."""
    async with FakeUpstream() as up:
        up.default = completion(100)
        text = json.loads(stack(up.url, store_url, mode="escrow", rules=[{"per": "key", "limit": "$1000"}]))
        text["models"] = {"gpt-*": "up/m"}
        async with serving(json.dumps(text)) as (url, _, plugin):
            said = [b'{"model": "gpt-%b", "messages": [], "max_tokens": 9}' % name for name in (b"1", b"\\u0000")]
            seen = [await exchange(url, "POST", CHAT, raw, [("authorization", "Bearer k")]) for raw in said]
            with suppress(TimeoutError):
                await settled(plugin, 2.0)
            posted = sum([row[0] or 0 for row in await plugin.ledger.home.rows("SELECT settled FROM budget_hold")])
            return [one.status for one in seen], posted // 100_010_000


async def test_no_name_keeps_what_was_spent_out_of_the_books(store_url):
    assert await with_nul(store_url) == ([200, 400], 1)


async def test_a_name_that_postgresql_refuses_costs_what_it_costs(postgres_url, monkeypatch):
    class Loose(str):
        __slots__ = ()

        def __contains__(self, _part):
            return False

    model_of = OpenAIChat.model_of
    monkeypatch.setattr(OpenAIChat, "model_of", lambda *said: Loose(model_of(*said)))
    assert await with_nul(postgres_url) == ([200, 200], 2)
