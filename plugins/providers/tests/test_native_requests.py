"""Requests as Ollama's, Cohere's and Bedrock's own APIs take them."""

import json

import pytest
from recorded import NAMES, recorded, specification

from gwcore.chat import Reasoning
from gwcore.codec import Crossing
from gwcore.errors import BadRequest, Untranslatable
from gwcore.wire.ndjson import NdjsonReader
from gwcore_providers import gwcore_dialects

CODECS = {dialect.name: dialect.chat for dialect in gwcore_dialects()}
NATIVE = ("ollama.chat", "cohere.chat", "bedrock.converse")
MODELS = {
    "ollama.chat": "qwen3:8b",
    "cohere.chat": "command-a-reasoning-08-2025",
    "bedrock.converse": "us.amazon.nova-2-lite-v1:0",
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CHAT = {
    "model": "m", "temperature": 0.5, "top_p": 0.9, "max_tokens": 77, "stop": ["END"], "reasoning_effort": "high",
    "tools": [{"type": "function", "function": {"name": "t", "description": "does", "parameters": SCHEMA}}],
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        ]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "t", "arguments": '{"a": 1}'}},
            {"id": "call_2", "type": "function", "function": {"name": "t", "arguments": ""}},
        ]},
        {"role": "tool", "tool_call_id": "call_1", "content": "one"},
        {"role": "tool", "tool_call_id": "call_2", "content": "two"},
        {"role": "user", "content": "and now?"},
    ],
}  # fmt: skip
OLLAMA = {
    "model": "qwen3:8b", "stream": False, "think": True,
    "options": {"temperature": 0.5, "top_p": 0.9, "num_predict": 77, "stop": ["END"]},
    "tools": [{"type": "function", "function": {"name": "t", "description": "does", "parameters": SCHEMA}}],
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "look", "images": ["aGk="]},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "call_1", "function": {"name": "t", "arguments": {"a": 1}}},
            {"id": "call_2", "function": {"name": "t", "arguments": {}}},
        ]},
        {"role": "tool", "content": "one", "tool_call_id": "call_1", "tool_name": "t"},
        {"role": "tool", "content": "two", "tool_call_id": "call_2", "tool_name": "t"},
        {"role": "user", "content": "and now?"},
    ],
}  # fmt: skip
COHERE = {
    "model": "command-a-reasoning-08-2025", "stream": False, "temperature": 0.5, "p": 0.9, "max_tokens": 77,
    "stop_sequences": ["END"], "thinking": {"type": "enabled", "token_budget": 24_576},
    "tools": [{"type": "function", "function": {"name": "t", "description": "does", "parameters": SCHEMA}}],
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        ]},
        {"role": "assistant", "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "t", "arguments": '{"a": 1}'}},
            {"id": "call_2", "type": "function", "function": {"name": "t", "arguments": "{}"}},
        ]},
        {"role": "tool", "tool_call_id": "call_1", "content": "one"},
        {"role": "tool", "tool_call_id": "call_2", "content": "two"},
        {"role": "user", "content": "and now?"},
    ],
}  # fmt: skip
CONVERSE = {
    "system": [{"text": "be brief"}],
    "inferenceConfig": {"temperature": 0.5, "topP": 0.9, "maxTokens": 77, "stopSequences": ["END"]},
    "additionalModelRequestFields": {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}},
    "toolConfig": {"tools": [{"toolSpec": {"name": "t", "description": "does", "inputSchema": {"json": SCHEMA}}}]},
    "messages": [
        {"role": "user", "content": [{"text": "look"}, {"image": {"format": "png", "source": {"bytes": "aGk="}}}]},
        {"role": "assistant", "content": [
            {"toolUse": {"toolUseId": "call_1", "name": "t", "input": {"a": 1}}},
            {"toolUse": {"toolUseId": "call_2", "name": "t", "input": {}}},
        ]},
        {"role": "user", "content": [
            {"toolResult": {"toolUseId": "call_1", "content": [{"text": "one"}]}},
            {"toolResult": {"toolUseId": "call_2", "content": [{"text": "two"}]}},
            {"text": "and now?"},
        ]},
    ],
}  # fmt: skip


def crossed(document, to, *, client="openai.chat", quirks=(), stream=False, model=None):
    request = CODECS[client].read_request(json.loads(json.dumps(document)), "asked", stream=stream)
    crossing = Crossing(model or MODELS[to], "asked", frozenset(quirks), stream=stream)
    return CODECS[to].write_request(request, crossing), crossing


