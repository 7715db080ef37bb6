"""Addresses and credentials of every provider."""

import sys

import pytest
from pydantic import ValidationError

from gwcore.errors import BadConfig
from gwcore.provider import Preparing
from gwcore.testing.fakes import NoTransport, upstream
from gwcore.wire.transport import Origin, Request
from gwcore_providers import gwcore_dialects, gwcore_providers
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
        (address("voyage", "openai.chat", "rerank", base_path="/v1"), None),  # its keys are others
        (address("voyage", "openai.lists", "rerank", base_path="/v1"), ("/v1/rerank", True)),
        (address("openrouter", "openai.chat", "rerank", base_path="/api/v1"), ("/api/v1/rerank", True)),
        (address("cohere", "cohere.chat", "rerank", base_path="/compatibility/v1"), ("/v2/rerank", True)),
        (address("tei", "tei", "rerank"), ("/rerank", False)),
        (address("tei", "openai.lists", "embeddings"), ("/v1/embeddings", True)),
        (address("ollama", "openai.chat", "embeddings"), ("/v1/embeddings", True)),
        (address("ollama", "openai.chat", "embeddings", num_ctx=4096), None),
        (address("ollama", "ollama.chat", "embeddings", num_ctx=4096), ("/api/embed", True)),
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
        (address("deepseek", "openai.chat", "completions"), ("/beta/completions", True)),
        (address("deepseek", "anthropic.messages", "chat"), ("/anthropic/v1/messages", True)),
        (address("ollama", "anthropic.messages", "chat"), ("/v1/messages", True)),
        (address("vllm", "anthropic.messages", "count_tokens", base_path="/v1"), ("/v1/messages/count_tokens", True)),
        (address("ollama", "anthropic.messages", "count_tokens"), None),
        (address("groq", "anthropic.messages", "chat"), None),
        (address("groq", "openai.chat", "embeddings"), None),
        (address("cerebras", "openai.chat", "embeddings"), None),
        (address("cohere", "openai.chat", "completions"), None),
        (address("gemini", "gemini.generate", "chat", "g"), ("/v1beta/models/g:generateContent", False)),
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


CLOUD = {"project": "p", "location": "us-east5"}
AWS = {"region": "us-east-1"}
VERTEX = "/v1/projects/p/locations/us-east5"


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (
            address("vertex", "gemini.generate", "chat", "g", {"verb": "streamGenerateContent"}, **CLOUD),
            ("/v1beta1/projects/p/locations/us-east5/publishers/google/models/g:streamGenerateContent", False),
        ),
        (
            address("vertex", "gemini.generate", "chat", "g", project="p", api_version="v1"),
            ("/v1/projects/p/locations/global/publishers/google/models/g:generateContent", False),
        ),
        (
            address("vertex", "gemini.generate", "cached_contents", "", {"id": "c"}, **CLOUD),
            ("/v1beta1/projects/p/locations/us-east5/cachedContents/c", False),
        ),
        (
            address("vertex", "gemini.generate", "count_tokens", "g"),
            ("/v1beta1/publishers/google/models/g:countTokens", False),
        ),
        (
            address("vertex", "anthropic.messages", "chat", "claude@1", **CLOUD),
            (f"{VERTEX}/publishers/anthropic/models/claude@1:rawPredict", False),
        ),
        (address("vertex", "anthropic.messages", "batches", "", **CLOUD), None),
        (address("vertex", "openai.chat", "chat", "google/g", **CLOUD), (f"{VERTEX}/endpoints/openapi/chat/completions", True)),
        (address("vertex", "openai.chat", "embeddings", **CLOUD), None),
        (address("vertex", "openai.responses", "chat", **CLOUD), None),
        (address("bedrock", "anthropic.messages", "chat", "us.anthropic.c:0", **AWS), ("/model/us.anthropic.c%3A0/invoke", False)),
        (address("bedrock", "anthropic.messages", "count_tokens", "eu.anthropic.c", **AWS), ("/model/anthropic.c/count-tokens", False)),
        (address("bedrock", "anthropic.messages", "batches", "", **AWS), None),
        (
            address("bedrock", "anthropic.messages", "chat", "arn:aws:bedrock:r:1:inference-profile/x", **AWS),
            ("/model/arn%3Aaws%3Abedrock%3Ar%3A1%3Ainference-profile%2Fx/invoke", False),
        ),
        (address("bedrock", "bedrock.converse", "chat", "m", **AWS), ("/model/m/converse", False)),
        (address("bedrock", "openai.chat", "chat", **AWS), ("/openai/v1/chat/completions", True)),
        (address("bedrock", "openai.responses", "chat", **AWS), ("/openai/v1/responses", True)),
        (address("bedrock", "openai.responses", "responses", "", {"id": "r"}, **AWS), None),
        (address("bedrock", "openai.chat", "embeddings", **AWS), None),
        (address("bedrock", "gemini.generate", "chat", **AWS), None),
        # whose model it is decides the dialects
        (address("bedrock", "anthropic.messages", "chat", "us.amazon.nova-lite-v1:0", **AWS), None),
        (address("bedrock", "openai.chat", "chat", "us.amazon.nova-lite-v1:0", **AWS), None),
        (address("bedrock", "openai.responses", "chat", "global.anthropic.c", **AWS), None),
        (address("bedrock", "openai.chat", "chat", "openai.gpt-oss-120b-1:0", **AWS), ("/openai/v1/chat/completions", True)),
        (address("vertex", "anthropic.messages", "chat", "gemini-x", **CLOUD), None),
        (address("vertex", "gemini.generate", "chat", "claude-x", **CLOUD), None),
        (address("vertex", "openai.chat", "chat", "gemini-x", **CLOUD), None),
        (address("bedrock-mantle", "openai.responses", "responses", "", {"id": "r"}, **AWS), ("/v1/responses/r", False)),
        (address("bedrock-mantle", "openai.chat", "chat", root="/openai/v1", **AWS), ("/openai/v1/chat/completions", True)),
        (address("bedrock-mantle", "openai.chat", "files", **AWS), None),
        (address("bedrock-mantle", "anthropic.messages", "chat", **AWS), ("/anthropic/v1/messages", True)),
    ],
)  # fmt: skip
def test_addresses_of_clouds(got, expected):
    assert got == expected


