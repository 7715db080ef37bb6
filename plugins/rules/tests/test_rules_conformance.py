"""The conformance kit."""

from pathlib import Path

from gwcore.testing.conformance import PluginConformance
from gwcore_rules import Rules


class TestRules(PluginConformance):
    kind = Rules
    config = {"rules": [{"name": "cool", "when": {"operations": "chat"}, "sampling": {"temperature": 0}}]}
    readme = Path(__file__).parent.parent / "README.md"
