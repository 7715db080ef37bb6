"""The admin API of budgets and spend, beside the real auth plugin: LiteLLM's shapes, and nobody sees what is not its own."""

import asyncio
import json
import secrets
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx2
import openai
import pytest
from budget_stack import completion, settled

from gwcore.catalog import Catalog
from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_budget.ledger.verify import verify

ADMIN = secrets.token_hex(32)

ANSWER = [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]


class Api:
    def __init__(self, url, http, gateway):
        self.url, self.http, self.gateway = url, http, gateway
        self.budget = next(p.plugin for p in gateway.stack.placed if p.name == "budget")

    async def raw(self, method, path, body=None, key=ADMIN, **query):
        headers = {"authorization": f"Bearer {key}"}
        return await self.http.request(method, self.url + path, json=body, params=query or None, headers=headers)

    async def get(self, path, status=200, key=ADMIN, **query):
        answer = await self.raw("GET", path, key=key, **query)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def post(self, path, body=None, status=200, key=ADMIN):
        answer = await self.raw("POST", path, body or {}, key=key)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def chat(self, key, **fields):
        body = {"model": "up/m", "max_tokens": 1000, "messages": [{"role": "user", "content": "hi"}], **fields}
        answer = await self.raw("POST", "/v1/chat/completions", body, key=key)
        await settled(self.budget)
        return answer


@asynccontextmanager
async def served(up, store, auth=None, **budget):
    prices = {"*": {"input": "$1/M", "output": "$1000/M", "context_window": 100_000, "max_output": 128_000}}
    text = json.dumps({
        "gwcore": 1, "stores": {"book": store},
        "upstreams": {"up": {"provider": "openai-compatible", "base_url": f"{up.url}/v1", "api_key": "sk-up-00000000", "prices": prices}},
        "stack": [{"auth": {"admin_key": ADMIN, **(auth or {})}}, {"budget": {"store": "book", "mode": "direct", "patience": "10s", **budget}}],
    }, indent=1)  # fmt: skip
    gateway = Gateway(text + "\n", catalog=Catalog(), serve_admin=True)
    async with running(gateway) as url, httpx2.AsyncClient(timeout=20, trust_env=False) as http:
        yield Api(url, http, gateway)


@pytest.fixture
async def up():
    async with FakeUpstream() as upstream:
        upstream.default = completion(1000)  # a dollar
        yield upstream


@pytest.fixture
async def api(up, store_url):
    async with served(up, store_url) as found:
        yield found


async def test_the_script_of_issue_4(api, up):
    """A team with $5 a month, a key in it, calls until exhausted, spend read back, raised, calls work again."""
    team = await api.post("/team/new", {"team_alias": "x", "max_budget": 5, "budget_duration": "1mo"})
    made = await api.post("/key/generate", {"team_id": team["team_id"], "key_alias": "ci"})
    key = made["key"]
    statuses = [(await api.chat(key)).status_code for _ in range(6)]
    assert statuses[:4] == [200] * 4 and statuses[-1] == 429
    spent = len(up.requests)
    cost = spent * 1.00001
    (row,) = await api.get("/spend/keys")
    assert row["key_alias"] == "ci" and row["total_spend"] == pytest.approx(cost)
    (one,) = (
        await api.http.get(f"{api.url}/spend/keys?key={key}", headers={"authorization": f"Bearer {ADMIN}"})
    ).json()
    assert one["token"] == row["token"] and one["spend"] == row["spend"] == pytest.approx(cost)
    for query in ({}, {"team_id": team["team_id"]}):
        (shown,) = await api.get("/spend/teams", **query)
        assert shown["team_alias"] == "x" and shown["spend"] == pytest.approx(cost)
        assert (shown["max_budget"], shown["budget_duration"]) == (5.0, "month")
    info = (await api.get("/team/info", team_id=team["team_id"]))["team_info"]
    assert info["spend"] == pytest.approx(cost)
    logs = await api.get("/spend/logs", api_key=key)
    assert len(logs) == spent and logs[0]["spend"] == 1.00001 and logs[0]["status"] == "success"
    assert logs[0]["team_id"] == team["team_id"] and logs[0]["completion_tokens"] == 1000
    refused = await api.chat(key)
    assert refused.json()["error"]["code"] == "budget_exceeded" and refused.headers["x-should-retry"] == "false"
    await api.post("/team/update", {"team_id": team["team_id"], "max_budget": 100})
    assert (await api.chat(key)).status_code == 200


