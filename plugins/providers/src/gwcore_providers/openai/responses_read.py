"""``openai.responses`` requests → the canonical conversation. Source: OpenAI's OpenAPI document.

Each item of ``input`` becomes a message, but consecutive items of the assistant (thoughts, text, calls) become the parts
of one message, because they are one turn in other dialects. What only this dialect understands is an
:class:`~gwcore.chat.Opaque` part.

Two spellings of the same thing are read alike: a string and a list of one text part, ``input`` as a string and as one
user message, ``null`` and absence, a message with and without ``type``, missing and empty ``annotations``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gwcore.chat import (
    ChatRequest,
    Citation,
    Format,
    Media,
    Message,
    Opaque,
    Part,
    Reasoning,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gwcore.errors import BadRequest
from gwcore_providers.crossing import from_url, objects, rest, spelled, string, thought_of, unseal
from gwcore_providers.openai.namespaces import SPACE, Spaces, inside, spaces, together

DIALECT = "openai.responses"
KNOBS = {
    **{name: name for name in ("temperature", "top_p", "top_logprobs", "user", "metadata", "service_tier", "store")},
    "prompt_cache_key": "cache_key", "prompt_cache_retention": "cache_retention", "safety_identifier": "safety_id",
}  # fmt: skip
"""This dialect's key → the canonical knob."""
STATE = ("previous_response_id", "conversation", "prompt", "background")
"""Keys that only a vendor that stores responses can serve."""
ENCRYPTED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
INSTRUCTIONS: Mapping[str, Any] = {"instructions": True}
"""``extra`` of the message read from ``instructions``."""
_READ = frozenset({
    "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens", "text",
    "reasoning", "include", "stream", *KNOBS, *STATE,
})  # fmt: skip
_ROLES = frozenset({"user", "system", "developer"})
_WORDS = {"input_text", "output_text", "text"}


def read_request(document: dict[str, Any], model: str, *, stream: bool) -> ChatRequest:
    """See :meth:`gwcore.codec.ChatCodec.read_request`."""
    parallel = document.get("parallel_tool_calls")
    limit = document.get("max_output_tokens")
    request = ChatRequest(
        DIALECT,
        model,
        _messages(document),
        tools=_tools(document.get("tools") or [], "tools"),
        parallel=parallel if isinstance(parallel, bool) else None,
        max_tokens=limit if isinstance(limit, int) else None,
        thinking=_thinking(document),
        stream=stream,
        usage_wanted=True,
        knobs={knob: document[key] for key, knob in KNOBS.items() if document.get(key) is not None},
        extra={key: value for key, value in document.items() if key not in _READ and value is not None},
    )
    for key in STATE:
        if document.get(key):
            request.needs[key] = document[key]
        elif document.get(key) is not None:
            request.extra[key] = document[key]
    _choose(document.get("tool_choice"), request)
    _shape(document.get("text"), request)
    include = [one for one in document.get("include") or () if one != ENCRYPTED]
    if LOGPROBS in include:
        request.knobs["logprobs"] = True
        include.remove(LOGPROBS)
    if include:
        request.extra["include"] = include
    return request


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _messages(document: dict[str, Any]) -> list[Message]:
    messages: list[Message] = []
    instructions = document.get("instructions")
    if isinstance(instructions, str):
        messages.append(Message("system", [Text(instructions)], extra=INSTRUCTIONS))
    elif instructions is not None:
        raise BadRequest("instructions must be a string")
    given = document.get("input")
    if isinstance(given, str):
        messages.append(Message("user", [Text(given)]))
    elif given is not None:
        known = spaces(document)
        for at, item in enumerate(objects(given, "input")):
            message = _item(item, f"input[{at}]", known)
            last = messages[-1] if messages else None
            if message.role == "assistant" and last is not None and last.role == "assistant":
                last.parts += _apart(last.parts[-1], message.parts)
            else:
                messages.append(message)
    return messages


