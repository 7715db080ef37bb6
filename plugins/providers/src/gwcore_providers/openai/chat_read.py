"""``openai.chat`` requests → the canonical conversation. Source: OpenAI's OpenAPI document, and other vendors' additions.

Two spellings of the same thing are read alike: a string and a list of one text part, ``null`` and absence,
``functions`` and ``tools``, ``max_tokens`` and ``max_completion_tokens``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from gwcore.chat import (
    ChatRequest,
    Format,
    Media,
    Message,
    Part,
    Reasoning,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gwcore.errors import BadRequest
from gwcore_providers.crossing import from_url, objects, rest, string, thought_of, unseal
from gwcore_providers.efforts import budget_of
from gwcore_providers.thinking import read_block

DIALECT = "openai.chat"
CACHE = "cache_control"
# format in OpenRouter's reasoning_details → dialect of the signer
SIGNERS = {
    "anthropic-claude-v1": "anthropic.messages",
    "google-gemini-v1": "gemini.generate",
    "openai-responses-v1": "openai.responses",
}
KNOBS = {
    **{name: name for name in (
        "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty",
        "logprobs", "top_logprobs", "logit_bias", "user", "metadata", "service_tier", "store", "verbosity",
    )},
    "prompt_cache_key": "cache_key", "prompt_cache_retention": "cache_retention", "safety_identifier": "safety_id",
}  # fmt: skip
"""This dialect's key → the canonical knob."""
_OWN = frozenset({"function", "custom"})
_NEEDS = ("web_search_options", "audio", "plugins")
_READ = frozenset({
    "model", "messages", "tools", "functions", "tool_choice", "function_call", "parallel_tool_calls", "max_tokens",
    "max_completion_tokens", "stop", "response_format", "reasoning_effort", "reasoning", "modalities", "n", "stream",
    "stream_options", *KNOBS, *_NEEDS,
})  # fmt: skip


def read_request(document: dict[str, Any], model: str, *, stream: bool) -> ChatRequest:
    """See :meth:`gwcore.codec.ChatCodec.read_request`."""
    stop = document.get("stop")
    parallel = document.get("parallel_tool_calls")
    limits = (document.get("max_completion_tokens"), document.get("max_tokens"))
    limit = next((limit for limit in limits if limit is not None), None)
    thinking = _thinking(document)
    read = _READ | {"thinking"} if thinking and "switch" in thinking.extra else _READ
    return ChatRequest(
        DIALECT,
        model,
        [_message(item, f"messages[{at}]") for at, item in enumerate(objects(document.get("messages"), "messages"))],
        tools=_tools(document),
        tool_choice=_choice(document.get("tool_choice"), document.get("function_call")),
        parallel=parallel if isinstance(parallel, bool) else None,
        max_tokens=limit if isinstance(limit, int) else None,
        stop=[stop] if isinstance(stop, str) else [s for s in stop or [] if isinstance(s, str)],
        format=_format(document.get("response_format")),
        thinking=thinking,
        modalities=document.get("modalities"),
        n=document.get("n"),
        stream=stream,
        usage_wanted=wants_usage(document),
        knobs={knob: document[key] for key, knob in KNOBS.items() if document.get(key) is not None},
        needs={key: document[key] for key in _NEEDS if document.get(key) is not None},
        extra={key: value for key, value in document.items() if key not in read and value is not None},
    )


def wants_usage(document: dict[str, Any]) -> bool:
    """Whether the client asked for a last chunk with usage."""
    options = document.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def is_flat(tool: Any) -> bool:
    """Whether a tool is in the form of the Responses API or of Anthropic."""
    return isinstance(tool, dict) and "name" in tool and tool.get("type", "function") in _OWN and not tool.keys() & _OWN


def _message(item: dict[str, Any], where: str) -> Message:
    role = item.get("role")
    if role in {"tool", "function"}:
        return _tool_message(item, where)
    if role not in {"system", "developer", "user", "assistant"}:
        raise BadRequest(f"{where}.role must be system, developer, user, assistant or tool")
    known: Role = role
    parts: list[Part] = list(_thoughts(item)) if role == "assistant" else []
    parts += content(item.get("content"), where)
    read = ["role", "content", "name"]
    if role == "assistant":
        read += ["refusal", "tool_calls", "function_call", "reasoning_details", "thinking_blocks", *_used(item, parts)]
        if isinstance(item.get("refusal"), str):
            parts.append(Text(item["refusal"], refusal=True))
        parts += [call(one, f"{where}.tool_calls[{at}]") for at, one in enumerate(item.get("tool_calls") or [])]
        legacy = item.get("function_call")
        if isinstance(legacy, dict):
            name = string(legacy, "name", f"{where}.function_call")
            parts.append(ToolCall(name, name, str(legacy.get("arguments") or ""), extra={"legacy": True}))
    return Message(known, parts, item.get("name"), rest(item, *read))


