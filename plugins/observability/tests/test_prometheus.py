"""Metrics: what they count, how many series they make, and that they are the gateway's and not one worker's."""

import asyncio
from pathlib import Path

import httpx2
import orjson
import pytest
import structlog
from obs_world import Place, ask, gateway, ok, plugin_of, streamed, webhook
from prometheus_client.parser import text_string_to_metric_families

from gwcore.testing.conformance import PluginConformance
from gwcore.testing.upstream import Answer, FakeUpstream, chat_stream
from gwcore_observability.prometheus.bounds import Names
from gwcore_observability.prometheus.plugin import Prometheus

AUTH = """stack:
  - auth:
      admin_key: "0f8d2c6e4b1a97532468ace013579bdf"
      keys: {one: {secret: "sk-one-7f3a9c1e5b8d2046af1390bcde57", team: t1}}
      teams: {t1: {}}
"""
ADMIN = {"authorization": "Bearer 0f8d2c6e4b1a97532468ace013579bdf"}
ONE = {"authorization": "Bearer sk-one-7f3a9c1e5b8d2046af1390bcde57"}


class TestPrometheus(PluginConformance):
    kind = Prometheus
    config = {"port": 0, "by": ["team", "key"], "litellm_names": True}
    readme = Path(__file__).parent.parent / "docs/prometheus.md"


def numbers(text):
    """Name and sorted labels → value."""
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def value(found, name, **labels):
    wanted = labels.items()
    return sum(v for (n, have), v in found.items() if n == name and wanted <= dict(have).items())


async def scrape(made):
    port = plugin_of(made, "prometheus").port.port
    async with httpx2.AsyncClient(verify=False) as client:
        return numbers((await client.get(f"http://127.0.0.1:{port}/metrics/")).text)


@pytest.mark.parametrize(("stack", "warned"), [("  - prometheus", True), ("  - prometheus: {port: 0}", False)])
async def test_numbers_that_nobody_can_read_are_warned_of(stack, warned):
    async with FakeUpstream() as up:
        with structlog.testing.capture_logs() as said:
            async with gateway(up, stack):
                pass
    assert any(one["event"] == "nobody can read /metrics" for one in said) is warned


async def test_calls_are_counted_as_they_end():
    async with (
        FakeUpstream(ok(), streamed(), Answer(500, body=b"{}"), ok()) as up,
        gateway(up, "  - prometheus: {port: 0}") as (url, made),
    ):
        await ask(url)
        await ask(url, stream=True)
        await ask(url)
        await ask(url, model=None)
        found = await scrape(made)
    assert value(found, "gwcore_requests_total", model="fast", upstream="up", status="200") == 2
    assert value(found, "gwcore_requests_total", model="fast", status="500") == 1
    assert value(found, "gwcore_requests_total", model="none", upstream="none", status="400") == 1
    assert value(found, "gwcore_errors_total", reason="unavailable") == 1
    assert value(found, "gwcore_tokens_total", model="fast", type="input") == 7 + 11
    assert value(found, "gwcore_tokens_total", type="cache_read") == 4
    assert value(found, "gwcore_tokens_total", type="output") == 14
    assert value(found, "gwcore_cost_usd_total", model="fast") == pytest.approx(
        (7000 + 2000 + 14000 + 11000 + 14000) / 1e9
    )
    assert value(found, "gwcore_request_duration_seconds_count", model="fast") == 3
    assert value(found, "gwcore_time_to_first_token_seconds_count", model="fast") == 1
    assert value(found, "gwcore_overhead_seconds_count", phase="total") == 4
    assert value(found, "gwcore_attempts_total", upstream="up", outcome="ok") == 2
    assert value(found, "gwcore_requests_in_flight") == 0


