"""What a model's name may mean."""

import difflib

import pytest

from gwcore import models as module
from gwcore.errors import UnknownModel
from gwcore.models import Models
from gwcore.testing.fakes import upstream

UPS = {name: upstream(name) for name in ("openai", "local")}


def meaning(models, name, ups=UPS):
    return [str(target) for target in Models(models, ups).resolve(name)]


@pytest.mark.parametrize(
    ("models", "name", "expected"),
    [
        ({"fast": "openai/gpt"}, "fast", ["openai/gpt"]),
        ({"fast": ["openai/gpt", "local/llama"]}, "fast", ["openai/gpt", "local/llama"]),
        ({}, "openai/org/model", ["openai/org/model"]),
        ({"*": "pass"}, "local/m", ["local/m"]),
        ({"openai/*": "pass"}, "openai/x", ["openai/x"]),
        ({"gpt-*": "openai/gpt-*"}, "gpt-5", ["openai/gpt-5"]),
        ({"gpt-*": "openai/gpt-*", "gpt-5*": "local/five*"}, "gpt-5-mini", ["local/five-mini"]),
        ({"*-local": "local/*", "*": "pass"}, "q-local", ["local/q"]),
        ({"a*": "local/x", "a": "openai/y"}, "a", ["openai/y"]),
    ],
)
def test_resolves(models, name, expected):
    assert meaning(models, name) == expected


def test_a_single_upstream_takes_any_name():
    assert meaning({}, "gpt-5", {"openai": UPS["openai"]}) == ["openai/gpt-5"]


def test_a_declared_model_finds_its_upstream():
    declared = upstream("d")
    declared.models = ("m1",)
    assert meaning({}, "m1", {**UPS, "d": declared}) == ["d/m1"]


@pytest.mark.parametrize(("models", "name"), [({"fast": "openai/x"}, "fats"), ({}, "nobody"), ({}, "gpt"), ({}, "")])
def test_unknown_says_what_to_do(models, name):
    with pytest.raises(UnknownModel) as caught:
        Models(models, UPS).resolve(name)
    assert any(word in caught.value.message for word in ("did you mean 'fast'", "upstream/model"))


def test_among_many_names_few_are_compared_with_an_unknown_one(monkeypatch):
    compared = []

    def matches(word, among, n, found=difflib.get_close_matches):
        compared.append(len(among))
        return found(word, among, n)

    monkeypatch.setattr(module.difflib, "get_close_matches", matches)
    models = Models({f"team-{n % 7}/gpt-{n}-mini": "openai/x" for n in range(1000)}, UPS)
    with pytest.raises(UnknownModel, match="did you mean 'team-1/gpt-708-mini'"):
        models.resolve("team-1/gpt-708-nimi")
    assert 0 < sum(compared) < 100


def test_names_typed_by_clients_do_not_fill_memory():
    models = Models({"*": "pass"}, UPS)
    for n in range(5000):
        models.resolve(f"openai/{n}")
    assert len(models._seen) <= 4096


def test_model_less_operations_choose_an_upstream():
    models = Models({}, UPS)
    assert [t.upstream.name for t in models.upstream_for(None)] == ["openai", "local"]
    assert [t.upstream.name for t in models.upstream_for("local")] == ["local"]
    with pytest.raises(UnknownModel):
        list(models.upstream_for("x"))


def test_listing():
    declared = upstream("d")
    declared.models = ("m1",)
    listed = Models({"fast": "openai/x", "gpt-*": "openai/gpt-*"}, {**UPS, "d": declared}).listing()
    assert [(m.id, m.owner) for m in listed] == [("fast", "openai"), ("d/m1", "d")]
