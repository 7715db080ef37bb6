"""Claude Code and Codex against every upstream: what they send is understood, what they get is valid (pains K1-K11)."""

import json
import re

import anthropic
import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore.toolnames import fitted
from tests.fidelity.agents import BETAS, CLAUDE_HEADERS, PDF, PNG, claude_code, codex
from tests.fidelity.corpus import MISSING, SPECS, requests
from tests.fidelity.test_attempts import UPSTREAMS
from tests.fidelity.validators import messages, responses
from tests.stacks.raw import exchange

MODELS = {
    "openai.chat": "gpt-5.2",
    "openai.responses": "gpt-5.2",
    "anthropic.messages": "claude-opus-4-6",
    "gemini.generate": "gemini-3-pro-preview",
}


def stack(url, dialect, alias):
    provider, base, _ = UPSTREAMS[dialect]
    return (
        f'gwcore: 1\nupstreams:\n  up: {{provider: {provider}, base_url: "{url}{base}", dialect: {dialect}, api_key: "sk-vendor-key"}}\n'
        f"models: {{{alias}: [up/{MODELS[dialect]}]}}\nstack: []\n"
    )


def frame(document, named=False):
    head = f"event: {document['type']}\n" if named else ""
    return f"{head}data: {json.dumps(document)}\n\n".encode()