def _tool_message(item: dict[str, Any], where: str) -> Message:
    legacy = item["role"] == "function"
    id, _ = thought_of(string(item, "name" if legacy else "tool_call_id", where))  # noqa: A001
    result = ToolResult(
        id,
        content(item.get("content"), where),
        name=item.get("name"),
        cache=cache_of(item),
        extra={"legacy": True} if legacy else {},
    )
    return Message("tool", [result], extra=rest(item, "role", "content", "name", "tool_call_id", CACHE))


def cache_of(item: dict[str, Any]) -> str | None:
    """The duration of a prompt-cache mark (Anthropic's, which some OpenAI-compatible vendors accept)."""
    mark = item.get(CACHE)
    return str(mark.get("ttl") or "5m") if isinstance(mark, dict) else None


def content(value: Any, where: str) -> list[Part]:
    """The parts of a content: a string, a list of parts, or ``None``."""
    if value is None:
        return []
    if isinstance(value, str):
        return [Text(value)]
    parts: list[Part] = []
    for at, item in enumerate(objects(value, f"{where}.content")):
        parts += _part(item, f"{where}.content[{at}]")
    return parts


def _part(item: dict[str, Any], where: str) -> list[Part]:
    kind = item.get("type")
    if kind == "text":
        extra = rest(item, "type", "text", CACHE)
        return [Text(string(item, "text", where), cache=cache_of(item), extra=extra)]
    if kind == "refusal":
        return [Text(string(item, "refusal", where), refusal=True)]
    if kind == "thinking":  # Mistral
        inner = content(item.get("thinking"), where) if isinstance(item.get("thinking"), list) else []
        text = "".join(part.text for part in inner if isinstance(part, Text))
        return [Reasoning(text, dialect=DIALECT, extra={"field": "thinking"})]
    media = _media(kind, item, where)
    if media is None:
        raise BadRequest(f"{where}.type {kind!r} is not known; text, image_url, input_audio, file and refusal are")
    return [media]


def _media(kind: Any, item: dict[str, Any], where: str) -> Media | None:
    cache = cache_of(item)
    if kind in {"image_url", "video_url"}:
        source = item.get(kind)
        source = {"url": source} if isinstance(source, str) else source  # some clients send the bare URL
        if not isinstance(source, dict):
            raise BadRequest(f"{where}.{kind} must be an object with url")
        mime, data, url = from_url(string(source, "url", f"{where}.{kind}"))
        extra = rest(source, "url", "detail")
        detail = source.get("detail")
        return Media(
            "image" if kind == "image_url" else "video", mime, data, url, detail=detail, cache=cache, extra=extra
        )
    if kind == "input_audio":
        source = item.get("input_audio")
        if isinstance(source, str):
            return _sound(source, cache)
        if not isinstance(source, dict):
            raise BadRequest(f"{where}.input_audio must be an object with data and format")
        mime = f"audio/{source.get('format') or 'wav'}"
        return Media("audio", mime, string(source, "data", f"{where}.input_audio"), cache=cache)
    if kind == "file":
        source = item.get("file")
        if not isinstance(source, dict):
            raise BadRequest(f"{where}.file must be an object with file_data or file_id")
        given = source.get("file_data")
        mime, data, bare = from_url(given) if isinstance(given, str) else (None, None, None)
        url = bare if bare and "://" in bare else None
        data = data if bare is None or url else bare
        return Media("file", mime, data, url, source.get("file_id"), source.get("filename"), cache=cache)
    return None


# beginning of the base64 text → MIME type
_SOUNDS = (
    ("UklGR", "audio/wav"),
    ("SUQz", "audio/mp3"),
    ("//", "audio/mp3"),
    ("T2dnU", "audio/ogg"),
    ("ZkxhQ", "audio/flac"),
)


def _sound(given: str, cache: str | None) -> Media:
    """A sound in Mistral's form: a URL, a data URL or bare base64."""
    mime, data, bare = from_url(given)
    if bare is not None and "://" not in bare[:16]:
        mime, data, bare = next((mime for head, mime in _SOUNDS if bare.startswith(head)), None), bare, None
    return Media("audio", mime, data, bare, cache=cache, extra={"given": given})