def _item(item: dict[str, Any], where: str, known: Spaces) -> Message:
    kind = item.get("type") or ("message" if "role" in item else None)
    if kind == "message":
        return _message(item, where)
    if kind in _RESULTS:
        return Message("tool", [_result(item, where)])
    if not isinstance(kind, str):
        raise BadRequest(f"{where}.type must be a string")
    part = part_of(kind, item, where)
    return Message("assistant", [together(part, known) if known and isinstance(part, ToolCall) else part])


def part_of(kind: str, item: dict[str, Any], where: str) -> Part:
    """An item of a request or a reply that is not a message."""
    reader = _ITEMS.get(kind)
    return reader(item, where) if reader is not None else Opaque(DIALECT, kind, item)


def _message(item: dict[str, Any], where: str) -> Message:
    role = item.get("role")
    if role == "assistant":
        return Message("assistant", said(item, where))
    if role not in _ROLES:
        raise BadRequest(f"{where}.role must be user, assistant, system or developer")
    return Message(role, _content(item.get("content"), f"{where}.content"), extra=rest(item, "type", "role", "content"))


def said(item: dict[str, Any], where: str) -> list[Part]:
    """A message of the assistant. Its first part keeps the message's further keys, as ``item``."""
    parts = _content(item.get("content"), f"{where}.content", "output_text")
    if not parts:
        parts = [Text("", extra={"empty": True})]
    first = parts[0]
    if not isinstance(first, Text) or not all(isinstance(part, Text) for part in parts):
        return [Opaque(DIALECT, "message", item)]
    more = rest(item, "type", "role", "content")
    if more:
        first.extra = {**first.extra, "item": more}
    return parts


def _apart(last: Part, parts: list[Part]) -> list[Part]:
    """Mark the text part that begins a new message right after the text of another."""
    first = parts[0]
    if isinstance(last, Text) and isinstance(first, Text) and "item" not in first.extra:
        first.extra = {**first.extra, "item": {}}
    return parts


def _content(value: Any, where: str, usual: str = "input_text") -> list[Part]:
    if isinstance(value, str):
        return [Text(value)]
    return [_piece(item, f"{where}[{at}]", usual) for at, item in enumerate(objects(value, where))]


def _piece(item: dict[str, Any], where: str, usual: str) -> Part:
    kind = item.get("type")
    if kind in _WORDS:
        extra = {key: value for key, value in item.items() if key not in {"type", "text", "annotations"} and value}
        if kind != usual:
            extra["type"] = kind
        return Text(string(item, "text", where), citations(item.get("annotations")), extra=extra)
    if kind == "refusal":
        return Text(string(item, "refusal", where), refusal=True, extra=rest(item, "type", "refusal"))
    if kind in {"input_image", "input_file"}:
        return _media(item, where, "image" if kind == "input_image" else "file")
    if kind == "image_url":  # of chat completions
        source = item.get("image_url")
        source = source if isinstance(source, dict) else {"url": source}
        item = {"type": "input_image", "image_url": source.get("url"), "detail": source.get("detail")}
        return _media(item, where, "image")
    if kind == "input_audio" and isinstance(item.get("input_audio"), dict):
        sound = item["input_audio"]
        mime = f"audio/{sound.get('format') or 'wav'}"
        return Media("audio", mime, string(sound, "data", where), extra=rest(item, "type", "input_audio"))
    if not isinstance(kind, str):
        raise BadRequest(f"{where}.type must be a string")
    return Opaque(DIALECT, kind, item)


def _media(item: dict[str, Any], where: str, kind: Any) -> Media:
    key, link = ("image_url", "image_url") if kind == "image" else ("file_data", "file_url")
    given, url = item.get(key), item.get(link)
    extra = rest(item, "type", key, link, "file_id", "filename", "detail")
    mime = data = None
    if isinstance(given, str):
        mime, data, bare = from_url(given)
        if bare is not None:  # an image's URL, or a file's base64 without a data URL prefix
            data, url = (None, bare) if kind == "image" else (bare, url)
        elif not given.startswith(f"data:{mime};base64,"):
            extra = {**extra, key: given}  # a data URL prefix that cannot be rebuilt
        else:
            url = None if kind == "image" else url
    media = Media(kind, mime, data, url, item.get("file_id"), item.get("filename"), item.get("detail"), extra=extra)
    if media.data is media.url is media.file_id is None:
        raise BadRequest(f"{where} must have {key}, {'' if kind == 'image' else 'file_url '}or file_id")
    return media