async def test_a_moderation_without_a_price_is_free():
    """As a budget takes it: https://platform.openai.com/docs/guides/moderation. One that tells of tokens is not."""
    said = {"id": "m", "model": "omni", "results": [{"flagged": False}]}
    billed = {**said, "usage": {"prompt_tokens": 5, "total_tokens": 5, "completion_tokens": 0}}
    answers = [Answer(body=orjson.dumps(one)) for one in (said, billed)]
    async with FakeUpstream(*answers) as up, gateway(up, "  - prometheus: {port: 0}") as (url, made):
        counts = []
        async with httpx2.AsyncClient(verify=False) as client:
            for _ in answers:
                asked = await client.post(f"{url}/v1/moderations", json={"input": "x", "model": "up/omni"})
                assert asked.status_code == 200
                counts.append(value(await scrape(made), "gwcore_unpriced_requests_total"))
    assert counts == [0, 1]


async def test_the_main_port_serves_it_to_admins_alone():
    async with FakeUpstream() as up:
        up.default = ok()
        async with gateway(up, "  - prometheus: {by: [team, key]}", stack=AUTH, admin=True) as (url, _):
            await ask(url, headers=ONE)
            async with httpx2.AsyncClient(verify=False) as client:
                assert (await client.get(f"{url}/metrics")).status_code == 401
                assert (await client.get(f"{url}/metrics", headers=ONE)).status_code == 403
                answer = await client.get(f"{url}/metrics/", headers=ADMIN)  # as LiteLLM's chart asks
                assert (await client.get(f"{url}/metrics", headers=ADMIN)).status_code == 200
                assert (await client.get(f"{url}/metrics/")).status_code == 401
                described = (await client.get(f"{url}/openapi.json", headers=ADMIN)).json()["paths"]["/metrics"]["get"]
    assert answer.headers["content-type"].startswith("text/plain")
    assert list(described["responses"]["200"]["content"]) == ["text/plain"]
    found = numbers(answer.text)
    assert value(found, "gwcore_requests_total", team="t1", key="one", status="200") == 1
    assert value(found, "gwcore_auth_cached") == 1


async def test_bogus_names_make_no_series():
    async with FakeUpstream() as up:
        up.default = Answer(404, body=b'{"error": {"message": "no such model"}}')
        async with gateway(up, "  - prometheus: {port: 0, models: 5}") as (url, made):
            for n in range(30):
                await ask(url, model=f"bogus-{n}")
            refused = await scrape(made)
            up.default = ok()
            for n in range(30):
                await ask(url, model=f"taken-{n}")
            taken = await scrape(made)
    models = lambda found: {dict(labels).get("model") for _, labels in found} - {None}  # noqa: E731
    assert models(refused) == {"other"}
    assert value(refused, "gwcore_requests_total", model="other", status="404") == 30
    assert len(models(taken)) == 5 + 1  # what an upstream answered is real, up to the cap
    assert value(taken, "gwcore_requests_total", status="200") == 30


def test_names_of_one_label_stay_within_their_cap():
    names = Names(["a"], most=2)
    assert [names(n) for n in ("a", "b", "c", "d", "b", None)] == ["a", "b", "c", "other", "b", "none"]
    assert names("e", real=False) == "other"


async def test_a_reload_goes_on_counting_and_knows_new_names():
    async with FakeUpstream() as up:
        up.default = ok()
        async with gateway(up, "  - prometheus: {port: 0, models: 0}") as (url, made):
            await ask(url)
            await ask(url, model="slow")
            made.source = made.source.replace("fast: up/m", "fast: up/m\n  slow: up/m")
            assert await made.reload()
            await ask(url)
            await ask(url, model="slow")
            found = await scrape(made)
    assert value(found, "gwcore_requests_total", model="fast") == 2
    assert value(found, "gwcore_requests_total", model="other") == 1
    assert value(found, "gwcore_requests_total", model="slow") == 1


async def test_a_reload_loses_no_count_of_a_plugin_and_none_is_counted_twice_while_the_old_stack_drains():
    stack = "stack:\n  - ratelimit: {rules: [{per: global, requests: 2/h}]}\n"
    begun = chat_stream("Hel", "lo")
    async with (
        FakeUpstream(Answer(body=begun, stall_after=len(b"".join(begun)) - 20), ok()) as up,
        gateway(up, "  - prometheus: {port: 0}", stack=stack) as (url, made),
        httpx2.AsyncClient() as client,
    ):
        body = {"model": "fast", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body):
            statuses = [(await ask(url)).status_code for _ in range(4)]
            assert statuses == [200, 429, 429, 429]
            old = plugin_of(made, "prometheus")  # nobody has read a number of its stack's yet
            made.source += "# another\n"
            assert await made.reload()
            for _ in range(3):
                await old._publish()  # as each of several workers does every second
                found = await scrape(made)
                assert value(found, "gwcore_ratelimit_refused_total") == 3
                assert value(found, "gwcore_requests_in_flight") == 1
            assert (await ask(url)).status_code == 429
            await old._publish()
            assert value(await scrape(made), "gwcore_ratelimit_refused_total") == 4


