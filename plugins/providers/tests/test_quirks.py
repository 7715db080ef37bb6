"""What a row says is what a translated request looks like; the vendors' own specifications are the oracle where there is one."""

import json
import re
from pathlib import Path

import pytest
from recorded import NAMES, recorded, specification

from gwcore.codec import Crossing
from gwcore.errors import Untranslatable
from gwcore.testing.fakes import upstream
from gwcore_providers import gwcore_dialects, gwcore_providers, quirks
from gwcore_providers.compatible import ROWS

SOURCE = Path(quirks.__file__).parent
CODECS = {dialect.name: dialect.chat for dialect in gwcore_dialects() if dialect.chat}
PROVIDERS = {provider.name: provider for provider in gwcore_providers()}


def quirks_of(name, model):
    made = upstream(name)
    made.provider = PROVIDERS[name]
    if made.provider.Options is not None:
        made.options = made.provider.Options.model_construct()
    return made.provider.quirks(made, model)


def crossed(document, provider, model="m", *, client="anthropic.messages", to="openai.chat", stream=False):
    """A client's request as it would be sent to a vendor, and what was left out."""
    request = CODECS[client].read_request(json.loads(json.dumps(document)), "asked", stream=stream)
    crossing = Crossing(model, "asked", quirks_of(provider, model), stream=stream)
    return CODECS[to].write_request(request, crossing), crossing.dropped


PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
PDF = {
    "type": "document",
    "title": "a.pdf",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
}
TOOLS = [{"name": "t", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}]
TURNS = [
    {"role": "user", "content": "hi"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
            {"type": "tool_use", "id": "toolu_01A09q90qw90lq917835lq9", "name": "t", "input": {"a": 1}},
        ],
    },
    {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "toolu_01A09q90qw90lq917835lq9", "content": "4"}],
    },
]


def asked(**more):
    return {"model": "x", "max_tokens": 2000, "messages": [{"role": "user", "content": "hi"}], **more}


def test_every_word_of_a_row_is_known_and_every_known_word_is_read_by_a_codec():
    code = "".join(path.read_text() for path in SOURCE.rglob("*.py") if path.name not in {"quirks.py", "compatible.py"})
    unread = [word for word in quirks.WORDS if f'"{word}"' not in code]
    unread += [prefix for prefix in quirks.PREFIXES if f'"{prefix}' not in code]
    assert not unread
    for row in ROWS.values():
        quirks.words(row.quirks, *row.models.values())
        for pattern in row.models:
            re.compile(pattern)
    with pytest.raises(ValueError, match="no codec knows max_tokenz"):
        quirks.words("max_tokenz")


@pytest.mark.parametrize(
    ("provider", "model", "limit"),
    [("openai", "gpt-4.1", "max_completion_tokens"), ("azure", "dep", "max_completion_tokens"), ("mistral", "mistral-large", "max_tokens"),
     ("groq", "llama-3.3", "max_completion_tokens"), ("openai-compatible", "m", "max_tokens"), ("deepseek", "deepseek-chat", "max_tokens")],
)  # fmt: skip
def test_the_key_of_the_limit(provider, model, limit):
    body, dropped = crossed(asked(), provider, model)
    assert {key for key in body if "tokens" in key} == {limit} and body[limit] == 2000 and not dropped


