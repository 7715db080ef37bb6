"""What is left of budgets is shown, under both sets of names, and is what the ledger says."""

import asyncio
import secrets

import httpx2
import pytest
from obs_world import Place, ask, gateway, ok, plugin_of, streamed, webhook
from test_prometheus import AUTH, ONE, scrape, value

from gwcore.testing.upstream import FakeUpstream

RULES = "[{per: team, limit: $1, window: day}, {per: key, limit: $2}, {per: global, limit: $3, window: rolling 24h}]"


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    return f"sqlite:///{tmp_path}/book.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


async def test_budgets_left(store, tmp_path):
    budget = f"  - budget: {{store: rows, mode: direct, patience: 5s, unpriced: allow_unmetered, journal: {tmp_path}/j, rules: {RULES}}}\n"
    auth = AUTH.replace("one: {", "one: {alias: mine, ").replace("t1: {}", "t1: {alias: research}")
    stack = auth + budget + f'stores: {{rows: "{store}"}}\n'
    async with FakeUpstream() as up:
        up.default = ok()
        async with gateway(up, "  - prometheus: {port: 0, litellm_names: true}", stack=stack) as (url, made):
            assert (await ask(url, headers=ONE, max_tokens=10)).status_code == 200
            plugin = plugin_of(made, "budget")
            async with asyncio.timeout(10):
                while not any(posted for _, _, posted, _ in plugin.gauges._found):
                    await plugin.gauges.look()
                    await asyncio.sleep(0.02)
            found = await scrape(made)
    left = 1 - 23_000 / 1e9
    assert value(found, "gwcore_budget_remaining_usd", scope="team", id="t1", window="day") == pytest.approx(
        left, abs=1e-9
    )
    assert value(found, "gwcore_budget_remaining_usd", scope="key", id="one") == pytest.approx(left + 1, abs=1e-9)
    assert value(found, "gwcore_budget_limit_usd", scope="team") == 1
    assert 0 < value(found, "gwcore_budget_resets_seconds", scope="team") <= 86400
    assert value(found, "gwcore_budget_resets_seconds", scope="key") == 0  # it never does
    assert value(found, "gwcore_budget_remaining_usd", scope="global") == 0  # rolling: not shown
    named = {"team": "t1", "team_alias": "research"}
    assert value(found, "litellm_remaining_team_budget_metric", **named) == pytest.approx(left, abs=1e-9)
    assert value(found, "litellm_api_key_max_budget_metric", hashed_api_key="one", api_key_alias="mine") == 2
    assert 0 < value(found, "litellm_team_budget_remaining_hours_metric", team="t1") <= 24


async def test_what_records_cost_is_what_the_ledger_posted_and_a_hit_costs_nothing(store, tmp_path):
    budget = f"  - budget: {{store: rows, mode: direct, patience: 5s, journal: {tmp_path}/j, rules: [{{per: team, limit: $1}}]}}\n"
    stack = AUTH + "  - cache: {store: memory}\n" + budget + f'stores: {{rows: "{store}"}}\n'
    async with FakeUpstream() as up, Place() as place:
        up.default = lambda seen: streamed() if seen.document["stream"] else ok()
        watch = "  - prometheus: {port: 0}\n" + webhook(place, tmp_path / "spill")
        async with gateway(up, watch, stack=stack) as (url, made):
            for stream in (False, False, True):
                await ask(url, headers=ONE, max_tokens=10, temperature=0, stream=stream)
            await place.until(3)
            plugin = plugin_of(made, "budget")
            told = sum(record["cost_nano"] or 0 for record in place.records)
            async with asyncio.timeout(20):
                while sum(posted for _, _, posted, _ in plugin.gauges._found) != told:
                    await plugin.gauges.look()
                    await asyncio.sleep(0.02)
            found = await scrape(made)
    assert told >= 23_000
    hits = [record for record in place.records if record["cache"].startswith("hit")]
    assert hits and all(hit["attempts"] == [] and not hit["cost_nano"] and hit["state"] == "ok" for hit in hits)
    assert hits[0]["saved_nano"] == 23_000 and hits[0]["saved_tokens"] == 18
    assert value(found, "gwcore_cache_requests_total", model="fast") == 3
    assert value(found, "gwcore_cache_saved_usd_total", model="fast") > 0


async def test_budgets_that_are_set_no_more_are_not_shown(store, tmp_path):
    """An alert about a key that is deleted reminded for ever, and those of all who are gone hid those of who is there."""
    rules = "[{per: end_user, limit: $0.01, window: day}]"
    budget = f"  - budget: {{store: rows, mode: direct, patience: 5s, unpriced: allow_unmetered, journal: {tmp_path}/j, rules: {rules}}}\n"
    admin = secrets.token_hex(32)
    stack = f"stack:\n  - auth: {{store: rows, admin_key: {admin}}}\n" + budget + f'stores: {{rows: "{store}"}}\n'
    async with FakeUpstream() as up:
        up.default = ok()
        async with (
            gateway(up, "  - prometheus: {port: 0}", stack=stack, admin=True) as (url, made),
            httpx2.AsyncClient() as http,
        ):
            plugin = plugin_of(made, "budget")

            async def told(path, **body):
                answer = await http.post(url + path, json=body, headers={"authorization": f"Bearer {admin}"})
                assert answer.status_code == 200, answer.text
                return answer.json()

            async def seen():
                await plugin.ledger.group.flushed()
                await plugin.gauges.look()
                found = await scrape(made)
                return {
                    (labels["scope"], labels["window"])
                    for name, have in found
                    if name == "gwcore_budget_limit_usd" and (labels := dict(have))
                }

            await told("/team/new", team_id="a/b")
            await told("/team/member_add", team_id="a/b", member={"role": "user", "user_id": "u"}, max_budget_in_team=1)
            key = (await told("/key/generate", max_budget=1, team_id="a/b", user_id="u"))["key"]
            headers = {"authorization": f"Bearer {key}"}
            assert (await ask(url, headers=headers, max_tokens=10, user="old")).status_code == 200
            assert await seen() == {("end_user", "day"), ("member", "total"), ("key", "total")}
            day = "UPDATE budget_account SET start = start - 86400000 WHERE start > 0 RETURNING id"
            assert len(await plugin.ledger.home.rows(day)) == 1
            assert await seen() == {("member", "total"), ("key", "total")}
            await told("/key/update", key=key, budget_duration="1mo")
            assert (await ask(url, headers=headers, max_tokens=10)).status_code == 200
            assert await seen() == {("member", "total"), ("key", "month")}
            await told("/key/delete", keys=[key])
            assert await seen() == {("member", "total")}
            await told("/team/member_update", team_id="a/b", user_id="u", max_budget_in_team=None)
            assert await seen() == set()
