"""``GET /global/activity``: the report's figures over HTTP, in LiteLLM's shape."""

import asyncio
from datetime import UTC, datetime

import pytest
from obs_world import ask, gateway, ok, plugin_of
from test_prometheus import ONE
from test_sinks import get, with_store

from gwcore.testing.upstream import Answer, FakeUpstream


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    return f"sqlite:///{tmp_path}/book.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


async def test_days_with_latency_and_rates(store):
    stack, watch = with_store(store)
    async with (
        FakeUpstream(ok(), ok(), Answer(500, body=b"{}"), ok()) as up,
        gateway(up, watch, stack=stack, admin=True) as (url, made),
    ):
        before = datetime.now(UTC).date().isoformat()
        for _ in range(4):
            await ask(url, headers=ONE)
        plugin = plugin_of(made, "request_log")
        async with asyncio.timeout(20):
            while plugin.health()["sent"] < 4:
                await asyncio.sleep(0.05)
        status, told = await get(url, "/global/activity?group_by=team,model")
        assert status == 200 and told["daily_data"][0]["date"] in {before, datetime.now(UTC).date().isoformat()}
        assert told["sum_api_requests"] == sum(day["api_requests"] for day in told["daily_data"]) == 4
        assert told["sum_total_tokens"] == sum(day["total_tokens"] for day in told["daily_data"]) == 3 * 18
        assert told["total"]["error_rate"] == 0.25 and told["total"]["fallback_rate"] == 0
        assert 0 < told["total"]["p50_ms"] <= told["total"]["p99_ms"]
        (row,) = told["rows"]
        assert (row["team"], row["model"], row["calls"], row["failed"]) == ("t1", "fast", 4, 1)
        _, empty = await get(url, "/global/activity?start_date=2020-01-01&end_date=2020-01-31")
        assert empty["daily_data"] == [] and empty["sum_api_requests"] == 0 and empty["total"]["p50_ms"] is None
        for wrong in (
            "group_by=moon",
            "start_date=soon",
            "start_date=2020-02-01&end_date=2020-01-01",
            "start_date=1990-01-01",
        ):
            assert (await get(url, f"/global/activity?{wrong}"))[0] == 400, wrong
        assert (await get(url, "/global/activity", ONE))[0] == 403
