"""The canonical conversation → ``openai.chat`` requests."""

from __future__ import annotations

import re
from typing import Any

import orjson

from gwcore.chat import (
    ChatRequest,
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
from gwcore.codec import Crossing
from gwcore_providers.crossing import data_url, fit_id, foreign, object_format, words
from gwcore_providers.efforts import effort_of
from gwcore_providers.openai.chat_read import CACHE, DIALECT, KNOBS, SIGNERS
from gwcore_providers.openai.fit import fit, think
from gwcore_providers.openai.models import accepted_efforts

_FORMATS = {dialect: name for name, dialect in SIGNERS.items()}
TIERS = {**{tier: tier for tier in ("auto", "default", "flex", "priority", "scale")}, "standard": "default",
         "standard_only": "default"}  # fmt: skip
"""Service tier, by any vendor's name → OpenAI's."""
_NINE = re.compile(r"[a-zA-Z0-9]{9}")
_THOUGHT_KEYS = ("reasoning_content", "reasoning")
_BY_ADDRESS = {"file_url", "document_url"}
_NO_PARAMETERS = {"type": "object", "properties": {}}


def write_request(request: ChatRequest, crossing: Crossing) -> dict[str, Any]:
    """See :meth:`gwcore.codec.ChatCodec.write_request`."""
    same = request.dialect == DIALECT
    foreign(request, DIALECT, crossing, KNOBS.values())
    out: dict[str, Any] = {"model": crossing.model, "messages": _Messages(request, crossing).all()}
    _offer_tools(request, out, crossing, same=same)
    if request.max_tokens is not None:
        out["max_completion_tokens" if "max_completion_tokens" in crossing.quirks else "max_tokens"] = (
            request.max_tokens
        )
    if request.format is not None and (same or request.format.kind != "text"):
        out["response_format"] = _format(request.format if same else object_format(request.format, crossing))
    if request.thinking is not None:
        _think(request.thinking, out, crossing, same=same)
    neutral = {"stop": [], "modalities": ["text"], "n": 1}
    for key, plain in neutral.items():
        value = getattr(request, key)
        if value is not None and (value != plain or (same and value)):
            out[key] = value
    names = {knob: key for key, knob in KNOBS.items()}
    out.update((names[knob], value) for knob, value in request.knobs.items() if knob in names)
    if not same:
        fit_tier(out, crossing)
    if crossing.stream:
        out["stream"] = True
        if "no_stream_options" not in crossing.quirks:
            out["stream_options"] = {"include_usage": True}
    if same:
        return {**out, **request.needs, **request.extra}
    fit(out, crossing)
    return out


def fit_tier(out: dict[str, Any], crossing: Crossing) -> None:
    """Replace the service tier with OpenAI's name for it, or drop it."""
    asked = out.pop("service_tier", None)
    tier = TIERS.get(asked) if isinstance(asked, str) else None
    if tier is not None:
        out["service_tier"] = tier
    elif asked is not None:
        crossing.drop("service_tier")


def _offer_tools(request: ChatRequest, out: dict[str, Any], crossing: Crossing, *, same: bool) -> None:
    tools = [_tool(tool, crossing, same=same) for tool in request.tools]
    if tools:
        out["tools"] = tools
        if request.parallel is not None:
            out["parallel_tool_calls"] = request.parallel
    if request.tool_choice is not None and (tools or same):
        out["tool_choice"] = _choice(request.tool_choice)


def _think(thinking: Thinking, out: dict[str, Any], crossing: Crossing, *, same: bool) -> None:
    if same and thinking.extra.get("reasoning"):
        more: dict[str, Any] = {key: value for key, value in thinking.extra.items() if key != "reasoning"}
        pairs = {"effort": thinking.effort, "max_tokens": thinking.budget}
        more.update((key, value) for key, value in pairs.items() if value is not None)
        if thinking.shown == "none":
            more["exclude"] = True
        if thinking.mode is not None:
            more["enabled"] = thinking.mode != "off"
        out["reasoning"] = more
        return
    if same:
        switch = thinking.extra.get("switch")
        out |= {"thinking": switch} if switch is not None else {}
        effort = thinking.effort if switch is not None else effort_of(thinking)
        out |= {"reasoning_effort": effort} if effort is not None else {}
        return
    think(thinking, out, crossing)


class _Messages:
    """The messages of one request."""

    def __init__(self, request: ChatRequest, crossing: Crossing) -> None:
        self.request = request
        self.crossing = crossing
        self.same = request.dialect == DIALECT
        self.out: list[dict[str, Any]] = []
        self.carried: list[Media] = []
        """Media from tool results, which may contain text only: they follow in a user message."""

    def all(self) -> list[dict[str, Any]]:
        """Every message."""
        for message in self.request.messages:
            results = [part for part in message.parts if isinstance(part, ToolResult)]
            if not results:
                self._flush()
            for result in results:
                self.out.append(self._result(result, message))
            others: list[Part] = [part for part in message.parts if not isinstance(part, ToolResult)]
            if others or not results:
                self._flush()
                self.out.append(self._message(message, others))
        self._flush()
        return self.out

    def _flush(self) -> None:
        if self.carried:
            self.out.append({"role": "user", "content": [self._part(media) for media in self.carried]})
            self.carried = []

    def _message(self, message: Message, parts: list[Part]) -> dict[str, Any]:
        role: str = message.role
        if role == "developer" and not self.same and "developer" not in self.crossing.quirks:
            role = "system"
        out: dict[str, Any] = {"role": role}
        if message.name is not None:
            out["name"] = message.name
        calls = [part for part in parts if isinstance(part, ToolCall)]
        thoughts = [part for part in parts if isinstance(part, Reasoning)]
        refusals = [part for part in parts if isinstance(part, Text) and part.refusal]
        shown = [part for part in parts if part not in calls and part not in thoughts and part not in refusals]
        if role == "assistant":
            self._thoughts(out, [part for part in thoughts if not self._inline(part)])
            if refusals:
                out["refusal"] = words(refusals)
            if calls:
                self._calls(out, calls)
                if not self.same and any(one in shown for one in parts[parts.index(calls[0]) :]):
                    self.crossing.drop("the place of words behind a tool call")
        content = self._content([*filter(self._inline, thoughts), *shown])
        out["content"] = content if content or not (calls or refusals) else None
        if self.same:
            out.update(message.extra)
        return out

    def _content(self, parts: list[Part]) -> Any:
        if all(isinstance(part, Text) and not part.cache and not part.extra for part in parts):
            if len(parts) <= 1:
                return words(parts)
            return [{"type": "text", "text": part.text} for part in parts if isinstance(part, Text)]
        return [self._part(part) for part in parts]

    def _part(self, part: Part) -> dict[str, Any]:
        if isinstance(part, Reasoning):
            return {"type": "thinking", "thinking": [{"type": "text", "text": part.text}]}
        if isinstance(part, Text):
            out: dict[str, Any] = {"type": "text", "text": part.text}
            if self.same:
                out.update(part.extra)
        elif isinstance(part, Media):
            out = self._media(part)
        elif isinstance(part, Opaque):
            raise self.crossing.refuse(part.kind, f"it is known to {part.dialect} only")
        else:
            raise self.crossing.refuse(type(part).__name__)
        self._mark(out, part.cache)
        return out

    def _media(self, media: Media) -> dict[str, Any]:
        if media.kind in {"image", "video"}:
            if media.kind == "video" and not (self.same or "video" in self.crossing.quirks):
                raise self.crossing.refuse("video")
            address = data_url(media) if media.data is not None else media.url
            if address is None:
                raise self.crossing.refuse(f"{media.kind} by file id", "files live at one vendor")
            body: dict[str, Any] = {"url": address}
            if media.detail is not None:
                body["detail"] = media.detail if self.same or media.detail in {"low", "high", "auto"} else "auto"
            key = "image_url" if media.kind == "image" else "video_url"
            return {"type": key, key: {**body, **media.extra} if self.same else body}
        if media.kind == "audio":
            if self.same and "given" in media.extra:
                return {"type": "input_audio", "input_audio": media.extra["given"]}
            if media.data is None:
                raise self.crossing.refuse("audio by address")
            form = (media.mime or "audio/wav").partition("/")[2].removeprefix("x-")
            form = {"mpeg": "mp3", "wave": "wav"}.get(form, form)
            return {"type": "input_audio", "input_audio": {"data": media.data, "format": form}}
        return self._file(media)

    def _file(self, media: Media) -> dict[str, Any]:
        if media.plain and media.data is not None:
            title = f"{media.name}\n\n" if media.name else ""
            return {"type": "text", "text": f"{title}{media.data}"}
        file: dict[str, Any] = {}
        if media.data is not None:
            file["file_data"] = data_url(media) if media.mime or not self.same else media.data
        elif media.file_id is not None and self.same:
            file["file_id"] = media.file_id
        elif media.url is not None and (self.same or self.crossing.quirks & _BY_ADDRESS):
            file["file_data"] = media.url
        else:
            raise self.crossing.refuse("document by address or file id", "send its bytes")
        if media.name is not None or not self.same:
            file["filename"] = media.name or "document.pdf"
        return {"type": "file", "file": file}

    def _inline(self, part: Part) -> bool:
        """Whether a thought is a content part, as in Mistral's API."""
        if not isinstance(part, Reasoning):
            return False
        if self.same:
            return part.extra.get("field") == "thinking"
        return "thinking" in self.crossing.quirks and bool(part.text)

    def _thoughts(self, out: dict[str, Any], thoughts: list[Reasoning]) -> None:
        if not thoughts:
            return
        quirks = self.crossing.quirks
        fields = [str(part.extra.get("field")) for part in thoughts if part.extra.get("field")]
        text = "".join(part.text for part in thoughts)
        if fields and (self.same or fields[0] in quirks):
            out[fields[0]] = text
        elif self.same or "reasoning_details" in quirks:
            out["reasoning_details"] = [detail(part) for part in thoughts]
        elif text and (keys := [key for key in _THOUGHT_KEYS if key in quirks]):
            out[keys[0]] = text
        else:
            self.crossing.drop("reasoning")

    def _calls(self, out: dict[str, Any], calls: list[ToolCall]) -> None:
        if calls[0].extra.get("legacy") and self.same:
            out["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments}
            return
        out["tool_calls"] = [self._call(call) for call in calls]

    def _call(self, call: ToolCall) -> dict[str, Any]:
        if call.server:
            raise self.crossing.refuse(f"the server tool {call.name}")
        custom = call.custom and (self.same or "custom_tools" in self.crossing.quirks)
        kind, key = ("custom", "input") if custom else ("function", "arguments")
        given = call.arguments if custom == call.custom else orjson.dumps({"input": call.arguments}).decode()
        body = {"name": call.name, key: given if custom else given or "{}"}
        out: dict[str, Any] = {"id": self._id(call.id), "type": kind, kind: body}
        if call.signature is not None and (self.same or "thought_signature" in self.crossing.quirks):
            out["extra_content"] = {"google": {"thought_signature": call.signature}}
        elif call.signature is not None:
            self.crossing.drop("reasoning of another vendor")
        if self.same:
            out.update(call.extra)
        self._mark(out, call.cache)
        return out

    def _id(self, id: str) -> str:  # noqa: A002
        if self.same and "ids9" not in self.crossing.quirks:
            return id
        if "ids9" in self.crossing.quirks:
            return fit_id(id, _NINE, 9)
        # OpenAI's own models accept 40 characters; other vendors issue longer ids and expect them back
        return fit_id(id, limit=64 if accepted_efforts(self.crossing.model) is None else 40)

    def _result(self, result: ToolResult, message: Message) -> dict[str, Any]:
        texts = [part for part in result.parts if isinstance(part, Text)]
        media = [part for part in result.parts if isinstance(part, Media)]
        for part in result.parts:
            if isinstance(part, Opaque):
                raise self.crossing.refuse(part.kind, "in a tool result")
        content = self._content([*texts]) if self.same else words(texts, "\n")
        if media and self.same:
            content = [self._part(part) for part in result.parts]
        elif media:
            self.carried += media
            content = content or "The result follows in the next message."
        if result.error and not self.same:
            content = f"Error: {content}"
        if result.extra.get("legacy") and self.same:
            return {"role": "function", "name": result.name, "content": content}
        out: dict[str, Any] = {"role": "tool", "tool_call_id": self._id(result.id), "content": content}
        if self.same:
            out.update({"name": result.name} if result.name is not None else {})
            out.update(message.extra)
        self._mark(out, result.cache)
        return out

    def _mark(self, out: dict[str, Any], cache: str | None) -> None:
        mark(out, cache, self.crossing, same=self.same)


def detail(part: Reasoning) -> dict[str, Any]:
    """One of OpenRouter's ``reasoning_details``; ``format`` names the signer."""
    form = {"format": _FORMATS[part.dialect]} if part.dialect in _FORMATS else {}
    out: dict[str, Any] = {**form, **{key: value for key, value in part.extra.items() if key in {"format", "index"}}}
    if part.encrypted is not None:
        out |= {"type": "reasoning.encrypted", "data": part.encrypted}
        if part.text:
            out["summary"] = part.text
    elif part.summary:
        out |= {"type": "reasoning.summary", "summary": part.text}
    else:
        out |= {"type": "reasoning.text", "text": part.text}
        if part.signature is not None:
            out["signature"] = part.signature
    if part.id is not None:
        out["id"] = part.id
    return out


def _tool(tool: Tool, crossing: Crossing, *, same: bool) -> dict[str, Any]:
    if tool.server:
        if same:
            return dict(tool.doc)
        raise crossing.refuse(f"the server tool {tool.name}", f"it runs at vendors of {tool.dialect}")
    if tool.custom:
        return _custom(tool, crossing, same=same)
    own = {key: value for key, value in tool.extra.items() if key != "legacy"} if same else {}
    body: dict[str, Any] = {"name": tool.name}
    schema = tool.schema if same or isinstance(tool.schema, dict) else _NO_PARAMETERS
    pairs = {"description": tool.description, "parameters": schema, "strict": tool.strict}
    body |= {key: value for key, value in pairs.items() if value is not None}
    out: dict[str, Any] = {"type": "function", "function": {**body, **own}}
    mark(out, tool.cache, crossing, same=same)
    return out


def mark(out: dict[str, Any], cache: str | None, crossing: Crossing, *, same: bool) -> None:
    """Add a prompt-cache mark if the vendor accepts Anthropic's, else drop it."""
    if cache and (same or "cache_control" in crossing.quirks):
        out[CACHE] = {"type": "ephemeral"} if cache == "5m" else {"type": "ephemeral", "ttl": cache}
    elif cache:
        crossing.drop(CACHE)


def _custom(tool: Tool, crossing: Crossing, *, same: bool) -> dict[str, Any]:
    if not (same or "custom_tools" in crossing.quirks):
        return _custom_as_function(tool, crossing)
    body: dict[str, Any] = {"name": tool.name}
    body |= {"description": tool.description} if tool.description is not None else {}
    body |= {"format": tool.grammar} if tool.grammar is not None else {}
    return {"type": "custom", "custom": body}


def _custom_as_function(tool: Tool, crossing: Crossing) -> dict[str, Any]:
    """A free-text tool as a function of one string, for vendors without custom tools; its grammar is dropped."""
    if tool.grammar is not None and tool.grammar.get("type") not in {None, "text"}:
        crossing.drop("tools.custom.format")
    schema = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    body = {"name": tool.name, "description": tool.description or "", "parameters": schema}
    return {"type": "function", "function": body}


def _choice(choice: ToolChoice) -> Any:
    if not choice.names:
        return choice.mode
    if len(choice.names) == 1 and choice.mode == "required" and not choice.extra.get("allowed"):
        kind = "custom" if choice.custom else "function"
        return {"type": kind, kind: {"name": choice.names[0]}}
    tools = [{"type": "function", "function": {"name": name}} for name in choice.names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": tools}}


def _format(form: Format) -> dict[str, Any]:
    if form.kind == "schema" and form.extra.get("object"):
        return {"type": "json_object", "schema": form.schema}
    if form.kind == "schema":
        inner: dict[str, Any] = {"name": form.name or "answer"}
        pairs = {"description": form.description, "schema": form.schema, "strict": form.strict}
        inner |= {key: value for key, value in pairs.items() if value is not None}
        return {"type": "json_schema", "json_schema": inner}
    return {"type": "json_object" if form.kind == "json" else "text"}