@pytest.mark.parametrize(
    ("provider", "model", "thinking", "expected"),
    [
        ("deepseek", "deepseek-v4-pro", {"type": "enabled", "budget_tokens": 24000}, {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
        ("deepseek", "deepseek-v4-pro", {"type": "disabled"}, {"thinking": {"type": "disabled"}}),
        ("zai", "glm-4.6", {"type": "enabled", "budget_tokens": 2048}, {"thinking": {"type": "enabled"}}),
        ("moonshot", "kimi-k2.6", {"type": "disabled"}, {"thinking": {"type": "disabled"}}),
        ("moonshot", "moonshot-v1-8k", {"type": "enabled", "budget_tokens": 2048}, {}),
        ("alibaba", "qwen3-max", {"type": "enabled", "budget_tokens": 4096}, {"enable_thinking": True, "thinking_budget": 4096}),
        ("openrouter", "anthropic/claude-sonnet-4.5", {"type": "enabled", "budget_tokens": 4096}, {"reasoning": {"max_tokens": 4096}}),
        ("openrouter", "x", {"type": "disabled"}, {"reasoning": {"effort": "none"}}),
        ("groq", "openai/gpt-oss-120b", {"type": "enabled", "budget_tokens": 8000}, {"reasoning_effort": "medium"}),
        ("groq", "qwen/qwen3-32b", {"type": "disabled"}, {"reasoning_effort": "none"}),
        ("groq", "qwen/qwen3-32b", {"type": "enabled", "budget_tokens": 8000}, {}),
        ("groq", "llama-3.3-70b", {"type": "enabled", "budget_tokens": 8000}, {}),
        ("mistral", "mistral-medium-latest", {"type": "enabled", "budget_tokens": 8000}, {"reasoning_effort": "high"}),
        ("openai", "gpt-5", {"type": "enabled", "budget_tokens": 50_000}, {"reasoning_effort": "high"}),
        ("openai", "gpt-4.1", {"type": "disabled"}, {}),
    ],
)  # fmt: skip
def test_how_hard_to_think(provider, model, thinking, expected):
    body, dropped = crossed(asked(thinking=thinking), provider, model)
    keys = {"thinking", "reasoning_effort", "enable_thinking", "thinking_budget", "reasoning"}
    assert {key: body[key] for key in body if key in keys} == expected
    exact = {("groq", "qwen/qwen3-32b"), ("openai", "gpt-4.1")}
    if not expected and (provider, model) not in exact:
        assert [name for name in dropped if name.startswith("reasoning_effort")]


@pytest.mark.parametrize(
    ("provider", "model", "key"),
    [("deepseek", "m", "reasoning_content"), ("groq", "m", "reasoning"), ("cerebras", "m", "reasoning"), ("vllm", "m", "reasoning"),
     ("llamacpp", "m", "reasoning_content"), ("openrouter", "m", "reasoning_details"), ("huggingface", "m", None)],
)  # fmt: skip
def test_thoughts_go_back_in_the_vendors_own_key(provider, model, key):
    body, dropped = crossed(asked(messages=TURNS, tools=TOOLS), provider, model)
    turn = body["messages"][1]
    found = set(turn) & {"reasoning", "reasoning_content", "reasoning_details"}
    assert found == ({key} if key else set())
    assert ("reasoning" in dropped) == (key is None)
    if key == "reasoning_details":
        assert turn[key][0]["signature"] == "c2ln" and turn[key][0]["text"] == "hm"
    elif key:
        assert turn[key] == "hm"


def test_a_turn_that_called_tools_has_the_key_of_its_thoughts_where_it_is_demanded():
    turns = [TURNS[0], {**TURNS[1], "content": TURNS[1]["content"][1:]}, TURNS[2]]
    body, _ = crossed(asked(messages=turns, tools=TOOLS), "deepseek")
    assert body["messages"][1]["reasoning_content"] == ""
    body, _ = crossed(asked(messages=turns, tools=TOOLS), "groq")
    assert "reasoning_content" not in body["messages"][1]


def test_mistral_takes_its_own_ids_thoughts_documents_and_seed():
    turns = [*TURNS, {"role": "user", "content": [PDF, {"type": "text", "text": "?"}]}]
    body, dropped = crossed(asked(messages=turns, tools=TOOLS, top_k=3), "mistral", stream=True)
    call, result = body["messages"][1]["tool_calls"][0]["id"], body["messages"][2]["tool_call_id"]
    assert call == result and re.fullmatch("[a-zA-Z0-9]{9}", call)
    assert body["messages"][1]["content"][0]["type"] == "thinking"
    assert body["messages"][3]["content"][0] == {
        "type": "document_url", "document_url": "data:application/pdf;base64,aGk=", "document_name": "a.pdf"
    }  # fmt: skip
    assert body["stream"] is True and "stream_options" not in body and dropped == ["top_k"]
    seeded, _ = crossed(
        {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"seed": 7}},
        "mistral",
        client="gemini.generate",
    )
    assert seeded["random_seed"] == 7 and "seed" not in seeded


@pytest.mark.parametrize(
    ("provider", "content", "named"),
    [("deepseek", PNG, "image"), ("groq", PDF, "document"), ("ollama", {**PNG, "source": {"type": "url", "url": "https://a/b.png"}}, "address")],
)  # fmt: skip
def test_what_a_vendor_does_not_take_is_refused_by_name(provider, content, named):
    with pytest.raises(Untranslatable, match=named):
        crossed(asked(messages=[{"role": "user", "content": [content]}]), provider)
    crossed(asked(messages=[{"role": "user", "content": [content]}]), "openrouter")  # who takes it


def test_a_schema_a_forced_call_and_several_answers_are_refused_where_the_vendor_has_none():
    with pytest.raises(Untranslatable, match="response_format"):
        crossed(asked(output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}}), "deepseek")
    with pytest.raises(Untranslatable, match="tool_choice"):
        crossed(asked(tools=TOOLS, tool_choice={"type": "any"}), "zai")
    body, _ = crossed(asked(tools=TOOLS, tool_choice={"type": "none"}), "zai")
    assert "tools" not in body and "tool_choice" not in body
    several = {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"candidateCount": 2}}
    with pytest.raises(Untranslatable, match="n cannot"):
        crossed(several, "groq", client="gemini.generate")


