"""One spelling for what a dialect lets one spell in several ways: requests that mean the same come out equal.

What is made equal here is a list to be read: nothing else may differ between a recorded request and the one written
again in its own dialect.
"""

from gwcore_providers.gemini.read import camel


def normal(dialect, document, *, model=None, stream=False):
    """The document in its one spelling. ``stream`` and ``model`` are the call's, wherever they stand."""
    out = {k: v for k, v in _without_nulls(document).items() if k not in ("stream", "stream_options", "model")}
    _NORMAL[dialect](out)
    return out


def _without_nulls(value):
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value


def _marks(value):
    """A cache mark without a lifetime lives five minutes."""
    if isinstance(value, dict):
        mark = value.get("cache_control")
        if isinstance(mark, dict) and mark.get("ttl") == "5m":
            del mark["ttl"]
        for one in value.values():
            _marks(one)
    elif isinstance(value, list):
        for one in value:
            _marks(one)


def _plain(holder, key, kind="text"):
    """A list of one plain text is that text."""
    value = holder.get(key)
    if isinstance(value, list) and len(value) == 1 and set(value[0]) == {"type", "text"} and value[0]["type"] == kind:
        holder[key] = value[0]["text"]


def _chat(out):
    _marks(out)
    if "max_completion_tokens" in out:
        out["max_tokens"] = out.pop("max_completion_tokens")
    if "functions" in out:
        out["tools"] = [{"type": "function", "function": one} for one in out.pop("functions")]
    if "function_call" in out:
        out["tool_choice"] = out.pop("function_call")
    if out.get("tool_choice") == "any":
        out["tool_choice"] = "required"
    if out.get("tools") == []:
        del out["tools"]
    for message in out["messages"]:
        _plain(message, "content")
        if message.get("tool_calls") == []:
            del message["tool_calls"]
        if message.get("content") in ("", []):
            del message["content"]
        for call in message.get("tool_calls") or ():
            call.pop("index", None)


def _responses(out):
    if isinstance(out.get("input"), str):
        out["input"] = [{"type": "message", "role": "user", "content": out["input"]}]
    for item in out.get("input") or ():
        if "role" in item:
            item.setdefault("type", "message")
            _plain(item, "content", "output_text" if item["role"] == "assistant" else "input_text")
        content = item.get("content")
        for piece in content if isinstance(content, list) else ():
            if piece.get("annotations") == []:
                del piece["annotations"]
            if piece.get("logprobs") == []:
                del piece["logprobs"]
        if item.get("type", "").endswith("_output"):
            _plain(item, "output", "input_text")
        if isinstance(item.get("content"), list) and item.get("role") == "assistant":
            _plain(item, "content", "output_text")
    if out.get("include") == []:
        del out["include"]
    if "include" in out:
        out["include"] = sorted(out["include"])
    if out.get("tools") == []:
        del out["tools"]


def _messages(out):
    _marks(out)
    _plain(out, "system")
    for turn in out["messages"]:
        _plain(turn, "content")
        for block in turn["content"] if isinstance(turn["content"], list) else ():
            if block["type"] == "tool_result":
                _plain(block, "content")
                if block.get("is_error") is False:
                    del block["is_error"]
    for tool in out.get("tools", ()):
        if tool.get("type") == "custom":
            del tool["type"]
    for key in ("tools", "system", "stop_sequences"):
        if out.get(key) == []:
            del out[key]


_OPEN = {"args", "response", "parameters", "parametersJsonSchema", "responseSchema", "responseJsonSchema", "labels"}


def _cased(value):
    """Keys in camelCase, but for what is the client's own inside."""
    if isinstance(value, dict):
        return {k: v if k in _OPEN else _cased(v) for k, v in camel(value).items()}
    return [_cased(one) for one in value] if isinstance(value, list) else value


def _generate(out):
    cased = _cased(out)
    out.clear()
    out.update(cased)
    for turn in [*out["contents"], *([out["systemInstruction"]] if "systemInstruction" in out else [])]:
        if isinstance(turn.get("parts"), dict):
            turn["parts"] = [turn["parts"]]
        for part in turn["parts"]:
            if part.get("thought") is False:
                del part["thought"]
    if "systemInstruction" in out:
        out["systemInstruction"].pop("role", None)
    if out.get("generationConfig") == {}:
        del out["generationConfig"]


_NORMAL = {
    "openai.chat": _chat,
    "openai.responses": _responses,
    "anthropic.messages": _messages,
    "gemini.generate": _generate,
}