def chat_stream(*deltas, finish):
    base = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    for delta in deltas:
        yield frame({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield frame({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    yield frame({**base, "choices": [], "usage": {"prompt_tokens": 90, "completion_tokens": 9, "total_tokens": 99,
                                                  "prompt_tokens_details": {"cached_tokens": 40}}})  # fmt: skip
    yield b"data: [DONE]\n\n"


def call_of(dialect, name, arguments):
    """A streamed answer: a few words, then a call."""
    return _CALLS[dialect](name, arguments, len(arguments) // 2)


def _chat_call(name, arguments, half):
    head = {"index": 0, "id": "call_9", "type": "function", "function": {"name": name, "arguments": arguments[:half]}}
    rest = {"index": 0, "function": {"arguments": arguments[half:]}}
    words = {"role": "assistant", "content": "Now."}
    return list(chat_stream(words, {"tool_calls": [head]}, {"tool_calls": [rest]}, finish="tool_calls"))


def _messages_call(name, arguments, half):
    usage = {"input_tokens": 50, "cache_read_input_tokens": 40, "output_tokens": 1}
    start = {"id": "msg_9", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
             "usage": usage}  # fmt: skip
    use = {"type": "tool_use", "id": "call_9", "name": name, "input": {}}
    pieces = [{"type": "input_json_delta", "partial_json": part} for part in (arguments[:half], arguments[half:])]
    events = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Now."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": use},
        *({"type": "content_block_delta", "index": 1, "delta": piece} for piece in pieces),
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]
    return [frame(event, named=True) for event in events]


def _generate_call(name, arguments, _half):
    parts = [{"text": "Now."}, {"functionCall": {"id": "call_9", "name": name, "args": json.loads(arguments)}}]
    usage = {"promptTokenCount": 90, "cachedContentTokenCount": 40, "candidatesTokenCount": 9, "totalTokenCount": 99}
    candidate = {"content": {"role": "model", "parts": parts}, "index": 0, "finishReason": "STOP"}
    return [frame({"candidates": [candidate], "usageMetadata": usage, "responseId": "r", "modelVersion": "m"})]


def _responses_call(name, arguments, _half):
    item = {"type": "function_call", "id": "fc_1", "call_id": "call_9", "name": name, "arguments": arguments}
    usage = {"input_tokens": 90, "output_tokens": 9, "total_tokens": 99, "input_tokens_details": {"cached_tokens": 40}}
    words = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Now."}],
    }
    whole = {"id": "resp_1", "status": "completed", "output": [words, item], "usage": usage, "model": "m"}
    events = [
        {"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}},
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Now."},
        {"type": "response.output_item.added", "output_index": 1, "item": {**item, "arguments": ""}},
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": arguments},
        {"type": "response.output_item.done", "output_index": 1, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    return [frame(event, named=True) for event in events]


_CALLS = {"openai.chat": _chat_call, "openai.responses": _responses_call, "anthropic.messages": _messages_call,
          "gemini.generate": _generate_call}  # fmt: skip


async def asked(dialect, path, alias, body, answer, headers=()):
    async with FakeUpstream() as upstream:
        upstream.default = answer
        async with running(Gateway(stack(upstream.url, dialect, alias))) as url:
            got = await exchange(url, "POST", path, json.dumps(body).encode(), headers)
    return got, upstream.requests[-1] if upstream.requests else None


# ── Claude Code ──────────────────────────────────────────────────────────────────────────────────────────────────────

FOREIGN = [dialect for dialect in SPECS if dialect != "anthropic.messages"]


async def claude(dialect, body=None, answer=None):
    answer = answer or Answer(body=call_of(dialect, "Read", '{"file_path":"/d"}'))
    return await asked(dialect, "/v1/messages?beta=true", "claude-best", body or claude_code(), answer, CLAUDE_HEADERS)


@pytest.mark.parametrize("dialect", FOREIGN)
async def test_claude_code_works_against_every_upstream(dialect):
    got, seen = await claude(dialect)
    assert got.status == 200, got.body
    read = messages(got.body)
    assert (read.said.text, read.said.calls, read.said.finish) == ("Now.", [("Read", {"file_path": "/d"})], "tool_use")
    assert read.ids == ["call_9"]
    assert (read.usage["input_tokens"], read.usage["cache_read_input_tokens"], read.usage["output_tokens"]) == (
        50,
        40,
        9,
    )
    assert read.start["input_tokens"] > 100  # its context meter (D14)
    text = seen.body.decode()
    for word in (
        "You are an agent.",
        "Rules of the house.",
        "Look at the files",
        "I look.",
        "no such file",
        "PDF read",
        PNG,
        PDF,
    ):
        assert word in text, word
    assert "eager_input_streaming" not in text and "ephemeral" not in text and "context_management" not in text
    dropped = got.headers["x-gwcore-dropped"].split(", ")
    assert {"context_management", "cache_control", "tools.eager_input_streaming"} <= set(dropped)


@pytest.mark.parametrize("dialect", FOREIGN)
async def test_what_is_anthropics_own_leaves_with_its_header(dialect):
    _, seen = await claude(dialect)
    names = {name.lower() for name, _ in seen.headers}
    assert not {name for name in names if name.startswith(("anthropic-", "x-stainless", "x-claude", "x-app"))}
    assert "sk-client" not in str(seen.headers)
    assert "beta=true" not in seen.target


async def test_an_anthropic_upstream_gets_every_byte_and_every_header():
    """Unknown betas and fields included (K1)."""
    body = claude_code(a_field_of_tomorrow={"x": [1]}, model="claude-best")
    got, seen = await claude("anthropic.messages", body)
    headers = dict(seen.headers)
    assert headers["anthropic-beta"] == BETAS and headers["x-claude-code-session-id"] == "session-7"
    assert seen.target == "/v1/messages?beta=true"
    assert seen.document == {**body, "model": MODELS["anthropic.messages"]}
    assert got.body == b"".join(call_of("anthropic.messages", "Read", '{"file_path":"/d"}'))


@pytest.mark.parametrize("dialect", FOREIGN)
async def test_count_tokens_is_a_404_where_nobody_counts(dialect):
    body = {"model": "claude-best", "messages": [{"role": "user", "content": "hi"}]}
    got, seen = await asked(
        dialect, "/v1/messages/count_tokens?beta=true", "claude-best", body, Answer(), CLAUDE_HEADERS
    )
    assert (got.status, json.loads(got.body)["error"]["type"]) == (404, "not_found_error") and seen is None


OVERFLOWS = {
    "openai.chat": {"error": {"message": "This model's maximum context length is 128000 tokens.", "type": "invalid_request_error",
                              "code": "context_length_exceeded"}},
    "openai.responses": {"error": {"message": "Your input exceeds the context window of this model.", "type": "invalid_request_error",
                                   "code": "context_length_exceeded"}},
    "gemini.generate": {"error": {"code": 400, "status": "INVALID_ARGUMENT",
        "message": "The input token count (2000000) exceeds the maximum number of tokens allowed (1048575)."}},
    "anthropic.messages": {"type": "error", "error": {"type": "invalid_request_error",
        "message": "prompt is too long: 210000 tokens > 200000 maximum"}},
}  # fmt: skip


@pytest.mark.parametrize("dialect", FOREIGN)
async def test_an_overflow_is_told_in_the_words_that_make_claude_code_compact(dialect):
    got, _ = await claude(dialect, answer=Answer(400, body=json.dumps(OVERFLOWS[dialect]).encode()))
    error = json.loads(got.body)["error"]
    assert got.status == 400 and error["type"] == "invalid_request_error"
    assert error["message"].startswith("prompt is too long") and error["code"] == "context_length_exceeded"


@pytest.mark.parametrize("dialect", ["anthropic.messages", "gemini.generate"])
async def test_an_overflow_is_told_in_the_words_that_make_codex_compact(dialect):
    got, _ = await codexes(dialect, answer=Answer(400, body=json.dumps(OVERFLOWS[dialect]).encode()))
    assert got.status == 400 and json.loads(got.body)["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("dialect", FOREIGN)
async def test_a_wrong_key_is_said_once(dialect):
    """Claude Code sends a 401 again for minutes, and shows nothing, unless the answer says not to."""
    got, _ = await claude(dialect, answer=Answer(401, body=b'{"error":{"message":"Incorrect API key provided"}}'))
    assert got.status == 401 and got.headers["x-should-retry"] == "false"


LENGTHY = "mcp__plugin_company-tools_issue-tracker__search_issues_and_pull_requests"  # 72; Anthropic takes 128


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", FOREIGN)
async def test_a_tools_name_that_a_vendor_would_refuse_is_one_that_it_takes_and_comes_back(dialect, stream):
    told = fitted(LENGTHY)
    used = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": LENGTHY, "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "none"}]},
    ]
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in (LENGTHY, LENGTHY + "_2", "Read")]
    more = {"tool_choice": {"type": "tool", "name": LENGTHY}, "stream": stream, "thinking": {"type": "disabled"}}
    answer = Answer(body=call_of(dialect, told, '{"q":"x"}'))
    got, seen = await claude(dialect, claude_code(messages=used, tools=tools, **more), answer)
    assert got.status == 200, got.body
    sent = set(re.findall(r'"(mcp__[^"]*)"', seen.body.decode()))
    assert told in sent and len(sent) == 2 and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in sent)
    content = messages(got.body).said.calls if stream else [
        (part["name"], part["input"]) for part in json.loads(got.body)["content"] if part["type"] == "tool_use"
    ]  # fmt: skip
    assert content == [(LENGTHY, {"q": "x"})]


