"""What an attempt is sent: an attempt's own fields in every dialect, bodies in the shape of another dialect."""

import json

import pytest

from gwcore.catalog import Catalog
from gwcore.gateway import Gateway
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.stacks.raw import exchange

CAP = 700
CLIENTS = {
    "openai.chat": ("/v1/chat/completions", {"max_completion_tokens": 5000, "reasoning_effort": "high"}, {"max_completion_tokens": CAP}),
    "openai.responses": ("/v1/responses", {"max_output_tokens": 5000, "reasoning": {"effort": "high"}}, {"max_output_tokens": CAP}),
    "anthropic.messages": (
        "/v1/messages",
        {"max_tokens": 5000, "thinking": {"type": "enabled", "budget_tokens": 4000}},
        {"max_tokens": CAP},
    ),
    "gemini.generate": (
        "/v1beta/models/up/{model}:generateContent",
        {"generationConfig": {"maxOutputTokens": 5000, "thinkingConfig": {"thinkingBudget": 4000}}},
        {"generationConfig": {"maxOutputTokens": CAP, "thinkingConfig": {"thinkingBudget": 4000}}},
    ),
}  # fmt: skip
SAID = {
    "openai.chat": {"messages": [{"role": "user", "content": "hi"}]},
    "openai.responses": {"input": "hi"},
    "anthropic.messages": {"messages": [{"role": "user", "content": "hi"}]},
    "gemini.generate": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
}
UPSTREAMS = {
    "openai.chat": ("openai-compatible", "/v1", "gpt-x"),
    "openai.responses": ("openai-compatible", "/v1", "gpt-5.2"),
    "anthropic.messages": ("anthropic", "", "claude-sonnet-4-5"),
    "gemini.generate": ("gemini", "", "gemini-2.5-pro"),
}


class Clamp(Plugin):
    """Shortens an attempt, as a budget does."""

    name = "clamp"
    fields: dict = {}

    def attempt_layer(self, inner):
        async def clamp(attempt):
            attempt.fields = dict(self.fields)
            return await inner(attempt)

        return clamp


class Extra:
    @hookimpl
    def gwcore_plugins(self):
        return [Clamp]


def stack(url, dialect, plugin="clamp"):
    provider, base, _ = UPSTREAMS[dialect]
    return (
        f'gwcore: 1\nupstreams:\n  up: {{provider: {provider}, base_url: "{url}{base}", dialect: {dialect}}}\n'
        f"stack: [{plugin}]\n"
    )


def cap_of(dialect, body):
    """What the upstream is told, whatever its dialect calls it; and how much of it may be thought."""
    if dialect == "gemini.generate":
        config = body["generationConfig"]
        return config["maxOutputTokens"], 0
    key = {"openai.responses": "max_output_tokens", "anthropic.messages": "max_tokens"}.get(dialect)
    caps = [body[k] for k in ([key] if key else ["max_tokens", "max_completion_tokens"]) if k in body]
    assert len(caps) == 1
    return caps[0], body.get("thinking", {}).get("budget_tokens", 0)


async def told(client, upstream_dialect, fields, extra):
    path, _, _ = CLIENTS[client]
    model = UPSTREAMS[upstream_dialect][2]
    Clamp.fields = fields
    async with FakeUpstream() as upstream:
        upstream.default = Answer(body=b"{}")
        async with running(Gateway(stack(upstream.url, upstream_dialect), catalog=Catalog(Extra()))) as url:
            body = {**({} if "{model}" in path else {"model": f"up/{model}"}), **SAID[client], **extra}
            answer = await exchange(url, "POST", path.replace("{model}", model), json.dumps(body).encode())
    assert upstream.requests, answer.body
    return upstream.requests[-1].document