def _thoughts(item: dict[str, Any]) -> list[Reasoning]:
    """An assistant message's thoughts: OpenRouter's list, else LiteLLM's, else DeepSeek's or Groq's string."""
    if listed := listed_thoughts(item):
        return listed
    for name in ("reasoning_content", "reasoning"):
        if isinstance(item.get(name), str) and item[name]:
            return [Reasoning(item[name], dialect=DIALECT, extra={"field": name})]
    return []


def listed_thoughts(message: Mapping[str, Any]) -> list[Reasoning]:
    """The thoughts in OpenRouter's ``reasoning_details``, else in LiteLLM's ``thinking_blocks``."""
    details, blocks = message.get("reasoning_details"), message.get("thinking_blocks")
    if isinstance(details, list) and details:
        return [thought(detail) for detail in details if isinstance(detail, dict)]
    if isinstance(blocks, list):
        return [read_block(one, "thinking_blocks") for one in blocks if isinstance(one, dict)]
    return []


def _used(item: dict[str, Any], thoughts: list[Part]) -> list[str]:
    """The field that the thoughts were read from, if it is of this message; other fields repeat it."""
    used = [str(part.extra["field"]) for part in thoughts if isinstance(part, Reasoning) and part.extra.get("field")]
    return used if used and used[0] in item else []


def thought(detail: dict[str, Any]) -> Reasoning:
    """One of ``reasoning_details``; a thought that this gateway sealed is unsealed."""
    sealed = unseal(detail.get("data") or detail.get("signature"))
    if sealed is not None:
        return sealed
    signer = SIGNERS.get(str(detail.get("format")), DIALECT)
    summary = detail.get("type") == "reasoning.summary"
    data = detail.get("data")
    return Reasoning(
        detail.get("text") or detail.get("summary") or "",
        detail.get("signature"),
        data if isinstance(data, str) else None,
        summary=summary,
        # OpenRouter calls Anthropic's redacted thoughts encrypted
        redacted=isinstance(data, str) and signer == "anthropic.messages",
        id=detail.get("id"),
        dialect=signer,
        extra=rest(detail, "type", "text", "summary", "signature", "data", "id"),
    )


def call(item: Any, where: str) -> ToolCall:
    """One of ``tool_calls``."""
    if not isinstance(item, dict):
        raise BadRequest(f"{where} must be an object")
    id, signature = thought_of(str(item.get("id") or ""))  # noqa: A001
    custom = item.get("type") == "custom"
    body = item.get("custom" if custom else "function")
    if not isinstance(body, dict):
        raise BadRequest(f"{where}.function must be an object with name and arguments")
    google = item.get("extra_content")
    google = google.get("google") if isinstance(google, dict) else None
    if isinstance(google, dict) and isinstance(google.get("thought_signature"), str):
        signature = google["thought_signature"]
    arguments = body.get("input" if custom else "arguments")
    return ToolCall(
        id,
        string(body, "name", f"{where}.function"),
        arguments if isinstance(arguments, str) else "",
        custom=custom,
        signature=signature,
        dialect="gemini.generate" if signature else DIALECT,
        cache=cache_of(item),
        extra=rest(item, "id", "type", "function", "custom", "index", "extra_content", CACHE),
    )


def _tools(document: dict[str, Any]) -> list[Tool]:
    tools = [_tool(item, f"tools[{at}]") for at, item in enumerate(objects(document.get("tools") or [], "tools"))]
    for at, item in enumerate(objects(document.get("functions") or [], "functions")):
        name = string(item, "name", f"functions[{at}]")
        tools.append(Tool(name, item.get("description"), item.get("parameters"), extra={"legacy": True}))
    return tools


def _tool(item: dict[str, Any], where: str) -> Tool:
    kind = item.get("type", "function")
    body = item.get(kind) if kind in _OWN else None
    if is_flat(item):
        return _flat_tool(item, where)
    if not isinstance(body, dict):
        # a server tool: the vendor runs it
        return Tool(str(item.get("name") or kind), server=True, dialect=DIALECT, doc=item)
    name, extra = string(body, "name", where), rest(item, "type", "function", "custom", CACHE)
    if kind == "custom":
        return Tool(name, body.get("description"), custom=True, grammar=body.get("format"), extra=extra)
    return Tool(
        name,
        body.get("description"),
        body.get("parameters"),
        body.get("strict"),
        cache=cache_of(item),
        extra={**extra, **rest(body, "name", "description", "parameters", "strict")},
    )