async def test_plugins_show_their_own_numbers(tmp_path):
    async with FakeUpstream() as up, Place() as place:
        up.default = ok()
        stack = "stack:\n  - ratelimit: {rules: [{per: global, requests: 1/h}]}\n  - fallback: {}\n"
        watch = "  - prometheus: {port: 0, litellm_names: true}\n" + webhook(place, tmp_path)
        async with gateway(up, watch, stack=stack) as (url, made):
            await ask(url)
            await ask(url)
            await place.until(2)
            async with asyncio.timeout(5):
                while plugin_of(made).health()["waiting"]:
                    await asyncio.sleep(0.01)
            found = await scrape(made)
    assert value(found, "gwcore_ratelimit_refused_total") == 1
    assert value(found, "gwcore_deployment_state", upstream="up", model="m") == 0
    told = {"api_base": "up", "model_id": "up/m", "api_provider": "openai-compatible"}
    assert value(found, "litellm_deployment_state", **told) == 0
    assert ("litellm_in_flight_requests", ()) in found
    assert value(found, "gwcore_sink_sent_total", sink="webhook") == 2
    assert value(found, "gwcore_sink_queue_length", sink="webhook") == 0


async def test_litellm_names():
    async with (
        FakeUpstream(ok(), streamed(), Answer(500, body=b"{}")) as up,
        gateway(up, "  - prometheus: {port: 0, litellm_names: true}", stack=AUTH) as (url, made),
    ):
        await ask(url, headers=ONE)
        await ask(url, headers=ONE, stream=True)
        await ask(url, headers=ONE)
        found = await scrape(made)
    who = {"team": "t1", "hashed_api_key": "one"}
    assert (
        value(found, "litellm_proxy_total_requests_metric_total", requested_model="fast", status_code="200", **who) == 2
    )
    assert value(found, "litellm_proxy_failed_requests_metric_total", exception_status="500", **who) == 1
    assert value(found, "litellm_total_tokens_metric_total", model="m", **who) == 36
    assert value(found, "litellm_input_cached_tokens_metric_total", **who) == 4
    assert value(found, "litellm_spend_metric_total", **who) == pytest.approx(48000 / 1e9)
    assert value(found, "litellm_request_total_latency_metric_count", **who) == 3
    assert value(found, "litellm_llm_api_time_to_first_token_metric_count", **who) == 1
    assert value(found, "litellm_deployment_failure_responses_total", litellm_model_name="m", **who) == 1
    assert value(found, "litellm_requests_total", model="m", status="200") == 2


async def test_litellm_names_of_a_deployment_that_never_answered(tmp_path):
    """What fails has its name; what the gateway refuses before it asks is no failure of a deployment."""
    budget = f"  - budget: {{store: rows, mode: direct, patience: 5s, journal: {tmp_path}/j, rules: [{{per: key, limit: $0}}]}}\n"
    for limits, failures in (("", 1), (f'{budget}stores: {{rows: "sqlite:///{tmp_path}/b.db"}}\n', 0)):
        async with (
            FakeUpstream(Answer(500, body=b"{}")) as up,
            gateway(up, "  - prometheus: {port: 0, litellm_names: true}", stack=AUTH + limits) as (url, made),
        ):
            assert (await ask(url, headers=ONE, max_tokens=9)).status_code == (500 if failures else 429)
            found = await scrape(made)
        name = "litellm_deployment_failure_responses_total"
        assert value(found, name) == value(found, name, litellm_model_name="m", model_id="up/m") == failures
        assert value(found, "litellm_proxy_failed_requests_metric_total", hashed_api_key="one") == 1
