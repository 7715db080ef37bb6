"""The example of observability, in short. `python examples/observability/watch.py --check` is the long form."""

import asyncio

import httpx2
from test_prometheus import numbers
from test_prometheus_workers import free_port

from examples.observability import watch
from gwcore_budget import gauges


async def test_the_example_shows_what_its_dashboard_asks_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gauges, "EVERY", 0.5)
    port = free_port()
    running = asyncio.create_task(watch.watch(60, 30, False, tmp_path, port))
    wanted = {
        "gwcore_requests_total", "gwcore_fallbacks_total", "gwcore_cost_usd_total", "gwcore_unpriced_requests_total",
        "gwcore_deployment_state", "gwcore_budget_remaining_usd", "gwcore_ratelimit_refused_total",
        "gwcore_time_to_first_token_seconds_bucket", "gwcore_sink_sent_total", "litellm_spend_metric_total",
    }  # fmt: skip
    try:
        async with asyncio.timeout(40):
            seen, printed = set(), ""
            while not (wanted <= seen and "alert (firing): " in printed):
                await asyncio.sleep(0.3)
                printed += capsys.readouterr().out
                try:
                    async with httpx2.AsyncClient(verify=False) as client:
                        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
                except httpx2.TransportError:
                    continue
                seen = {name for name, _ in numbers(text)}
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert (tmp_path / "calls.log").read_text().count("\n") > 0