@pytest.mark.parametrize(
    ("to", "expected"), [("ollama.chat", OLLAMA), ("cohere.chat", COHERE), ("bedrock.converse", CONVERSE)]
)
def test_a_conversation_with_everything(to, expected):
    body, crossing = crossed(CHAT, to)
    assert body == expected and not crossing.dropped


@pytest.mark.parametrize("to", NATIVE)
@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"n": 2}, "n cannot"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "wav"}}, "audio|modalities"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}]}]}, "audio"),
        ({"tools": [{"type": "web_search"}]}, "server tool web_search"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f1"}}]}]}, "document|file"),
    ],
)  # fmt: skip
def test_what_none_of_them_has_is_refused_by_name(to, more, named):
    with pytest.raises(Untranslatable, match=named):
        crossed({**CHAT, **more}, to)


@pytest.mark.parametrize("to", NATIVE)
def test_a_result_that_answers_no_call_is_a_bad_request(to):
    """E11."""
    orphan = {**CHAT, "messages": [CHAT["messages"][1], CHAT["messages"][3]]}
    with pytest.raises(BadRequest, match="call_1"):
        crossed(orphan, to)


@pytest.mark.parametrize("to", NATIVE)
def test_tuning_knobs_that_they_lack_are_dropped_by_name(to):
    body, crossing = crossed({**CHAT, "logit_bias": {"1": 2}, "parallel_tool_calls": False, "user": "u"}, to)
    assert set(crossing.dropped) == {"logit_bias", "user", "parallel_tool_calls"}
    assert "logit_bias" not in json.dumps(body)


def test_a_forced_call_where_there_is_one():
    forced = {**CHAT, "tool_choice": {"type": "function", "function": {"name": "t"}}}
    with pytest.raises(Untranslatable, match="tool_choice"):
        crossed(forced, "ollama.chat")
    assert crossed(forced, "cohere.chat")[0]["tool_choice"] == "REQUIRED"
    assert crossed(forced, "bedrock.converse")[0]["toolConfig"]["toolChoice"] == {"tool": {"name": "t"}}
    with pytest.raises(Untranslatable, match="tool_choice"):
        crossed(forced, "bedrock.converse", model="meta.llama3-1-70b-instruct-v1:0")
    none = {**CHAT, "tool_choice": "none", "messages": CHAT["messages"][:2]}
    assert "tools" not in crossed(none, "ollama.chat")[0] and "toolConfig" not in crossed(none, "bedrock.converse")[0]
    assert crossed(none, "cohere.chat")[0]["tool_choice"] == "NONE"


def test_the_form_of_the_answer():
    schema = {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}
    assert crossed(schema, "ollama.chat")[0]["format"] == SCHEMA
    assert crossed(schema, "cohere.chat")[0]["response_format"] == {"type": "json_object", "json_schema": SCHEMA}
    with pytest.raises(Untranslatable, match="response_format"):
        crossed(schema, "bedrock.converse")


def test_converse_takes_a_schema_where_its_guide_names_the_model(monkeypatch):
    """ "OutputFormat" and "JsonSchemaDefinition" of the API reference: the schema is text."""
    monkeypatch.setitem(MODELS, "bedrock.converse", "us.anthropic.claude-sonnet-4-5-20250929-v1:0")
    schema = {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}
    form = crossed(schema, "bedrock.converse")[0]["outputConfig"]["textFormat"]
    said = form["structure"]["jsonSchema"].pop("schema")
    assert json.loads(said) == {**SCHEMA, "additionalProperties": False}
    assert form == {"type": "json_schema", "structure": {"jsonSchema": {"name": "a"}}}


def test_ollama_takes_the_window_of_the_stack_file_and_of_the_client():
    body, crossing = crossed(CHAT, "ollama.chat", quirks=["num_ctx:8192", "keep_alive:30m"])
    assert (body["options"]["num_ctx"], body["keep_alive"], crossing.window) == (8192, "30m", 8192)
    own = {**CHAT, "num_ctx": 4096, "keep_alive": 0, "think": False, "options": {"mirostat": 1}}
    body, crossing = crossed(own, "ollama.chat", quirks=["num_ctx:8192", "keep_alive:-1"])
    assert (body["options"]["num_ctx"], body["options"]["mirostat"], body["keep_alive"], body["think"]) == (
        4096,
        1,
        0,
        False,
    )
    assert crossing.window == 4096 and not crossing.dropped
    assert crossed(CHAT, "ollama.chat", quirks=["keep_alive:-1"])[0]["keep_alive"] == -1