async def test_budgets_by_name_bind_whoever_refers_to_them(api):
    made = await api.post("/budget/new", {"budget_id": "small", "max_budget": 1.5, "budget_duration": "24h"})
    assert (made["max_budget"], made["budget_duration"], made["created_by"]) == (1.5, "24h", "admin")
    await api.post("/budget/new", {"budget_id": "small"}, status=400)
    key = (await api.post("/key/generate", {"budget_id": "small"}))["key"]
    assert (await api.chat(key, max_tokens=1000)).status_code == 200
    assert (await api.chat(key, max_tokens=900)).status_code in {200, 429}
    assert (await api.chat(key, max_tokens=900)).status_code == 429
    changed = await api.post("/budget/update", {"budget_id": "small", "max_budget": 9, "soft_budget": 8})
    assert changed["budget_duration"] == "24h" and changed["soft_budget"] == 8
    assert (await api.chat(key)).status_code == 200
    assert [b["budget_id"] for b in await api.get("/budget/list")] == ["small"]
    assert (await api.post("/budget/info", {"budgets": ["small", "none"]}))[0]["max_budget"] == 9
    settings = {f["field_name"]: f["field_value"] for f in await api.get("/budget/settings", budget_id="small")}
    assert settings["max_budget"] == 9 and settings["budget_duration"] == "24h"
    await api.post("/budget/update", {"budget_id": "nobody", "max_budget": 9}, status=404)
    await api.post("/budget/new", {"rpm_limit": 5}, status=400)
    await api.post("/budget/new", {"max_budget": 1, "soft_budget": 2}, status=400)
    await api.post("/budget/delete", {"id": "small"})
    # its limit is not known any more: nothing may be spent
    refused = await api.chat(key)
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "budget_missing"
    await api.post("/budget/delete", {"id": "small"}, status=404)


async def test_a_new_budget_is_known_to_the_other_workers_at_once(up, store_url):
    async with served(up, store_url) as one, served(up, store_url) as other:
        await one.post("/budget/new", {"budget_id": "b", "max_budget": 2})
        key = (await one.post("/key/generate", {"budget_id": "b"}))["key"]
        assert (await other.chat(key)).status_code == 200
        await one.post("/budget/update", {"budget_id": "b", "max_budget": 0})
        async with asyncio.timeout(5):
            while (await other.chat(key)).status_code != 429:
                await asyncio.sleep(0.05)


async def test_a_manual_reset_opens_a_new_period_for_all(up, store_url):
    async with served(up, store_url) as one, served(up, store_url) as other:
        made = await one.post("/key/generate", {"max_budget": 1.1})
        assert (await one.chat(made["key"])).status_code == 200
        assert (await other.chat(made["key"])).status_code == 429
        answer = await one.post(f"/key/{made['token']}/reset_spend", {"reset_to": 0})
        assert answer["spend"] == 0 and answer["reset"] == [f"key:{made['token']}:total"]
        assert (await other.chat(made["key"])).status_code == 200
        await one.post("/budget/reset", {"scope": "key", "id": made["token"]})
        shown = (await one.raw("GET", "/key/info", key=made["key"])).json()["info"]
        assert shown["spend"] == 0
        (row,) = (await one.raw("GET", "/spend/keys", api_key=made["token"])).json()
        assert (row["spend"], row["total_spend"]) == (0, pytest.approx(2.00002))
        await one.post("/budget/reset", {"scope": "key", "id": "nobody"}, status=404)
        await one.post("/budget/reset", {"scope": "planet", "id": "x"}, status=400)