@pytest.mark.parametrize("upstream", CLIENTS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_what_a_budget_clamps_is_clamped_in_every_dialect(client, upstream):
    _, extra, fields = CLIENTS[client]
    cap, thought = cap_of(upstream, await told(client, upstream, fields, extra))
    assert cap == CAP and (thought < CAP or client == upstream)  # what passes through is the client's own
    # the negative control: without the attempt's fields the client's own wish goes out
    assert cap_of(upstream, await told(client, upstream, {}, extra))[0] == 5000


@pytest.mark.parametrize("effort", ["minimal", "low", "medium", "high"])
@pytest.mark.parametrize("limit", [1, 900, 1024, 1500, 3000, 60_000])
async def test_a_thinking_budget_never_raises_what_the_client_allows(limit, effort):
    extra = {"max_tokens": limit, "reasoning_effort": effort}
    body = await told("openai.chat", "anthropic.messages", {}, extra)
    budget = body.get("thinking", {}).get("budget_tokens", 0)
    assert body["max_tokens"] == limit and (budget == 0 or 1024 <= budget < limit)


# ── bodies of the Responses API at the address of chat completions (pains K12) ───────────────────────────────────────

CURSOR = {
    "model": "up/m",
    "input": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Look"}, {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]},
        {"type": "function_call", "call_id": "call_1", "name": "read", "arguments": '{"path":"a"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "content of a"},
    ],
    "tools": [
        {"type": "function", "name": "read", "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}},
        {"type": "function", "function": {"name": "write", "parameters": {"type": "object", "properties": {}}}},
        {"type": "custom", "name": "patch", "description": "applies a patch"},
    ],
    "max_output_tokens": 99,
    "stream": False,
}  # fmt: skip
FLAT = {
    "model": "up/m",
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [
        {"type": "function", "name": "read", "parameters": {"type": "object"}},
        {"name": "find", "description": "finds", "input_schema": {"type": "object", "properties": {}}},
        {"type": "function", "function": {"name": "write"}},
    ],
}
WHOLE = {
    "openai.chat": {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [
        {"index": 0, "finish_reason": "tool_calls", "message": {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_2", "type": "function", "function": {"name": "patch", "arguments": '{"input":"*** Begin"}'}}]}}]},
    "openai.responses": {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": "completed", "output": [
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_2", "name": "patch", "input": "*** Begin"}]},
    "anthropic.messages": {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "output_tokens": 1}, "content": [
        {"type": "tool_use", "id": "call_2", "name": "patch", "input": {"input": "*** Begin"}}]},
}  # fmt: skip


@pytest.mark.parametrize("dialect", WHOLE)
async def test_a_responses_body_at_the_chat_address_is_read_and_answered_as_chat(dialect):
    async with FakeUpstream() as upstream:
        upstream.default = Answer(body=json.dumps(WHOLE[dialect]).encode())
        async with running(Gateway(stack(upstream.url, dialect, ""))) as url:
            answer = await exchange(url, "POST", "/v1/chat/completions", json.dumps(CURSOR).encode())
    seen = upstream.requests[-1]
    assert answer.status == 200, answer.body
    names = [tool.get("name") or tool["function"]["name"] for tool in seen.document["tools"]]
    assert names == ["read", "write", "patch"]
    assert b"content of a" in seen.body and b"a.png" in seen.body and b"Be brief." in seen.body
    message = json.loads(answer.body)["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert (call["id"], call["type"]) == ("call_2", "custom")
    assert call["custom"] == {"name": "patch", "input": "*** Begin"}


async def test_where_the_upstream_serves_both_such_a_body_goes_to_responses():
    async with FakeUpstream() as upstream:
        upstream.default = Answer(body=json.dumps(WHOLE["openai.responses"]).encode())
        file = (
            f'gwcore: 1\nupstreams:\n  up: {{provider: openai-compatible, base_url: "{upstream.url}/v1"}}\nstack: []\n'
        )
        async with running(Gateway(file)) as url:
            await exchange(url, "POST", "/v1/chat/completions", json.dumps(CURSOR).encode())
            assert upstream.requests[-1].target == "/v1/responses"
            await exchange(url, "POST", "/v1/chat/completions", json.dumps(FLAT).encode())
    assert upstream.requests[-1].target == "/v1/chat/completions"
    shown = [tool["function"] for tool in upstream.requests[-1].document["tools"]]
    assert [tool["name"] for tool in shown] == ["read", "find", "write"]
    assert shown[1]["parameters"] == {"type": "object", "properties": {}} and "input_schema" not in shown[1]


async def test_a_schema_with_several_types_is_no_fault():
    """Sizes are estimated over any document: ``type`` may be a list in a tool's schema."""
    nullable = {"type": "object", "properties": {"x": {"type": ["string", "null"]}}}
    pixels = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 20_000}}
    body = {"model": "up/m", "messages": [{"role": "user", "content": [pixels]}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": nullable}}]}  # fmt: skip
    async with FakeUpstream() as upstream:
        upstream.default = Answer(body=json.dumps(WHOLE["anthropic.messages"]).encode())
        async with running(Gateway(stack(upstream.url, "anthropic.messages", ""))) as url:
            answer = await exchange(url, "POST", "/v1/chat/completions", json.dumps(body).encode())
    assert answer.status == 200, answer.body