def citations(annotations: Any) -> list[Citation]:
    """The ``annotations`` of a text."""
    return [citation(one) for one in annotations or () if isinstance(one, dict)]


def citation(one: dict[str, Any]) -> Citation:
    """One annotation."""
    title = one.get("title") or one.get("filename")
    return Citation(one.get("url"), title, None, one.get("start_index"), one.get("end_index"), DIALECT, one)


# ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def thought(item: dict[str, Any], _where: str = "") -> Reasoning:
    """A reasoning item; a thought that this gateway sealed is unsealed.

    ``extra`` keeps what the text does not: a summary of several parts, and the thought itself if there is a summary.
    """
    encrypted = item.get("encrypted_content")
    opened = unseal(encrypted)
    if opened is not None:
        return opened
    summary, content = _texts(item.get("summary")), _texts(item.get("content"))
    extra = dict(rest(item, "type", "id", "encrypted_content", "summary", "content"))
    if len(summary) > 1:
        extra["summary"] = item["summary"]
    if item.get("content") is not None and (summary or len(content) != 1):
        extra["content"] = item["content"]
    text = "\n\n".join(summary) if summary else "".join(content)
    return Reasoning(
        text,
        encrypted=encrypted if isinstance(encrypted, str) else None,
        summary=bool(summary),
        id=item.get("id"),
        dialect=DIALECT,
        extra=extra,
    )


def _texts(parts: Any) -> list[str]:
    return [str(part.get("text") or "") for part in parts or () if isinstance(part, dict)]


def call(item: dict[str, Any], where: str = "a call") -> ToolCall:
    """``function_call`` and ``custom_tool_call``."""
    custom = item.get("type") == "custom_tool_call"
    key = "input" if custom else "arguments"
    id, signature = thought_of(string(item, "call_id", where))  # noqa: A001 - the field's standard name
    name, extra = string(item, "name", where), rest(item, "type", "call_id", "name", key, "id")
    return ToolCall(
        id,
        name,
        spelled(item.get(key, "")),
        custom=custom,
        signature=signature,
        dialect="gemini.generate" if signature else DIALECT,
        item_id=item.get("id"),
        extra=extra,
    )


_RESULTS = frozenset({"function_call_output", "custom_tool_call_output"})


def _result(item: dict[str, Any], where: str) -> ToolResult:
    id, _ = thought_of(string(item, "call_id", where))  # noqa: A001
    return ToolResult(
        id,
        _content(item.get("output"), f"{where}.output"),
        custom=item.get("type") == "custom_tool_call_output",
        extra=rest(item, "type", "call_id", "output"),
    )


def _drawn(item: dict[str, Any], _where: str = "") -> Part:
    """An image that the model generated; :class:`~gwcore.chat.Opaque` if it is missing."""
    result = item.get("result")
    if not isinstance(result, str) or not result:
        return Opaque(DIALECT, "image_generation_call", item)
    mime = f"image/{item.get('output_format') or 'png'}"
    inline = not result.startswith(("http://", "https://"))
    extra = rest(item, "type", "result")
    return Media("image", mime, result if inline else None, None if inline else result, extra=extra)


_ITEMS: dict[str, Callable[[dict[str, Any], str], Part]] = {
    "reasoning": thought,
    "function_call": call,
    "custom_tool_call": call,
    "image_generation_call": _drawn,
}


# ── settings of the answer ───────────────────────────────────────────────────────────────────────────────────────────