async def test_the_reset_of_all_keys_and_teams_opens_new_periods_and_forgets_nothing(up, store_url):
    """``/global/spend/reset``: as LiteLLM's, but what was spent stays in the book."""
    async with served(up, store_url) as one, served(up, store_url) as other:
        team = (await one.post("/team/new", {"team_alias": "t", "max_budget": 2.1}))["team_id"]
        await one.post("/user/new", {"user_id": "u", "max_budget": 1.1, "auto_create_key": False})
        teams, alone, users = [
            await one.post("/key/generate", body) for body in ({"team_id": team}, {"max_budget": 1.1}, {"user_id": "u"})
        ]
        for made, times in ((teams, 2), (alone, 1), (users, 1)):
            got = [(await one.chat(made["key"])).status_code for _ in range(times + 1)]
            assert got == [200] * times + [429]
        before = (await one.get("/global/spend"))["spend"]
        await one.post("/global/spend/reset", status=403, key=alone["key"])
        assert (await one.post("/global/spend/reset"))["status"] == "success"
        assert [(await other.chat(made["key"])).status_code for made in (teams, alone)] == [200, 200]
        assert (await other.chat(users["key"])).status_code == 429  # a user's is neither a key's nor a team's
        assert (await one.get("/team/info", team_id=team))["team_info"]["spend"] == pytest.approx(1.00001)
        assert (await one.get("/global/spend"))["spend"] == pytest.approx(before + 2.00002) and before > 4
        assert (await verify(one.budget.ledger.home)).problems == []


@pytest.mark.parametrize("duration", ["24h", "7d", "30d", "1mo"])
async def test_rows_say_when_the_budget_begins_anew(api, duration):
    """What the row says is what a refusal says."""
    made = await api.post("/key/generate", {"max_budget": 1.1, "budget_duration": duration})
    team = await api.post("/team/new", {"max_budget": 1.1, "budget_duration": duration})
    info = (await api.raw("GET", "/key/info", key=made["key"])).json()["info"]
    told = {made["budget_reset_at"], info["budget_reset_at"], team["budget_reset_at"]}
    told.add((await api.get("/team/info", team_id=team["team_id"]))["team_info"]["budget_reset_at"])
    told.add((await api.get("/key/list", return_full_object="true"))["keys"][0]["budget_reset_at"])
    assert [(await api.chat(made["key"])).status_code for _ in range(2)] == [200, 429]
    resets = (await api.chat(made["key"])).headers["x-gwcore-budget-resets"]
    assert {datetime.fromisoformat(at) for at in told} == {datetime.fromisoformat(resets)}


async def test_rows_of_budgets_that_never_begin_anew_say_nothing(api):
    await api.post("/budget/new", {"budget_id": "monthly", "max_budget": 5, "budget_duration": "30d"})
    for body, resets in (
        ({}, False),
        ({"max_budget": 1}, False),
        ({"max_budget": 1, "budget_duration": "rolling 24h"}, False),
        ({"budget_id": "monthly"}, True),
        ({"max_budget": 1, "budget_duration": "15m"}, True),
    ):
        made = await api.post("/key/generate", body)
        assert (made["budget_reset_at"] is not None) is resets, body
    await api.post("/budget/delete", {"id": "monthly"})
    assert {row["budget_reset_at"] for row in (await api.get("/key/list", return_full_object="true"))["keys"]} > {None}


async def test_who_may_see_what(api):
    teams = [(await api.post("/team/new", {"team_alias": name}))["team_id"] for name in "ab"]
    for team, user in zip(teams, ("ann", "bob"), strict=True):
        await api.post("/user/new", {"user_id": user, "auto_create_key": False})
        await api.post("/team/member_add", {"team_id": team, "member": {"role": "admin", "user_id": user}})
    keys = [
        await api.post("/key/generate", {"team_id": team, "user_id": user})
        for team, user in ((teams[0], "ann"), (teams[1], "bob"), (teams[0], None))
    ]
    for key in keys:
        assert (await api.chat(key["key"])).status_code == 200
    ann, bob, machine = keys
    assert len(await api.get("/spend/keys")) == 3
    seen = {row["token"] for row in await api.get("/spend/keys", key=ann["key"])}
    assert seen == {ann["token"], machine["token"]}  # she leads team a
    assert {row["token"] for row in await api.get("/spend/keys", key=machine["key"])} == {machine["token"]}
    assert [row["team_id"] for row in await api.get("/spend/teams", key=ann["key"])] == [teams[0]]
    (own,) = await api.get("/spend/teams", key=machine["key"])
    assert own["spend"] == own["total_spend"] == 1.00001  # its own part, not the team's
    assert {row["api_key"] for row in await api.get("/spend/logs", key=bob["key"])} == {bob["token"]}
    foreign = await api.raw("GET", "/spend/logs", key=ann["key"], api_key=bob["token"])
    assert foreign.json() == []
    activity = await api.get("/team/daily/activity", key=ann["key"])
    assert activity["metadata"]["total_api_requests"] == 2 and list(
        activity["results"][0]["breakdown"]["entities"]
    ) == [teams[0]]
    for path in ("/global/spend/keys", "/global/spend/report", "/spend/tags", "/budget/list", "/tag/daily/activity"):
        await api.get(path, status=403, key=ann["key"])
    await api.post("/budget/new", {"max_budget": 1}, status=403, key=ann["key"])
    await api.post(f"/key/{ann['token']}/reset_spend", {"reset_to": 0}, status=403, key=ann["key"])
    await api.get("/spend/keys", status=401, key="sk-nobody")


