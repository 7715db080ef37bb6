"""Secrets do not get written down."""

import pytest
from pydantic import BaseModel, SecretStr

from gwcore.redact import Redactor, cleaned, secrets_of

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nAB==\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefgh12345678",
        "Bearer abc.def-ghi_jkl",
        "Basic dXNlcjpwYXNzd29yZA==",
        "AIzaSyA-1234567890",
        "AKIAIOSFODNN7EXAMPLE",
        "ASIAIOSFODNN7EXAMPLE",
        "gsk_abcdefgh12345678",
        "xai-abcdefgh12345678",
        "hf_abcdefgh12345678",
        "pk-lf-abcdefgh12345678",
        "ghp_abcdefgh12345678",
        "github_pat_abcdefgh12345678",
        "ya29.abcdefgh12345678",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
        PEM,
        PEM[:50],
        "known-value",
        "known-value-longer",
        "eight-88",
    ],
)
@pytest.mark.parametrize("around", ["{}", "before {} after", "x" * 20_000 + " {} " + "y " * 20_000])
def test_what_looks_like_a_secret_or_is_one_goes(secret, around):
    redactor = Redactor(["known-value", "known-value-longer", "eight-88", "short"])
    said = redactor.text(around.format(secret))
    assert secret not in said and "[redacted]" in said
    assert redactor.holds_secret(around.format(secret))
    assert said == redactor.text(said)


def test_of_two_secrets_that_begin_alike_nothing_of_the_longer_stays():
    assert "longer" not in Redactor(["known-value", "known-value-longer"]).text("a known-value-longer b")


@pytest.mark.parametrize("text", ["", "task-list of the basic kind", "a Bearer of news", "short", "x" * 100_000])
def test_the_rest_stays(text):
    redactor = Redactor(["known-value", "short"])
    assert redactor.text(text) == cleaned(text) == text
    assert not redactor.holds_secret(text)


def test_secrets_of_a_configuration():
    class Inner(BaseModel):
        key: SecretStr
        keys: list[SecretStr] = []
        pair: tuple[SecretStr, ...] = ()
        some: frozenset[SecretStr] = frozenset()

    class Outer(BaseModel):
        stores: dict[str, str]
        entries: dict[str, Inner]
        secret: SecretStr | None = None
        model_config = {"extra": "allow"}

    inner = Inner(
        key=SecretStr("one"), keys=[SecretStr("two")], pair=(SecretStr("four"),), some=frozenset([SecretStr("five")])
    )
    config = Outer(
        stores={"a": "postgresql://u:p%40ss@h/db", "b": "memory:"}, entries={"x": inner}, more=[SecretStr("three")]
    )
    assert secrets_of(config) == {"one", "two", "three", "four", "five", "p%40ss", "p@ss"}