def _flat_tool(item: dict[str, Any], where: str) -> Tool:
    """A tool in the Responses API's form, or Anthropic's: all keys at the top level."""
    name, known = string(item, "name", where), ("type", "name", "description", CACHE)
    if item.get("type") == "custom" and "input_schema" not in item:
        grammar = item.get("format")
        if isinstance(grammar, dict) and grammar.get("type") == "grammar" and "grammar" not in grammar:
            grammar = {"type": "grammar", "grammar": {key: one for key, one in grammar.items() if key != "type"}}
        return Tool(name, item.get("description"), custom=True, grammar=grammar, extra=rest(item, *known, "format"))
    schema = item.get("parameters", item.get("input_schema"))
    extra = rest(item, *known, "parameters", "input_schema", "strict")
    return Tool(name, item.get("description"), schema, item.get("strict"), cache=cache_of(item), extra=extra)


def _choice(value: Any, legacy: Any) -> ToolChoice | None:
    if value is None and legacy is not None:
        value = legacy if isinstance(legacy, str) else {"type": "function", "function": legacy}
    if value is None:
        return None
    if isinstance(value, str):
        if value in {"auto", "none", "required"}:
            return ToolChoice(value)  # type: ignore[arg-type]  # narrowed by the line above
        if value == "any":  # Mistral
            return ToolChoice("required")
        raise BadRequest("tool_choice must be auto, none, required or an object that names a tool")
    if not isinstance(value, dict):
        raise BadRequest("tool_choice must be a string or an object")
    kind = value.get("type")
    if kind == "allowed_tools":
        allowed = value.get("allowed_tools") or {}
        names = tuple(str(_name(tool)) for tool in allowed.get("tools", ()))
        return ToolChoice("required" if allowed.get("mode") == "required" else "auto", names, extra={"allowed": True})
    name = _name(value)
    if name is None:
        raise BadRequest("tool_choice must name the tool: {type: function, function: {name: …}}")
    return ToolChoice("required", (name,), custom=kind == "custom")


def _name(item: dict[str, Any]) -> str | None:
    body = item.get("function") or item.get("custom") or item
    name = body.get("name") if isinstance(body, dict) else None
    return name if isinstance(name, str) else None


def _format(value: Any) -> Format | None:
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return Format("text")
    if kind == "json_object":
        # Together, Fireworks and others accept a schema with it
        return Format("schema", value["schema"], extra={"object": True}) if "schema" in value else Format("json")
    if kind == "json_schema" and isinstance(value.get("json_schema"), dict):
        inner = value["json_schema"]
        return Format("schema", inner.get("schema"), inner.get("name"), inner.get("description"), inner.get("strict"))
    raise BadRequest("response_format.type must be text, json_object or json_schema")


def _thinking(document: dict[str, Any]) -> Thinking | None:
    """``reasoning_effort``, or OpenRouter's ``reasoning`` object, or Anthropic's ``thinking``."""
    effort = document.get("reasoning_effort")
    more = document.get("reasoning")
    if not isinstance(more, dict):
        return _switched(document.get("thinking"), effort if isinstance(effort, str) else None)
    enabled = more.get("enabled")
    return Thinking(
        mode=None if enabled is None else "auto" if enabled else "off",
        effort=more.get("effort") or effort,
        budget=more.get("max_tokens"),
        shown="none" if more.get("exclude") else None,
        extra={"reasoning": True, **rest(more, "effort", "max_tokens", "exclude", "enabled")},
    )


_SWITCHES: dict[str, Literal["on", "auto", "off"]] = {"enabled": "on", "adaptive": "auto", "disabled": "off"}


def _switched(given: Any, effort: str | None) -> Thinking | None:
    """Anthropic's ``thinking``: LiteLLM's clients send it for any model, and some vendors have its switch."""
    mode = _SWITCHES.get(str(given.get("type"))) if isinstance(given, dict) else None
    budget = given.get("budget_tokens") if mode == "on" else None
    if mode is None or not (budget is None or type(budget) is int):
        return Thinking(effort=effort) if effort is not None else None
    if mode == "on" and budget is None and effort is None:
        budget = budget_of("medium")  # a switch without a measure
    return Thinking(mode, effort, budget, extra={"switch": given})