async def test_negative_control_without_reach_a_stranger_reads_all(api, monkeypatch):
    from gwcore_budget.reports import Where

    keys = [await api.post("/key/generate", {"user_id": user}) for user in ("ann", "bob")]
    for key in keys:
        await api.chat(key["key"])
    assert len(await api.get("/spend/logs", key=keys[0]["key"])) == 1
    monkeypatch.setattr(Where, "within", lambda self, _reach: self)
    assert len(await api.get("/spend/logs", key=keys[0]["key"])) == 2


async def test_reports_of_everything(api, up):
    team = (await api.post("/team/new", {"team_alias": "x"}))["team_id"]
    key = await api.post("/key/generate", {"team_id": team, "tags": ["blue"]})
    for model in ("up/m", "up/m", "up/n"):
        assert (await api.chat(key["key"], model=model, user="customer-1")).status_code == 200
    up.default = up.default.__class__(status=400, body=b'{"error":{"message":"no"}}')
    assert (await api.chat(key["key"])).status_code == 400
    total = pytest.approx(3.00003)
    assert (await api.get("/global/spend")) == {"spend": total, "max_budget": None}
    (row,) = await api.get("/global/spend/keys")
    assert (row["api_key"], row["total_spend"]) == (key["token"], total)
    models = await api.get("/global/spend/models", limit="1")
    assert models == [{"model": "up/m", "total_spend": pytest.approx(2.00002)}]
    teams = await api.get("/global/spend/teams")
    assert teams["teams"] == ["x"] and teams["total_spend_per_team"][0]["total_spend"] == total
    assert teams["daily_spend"][0]["x"] == total
    (day,) = await api.get("/global/spend/report")
    assert day["teams"][0]["team_name"] == "x" and day["teams"][0]["total_spend"] == total
    assert {m["model"] for m in day["teams"][0]["metadata"]} == {"up/m", "up/n"}
    (customer,) = (await api.get("/global/spend/report", group_by="customer"))[0]["customers"]
    assert (customer["customer"], customer["total_spend"]) == ("customer-1", total)
    (by_key,) = await api.get("/global/spend/report", group_by="api_key")
    assert by_key["total_cost"] == total and by_key["total_output_tokens"] == 3000 and len(by_key["model_details"]) == 2
    assert await api.get("/spend/tags") == [{"individual_request_tag": "blue", "log_count": 4, "total_spend": total}]
    assert (await api.get("/global/spend/tags"))["spend_per_tag"][0]["name"] == "blue"
    assert (await api.get("/global/spend/provider")) == [{"provider": "up", "spend": total}]
    assert (await api.post("/global/spend/end_users"))[0]["total_count"] == 3
    found = await api.get("/user/daily/activity")
    assert found["metadata"]["total_failed_requests"] == 1 and found["metadata"]["total_successful_requests"] == 3
    metrics = found["results"][0]["breakdown"]["models"]["n"]["metrics"]
    assert (metrics["api_requests"], metrics["completion_tokens"]) == (1, 1000)
    days = await api.get("/spend/logs", start_date=found["results"][0]["date"], end_date=found["results"][0]["date"])
    assert days[0]["spend"] == total and days[0][key["token"]] == total
    asked = dict.fromkeys(("start_date", "end_date"), found["results"][0]["date"])
    days = await api.get("/spend/logs", model="up/n", **asked)
    assert (days[0]["spend"], days[0]["models"]) == (pytest.approx(1.00001), {"up/n": pytest.approx(1.00001)})
    assert (await api.get("/team/daily/activity", page_size="1000"))["results"], "as much as LiteLLM's clients ask"
    assert (await api.get("/team/daily/activity", exclude_team_ids=f"y, {team}"))["results"] == []
    page = await api.get("/spend/logs/v2", page="2", page_size="3")
    assert (len(page["data"]), page["total"], page["total_pages"]) == (1, 4, 2)
    failed = [row for row in await api.get("/spend/logs") if row["status"] == "failure"]
    assert len(failed) == 1 and failed[0]["spend"] == 0
    one = failed[0]["request_id"]
    for query in ({}, asked):
        assert [row["request_id"] for row in await api.get("/spend/logs", request_id=one, **query)] == [one]
    assert await api.get("/spend/logs", request_id=one[:-1]) == [], "a request's, not of all whose ids begin alike"


