"""In every dialect, and from each to every other: the upstream is told no more than was held; a refusal says all it knows."""

import asyncio
import itertools
import json

import pytest
from budget_stack import CHAT, Anybody, Got, holds, serving

from gwcore import dispatch
from gwcore.call import Principal
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.stacks.raw import exchange

HI = [{"role": "user", "content": "hi"}]
CLIENTS = {
    "openai.chat": (CHAT, {"model": "up/m", "messages": HI}, "max_tokens"),
    "openai.responses": ("/v1/responses", {"model": "up/m", "input": "hi"}, "max_output_tokens"),
    "anthropic.messages": ("/v1/messages", {"model": "up/m", "messages": HI}, "max_tokens"),
    "gemini.generate": ("/v1beta/models/up/m:generateContent", {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}, None),
}  # fmt: skip
UPSTREAMS = {
    "openai.chat": {"provider": "openai-compatible"},
    "openai.responses": {"provider": "openai", "dialect": "openai.responses"},
    "anthropic.messages": {"provider": "anthropic"},
    "gemini.generate": {"provider": "gemini"},
}
PRICE = {"input": "$1/M", "output": "$1000/M", "context_window": 100_000, "max_output": 128_000}


def stack(up, dialect, limit, status=429, wait="2s"):
    entry = UPSTREAMS[dialect]
    base = up.url if entry["provider"] in {"anthropic", "gemini"} else f"{up.url}/v1"
    return json.dumps({
        "gwcore": 1, "stores": {"book": "memory:"},
        "upstreams": {"up": {**entry, "base_url": base, "api_key": "sk-upstream-test-0000000", "prices": {"*": PRICE}}},
        "stack": [{"anybody": {}}, {"budget": {"store": "book", "mode": "direct", "patience": "10s", "wait": wait, "status": status, "rules": [{"per": "key", "limit": limit}]}}],
    }, indent=1)  # fmt: skip


def told(document):
    """The length that a request says, in whichever dialect."""
    config = document.get("generationConfig") or document.get("generation_config") or {}
    names = ("max_tokens", "max_completion_tokens", "max_output_tokens")
    found = [document[n] for n in names if document.get(n) is not None]
    found += [config[n] for n in ("maxOutputTokens", "max_output_tokens") if config.get(n) is not None]
    return found


async def ask(url, dialect, length=None):
    path, document, name = CLIENTS[dialect]
    if length is not None:
        document = {**document, **({name: length} if name else {"generationConfig": {"maxOutputTokens": length}})}
    version = [("anthropic-version", "2023-06-01")] if dialect == "anthropic.messages" else []
    return Got(
        await exchange(url, "POST", path, json.dumps(document).encode(), [("authorization", "Bearer k"), *version])
    )


@pytest.mark.parametrize(("client", "upstream"), [*itertools.product(CLIENTS, UPSTREAMS)])
@pytest.mark.parametrize("length", [None, 4000])
async def test_b9_the_upstream_is_told_what_was_held(client, upstream, length):
    if client == "anthropic.messages" and length is None:
        length = 100_000  # required there
    async with FakeUpstream() as up:
        up.default = Answer(status=400, body=b'{"error":{"message":"no"}}')
        async with serving(stack(up, upstream, "$0.5")) as (url, _, plugin):
            answer = await ask(url, client, length)
            said = told(up.requests[0].document)
            assert len(said) == 1
            assert 400 < said[0] < 500, "half a dollar pays for less than 500 tokens"
            assert answer.header("x-gwcore-max-tokens") == str(said[0])
            held = (await holds(plugin, "amount"))[0][0]
            assert said[0] * 1_000_000 < held <= 500_000_000


async def test_b9_negative_control_a_translation_that_reads_the_call(monkeypatch):
    made = dispatch.translate
    monkeypatch.setattr(
        dispatch, "translate", lambda call, target, _document, dialects: made(call, target, call.document, dialects)
    )
    async with FakeUpstream() as up:
        up.default = Answer(status=400, body=b'{"error":{"message":"no"}}')
        async with serving(stack(up, "anthropic.messages", "$0.5")) as (url, _, _):
            await ask(url, "openai.chat", 4000)
            assert told(up.requests[0].document) == [4000]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("status", [429, 402])
