"""Every provider of this distribution keeps what the kit asks, and the kit can say no."""

import pytest

from gwcore.catalog import Catalog
from gwcore.testing.provider_conformance import ProviderConformance

NEEDS = {
    "azure": {},
    "vertex": {"project": "p", "location": "europe-west1"},
    "bedrock": {"region": "eu-west-1"},
}
MODELS = {"vertex": "google/gemini-2.5-flash", "bedrock": "anthropic.claude-sonnet-4-5-20250929-v1:0"}


def kit(name):
    catalog = Catalog()
    one = catalog.provider(name)
    made = type("Made", (ProviderConformance,), {"provider": one, "model": MODELS.get(name, "some-model")})
    needed = [n for n, f in one.Options.model_fields.items() if f.is_required()] if one.Options else []
    made.options = {n: NEEDS.get(name, {}).get(n, "x") for n in needed}
    made.params = {"verb": "generateContent", "id": "x"}
    there = made().upstream()
    made.operations = [
        (dialect.name, route.operation)
        for dialect in catalog.dialects()
        for route in dialect.routes
        if not route.local and one.address(there, dialect.name, route.operation, made.model, made.params, stream=False)
    ] + [
        (dialect.name, codec.operation)
        for dialect in catalog.dialects()
        for codec in dialect.lists.values()
        if one.address(there, dialect.name, codec.operation, made.model, made.params, stream=False)
    ]
    return made()


TESTS = [name for name in vars(ProviderConformance) if name.startswith("test_")]


# demo answers in the process itself: its addresses are no paths
@pytest.mark.parametrize("name", [name for name in Catalog().provider_names() if name != "demo"])
@pytest.mark.parametrize("test", TESTS)
def test_provider(name, test):
    tested = kit(name)
    if test == "test_what_it_serves_has_an_address":
        getattr(tested, test)(stream=False)
    else:
        getattr(tested, test)()


class Careless:
    """Everything a provider may get wrong."""

    name = "careless"
    base_url = "https://careless.example/"
    env_key = None
    Options = None

    def address(self, upstream, dialect, operation, model, params, *, stream):
        return f"{upstream.base_path}/{model}", False

    def credential(self, api_key, options):
        return [("Authorization", f"Bearer {api_key}")]

    def transport(self, gateway, api_key, options):
        return gateway

    def quirks(self, upstream, model):
        return {"a"}


@pytest.mark.parametrize(
    "test", [t for t in TESTS if "transport" not in t and "options" not in t and "has_an" not in t]
)
def test_the_kit_finds_it(test):
    careless = type("Made", (ProviderConformance,), {"provider": Careless(), "operations": [("openai.chat", "chat")]})()
    with pytest.raises(AssertionError):
        getattr(careless, test)()