async def test_a_page_of_days_reads_what_those_days_were_made_of(api, monkeypatch):
    """A year of thousands of keys is some million rows: a page that shows a day of it does not fetch them all, five times."""
    home = api.budget.desk.home
    insert = "INSERT INTO budget_daily (day, key_id, model_asked, model, upstream, spend, attempts) VALUES ($1,'k','m','m','up',7,1) RETURNING day"
    for day in ("2026-01-01", "2026-01-02", "2026-01-05"):
        await home.rows(insert, day)
    found = []
    report = home.report

    async def seen(query, *values):
        found.append(await report(query, *values))
        return found[-1]

    monkeypatch.setattr(home, "report", seen)
    span = {"start_date": "2026-01-01", "end_date": "2026-01-31", "page_size": "1"}
    activity = await api.get("/key/daily/activity", page="2", **span)
    assert [(day["date"], list(day["breakdown"]["api_keys"])) for day in activity["results"]] == [("2026-01-02", ["k"])]
    assert activity["metadata"]["total_api_requests"] == 3 and activity["metadata"]["total_pages"] == 3
    days, *parts = [[row[0] for row in rows] for rows in found]
    assert days == ["2026-01-01", "2026-01-02", "2026-01-05"] and parts == [["2026-01-02"]] * 5
    assert (await api.get("/key/daily/activity", page="9", **span))["results"] == []