async def test_a_spent_budget_in_the_clients_dialect(client, status):
    async with FakeUpstream() as up, serving(stack(up, client, "$0", status)) as (url, _, _):
        refused = await ask(url, client, 1000)
        assert refused.status == status and up.requests == []
        text = refused.body.decode()
        assert "budget of key k" in text and "$0.00 in total" in text
        error = json.loads(text)["error"]
        if client.startswith("openai"):
            assert (error["code"], error["type"]) == ("budget_exceeded", "budget_exceeded")
        elif client == "anthropic.messages":
            assert error["type"] == ("rate_limit_error" if status == 429 else "billing_error")
        else:
            assert error["code"] == status
            assert status != 429 or error["status"] == "RESOURCE_EXHAUSTED"
            assert [one["retryDelay"] for one in error["details"] if "retryDelay" in one] == [
                "86400s"
            ]  # never, in fact
        assert refused.header("x-should-retry") == "false"
        assert refused.header("x-gwcore-budget-window") == "total"


@pytest.mark.parametrize("client", CLIENTS)
async def test_held_money_in_the_clients_dialect(client):
    async with FakeUpstream() as up:
        answered = asyncio.Event()
        up.default = Answer(status=400, delay_head=answered, body=b'{"error":{"message":"no"}}')
        async with serving(stack(up, client, "$1.01", wait="100ms")) as (url, _, plugin):
            first = asyncio.ensure_future(ask(url, client, 1000))
            await up.received(1)
            refused = await ask(url, client, 1000)
            assert refused.status == 429 and "reserved by calls in flight" in refused.body.decode()
            assert 1 <= int(refused.header("retry-after")) <= 60
            assert refused.header("x-should-retry") != "false"
            if client == "gemini.generate":  # its own clients read no header
                (wait,) = [d for d in json.loads(refused.body)["error"]["details"] if d["@type"].endswith(".RetryInfo")]
                assert wait["retryDelay"] == refused.header("retry-after") + "s"
            answered.set()
            await first
            assert [row[0] for row in await holds(plugin)] == [2]


async def test_every_scope_binds_in_one_transaction():
    """One attempt, one hold, ten accounts; when any of them lacks room, none moves."""
    scopes = (
        "global",
        "organisation",
        "team",
        "member",
        "user",
        "end_user",
        "key",
        "model",
        "upstream",
        "tag",
        "session",
    )
    async with FakeUpstream() as up:
        up.default = Answer(status=400, body=b'{"error":{"message":"no"}}')
        text = json.loads(stack(up, "openai.chat", "$1"))
        rules = [{"per": scope, "limit": "$10", "on_short": "reject"} for scope in scopes]
        text["stack"][1]["budget"]["rules"] = rules
        for poor in (None, *scopes):
            for rule in rules:
                rule["limit"] = "$0.001" if rule["per"] == poor else "$10"
            async with serving(json.dumps(text, indent=1)) as (url, _, plugin):
                Anybody.who["k"] = Principal(
                    id="k", organisation="o", team="t", user="u", end_user="e", tags=frozenset({"blue"})
                )
                body = json.dumps({"model": "up/m", "messages": HI, "max_tokens": 5}).encode()
                headers = [("authorization", "Bearer k"), ("x-gwcore-session-id", "s1")]
                answer = Got(await exchange(url, "POST", CHAT, body, headers))
                rows = await plugin.ledger.home.rows("SELECT budget, posted, pending FROM budget_account")
                if poor is None:
                    assert answer.status == 400 and len(rows) == len(scopes)
                    assert {row[0].partition(":")[0] for row in rows} == set(scopes)
                    entries = await plugin.ledger.home.rows("SELECT accounts FROM budget_entry WHERE kind='hold'")
                    assert [len(json.loads(accounts)) for (accounts,) in entries] == [len(scopes)]
                else:
                    assert answer.header("x-gwcore-budget-scope") == poor
                assert all(row[1:] == (0, 0) for row in rows) or poor is None