async def test_anthropic_takes_the_longer_names_as_they_are():
    _, seen = await asked(
        "anthropic.messages", "/v1/chat/completions", "claude-best",
        {"model": "claude-best", "messages": [{"role": "user", "content": "go"}],
         "tools": [{"type": "function", "function": {"name": name}} for name in (LENGTHY, "a.b", "a_b")]},
        Answer(400, body=b"{}"),
    )  # fmt: skip
    first, dotted, plain = (tool["name"] for tool in seen.document["tools"])
    assert (first, plain) == (LENGTHY, "a_b") and re.fullmatch("a_b_[0-9a-f]{8}", dotted)


@pytest.mark.parametrize("dialect", FOREIGN)
async def test_what_only_anthropic_runs_is_refused_by_name(dialect):
    tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}]
    got, seen = await claude(dialect, claude_code(tools=tools))
    assert got.status == 422 and "web_search" in json.loads(got.body)["error"]["message"] and seen is None


THREAD = {"thread": {"type": "continue", "previous_message_id": "msg_1"}}


@pytest.mark.parametrize("dialect", FOREIGN)
@pytest.mark.parametrize("more", [THREAD, {"compaction": {"type": "enabled"}}])
async def test_what_anthropic_keeps_or_compacts_is_refused_by_name(dialect, more):
    got, sent = await claude(dialect, claude_code(**more))
    assert (got.status, sent) == (422, None)
    assert next(iter(more)) in json.loads(got.body)["error"]["message"]


