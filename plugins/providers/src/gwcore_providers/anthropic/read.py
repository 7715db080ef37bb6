"""``anthropic.messages`` requests → the canonical conversation. Source: Anthropic's API reference and OpenAPI document.

Equivalent spellings are read alike: a string and a list of one text block, ``null`` and absence, a cache mark without
``ttl`` and one of ``5m``, a tool with and without ``type: custom``.
"""

from __future__ import annotations

from typing import Any

from gwcore.chat import (
    ChatRequest,
    Citation,
    Format,
    Media,
    Message,
    Opaque,
    Part,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gwcore.errors import BadRequest
from gwcore_providers.crossing import objects, rest, spelled, string, thought_of
from gwcore_providers.thinking import read_block

DIALECT = "anthropic.messages"
CACHE = "cache_control"
_KNOBS = ("temperature", "top_p", "top_k", "service_tier")
_NEEDS = ("container", "mcp_servers", "thread", "compaction")
SHOWN = {"summarized": "summary", "omitted": "none"}
"""``thinking.display`` → the canonical value."""
_READ = frozenset({
    "model", "messages", "system", "max_tokens", "metadata", "stop_sequences", "stream", "tools", "tool_choice",
    "thinking", "output_config", "output_format", *_KNOBS, *_NEEDS,
})  # fmt: skip


def read_request(document: dict[str, Any], model: str, *, stream: bool) -> ChatRequest:
    """See :meth:`gwcore.codec.ChatCodec.read_request`."""
    system = document.get("system")
    messages = [Message("system", content(system, "system"))] if system else []
    listed = objects(document.get("messages"), "messages")
    messages += [_message(item, f"messages[{at}]") for at, item in enumerate(listed)]
    choice = document.get("tool_choice")
    choice = choice if isinstance(choice, dict) else {}
    limit = document.get("max_tokens")
    knobs = {name: document[name] for name in _KNOBS if document.get(name) is not None}
    metadata = document.get("metadata")
    extra = {key: value for key, value in document.items() if key not in _READ and value is not None}
    if isinstance(metadata, dict):
        if isinstance(metadata.get("user_id"), str):
            knobs["user"] = metadata["user_id"]
        if others := rest(metadata, "user_id"):
            extra["metadata"] = others
    parallel = choice.get("disable_parallel_tool_use")
    return ChatRequest(
        DIALECT,
        model,
        messages,
        tools=[_tool(item, f"tools[{at}]") for at, item in enumerate(objects(document.get("tools") or [], "tools"))],
        tool_choice=_choice(choice),
        parallel=not parallel if isinstance(parallel, bool) else None,
        max_tokens=limit if isinstance(limit, int) else None,
        stop=[s for s in document.get("stop_sequences") or [] if isinstance(s, str)],
        format=_format(document),
        thinking=_thinking(document),
        stream=stream,
        usage_wanted=True,
        knobs=knobs,
        needs={key: document[key] for key in _NEEDS if document.get(key)},
        extra=extra,
    )


def _message(item: dict[str, Any], where: str) -> Message:
    role = item.get("role")
    if role not in {"user", "assistant", "system"}:
        raise BadRequest(f"{where}.role must be user or assistant")
    return Message(role, content(item.get("content"), where), extra=rest(item, "role", "content"))


def content(value: Any, where: str) -> list[Part]:
    """Reads a string or a list of blocks."""
    if value is None:
        return []
    if isinstance(value, str):
        return [Text(value)]
    return [block(item, f"{where}[{at}]") for at, item in enumerate(objects(value, where))]


def cache_of(item: dict[str, Any]) -> str | None:
    """Returns the time to live of a block's cache mark; ``None`` without a mark."""
    mark = item.get(CACHE)
    return str(mark.get("ttl") or "5m") if isinstance(mark, dict) else None


def block(item: dict[str, Any], where: str) -> Part:
    """Reads one content block; a type that no other dialect has is kept whole, as :class:`gwcore.chat.Opaque`."""
    read = _BLOCKS.get(str(item.get("type")))
    if read is None:
        kind = item.get("type")
        if not isinstance(kind, str):
            raise BadRequest(f"{where}.type must say what the block is")
        return Opaque(DIALECT, kind, item)
    return read(item, where)


def _text(item: dict[str, Any], where: str) -> Part:
    cited = [citation(one) for one in item.get("citations") or [] if isinstance(one, dict)]
    extra = rest(item, "type", "text", "citations", CACHE)
    return Text(string(item, "text", where), cited, cache_of(item), extra=extra)


def citation(item: dict[str, Any]) -> Citation:
    """Reads one of a text block's ``citations``."""
    url = item.get("url") or item.get("source")
    title = item.get("title") or item.get("document_title")
    start, end = item.get("start_char_index"), item.get("end_char_index")
    return Citation(url, title, item.get("cited_text"), start, end, DIALECT, item)


def _media(item: dict[str, Any], where: str) -> Part:
    source = item.get("source")
    if not isinstance(source, dict):
        raise BadRequest(f"{where}.source must be an object")
    how = source.get("type")
    kind = "image" if item["type"] == "image" else "file"
    extra = rest(item, "type", "source", "title", CACHE)
    media = Media("image" if kind == "image" else "file", source.get("media_type"), cache=cache_of(item), extra=extra)
    media.name = item.get("title")
    if how in {"base64", "text"}:
        media.data, media.plain = string(source, "data", f"{where}.source"), how == "text"
    elif how == "url":
        media.url = string(source, "url", f"{where}.source")
    elif how == "file":
        media.file_id = string(source, "file_id", f"{where}.source")
    else:  # a document of content blocks
        return Opaque(DIALECT, f"{kind} of {how}", item)
    return media


def _call(item: dict[str, Any], where: str) -> Part:
    id, signature = thought_of(string(item, "id", where))  # noqa: A001 - the field's standard name
    return ToolCall(
        id,
        string(item, "name", where),
        spelled(item.get("input")),
        signature=signature,
        dialect="gemini.generate" if signature else DIALECT,
        cache=cache_of(item),
        extra=rest(item, "type", "id", "name", "input", CACHE),
    )


def _result(item: dict[str, Any], where: str) -> Part:
    id, _ = thought_of(string(item, "tool_use_id", where))  # noqa: A001
    return ToolResult(
        id,
        content(item.get("content"), f"{where}.content"),
        error=bool(item.get("is_error")),
        cache=cache_of(item),
        extra=rest(item, "type", "tool_use_id", "content", "is_error", CACHE),
    )


_BLOCKS = {
    "text": _text,
    "image": _media,
    "document": _media,
    "thinking": read_block,
    "redacted_thinking": read_block,
    "tool_use": _call,
    "tool_result": _result,
}


def _tool(item: dict[str, Any], where: str) -> Tool:
    name = string(item, "name", where) if "name" in item else str(item.get("type"))
    if item.get("type") not in {None, "custom"}:
        return Tool(name, server=True, dialect=DIALECT, doc=item, cache=cache_of(item))
    extra = rest(item, "type", "name", "description", "input_schema", "strict", CACHE)
    return Tool(name, item.get("description"), item.get("input_schema"), item.get("strict"), dialect=DIALECT,
                cache=cache_of(item), extra=extra)  # fmt: skip


def _choice(choice: dict[str, Any]) -> ToolChoice | None:
    kind = choice.get("type")
    if kind is None:
        return None
    if kind == "tool":
        return ToolChoice("required", (string(choice, "name", "tool_choice"),))
    modes = {"auto": ToolChoice("auto"), "any": ToolChoice("required"), "none": ToolChoice("none")}
    if kind not in modes:
        raise BadRequest("tool_choice.type must be auto, any, tool or none")
    return modes[kind]


def _format(document: dict[str, Any]) -> Format | None:
    config = document.get("output_config")
    form = config.get("format") if isinstance(config, dict) else None
    older = document.get("output_format")
    form, key = (older, {"older": True}) if form is None else (form, {})
    return Format("schema", form.get("schema"), extra=key) if isinstance(form, dict) else None


def _thinking(document: dict[str, Any]) -> Thinking | None:
    thinking = document.get("thinking")
    config = document.get("output_config")
    config = config if isinstance(config, dict) else {}
    others = rest(config, "effort", "format")
    if not isinstance(thinking, dict):
        return (
            Thinking(effort=config.get("effort"), extra={"config": others}) if config.get("effort") or others else None
        )
    kind = thinking.get("type")
    return Thinking(
        mode={"enabled": "on", "disabled": "off", "adaptive": "auto"}.get(str(kind)),  # type: ignore[arg-type]
        effort=config.get("effort"),
        budget=thinking.get("budget_tokens"),
        shown=SHOWN.get(str(thinking.get("display")), thinking.get("display")),
        extra={"config": others} if others else {},
    )