@pytest.mark.parametrize("text", HOSTILE)
def test_no_name_leaves_its_place_in_a_cloud(text):
    for path, _ in (
        address("vertex", "gemini.generate", "chat", text, **CLOUD),
        address("vertex", "anthropic.messages", "chat", f"claude{text}", **CLOUD),
        address("bedrock", "anthropic.messages", "chat", f"{text}anthropic.", **AWS),
        address("bedrock", "anthropic.messages", "count_tokens", f"{text}anthropic.", **AWS),
        address("bedrock", "bedrock.converse", "chat", text, **AWS),
    ):
        assert path.isascii() and path.isprintable() and not set(" #?;") & set(path)
        assert "/../" not in path
        assert path.startswith(("/v1beta1/projects/p/locations/", "/v1/projects/p/locations/", "/model/"))


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("global", "aiplatform.googleapis.com"),
        ("us", "aiplatform.us.rep.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
        ("us-east5", "us-east5-aiplatform.googleapis.com"),
    ],
)
def test_where_vertex_is(location, host):
    options = PROVIDERS["vertex"].Options(location=location)
    assert PROVIDERS["vertex"].base_url.format(options) == f"https://{host}"


def test_where_bedrock_is():
    for name, host in (
        ("bedrock", "bedrock-runtime.eu-west-1.amazonaws.com"),
        ("bedrock-mantle", "bedrock-mantle.eu-west-1.api.aws"),
    ):
        assert PROVIDERS[name].base_url.format(PROVIDERS[name].Options(region="eu-west-1")) == f"https://{host}"


@pytest.mark.parametrize("location", ["evil.example/", "a.b", "", "US", "x@y"])
def test_a_location_is_no_address(location):
    with pytest.raises(ValidationError):
        PROVIDERS["vertex"].Options(location=location)
    with pytest.raises(ValidationError):
        PROVIDERS["bedrock"].Options(region=location)


@pytest.mark.parametrize("text", ["CANARY", "{}", "[]", "3", '{"no": "CANARY"}'])
def test_what_is_no_key_file(text):
    with pytest.raises(ValidationError) as refused:
        PROVIDERS["vertex"].Options(credentials=text)
    assert "CANARY" not in str(refused.value)


def test_a_key_file_names_its_project():
    options = PROVIDERS["vertex"].Options(credentials='{"type":"service_account","project_id":"p/1"}')
    assert options.parent == "/projects/p%2F1/locations/global" and "service_account" not in repr(options)
    assert options.model_copy(update={"project": "other"}).parent == "/projects/other/locations/global"


def test_vertex_without_google_auth(monkeypatch):
    monkeypatch.delitem(sys.modules, "gwcore_providers.vertex.tokens", raising=False)
    monkeypatch.setitem(sys.modules, "google.auth", None)
    with pytest.raises(BadConfig, match=r"pip install 'gwcore-providers\[vertex\]'"):
        PROVIDERS["vertex"].transport(NoTransport(), None, PROVIDERS["vertex"].Options(project="p"))


def test_vertex_without_a_project():
    provider = PROVIDERS["vertex"]
    with pytest.raises(BadConfig, match="set project"):
        provider.transport(NoTransport(), None, provider.Options())


async def test_what_a_vendor_refuses_is_taken_out():
    provider = PROVIDERS["cohere"]
    assert isinstance(provider, Preparing) and not isinstance(PROVIDERS["groq"], Preparing)
    raw = b'{"stream_options":{"include_usage":true},"model":"m", "stream":true}'
    request = Request("POST", Origin("https", "x", 443), "/", [], raw)
    provider.prepare(up("cohere"), request, "openai.chat", "chat", stream=True)
    assert request.body == b'{"model":"m", "stream":true}'


OPERATIONS = {route.operation for dialect in gwcore_dialects() for route in dialect.routes}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_names_what_there_is(name):
    row = ROWS[name]
    assert set(row.operations or ()) | set(row.paths) | set(row.messages) <= OPERATIONS
    for operation in row.operations or ():
        dialect = "openai.lists" if operation in row.lists else "openai.chat"
        assert address(name, dialect, operation, "m", {"id": "i"}) is not None, operation
    assert row.lists <= (row.operations or OPERATIONS) and row.lists <= {"embeddings", "rerank"}
    assert (address(name, "openai.responses", "chat") is not None) == row.responses
    for path in [*row.paths.values(), *row.messages.values(), row.root or "/"]:
        assert path.startswith("/") and (path == "/" or not path.endswith("/"))


def test_every_vendor_of_the_promise_is_there():
    promised = (
        "openai azure anthropic gemini vertex bedrock groq openrouter cerebras mistral deepseek xai together fireworks "
        "huggingface voyage cohere ollama tei llamacpp vllm lmstudio openai-compatible"
    )
    assert set(promised.split()) <= set(PROVIDERS)


def test_every_row_is_https_or_local():
    for name, row in ROWS.items():
        assert row.base_url is None or row.base_url.startswith(("https://", "http://127.0.0.1")), name
        assert row.base_url is None or not row.base_url.endswith("/")