def _tools(items: Any, where: str) -> list[Tool]:
    out: list[Tool] = []
    for at, item in enumerate(objects(items, where)):
        tool = _tool(item, f"{where}[{at}]")
        held = _tools(item.get("tools") or [], f"{where}[{at}].tools") if item.get("type") == SPACE else []
        if held and not any(one.server for one in held):
            string(item, "name", f"{where}[{at}]")
            out += inside(item, held)
        else:
            out.append(tool)
    return out


def _tool(item: dict[str, Any], where: str) -> Tool:
    kind = item.get("type")
    if isinstance(item.get(str(kind)), dict):  # the form of chat completions, which some clients use here
        item = {**{key: value for key, value in item.items() if key != kind}, **item[str(kind)]}
    if kind == "function":
        name = string(item, "name", where)
        extra = rest(item, "type", "name", "description", "parameters", "strict")
        return Tool(name, item.get("description"), item.get("parameters"), item.get("strict"), extra=extra)
    if kind == "custom":
        form = item.get("format")
        if isinstance(form, dict) and form.get("type") == "grammar":
            # the canonical form is that of chat completions: nested
            form = {"type": "grammar", "grammar": {key: value for key, value in form.items() if key != "type"}}
        extra = rest(item, "type", "name", "description", "format")
        return Tool(string(item, "name", where), item.get("description"), custom=True, grammar=form, extra=extra)
    if not isinstance(kind, str):
        raise BadRequest(f"{where}.type must be a string: function, custom, or a tool of the vendor's")
    return Tool(str(item.get("name") or kind), server=True, dialect=DIALECT, doc=item)


def _choose(value: Any, request: ChatRequest) -> None:
    if value is None:
        return
    kind = value.get("type") if isinstance(value, dict) else None
    if value in ("auto", "none", "required"):
        request.tool_choice = ToolChoice(value)
    elif kind in {"function", "custom"}:
        name = string(value, "name", "tool_choice")
        request.tool_choice = ToolChoice("required", (name,), custom=kind == "custom")
    elif kind == "allowed_tools" and all(
        tool.get("type") in {"function", "custom"} and set(tool) == {"type", "name"}
        for tool in objects(value.get("tools"), "tool_choice.tools")
    ):
        names = tuple(string(tool, "name", "tool_choice.tools[]") for tool in value["tools"])
        mode = "required" if value.get("mode") == "required" else "auto"
        request.tool_choice = ToolChoice(mode, names, extra={"allowed": True})  # type: ignore[arg-type]  # one of two
    elif isinstance(kind, str):
        request.needs["tool_choice"] = value  # a server tool
    else:
        raise BadRequest("tool_choice must be auto, none, required or an object with a type")


def _shape(text: Any, request: ChatRequest) -> None:
    """``text``: the answer's format and verbosity."""
    if not isinstance(text, dict):
        return
    if text.get("verbosity") is not None:
        request.knobs["verbosity"] = text["verbosity"]
    more = rest(text, "format", "verbosity")
    if more:
        request.extra["text"] = more
    form = text.get("format")
    if form is None:
        return
    kind = form.get("type") if isinstance(form, dict) else None
    if kind in {"text", "json_object"}:
        request.format = Format("text" if kind == "text" else "json")
    elif kind == "json_schema":
        request.format = Format(
            "schema",
            form.get("schema"),
            string(form, "name", "text.format"),
            form.get("description"),
            form.get("strict"),
            rest(form, "type", "schema", "name", "description", "strict"),
        )
    elif isinstance(kind, str):
        request.needs["text.format"] = form
    else:
        raise BadRequest("text.format.type must be text, json_object or json_schema")


def _thinking(document: dict[str, Any]) -> Thinking | None:
    asked = document.get("reasoning")
    encrypted = ENCRYPTED in (document.get("include") or ())
    if not isinstance(asked, dict):
        return Thinking(extra={"encrypted": True}) if encrypted else None
    effort = asked.get("effort")
    extra = rest(asked, "effort", "summary")
    return Thinking(
        "off" if effort == "none" else None,
        effort,
        shown=asked.get("summary"),
        extra={**extra, "encrypted": True} if encrypted else extra,
    )
