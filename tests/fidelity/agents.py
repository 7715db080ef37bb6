"""Requests as coding agents send them, of our own writing after their published protocol; the corpus has recorded ones."""

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PDF = "JVBERi0xLjQKJSBhIGRvY3VtZW50Cg=="
MARK = {"type": "ephemeral"}
BETAS = "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,fine-grained-tool-streaming-2025-05-14"
CLAUDE_HEADERS = [
    ("content-type", "application/json"),
    ("anthropic-version", "2023-06-01"),
    ("anthropic-beta", BETAS),
    ("x-app", "cli"),
    ("x-stainless-lang", "js"),
    ("x-claude-code-session-id", "session-7"),
    ("authorization", "Bearer sk-client"),
]


def claude_tool(name, **more):
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "additionalProperties": False,
        "properties": {"file_path": {"type": "string"}}, "required": ["file_path"],
    }  # fmt: skip
    return {"name": name, "description": f"{name}s a file.", "input_schema": schema, **more}


def claude_code(**more):
    """The third request of a session: a file was read, a picture and a PDF came back, one call failed."""
    first = [
        {"type": "text", "text": "<system-reminder>today</system-reminder>"},
        {"type": "text", "text": "Look at the files", "cache_control": MARK},
    ]
    turn = [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"file_path": "/a.png"}},
        {"type": "tool_use", "id": "toolu_2", "name": "Read", "input": {"file_path": "/b.pdf"}},
        {"type": "tool_use", "id": "toolu_3", "name": "Edit", "input": {"file_path": "/c"}},
    ]
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    document = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [image]},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": [{"type": "text", "text": "PDF read"}, document]},
        {
            "type": "tool_result",
            "tool_use_id": "toolu_3",
            "content": "no such file",
            "is_error": True,
            "cache_control": MARK,
        },
    ]
    return {
        "model": "claude-best",
        "max_tokens": 32000,
        "stream": True,
        "system": [
            {"type": "text", "text": "You are an agent.", "cache_control": MARK},
            {"type": "text", "text": "Rules of the house.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ],
        "messages": [
            {"role": "user", "content": first},
            {"role": "assistant", "content": turn},
            {"role": "user", "content": results},
        ],
        "tools": [claude_tool("Read"), claude_tool("Edit", eager_input_streaming=True), claude_tool("Bash")],
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "metadata": {"user_id": '{"device_id":"d","session_id":"s"}'},
        "temperature": 1,
        **more,
    }


GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch" LINE+\nLINE: /.+/'}


def codex(**more):
    """A request in the middle of a session of Codex: stateless, with the whole history."""
    return {
        "model": "gpt-best",
        "instructions": "You are a coding agent.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<permissions>"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Fix it"}]},
            {"type": "custom_tool_call", "call_id": "call_1", "name": "apply_patch", "input": "*** Begin Patch\n+a"},
            {"type": "custom_tool_call_output", "call_id": "call_1", "output": "Done"},
            {"type": "function_call", "call_id": "call_2", "name": "exec_command", "arguments": '{"cmd":"ls"}'},
            {"type": "function_call_output", "call_id": "call_2", "output": "a b"},
        ],
        "tools": [
            {"type": "function", "name": "exec_command", "strict": False, "description": "Runs a command",
             "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"], "additionalProperties": False}},
            {"type": "custom", "name": "apply_patch", "description": "Edits files", "format": GRAMMAR},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "019a",
        "text": {"verbosity": "low"},
        "client_metadata": {"x-codex-installation-id": "i"},
        **more,
    }  # fmt: skip