def test_sampling_that_a_model_or_a_vendor_refuses_is_dropped_by_name():
    body, dropped = crossed(asked(temperature=0.5, top_k=4, stop_sequences=["x"]), "openai", "gpt-5")
    assert not {"temperature", "stop", "top_k"} & set(body)
    assert {"temperature", "stop", "top_k"} <= set(dropped)
    body, dropped = crossed(asked(temperature=0.5, top_k=4, stop_sequences=["x"]), "vllm", "qwen3")
    assert (body["temperature"], body["top_k"], body["stop"]) == (0.5, 4, ["x"]) and not dropped
    body, dropped = crossed(asked(stop_sequences=["x"]), "xai", "grok-4")
    assert "stop" not in body and dropped == ["stop"]


def test_clouds_take_bytes_alone_and_vertex_no_ids():
    address = {"type": "image_url", "image_url": {"url": "https://a/b.png"}}
    document = {"model": "x", "messages": [{"role": "user", "content": [address]}]}
    for provider, model in (("bedrock", "us.anthropic.claude-sonnet-4-5"), ("vertex", "claude-sonnet-4-5")):
        with pytest.raises(Untranslatable, match="address"):
            crossed(document, provider, model, client="openai.chat", to="anthropic.messages")
    crossed(document, "anthropic", "claude-sonnet-4-5", client="openai.chat", to="anthropic.messages")
    for provider, ids in (("vertex", False), ("gemini", True)):
        body, _ = crossed(asked(messages=TURNS, tools=TOOLS), provider, "gemini-2.5-flash", to="gemini.generate")
        assert ('"id"' in json.dumps(body["contents"])) is ids


@pytest.fixture(scope="module")
def spec():
    return specification()


# ── the vendors' specifications ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("provider", "model"), [("mistral", "mistral-medium-latest"), ("openrouter", "openai/gpt-5"), ("openai", "gpt-5.1")]
)
def test_recorded_requests_of_every_other_dialect_are_accepted_or_refused_by_name(spec, provider, model):
    wrong, said, refused = [], 0, 0
    for record in recorded():
        client = NAMES[record["dialect"]]
        if client == "openai.chat":
            continue
        try:
            body, _ = crossed(record["request"]["body"], provider, model, client=client, stream=record["stream"])
        except Untranslatable:
            refused += 1
            continue
        said += 1
        if errors := spec.errors("openai-chat", "request", json.loads(json.dumps(body)), provider):
            wrong.append((record["id"], errors[0]))
    assert not wrong, (len(wrong), said, wrong[:8])
    assert said > 150, refused
