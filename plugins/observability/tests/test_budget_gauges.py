"""What is left of budgets is shown, under both sets of names, and is what the ledger says."""

import asyncio

import pytest
from obs_world import ask, gateway, ok, plugin_of
from test_prometheus import AUTH, ONE, scrape, value

from gwcore.testing.upstream import FakeUpstream

RULES = "[{per: team, limit: $1, window: day}, {per: key, limit: $2}, {per: global, limit: $3, window: rolling 24h}]"


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    return f"sqlite:///{tmp_path}/book.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


async def test_budgets_left(store, tmp_path):
    budget = (
        f"  - budget: {{store: rows, mode: direct, unpriced: allow_unmetered, journal: {tmp_path}/j, rules: {RULES}}}\n"
    )
    stack = AUTH + budget + f'stores: {{rows: "{store}"}}\n'
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
    assert value(found, "litellm_remaining_team_budget_metric", team="t1") == pytest.approx(left, abs=1e-9)
    assert value(found, "litellm_api_key_max_budget_metric", hashed_api_key="one") == 2
    assert 0 < value(found, "litellm_team_budget_remaining_hours_metric", team="t1") <= 24
