"""The conformance kit, and what this plugin adds to it."""

from pathlib import Path

from gwcore.call import Outcome
from gwcore.testing.conformance import PluginConformance
from gwcore.testing.fakes import Inner, build, call, sent
from gwcore.usage import Usage
from gwcore_tokencount.plugin import TokenCount


class TestTokenCount(PluginConformance):
    kind = TokenCount
    readme = Path(__file__).parent.parent / "README.md"


async def test_the_header_is_there():
    plugin = build(TokenCount, {"header": "x-mine"})
    made = call()
    await plugin.call_layer(Inner())(made)
    assert (b"x-mine", b"tokencount") in sent(made).headers


def test_tokens_are_counted_per_model_and_bounded():
    plugin = build(TokenCount, {"models": 1})
    assert isinstance(plugin, TokenCount)
    for model in ("a", "b", "a", "c"):
        plugin.call_ended(call(model=model), Outcome(200, usage=Usage(input=2, output=3)))
    assert plugin.tokens == {"a": 10, "other": 10}
    plugin.call_ended(call(), Outcome(500))
    assert sum(plugin.tokens.values()) == 20
