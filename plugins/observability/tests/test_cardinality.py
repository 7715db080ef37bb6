"""O9 in short: whoever asks under whatever name, series stay few. Counts of the full size are in the campaign."""

import dataclasses

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from test_outbox import ONE

from gwcore_observability.prometheus.litellm import LiteLLM
from gwcore_observability.prometheus.meters import Labels, Meters


def series(registry):
    return sum(1 for line in generate_latest(registry).splitlines() if not line.startswith(b"#"))


def strangers(count):
    """Calls of as many users, keys and models; every second one well."""
    for n in range(count):
        state = ("ok", "failed")[n % 2]
        yield dataclasses.replace(
            ONE, model=f"m{n}", served_model=f"m{n}", upstream="up", provider="p", key=f"k{n}", key_name=f"n{n}", team=f"t{n}",
            user=f"u{n}", end_user=f"e{n}", user_agent=f"a{n}", state=state, status=200 if n % 2 == 0 else 500,
            reason=None if n % 2 == 0 else "unavailable", tokens={"input": 1}, overhead_s=0.1,
        )  # fmt: skip


def test_models_that_settings_do_not_name():
    registry = CollectorRegistry()
    meters = Meters(registry, Labels(frozenset({"m0"}), frozenset({"up"}), most_models=20))
    for record in strangers(200):
        meters.tell(record)
    before = series(registry)
    for record in strangers(3000):
        meters.tell(record)
    assert series(registry) == before


def test_labels_of_who_asks():
    registry = CollectorRegistry()
    meters = Meters(registry, Labels(frozenset(), frozenset({"up"}), by=("key", "team"), most_models=5, most=10))
    for record in strangers(3000):
        meters.tell(record)
    text = generate_latest(registry)
    assert text.count(b"gwcore_requests_total{") < 1000
    assert b'key="other",model="other",status="500",team="other"' in text


def test_litellm_names_too():
    registry = CollectorRegistry()
    names = LiteLLM(registry, Labels(frozenset(), frozenset({"up"}), most_models=5, most=10))
    for record in strangers(500):
        names.tell(record)
    before = series(registry)
    for record in strangers(3000):
        names.tell(record)
    assert series(registry) == before
    text = generate_latest(registry)
    assert b"_created{" not in text
    assert b'end_user="e' not in text and b'user_agent="a' not in text
