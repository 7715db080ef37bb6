"""Addresses and credentials of every provider."""

import pytest

from gwcore.testing.fakes import upstream
from gwcore_providers import gwcore_providers
from gwcore_providers.compatible import ROWS

PROVIDERS = {provider.name: provider for provider in gwcore_providers()}
HOSTILE = ["../../admin", "a/../b", "..", "a?b=c", "a#b", "a b", "a\r\nx: y", "ü", "%2e%2e", "a;b"]


def up(name, base_path="", **options):
    made = upstream(name)
    made.provider = PROVIDERS[name]
    made.base_path = base_path
    if made.provider.Options is not None:
        made.options = made.provider.Options(**options)
    return made


def address(name, dialect, operation, model="m", params=None, base_path="", **options):
    return PROVIDERS[name].address(
        up(name, base_path, **options), dialect, operation, model, params or {}, stream=False
    )


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (address("openai", "openai.chat", "chat", base_path="/v1"), ("/v1/chat/completions", True)),
        (address("openai", "openai.responses", "chat", base_path="/v1"), ("/v1/responses", True)),
        (
            address("openai", "openai.responses", "response_cancel", "", {"id": "r/1"}, "/v1"),
            ("/v1/responses/r%2F1/cancel", False),
        ),
        (address("openai", "openai.chat", "file_content", "", {"id": "f"}, "/v1"), ("/v1/files/f/content", False)),
        (address("groq", "openai.chat", "chat", base_path="/openai/v1"), ("/openai/v1/chat/completions", True)),
        (address("ollama", "openai.chat", "chat"), ("/v1/chat/completions", True)),
        (address("voyage", "openai.chat", "rerank", base_path="/v1"), ("/v1/rerank", True)),
        (address("voyage", "openai.chat", "chat", base_path="/v1"), None),
        (address("cerebras", "openai.responses", "chat", base_path="/v1"), None),
        (address("anthropic", "anthropic.messages", "chat"), ("/v1/messages", True)),
        (
            address("anthropic", "anthropic.messages", "batch_results", "", {"id": "b"}),
            ("/v1/messages/batches/b/results", False),
        ),
        (address("anthropic", "openai.chat", "chat"), None),
        (
            address("gemini", "gemini.generate", "chat", "g", {"verb": "generateContent"}),
            ("/v1beta/models/g:generateContent", False),
        ),
        (address("gemini", "gemini.generate", "chat", "g", {"verb": "x"}, api_version="v1"), ("/v1/models/g:x", False)),
        (
            address("azure", "openai.chat", "chat", "dep", api_version="2024-10-21"),
            ("/openai/deployments/dep/chat/completions?api-version=2024-10-21", True),
        ),
        (address("azure", "openai.chat", "chat", "dep"), ("/openai/v1/chat/completions", True)),
    ],
)
def test_addresses(got, expected):
    assert got == expected


@pytest.mark.parametrize("text", HOSTILE)
def test_no_name_leaves_its_place(text):
    for path, _ in (
        address("gemini", "gemini.generate", "chat", text, {"verb": "generateContent"}),
        address("azure", "openai.chat", "chat", text, api_version="1"),
        address("openai", "openai.chat", "files", "", {"id": text}, "/v1"),
        address("anthropic", "anthropic.messages", "batches", "", {"id": text}),
    ):
        assert path.isascii() and path.isprintable() and " " not in path and "#" not in path
        assert "/../" not in path and not path.endswith("/..") and path.count("?") <= 1
        assert path.startswith(("/v1beta/models/", "/openai/deployments/", "/v1/files/", "/v1/messages/batches/"))


@pytest.mark.parametrize(
    ("name", "header"),
    [("anthropic", b"x-api-key"), ("gemini", b"x-goog-api-key"), ("azure", b"api-key"), ("groq", b"authorization")],
)
def test_credentials(name, header):
    (got, value), *rest = PROVIDERS[name].credential("secret-key", None)
    assert got == header and value.endswith(b"secret-key") and not rest
    assert PROVIDERS[name].credential(None, None) == []


def test_every_row_is_https_or_local():
    for name, row in ROWS.items():
        assert row.base_url is None or row.base_url.startswith(("https://", "http://127.0.0.1")), name
        assert row.base_url is None or not row.base_url.endswith("/")
