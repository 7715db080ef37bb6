"""What is installed: entry points of distributions that are not ours, found by the words of the stack file."""

import sys
from types import SimpleNamespace

import pytest

from gwcore.assemble import assemble
from gwcore.catalog import Catalog
from gwcore.cli import main
from gwcore.errors import AssemblyError
from gwcore.resources import Resources
from gwcore.show import walk
from gwcore.stackfile import StackErrors
from tests.distributions import PLUGIN, PROVIDER, installed

__all__ = ["installed"]  # the fixture


def made(text):
    return assemble(text, Catalog(), Resources(), {})


def refused(text):
    with pytest.raises(StackErrors) as caught:
        made(text)
    return caught.value.message


def test_a_third_partys_provider_is_found_by_its_word(installed):
    installed("imaginary_vendor", {"imaginary": "imaginary_vendor"}, PROVIDER)
    stack = made("gwcore: 1\nupstreams:\n  a: {provider: imaginary}\n")
    assert stack.upstreams["a"].provider.name == "imaginary"
    assert stack.ingress.find("POST", "/v1/fake", [])


def test_nothing_is_imported_that_the_file_does_not_name(installed):
    installed("imaginary_vendor", {"imaginary": "imaginary_vendor"}, "raise ImportError('imported')")
    assert made("gwcore: 1\nupstreams:\n  a: {provider: demo}\n").upstreams


def test_a_provider_that_cannot_be_imported_says_so_with_its_line(installed):
    installed("imaginary_vendor", {"imaginary": "imaginary_vendor"}, "raise ImportError('no driver')")
    message = refused("gwcore: 1\nupstreams:\n  a: {provider: imaginary}\n")
    assert message.startswith("stack.yaml:3:") and "ImportError: no driver" in message and "install" in message


def test_a_word_that_is_of_the_other_kind(installed):
    installed("imaginary_vendor", {"imaginary": "imaginary_vendor"}, PROVIDER)
    message = refused("gwcore: 1\nstack: [imaginary]\n")
    assert "offers the provider imaginary; name one that offers a plugin" in message and "did you mean" not in message


@pytest.mark.parametrize(
    ("source", "text"),
    [(PLUGIN, "stack: [mist]"), (PROVIDER.replace('"imaginary"', '"mists"'), "upstreams: {a: {provider: mist}}")],
)
def test_an_entry_point_named_otherwise_than_what_it_offers(installed, source, text):
    installed("mist_module", {"mist": "mist_module"}, source)
    message = refused(f"gwcore: 1\n{text}\n")
    assert "the entry point mist offers the" in message and "mists; make the two names equal" in message


def test_explain_knows_a_third_partys_dialect(installed, tmp_path, capsys):
    installed("imaginary_vendor", {"imaginary": "imaginary_vendor"}, PROVIDER)
    file = tmp_path / "stack.yaml"
    file.write_text("gwcore: 1\nupstreams:\n  a: {provider: imaginary}\n")
    walk(file, b'{"model": "a/m"}', "imaginary.chat", "chat")
    assert "POST http://127.0.0.1:1/up" in capsys.readouterr().out


NO_PLUGINS = {"providers", "tokencount", "litellm"}


@pytest.mark.parametrize("word", [word for word in Catalog().installed() if word not in NO_PLUGINS])
def test_every_word_of_ours_says_what_to_install(word, monkeypatch):
    ours = Catalog().installed()[word][0]
    monkeypatch.setattr("gwcore.catalog.entry_points", lambda group: ())
    assert f"no plugin named {word} is installed. Mend: pip install {ours}" in refused(f"gwcore: 1\nstack: [{word}]\n")


def test_without_any_provider_it_says_which_distribution_has_them(monkeypatch):
    monkeypatch.setattr("gwcore.catalog.entry_points", lambda group: ())
    message = refused("gwcore: 1\nupstreams:\n  a: {provider: demo}\n")
    assert "no provider named demo is installed. Mend: pip install gwcore-providers" in message


def test_a_plugin_whose_extra_is_not_installed_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gwcore_observability.otel", None)  # as where what it imports is missing
    assert "Mend: pip install 'gwcore-observability[otel]'" in refused("gwcore: 1\nwatch: [otel]\n")


def test_verbs_are_there_beside_a_plugin_whose_extra_is_not_installed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gwcore_observability.otel", None)  # `pip install gwcore-observability` alone
    with pytest.raises(SystemExit) as ended:
        main(["keys", "list", "--help"])
    assert not ended.value.code and "List keys, the newest first" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["plugins"])
    said = capsys.readouterr().out.replace("\n", " ")
    assert not ended.value.code and "prometheus" in said
    assert "otel: cannot be loaded: ModuleNotFoundError" in said and "pip install 'gwcore-observability[otel]'" in said


def test_a_verb_of_a_distribution_that_cannot_be_loaded_says_why(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gwcore_auth.plugin", None)
    monkeypatch.delitem(sys.modules, "gwcore_auth", raising=False)
    with pytest.raises(SystemExit):
        main(["keys", "list"])
    assert "gwcore keys comes with gwcore-auth, which cannot be loaded: ModuleNotFoundError" in capsys.readouterr().err


def test_two_distributions_of_one_word_are_refused(monkeypatch):
    """The last one found would have taken the other's place: by chance, and for a word such as auth, too."""

    def offered(distribution):
        return SimpleNamespace(name="auth", dist=SimpleNamespace(name=distribution), load=object)

    monkeypatch.setattr("gwcore.catalog.entry_points", lambda group: (offered("gwcore-auth"), offered("acme-auth")))
    with pytest.raises(AssemblyError, match="acme-auth and gwcore-auth both offer 'auth': uninstall one"):
        Catalog().load("auth")
