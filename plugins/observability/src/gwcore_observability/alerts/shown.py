"""Findings from the metrics of other plugins: budgets, and deployments as judged by the router."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from gwcore.ports import Sample
from gwcore_observability.alerts.findings import Fact, Finding
from gwcore_observability.alerts.seen import Fails, Refusals, budget_subject, deployment
from gwcore_observability.alerts.settings import BudgetsConfig, UpstreamsConfig
from gwcore_observability.names import plain

_BUDGET = "gwcore_budget_"
_STATE, _FAILURES = "gwcore_deployment_state", "gwcore_deployment_failures"
WORST = 1000
"""Higher than any number of configured shares."""
Labels = tuple[tuple[str, str], ...]


def budgets(samples: Iterable[Sample], config: BudgetsConfig) -> Iterator[Finding]:
    """Budgets that have reached a share of their limit, or their soft limit. They end with the budget's period."""
    found: dict[Labels, dict[str, float]] = defaultdict(dict)
    for sample in samples:
        if sample.name.startswith(_BUDGET) and "scope" in sample.labels:
            found[tuple(sorted(sample.labels.items()))][sample.name.removeprefix(_BUDGET)] = sample.value
    for key, values in found.items():
        finding = _budget(dict(key), values, config)
        if finding is not None:
            yield finding


def _budget(labels: Mapping[str, str], values: Mapping[str, float], config: BudgetsConfig) -> Finding | None:
    limit, left, soft_left = (values.get(f"{word}_usd") for word in ("limit", "remaining", "soft_remaining"))
    facts: dict[str, Fact] = {name: plain(value) for name, value in labels.items()}
    reached: list[str] = []
    if config.soft and soft_left is not None and soft_left <= 0:
        reached.append("soft limit reached")
    if limit is not None and left is not None:
        spent = limit - left
        share = spent / limit if limit else 1.0
        reached += [_share(one) for one in sorted(config.at) if share >= one - 1e-9]
        facts |= {"limit_usd": round(limit, 9), "spent_usd": round(spent, 9), "share": round(share, 4)}
    if not reached:
        return None
    if "resets_seconds" in values:
        facts["resets_s"] = round(values["resets_seconds"])
    subject = budget_subject(labels["scope"], labels.get("id", ""), labels.get("window", ""))
    return Finding("budget", subject, f"{_title(labels)}: {reached[-1]}", facts, step=len(reached))


def exhausted(refused: Mapping[str, Refusals]) -> Iterator[Finding]:
    """Budgets that refuse calls because too little is left, including those of rolling windows."""
    for subject, one in refused.items():
        said = {name.replace("-", "_"): plain(value) for name, value in one.said.items()}
        # exhausted budgets are rarely spent exactly; but one expensive request is refused even by an unused budget
        spent = 2 * float(said.get("spent_usd", "inf")) >= float(said.get("limit_usd", "0"))
        what = "exhausted, requests are refused" if spent else "requests are refused that may cost more than is left"
        title = f"{_title(said)}: {what}"
        yield Finding("budget", subject, title, {**said, "refused": one.count, "last_id": one.call}, step=WORST)


def _title(labels: Mapping[str, str]) -> str:
    who = " ".join(filter(None, (labels["scope"], plain(labels.get("id", "")))))
    return f"Budget of {who} ({labels.get('window', '')})"


def _share(share: float) -> str:
    return "exhausted" if share == 1 else f"{share * 100:g} % spent"


def upstreams(samples: Iterable[Sample], fails: Mapping[str, Fails], config: UpstreamsConfig) -> Iterator[Finding]:
    """Deployments that are down: excluded by the router after failures, or without a router, failing consecutively."""
    judged: dict[str, dict[str, float]] = defaultdict(dict)
    for sample in samples:
        if sample.name in {_STATE, _FAILURES}:
            labels = sample.labels
            name = deployment(labels["upstream"], labels["model"], int(labels["key"]))
            judged[name][sample.name] = sample.value
    for name, values in judged.items():
        own = fails.get(name, Fails())
        state, count = values.get(_STATE, 0), max(own.count, int(values.get(_FAILURES, 0)))
        if state:
            # on probation, or at its own limits: neither down nor healthy
            yield _down(name, replace(own, count=count, stale=False), doubtful=state < 2 or not count)
    for name, own in fails.items():
        if name not in judged and own.count >= config.failures:
            yield _down(name, own)


def _down(name: str, fails: Fails, *, doubtful: bool = False) -> Finding:
    facts: dict[str, Fact] = {"failures": fails.count, "reason": fails.reason or "told by another replica"}
    if fails.call:
        facts["last_id"] = fails.call
    over = "" if fails.stale else f"Upstream {name} has recovered"
    return Finding("upstream", f"upstream/{name}", f"Upstream {name} is down", facts, over=over, doubtful=doubtful)
