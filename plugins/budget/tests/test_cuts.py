"""What an answer may be cut for: for what is spent, and for nothing else. Who is told to come back, and who is not."""

import asyncio
import json

import httpx
import pytest
from budget_stack import CHAT, ask, body, completion, holds, serving, sound, stack

from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_budget.accounts import Budgets
from gwcore_budget.ledger.books import Books

DOLLAR = 1_000_000_000
UNSAID = {"m": {"input": "$1/M", "output": "$1000/M"}, "free": {"free": True}}
"""Neither price card says how long an answer may be."""


@pytest.mark.parametrize(
    ("model", "rules"),
    [
        ("up/m", []),
        ("up/m", [{"per": "key", "soft": "$1"}]),
        ("up/m", [{"per": "end_user", "limit": "$1"}]),
        ("up/free", [{"per": "key", "limit": "$1"}]),
    ],
)
async def test_where_no_limit_binds_the_request_goes_as_it_came(model, rules, store_url):
    async with FakeUpstream() as up:
        up.default = completion(40_000)
        async with serving(stack(up.url, store_url, prices=UNSAID, rules=rules)) as (url, _, plugin):
            answer = await ask(url, model=model)
            assert answer.status == 200 and answer.header("x-gwcore-max-tokens") is None
            assert "max_tokens" not in up.requests[0].document
            # an answer longer than was assumed: nothing was said to be kept to, so nobody's estimate was too low
            assert (await holds(plugin, "settled"))[0][0] == (40_000_010_000 if model == "up/m" else 0)
            assert not plugin.counts["underestimates"] and not plugin._factors


async def test_negative_control_where_a_limit_binds_the_request_says_it(store_url, monkeypatch):
    async with FakeUpstream() as up:
        up.default = completion(40_000)
        rules = [{"per": "key", "limit": "$50"}]
        async with serving(stack(up.url, store_url, prices=UNSAID, rules=rules)) as (url, _, plugin):
            await ask(url)
            assert up.requests[0].document["max_tokens"] == 32_768
            # were the limit overlooked, nothing would bound the answer
            monkeypatch.setattr(Budgets, "limited", property(lambda _self: False), raising=False)
            await holds(plugin)
            await ask(url)
            assert "max_tokens" not in up.requests[1].document


async def test_the_length_is_told_of_the_attempt_that_answers(store_url):
    async with FakeUpstream() as a, FakeUpstream() as b:
        a.default = Answer(status=500, body=b"{}")
        b.default = completion(10)
        text = json.loads(
            stack(
                {"a": a.url, "b": b.url},
                store_url,
                mode="direct",
                more={"fallback": {}},
                rules=[{"per": "global", "limit": "$0.5"}],
            )
        )
        text["models"] = {"chain": ["a/m", "b/m"]}
        text["upstreams"]["b"]["prices"]["*"]["output"] = "$500/M"
        async with serving(json.dumps(text, indent=1)) as (url, _, _):
            async with httpx.AsyncClient() as client:
                answer = await client.post(url + CHAT, content=body(model="chain"))
            assert answer.status_code == 200
            sent = b.requests[0].document["max_tokens"]
            assert 900 < sent < 1000 and a.requests[0].document["max_tokens"] < 500
            assert answer.headers.get_list("x-gwcore-max-tokens") == [str(sent)]


async def test_what_can_never_fit_is_not_told_to_come_back(store_url):
    """$0.90 of $1 are spent, $0.02 held: $0.50 do not fit whatever becomes of the held, $0.09 do."""
    async with FakeUpstream() as up:
        up.script(completion(900), Answer(body=completion(1).body, delay_head=2.0), completion(1))
        rules = [{"per": "key", "limit": "$1.0", "on_short": "wait"}]
        async with serving(stack(up.url, store_url, mode="direct", rules=rules, wait="0s")) as (url, _, plugin):
            await ask(url, max_tokens=950)
            await holds(plugin)
            held = asyncio.ensure_future(ask(url, max_tokens=20))
            await up.received(2)
            refused = await ask(url, max_tokens=500)
            assert (refused.status, refused.error["code"]) == (429, "budget_exceeded")
            assert refused.header("x-should-retry") == "false" and "may cost $0.5" in refused.error["message"]
            reserved = await ask(url, max_tokens=95)
            assert (reserved.status, reserved.error["code"]) == (429, "budget_reserved")
            assert int(reserved.header("retry-after")) >= 1 and reserved.header("x-should-retry") is None
            assert len(up.requests) == 2 and (await held).status == 200
            await holds(plugin)
            assert (await ask(url, max_tokens=95)).status == 200
            await sound(plugin)


@pytest.mark.parametrize(("other", "waited"), [("wait", 5.0), ("clamp", 5.0), ("reject", 0.0)])
async def test_one_budget_that_refuses_at_once_is_not_waited_for_because_another_waits(other, waited):
    rules = [{"per": "key", "limit": "$1", "on_short": "wait"}, {"per": "global", "limit": "$9", "on_short": other}]
    async with FakeUpstream() as up:
        up.default = completion(1)
        async with serving(stack(up.url, "memory:", mode="direct", rules=rules, wait="5s")) as (url, _, plugin):
            real, waits = plugin.ledger.hold, []

            def hold(*args, **options):
                waits.append(options["wait"])
                return real(*args, **options)

            plugin.ledger.hold = hold
            assert (await ask(url, max_tokens=20)).status == 200
            assert waits == [waited]


async def burst(store_url, mode, wait, delay=0.3):
    """B10 in small: six sessions whose worst cases are the whole budget together with one more, and whose answers are short."""
    async with FakeUpstream() as up:
        up.default = Answer(body=completion(5).body, delay_head=delay)
        rules = [{"per": "key", "limit": "$10"}]
        async with serving(stack(up.url, store_url, mode=mode, rules=rules, wait=wait)) as (url, _, plugin):
            answers = await asyncio.gather(*(ask(url, max_tokens=4_000) for _ in range(6)))
            assert {sent.document["max_tokens"] for sent in up.requests} == {4_000}, "no answer was cut"
            assert not any(answer.header("x-gwcore-max-tokens") for answer in answers)
            await holds(plugin)
            await sound(plugin)
            return sorted((a.status, a.error["code"] if a.status != 200 else "") for a in answers)


@pytest.mark.parametrize("mode", ["direct", "auto", "escrow"])
async def test_b10_who_meets_only_holds_waits(mode, store_url):
    assert await burst(store_url, mode, "20s") == [(200, "")] * 6


async def test_b10_who_has_waited_long_enough_is_told_to_come_back(store_url):
    answers = await burst(store_url, "direct", "0s", delay=2.0)
    assert answers.count((429, "budget_reserved")) == 4


async def test_b10_negative_control_cut_to_what_is_free(store_url, monkeypatch):
    room = Books._room

    def free(self, op, accounts, amount):
        need, short = room(self, op, accounts, amount)
        return (need, short) if short is None or short.free < (op.least or amount) else (short.free, None)

    monkeypatch.setattr(Books, "_room", free)
    with pytest.raises(AssertionError, match="no answer was cut"):
        await burst(store_url, "direct", "20s")
