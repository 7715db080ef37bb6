"""What an answer may be cut for: for what is spent, and for nothing else. Who is told to come back, and who is not."""

import json

import httpx
import pytest
from budget_stack import CHAT, ask, body, completion, holds, serving, stack

from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_budget.accounts import Budgets

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