@pytest.mark.parametrize("dialect", FOREIGN)
async def test_the_sdks_tool_runner_sends_its_whole_history_where_no_vendor_keeps_it(dialect):
    """By default it continues a thread that the vendor holds, with the new messages alone."""

    @anthropic.beta_async_tool
    async def read(file_path: str) -> str:
        """Read a file."""
        return f"text of {file_path}"

    async with FakeUpstream() as upstream:
        upstream.default = Answer(body=call_of(dialect, "read", '{"file_path":"/d"}'))
        async with (
            running(Gateway(stack(upstream.url, dialect, "claude-best"))) as url,
            anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as client,
        ):
            runner = client.beta.messages.tool_runner(
                model="claude-best", max_tokens=99, max_iterations=2, tools=[read], stream=True,
                messages=[{"role": "user", "content": "look into /d"}],
            )  # fmt: skip
            async for events in runner:
                await events.get_final_message()
    assert len(upstream.requests) == 2
    said = upstream.requests[-1].body.decode()
    assert all(words in said for words in ("look into /d", "text of /d", "read"))


# ── Codex ────────────────────────────────────────────────────────────────────────────────────────────────────────────

PATCH = "*** Begin Patch\n*** End Patch"


async def codexes(dialect, body=None, answer=None):
    custom = json.dumps({"input": PATCH})
    return await asked(
        dialect,
        "/v1/responses",
        "gpt-best",
        body or codex(),
        answer or Answer(body=call_of(dialect, "apply_patch", custom)),
        [("content-type", "application/json"), ("authorization", "Bearer sk-client"), ("originator", "codex_cli_rs")],
    )


@pytest.mark.parametrize("dialect", ["openai.chat", "anthropic.messages", "gemini.generate"])
async def test_codex_works_against_every_upstream(dialect):
    got, seen = await codexes(dialect)
    assert got.status == 200, got.body
    read = responses(got.body)
    assert (read.said.text, read.said.finish) == ("Now.", "completed")
    (call,) = [item for item in read.turn if item["type"] == "custom_tool_call"]
    assert (call["name"], call["input"], call["call_id"]) == ("apply_patch", PATCH, "call_9")
    assert (read.usage["input_tokens"], read.usage["input_tokens_details"]["cached_tokens"]) == (90, 40)
    kinds = [line for line in got.body.decode().splitlines() if line.startswith("event: ")]
    assert "event: response.custom_tool_call_input.done" in kinds
    text = seen.body.decode()
    for word in ("You are a coding agent.", "<permissions>", "Fix it", "*** Begin Patch", "+a", "a b"):
        assert word in text, word
    assert "store" not in seen.document or seen.document["store"] is False


AGENTS = {
    "type": "namespace",
    "name": "multi_agent_v1",
    "description": "Tools of sub-agents.",
    "tools": [
        {"type": "function", "name": "close_agent", "description": "Close one.", "strict": False, "parameters": {"type": "object", "properties": {"target": {"type": "string"}}}},
        {"type": "function", "name": "wait_agent", "parameters": {"type": "object", "properties": {}}},
    ],
}  # fmt: skip
MCP = {"type": "namespace", "name": "mcp__burp__", "tools": [{"type": "custom", "name": "close_agent"}]}
LONG = {
    "type": "namespace",
    "name": "mcp__" + "a" * 50,
    "tools": [{"type": "function", "name": name * 30} for name in "bc"],
}
SPACED = [
    {
        "type": "function_call",
        "call_id": "call_3",
        "name": "close_agent",
        "namespace": "multi_agent_v1",
        "arguments": "{}",
    },
    {"type": "function_call_output", "call_id": "call_3", "output": "no such agent"},
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", ["openai.chat", "anthropic.messages", "gemini.generate"])
@pytest.mark.parametrize(
    ("called", "item"),
    [
        ("multi_agent_v1__close_agent", ("function_call", "multi_agent_v1", "close_agent")),
        ("mcp__burp__close_agent", ("custom_tool_call", "mcp__burp__", "close_agent")),
        ("exec_command", ("function_call", None, "exec_command")),
    ],
)
async def test_tools_in_namespaces_reach_every_upstream_and_come_back_in_theirs(dialect, called, item, stream):
    """As Codex offers its agents and every MCP server; it knows a call by both names only."""
    plain = codex()
    body = codex(tools=[*plain["tools"], AGENTS, MCP], input=[*plain["input"], *SPACED], stream=stream)
    arguments = json.dumps({"target": "a"} if item[0] == "function_call" else {"input": "a"})
    got, seen = await codexes(dialect, body, Answer(body=call_of(dialect, called, arguments)))
    assert got.status == 200 and "namespace" not in got.headers.get("x-gwcore-dropped", ""), got.headers
    text = seen.body.decode()
    for word in ("multi_agent_v1__wait_agent", "Tools of sub-agents.", "Close one.", "no such agent"):
        assert word in text, word
    assert text.count("multi_agent_v1__close_agent") >= 2 and '"namespace"' not in text  # offered, and in the history
    output = responses(got.body).turn if stream else json.loads(got.body)["output"]
    (call,) = [one for one in output if one["type"].endswith("_call")]
    assert (call["type"], call.get("namespace"), call["name"]) == item
    assert call["call_id"] == "call_9"


async def test_names_in_namespaces_have_a_length_that_every_vendor_takes():
    _, seen = await codexes("openai.chat", codex(tools=[LONG]))
    names = {tool["function"]["name"] for tool in seen.document["tools"]}
    assert len(names) == 2 and all(len(name) == 64 for name in names)


@pytest.mark.parametrize("dialect", ["openai.chat", "anthropic.messages", "gemini.generate"])
@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"previous_response_id": "resp_0"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"previous_response_id": "resp_0"}, "store: false"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "item_reference"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "store: false"),
    ],
)
async def test_what_needs_openais_state_or_tools_is_refused_by_name(dialect, more, name):
    got, seen = await codexes(dialect, codex(**more))
    assert got.status == 422 and name in json.loads(got.body)["error"]["message"] and seen is None


