"""What is shipped for Grafana and Prometheus asks for metrics and labels that are there."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from obs_world import Place, ask, gateway, ok, streamed, webhook
from test_prometheus import AUTH, ONE, scrape

import gwcore_observability.prometheus
from gwcore.taps import faults
from gwcore.testing.upstream import Answer, FakeUpstream

HERE = Path(gwcore_observability.prometheus.__file__).parent
DASHBOARD = json.loads((HERE / "grafana.json").read_text())
RULES = yaml.safe_load((HERE / "alerts.yaml").read_text())
OF_OTHERS = {
    # shown by plugins of other distributions once they have something to show
    "gwcore_budget_events_total": {"event"},
    "gwcore_budget_remaining_usd": {"scope", "id"},
    "gwcore_budget_limit_usd": {"scope", "id"},
    "gwcore_cache_requests_total": {"model", "status"},
    "gwcore_cache_saved_usd_total": {"model"},
}
METRIC = re.compile(r"\b(gwcore_\w+)(?:\{([^}]*)\})?")
BY = re.compile(r"by \(([^)]*)\)")


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions():
    yield from ((panel["title"], target["expr"]) for panel in panels() for target in panel["targets"])
    yield from ((rule["alert"], rule["expr"]) for group in RULES["groups"] for rule in group["rules"])


def asked(expression):
    """Metric → labels that an expression matches or groups by."""
    grouped = {label.strip() for found in BY.findall(expression) for label in found.split(",")}
    told = {}
    for name, matchers in METRIC.findall(expression):
        told.setdefault(name, set()).update(grouped, re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers or ""))
    return told


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Metric → labels, of a gateway with every plugin that shows any."""
    import asyncio

    async def run():
        stack = (
            AUTH
            + "  - ratelimit: {rules: [{per: global, requests: 4/h}]}\n  - fallback: {}\nstores: {book: 'memory:'}\n"
        )
        async with FakeUpstream(Answer(500, body=b"{}"), ok(), streamed()) as up, Place() as place:
            watch = "  - prometheus: {port: 0}\n" + webhook(place, tmp_path_factory.mktemp("spill"))
            async with gateway(up, watch, stack=stack) as (url, made):
                await ask(url, headers=ONE)
                await ask(url, stream=True, headers=ONE)
                up.default = ok(
                    usage={"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"audio_tokens": 2}}
                )
                for model in ("fast", "up/strange", "fast"):
                    await ask(url, model=model, headers=ONE)
                return await scrape(made)

    told = {}
    for name, labels in asyncio.run(run()):
        told.setdefault(name, set()).update(dict(labels))
    return told


def test_there_is_something_to_check():
    assert len(panels()) > 20 and len(list(expressions())) > 40
    assert asked('sum by (a) (rate(gwcore_x_total{b="1",c=~"2"}[5m]))') == {"gwcore_x_total": {"a", "b", "c"}}


def test_every_metric_and_label_is_exported(exported):
    faults = {"gwcore_tap_faults_total": {"plugin"}}  # only where a tap has failed
    known = {**exported, **OF_OTHERS, **faults}
    for where, expression in expressions():
        for name, labels in asked(expression).items():
            assert name in known, f"{where}: {name} is not exported"
            assert labels <= known[name] | {"le"}, f"{where}: {name} has no {labels - known[name]}"


def test_every_metric_of_calls_and_sinks_is_shown(exported):
    shown = {name for _, expression in expressions() for name in asked(expression)}
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in exported if name.startswith("gwcore_")}
    hidden = {
        "gwcore_sink_disk_bytes", "gwcore_sink_open", "gwcore_sink_spilled_total", "gwcore_sink_damaged_total",
        "gwcore_sink_failed_total", "gwcore_deployment_failures", "gwcore_deployment_in_flight", "gwcore_ratelimit_held",
        "gwcore_ratelimit_shadow_refused_total", "gwcore_auth_cached",
    }  # fmt: skip
    totals = {name for name in families if name + "_total" not in families}
    missing = {name for name in totals if not {name, name + "_bucket"} & shown} - hidden
    assert not missing


async def test_a_counter_that_begins_at_1_is_not_overlooked():
    """``increase`` of it is 0 until it grows: rules and sums either find it at 0 from the start, or count what is new."""
    faults.clear()  # the process's, of other tests
    async with FakeUpstream() as up, Place() as place:
        stack = (
            AUTH
            + "  - ratelimit: {rules: [{per: global, requests: 4/h}]}\n  - budget: {rules: [{per: global, limit: $5}]}\n"
        )
        async with gateway(up, "  - prometheus: {port: 0}\n" + webhook(place, None), stack=stack) as (_, made):
            at_first = {name for name, _ in await scrape(made)}
    grown = {
        (where, name)
        for where, expression in expressions()
        for name in re.findall(r"increase\((\w+)", expression)
        if name not in at_first and not re.search(rf"{name}\S* unless {name}\S* offset", expression)
    }
    assert grown == {("GwcoreSpendSurge", "gwcore_cost_usd_total")}  # of so much money the first call is not all
    assert "gwcore_budget_events_total" in at_first and "gwcore_tap_faults_total" not in at_first


def test_a_stream_that_breaks_has_failed():
    failures = [
        expression
        for where, expression in expressions()
        if where in {"Share of calls that failed", "GwcoreFailing", "GwcoreModelFailing"} and "5.." in expression
    ]
    assert len(failures) == 3 and all('reason="committed"' in expression for expression in failures)


def test_the_dashboard_is_whole():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    cells = [
        (x, y)
        for p in DASHBOARD["panels"]
        for g in [p["gridPos"]]
        for x in range(g["x"], g["x"] + g["w"])
        for y in range(g["y"], g["y"] + g["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) == 23
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels())


def test_rules_say_what_is_wrong():
    for group in RULES["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in {"warning", "critical"} and rule["annotations"]["summary"].endswith(
                "."
            )
            grouped = {label.strip() for found in BY.findall(rule["expr"]) for label in found.split(",")}
            assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= grouped


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_reads_the_rules():
    done = subprocess.run(
        ["promtool", "check", "rules", HERE / "alerts.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
