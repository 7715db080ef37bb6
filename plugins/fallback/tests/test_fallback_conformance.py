"""The conformance kit."""

from pathlib import Path

from gwcore.testing.conformance import PluginConformance
from gwcore_fallback.plugin import Fallback


class TestFallback(PluginConformance):
    kind = Fallback
    config = {"deadline": "30s", "first_token": "10s", "strategy": "least-busy", "retry": {"per_target": 0}}
    readme = Path(__file__).parent.parent / "README.md"

    def held(self, plugin):
        assert isinstance(plugin, Fallback)
        fleet = plugin.fleet
        return sum(one.inflight + one.breaker.probing for one in fleet.deployments.values())
