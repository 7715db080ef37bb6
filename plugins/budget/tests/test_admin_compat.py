"""The admin API of money, asked as LiteLLM's clients ask."""

import asyncio
import json
import secrets
from collections import defaultdict
from contextlib import asynccontextmanager
from itertools import groupby

import httpx2
import pytest
from budget_stack import completion

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_budget.admin import spend

ADMIN = secrets.token_hex(32)
ASK = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def served(up, store, names):
    entry = {"provider": "openai-compatible", "base_url": f"{up.url}/v1", "api_key": "sk-up-00000000"}
    text = json.dumps({
        "gwcore": 1, "stores": {"book": store},
        "upstreams": {
            "a": {**entry, "prices": {"*": {"input": "$1/M", "output": "$1000/M"}}},
            "b": {**entry, "prices": {"*": {"input": "$1/M", "output": "$2000/M"}}},
        },
        "models": names,
        "stack": [{"auth": {"admin_key": ADMIN}}, "ratelimit", {"budget": {"store": "book", "mode": "direct", "patience": "10s"}}],
    }, indent=1)  # fmt: skip
    headers = {"authorization": f"Bearer {ADMIN}"}
    async with (
        running(Gateway(text + "\n", serve_admin=True)) as url,
        httpx2.AsyncClient(base_url=url, headers=headers, timeout=20, trust_env=False) as http,
    ):
        yield http


@pytest.fixture
async def up():
    async with FakeUpstream() as upstream:
        yield upstream


@pytest.mark.parametrize(
    ("said", "cost"), [("m-1", 1.00001), ("m-1-2026-05-01", 1.00001), ("m-2", None), ("m-9", None)]
)
async def test_an_answer_of_ours_is_priced(up, tmp_path, said, cost):
    names = {"house": "a/m-1", "two": ["a/m-2", "b/m-2"]}
    usage = {"prompt_tokens": 10, "completion_tokens": 1000, "total_tokens": 1010}
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    up.default = Answer(
        body=json.dumps(
            {"id": "c", "object": "chat.completion", "model": said, "choices": [choice], "usage": usage}
        ).encode()
    )
    async with served(up, f"sqlite:///{tmp_path}/book.db", names) as http:
        answer = await http.post("/v1/chat/completions", json={"model": "house", "messages": ASK})
        assert answer.status_code == 200 and answer.json()["model"] == said
        asked = await http.post("/spend/calculate", json={"completion_response": answer.json()})
        if cost is None:  # two upstreams answer so, and do not cost the same
            assert asked.status_code == 400 and "several prices" in asked.text
            named = {"model": "two", "completion_response": answer.json()}
            cost, asked = 1.00001, await http.post("/spend/calculate", json=named)
        assert asked.json() == {"cost": cost}
        unknown = await http.post("/spend/calculate", json={"model": "m-1", "messages": ASK})
        assert unknown.status_code == 400 and "no model named" in unknown.text


async def told(http, path, body, status):
    answer = await http.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_a_budget_that_is_not_there_is_refused_when_it_is_written(up, store_url):
    async with served(up, store_url, {"house": "a/m-1"}) as http:
        for path in ("/key/generate", "/team/new", "/user/new", "/customer/new"):
            body = {"budget_id": "nobody", **({"user_id": "x"} if "customer" in path else {})}
            assert "there is no budget nobody" in (await told(http, path, body, 400))["error"]["message"]
        await told(http, "/budget/new", {"budget_id": "small", "max_budget": 5}, 200)
        key = await told(http, "/key/generate", {"budget_id": "small"}, 200)  # known at once
        await told(http, "/key/update", {"key": key["key"], "budget_id": "nobody"}, 400)
        await told(http, "/key/update", {"key": key["key"], "max_budget": 3}, 200)
        assert (await told(http, "/key/update", {"key": key["key"], "budget_id": None}, 200))["budget_id"] is None


async def test_many_rows_are_shown_with_turns_of_the_loop_in_between(up, tmp_path, monkeypatch):
    up.default = completion(3)
    turns, shown = 0, []

    async def turning():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def spied(row):
        shown.append(turns)
        return log_row(row)

    async with served(up, f"sqlite:///{tmp_path}/book.db", {"house": "a/m-1"}) as http:
        for _ in range(7):
            body, tags = {"model": "house", "messages": ASK}, {"x-litellm-tags": "eu, paid"}
            assert (await http.post("/v1/chat/completions", json=body, headers=tags)).status_code == 200
        async with asyncio.timeout(20):
            pages = []
            while sum(row["endTime"] is not None for row in pages) < 7:
                await asyncio.sleep(0.1)
                pages = (await http.get("/spend/logs/v2")).json()["data"]
        assert all(sorted(row["request_tags"]) == ["eu", "paid"] for row in pages)
        log_row = spend.log_row
        monkeypatch.setattr(spend, "log_row", spied)
        monkeypatch.setattr(spend, "SLICE", 3)
        task = asyncio.create_task(turning())
        answer = await http.get("/spend/logs")
        task.cancel()
        assert answer.headers["content-type"] == "application/json" and answer.json() == pages
        assert [len(list(same)) for _, same in groupby(shown)] == [3, 3, 1]
        assert (await http.get("/spend/logs?limit=2")).json() == pages[:2]
        assert (await http.get("/spend/logs?user_id=nobody")).json() == []
        assert (await http.get("/spend/logs?limit=10001")).status_code == 400