async def test_tokens_of_every_kind_are_in_the_sums(api, up):
    """Audio and what was read from the cache, too: the parts come to the vendor's own total."""
    usage = {
        "prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 30},
        "completion_tokens": 50, "completion_tokens_details": {"reasoning_tokens": 10, "audio_tokens": 20},
        "total_tokens": 150,
    }  # fmt: skip
    body = {"id": "c", "object": "chat.completion", "model": "m", "choices": ANSWER, "usage": usage}
    up.default = Answer(body=json.dumps(body).encode())
    key = await api.post("/key/generate", {})
    assert (await api.chat(key["key"])).status_code == 200
    (row,) = await api.get("/spend/logs")
    assert (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (100, 50, 150)
    metrics = (await api.get("/user/daily/activity"))["results"][0]["metrics"]
    assert (metrics["prompt_tokens"], metrics["completion_tokens"], metrics["total_tokens"]) == (100, 50, 150)


async def test_what_something_costs(api):
    answer = {
        "id": "c",
        "object": "chat.completion",
        "model": "up/m",
        "choices": [],
        "usage": {"prompt_tokens": 10, "completion_tokens": 1000, "total_tokens": 1010},
    }
    assert (await api.post("/spend/calculate", {"completion_response": answer})) == {"cost": 1.00001}
    estimate = await api.post(
        "/spend/calculate", {"model": "up/m", "messages": [{"role": "user", "content": "x" * 3500}]}
    )
    assert 0.0009 < estimate["cost"] < 0.0012
    counted = await api.post(
        "/utils/token_counter?call_endpoint=false", {"model": "up/m", "messages": [{"content": "x" * 3500}]}
    )
    assert 900 < counted["total_tokens"] < 1200 and (counted["request_model"], counted["model_used"]) == ("up/m", "m")
    assert 900 < (await api.post("/utils/token_counter", {"model": "m", "prompt": "x" * 3500}))["total_tokens"] < 1200
    await api.post("/utils/token_counter", {"model": "up/m"}, status=400)
    await api.post("/spend/calculate", {"model": "up/m"}, status=400)
    await api.post("/spend/calculate", {"completion_response": {**answer, "model": ""}}, status=400)
    without = {**answer, "usage": {}}
    await api.post("/spend/calculate", {"completion_response": without}, status=400)


@pytest.mark.parametrize(("path", "query"), [
    ("/spend/logs", {"start_date": "yesterday"}), ("/spend/logs/v2", {"page": "0"}), ("/spend/logs", {"limit": "x"}),
    ("/spend/keys", {"start_date": "2026-02-02", "end_date": "2026-01-01"}), ("/global/spend/report", {"group_by": "planet"}),
])  # fmt: skip
async def test_mistakes_are_told(api, path, query):
    await api.get(path, status=400, **query)


async def test_the_openai_sdk_asks_once_and_not_again(api):
    made = await api.post("/key/generate", {"max_budget": 0})
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=made["key"], max_retries=4) as client:
        with pytest.raises(openai.RateLimitError, match="is spent"):
            await client.chat.completions.create(model="up/m", messages=[{"role": "user", "content": "hi"}])
    assert api.budget.counts["exceeded"] == 1


async def test_b26_a_limit_that_changes_and_a_key_that_goes_while_a_call_runs(api, up):
    made = await api.post("/key/generate", {"max_budget": 10})
    go_on = asyncio.Event()
    up.default = Answer(body=completion(1000).body, delay_head=go_on)
    running = asyncio.ensure_future(api.chat(made["key"]))
    await up.received(1)
    await api.post("/key/update", {"key": made["token"], "max_budget": 0.5})
    refused = await api.raw(
        "POST", "/v1/chat/completions", {"model": "up/m", "max_tokens": 1000, "messages": []}, key=made["key"]
    )
    assert refused.status_code == 429, refused.text
    go_on.set()
    assert (await running).status_code == 200
    (row,) = await api.get("/spend/logs")
    assert (row["spend"], row["status"]) == (1.00001, "success")
    assert "spent $1.00001" in (await api.chat(made["key"])).json()["error"]["message"]
    await api.post("/key/update", {"key": made["token"], "max_budget": 10})
    go_on.clear()
    running = asyncio.ensure_future(api.chat(made["key"]))
    await up.received(2)
    await api.post("/key/delete", {"keys": [made["token"]]})
    gone = await api.raw("POST", "/v1/chat/completions", {"model": "up/m", "messages": []}, key=made["key"])
    assert gone.status_code == 401
    go_on.set()
    assert (await running).status_code == 200
    assert [row["spend"] for row in await api.get("/spend/logs")] == [1.00001] * 2
    assert (await verify(api.budget.ledger.home)).problems == []


async def test_names_of_keys_and_teams_do_not_meet_the_words_of_a_report(up, store_url):
    """LiteLLM's rows hold them side by side: a key may be called "spend", and a team "date"."""
    secret = secrets.token_hex(32)
    keys = {name: {"secret": f"{secret}{name}"} for name in ("spend", "users", "models", "startTime")}
    async with served(up, store_url, auth={"keys": keys}) as api:
        team = await api.post("/team/new", {"team_alias": "date"})
        for key in [
            *(key["secret"] for key in keys.values()),
            (await api.post("/key/generate", {"team_id": team["team_id"]}))["key"],
        ]:
            assert (await api.chat(key)).status_code == 200
        today = datetime.now(UTC).date().isoformat()
        (row,) = await api.get("/spend/logs", start_date=today, end_date=today)
        assert (row["startTime"], row["spend"], row["models"]) == (today, 5.00005, {"up/m": 5.00005})
        (row,) = (await api.get("/global/spend/teams"))["daily_spend"]
        assert row["date"] == today
