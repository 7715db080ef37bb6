"""The conformance kit, in both modes."""

from pathlib import Path

from gwcore.testing.conformance import PluginConformance
from gwcore_budget.plugin import BudgetPlugin

RULES = [{"per": "global", "limit": "$1000", "unpriced": "$0.01"}]


class TestEscrow(PluginConformance):
    kind = BudgetPlugin
    config = {"store": "memory", "mode": "escrow", "rules": RULES, "patience": "5s"}
    readme = Path(__file__).parent.parent / "README.md"

    def held(self, plugin):
        return len(plugin.ledger.open) + plugin._draining


class TestDirect(TestEscrow):
    config = {"store": "memory", "mode": "direct", "rules": RULES, "patience": "5s"}