@pytest.mark.parametrize(("path", "field", "mend"), [
    ("/budget/new", "max_parallel_requests", "set it on the key or the team"), ("/budget/new", "rpm_limit", "set it on the key or the team"),
    ("/team/new", "team_member_budget", "/team/member_add"), ("/team/new", "team_member_rpm_limit", "/team/member_add"),
])  # fmt: skip
async def test_what_is_said_elsewhere_is_refused_with_the_place(up, tmp_path, path, field, mend):
    async with served(up, f"sqlite:///{tmp_path}/book.db", {"house": "a/m-1"}) as http:
        answer = await http.post(path, json={field: 5})
        assert answer.status_code in {400, 422} and field in answer.text and mend in answer.text


async def in_the_book(http, key, calls):
    """The row of ``/spend/keys`` once so many calls are booked: they are a little later than their answers."""
    async with asyncio.timeout(10):
        while True:
            (row,) = (await http.get("/spend/keys", params={"key": key})).json()
            if row["api_requests"] == calls:
                return row
            await asyncio.sleep(0.01)


async def test_spend_is_that_of_the_budget_that_binds_now(up, tmp_path):
    """It froze where a limit was taken away, and stayed another period's where a duration came back."""
    up.default = completion(100)
    each, calls = 0.10001, []
    async with served(up, f"sqlite:///{tmp_path}/book.db", {"house": "a/m"}) as http:
        key = (await told(http, "/key/generate", {"max_budget": 5, "budget_duration": "1d"}, 200))["key"]

        async def spends(**change):
            await told(http, "/key/update", {"key": key, **change}, 200)
            headers = {"authorization": f"Bearer {key}"}
            answer = await http.post("/v1/chat/completions", json={"model": "house", "messages": ASK}, headers=headers)
            assert answer.status_code == 200, answer.text
            calls.append(answer)
            await in_the_book(http, key, len(calls))
            row = (await http.get("/key/info", params={"key": key})).json()["info"]
            return round(row["spend"] / each, 6)

        assert await spends() == 1
        assert await spends(budget_duration="30d") == 1  # of the month only what was spent since it counts
        assert await spends(budget_duration="1d") == 2
        assert await spends(max_budget=None) == 4  # all time
        assert await spends() == 5
        assert await spends(max_budget=5) == 3


async def test_reports_tell_of_the_budget_that_binds_now_from_the_moment_it_does(up, tmp_path):
    """Until its first call it was all time, above its limit; /spend/keys told of settings that were gone, for good."""
    up.default = completion(100)
    each, calls = 0.10001, []
    async with served(up, f"sqlite:///{tmp_path}/book.db", {"house": "a/m"}) as http:
        key = (await told(http, "/key/generate", {}, 200))["key"]

        async def shown(*, call=True, **change):
            await told(http, "/key/update", {"key": key, **change}, 200)
            if call:
                headers = {"authorization": f"Bearer {key}"}
                answer = await http.post(
                    "/v1/chat/completions", json={"model": "house", "messages": ASK}, headers=headers
                )
                assert answer.status_code == 200, answer.text
                calls.append(answer)
            row = await in_the_book(http, key, len(calls))
            info = (await http.get("/key/info", params={"key": key})).json()["info"]
            assert row["spend"] == info["spend"] and row["total_spend"] >= row["spend"]
            return round(row["spend"] / each, 6), row["max_budget"], row["budget_duration"]

        assert await shown() == (1, None, None)
        assert await shown(call=False, max_budget=3, budget_duration="1d") == (0, None, None)
        assert await shown() == (1, 3, "day")
        assert await shown(call=False, max_budget=5, budget_duration="1mo") == (0, None, None)
        assert await shown() == (1, 5, "month")
        assert await shown(max_budget=3, budget_duration="1d") == (2, 3, "day")
        assert await shown(max_budget=None, budget_duration=None) == (5, None, None)


async def test_what_is_no_window_is_refused_with_what_to_write(up, tmp_path):
    async with served(up, f"sqlite:///{tmp_path}/book.db", {"house": "a/m"}) as http:
        for path in ("/key/generate", "/team/new", "/budget/new"):
            for text, mend in (("1M", "write 1mo for a month, 1m for a minute"), ("daily", "rolling 24h")):
                answer = await http.post(path, json={"max_budget": 5, "budget_duration": text})
                assert answer.status_code == 400 and mend in answer.json()["error"]["message"], answer.text


@pytest.mark.parametrize(("ended", "begun"), [(1006, "06Z"), (1020, "09Z"), (None, "09Z")])
def test_no_answer_begins_behind_its_end(ended, begun):
    """The row is made a moment after the attempt, from which the first byte is counted."""
    row = defaultdict(
        lambda: None, created=1000, first_byte_ms=9, ended=ended, amount=1, settled=1, tags="[]", status=200
    )
    assert spend.log_row(row)["completionStartTime"].endswith(begun)