@pytest.mark.parametrize(
    ("model", "effort", "think"),
    [("gpt-oss:20b", "minimal", "low"), ("gpt-oss:20b", "high", "high"), ("qwen3:8b", "none", False), ("llama3.2", "high", None), ("llama3.2", "none", False)],
)  # fmt: skip
def test_ollama_is_told_to_think_only_where_it_can(model, effort, think):
    body, crossing = crossed({**CHAT, "reasoning_effort": effort}, "ollama.chat", model=model)
    assert body.get("think") == think
    assert bool(crossing.dropped) is (think is None or effort == "minimal")


def test_cohere_s_ranges_are_kept_and_what_is_beyond_is_named():
    body, crossing = crossed(
        {**CHAT, "temperature": 1.7, "top_p": 1, "presence_penalty": -0.5, "top_k": 900}, "cohere.chat"
    )
    assert (body["temperature"], body["p"], body["presence_penalty"], body["k"]) == (1, 0.99, 0, 500)
    assert crossing.dropped == ["temperature 1.7", "top_k 900", "presence_penalty -0.5"]


def test_a_plan_before_calls_goes_back_as_one():
    request = CODECS["openai.chat"].read_request(json.loads(json.dumps(CHAT)), "asked", stream=False)
    request.messages[2].parts.insert(0, Reasoning("first t", dialect="cohere.chat"))
    body = CODECS["cohere.chat"].write_request(request, Crossing("command-a-03-2025"))
    assert body["messages"][2]["tool_plan"] == "first t" and "content" not in body["messages"][2]


def test_converse_names_tools_that_only_the_history_knows_and_marks_caches_where_they_are():
    body, _ = crossed({**CHAT, "tools": []}, "bedrock.converse")
    assert [tool["toolSpec"]["name"] for tool in body["toolConfig"]["tools"]] == ["t"]
    marked = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [
        {"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}]}]}  # fmt: skip
    body, crossing = crossed(marked, "bedrock.converse", client="anthropic.messages")
    assert (
        body["messages"][0]["content"] == [{"text": "long"}, {"cachePoint": {"type": "default"}}]
        and not crossing.dropped
    )
    body, crossing = crossed(marked, "bedrock.converse", client="anthropic.messages", model="meta.llama3-1-8b")
    assert body["messages"][0]["content"] == [{"text": "long"}] and crossing.dropped == ["cache_control"]


def test_converse_documents_have_a_form_and_a_name_it_takes():
    pdf = {
        "type": "file",
        "file": {"filename": "Q3 report_(final)  v2.pdf", "file_data": "data:application/pdf;base64,aGk="},
    }
    body, _ = crossed({"model": "m", "messages": [{"role": "user", "content": [pdf]}]}, "bedrock.converse")
    (block,) = body["messages"][0]["content"]
    assert block == {"document": {"format": "pdf", "name": "Q3 report-(final) -v2", "source": {"bytes": "aGk="}}}


def test_recorded_requests_are_accepted_by_ollama_s_specification():
    spec, wrong, said = specification(), [], 0
    for record in recorded():
        try:
            body, _ = crossed(
                record["request"]["body"], "ollama.chat", client=NAMES[record["dialect"]], stream=record["stream"]
            )
        except Untranslatable:
            continue
        said += 1
        if errors := spec.errors("ollama-chat", "request", json.loads(json.dumps(body))):
            wrong.append((record["id"], errors[0]))
    assert not wrong and said > 200, (len(wrong), said, wrong[:5])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_are_cut_the_same_at_any_chunking(size):
    raw = '{"a":"ü\\n"}\r\n\n{"b":2}\n  \n{"c":3}'.encode()
    reader, frames = NdjsonReader(), []
    for at in range(0, len(raw), size):
        frames += reader.feed(raw[at : at + size])
    frames += reader.close()
    assert [json.loads(frame.data) for frame in frames] == [{"a": "ü\n"}, {"b": 2}, {"c": 3}]
