"""The outage drill of examples/, in short: real processes, a real SIGKILL. `make drill` is the long form."""

import pytest

from examples.outage_drill import drill
from gwcore_fallback.config import FallbackConfig


async def test_nobody_notices_that_an_upstream_died():
    seen = await drill.drill(5, 60)
    assert seen.passed, str(seen)
    assert seen.served["first"] > 20 and seen.served["second"] > 100


@pytest.mark.parametrize(
    "mutant", ["continuation: false", "allowed_fails: 1000\n      failure_rate: 1\n      continuation: true"]
)
async def test_control_without_continuation_or_breaker_it_fails(mutant, monkeypatch, tmp_path):
    """A drill that could not fail would prove nothing."""
    text = (drill.HERE / "stack.yaml").read_text()
    changed = text.replace("continuation: true ", mutant + " ")
    assert changed != text
    (tmp_path / "stack.yaml").write_text(changed)
    (tmp_path / "upstream.py").write_text((drill.HERE / "upstream.py").read_text())
    monkeypatch.setattr(drill, "HERE", tmp_path)
    assert not (await drill.drill(3, 60)).passed


def test_the_example_says_what_the_defaults_are():
    config = FallbackConfig()
    assert (config.allowed_fails, config.cooldown) == (5, 10.0)