@pytest.mark.parametrize("dialect", ["openai.chat", "anthropic.messages", "gemini.generate"])
async def test_a_stream_that_breaks_ends_in_one_failure(dialect):
    """Never ``[DONE]``, never a turn that seems complete (K11)."""
    frames = call_of(dialect, "apply_patch", json.dumps({"input": PATCH}))
    cut = len(frames[0]) // 2 if dialect == "gemini.generate" else sum(map(len, frames[:-2]))
    got, _ = await codexes(dialect, answer=Answer(body=frames, cut_after=cut))
    if got.status != 200:  # before any content: a status says it
        assert got.status == 502
        return
    kinds = [line.removeprefix("event: ") for line in got.body.decode().splitlines() if line.startswith("event: ")]
    ends = [kind for kind in kinds if kind in ("response.completed", "response.incomplete", "response.failed")]
    assert ends == ["response.failed"] and kinds[-1] == "response.failed" and b"[DONE]" not in got.body


@pytest.mark.skipif(not requests(), reason=MISSING)
@pytest.mark.parametrize("dialect", ["openai.chat", "anthropic.messages", "gemini.generate"])
async def test_recorded_sessions_of_codex_reach_every_upstream(dialect):
    recorded = [r for r in requests("openai.responses") if "client_metadata" in r["request"]["body"]]
    assert len(recorded) >= 3
    for record in recorded:
        body = {**record["request"]["body"], "model": "gpt-best"}
        got, seen = await codexes(dialect, body)
        assert got.status == 200, got.body
        call = next(item for item in responses(got.body).turn if item["type"] == "custom_tool_call")
        assert call["input"] == PATCH
        names = {item["call_id"]: item["name"] for item in body["input"] if item["type"] == "function_call"}
        assert all(name in seen.body.decode() for name in names.values())


# ── agents that speak OpenAI's chat ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dialect", ["openai.chat", "anthropic.messages"])
async def test_a_broken_chat_stream_is_told_in_the_word_upon_which_agents_try_again(dialect):
    """As OpenAI tells it. opencode ends its session at any other, and tries a stream again that says it."""
    frames = call_of(dialect, "f", '{"a": 1}')
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    answer = Answer(body=frames, cut_after=sum(map(len, frames[:-3])))
    got, _ = await asked(dialect, "/v1/chat/completions", "m", body, answer)
    last = [line for line in got.body.splitlines() if line.startswith(b"data: {")][-1]
    assert got.status == 200 and json.loads(last[6:])["error"]["type"] == "server_error"
