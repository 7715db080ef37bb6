"""The canonical conversation → ``anthropic.messages`` requests."""

from __future__ import annotations

import re
from typing import Any

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
from gwcore.errors import BadRequest
from gwcore_providers.anthropic.models import Traits, traits_of
from gwcore_providers.anthropic.read import CACHE, DIALECT, SHOWN
from gwcore_providers.crossing import answer_tool, fit_id, foreign, names_of_calls, parsed, unsayable
from gwcore_providers.efforts import budget_of, effort_of, nearest

VERSION = b"2023-06-01"
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_SPOKEN = ("temperature", "top_p", "top_k", "user", "service_tier")
_EMPTY: dict[str, Any] = {"type": "object", "properties": {}}
_DISPLAYS = {shown: word for word, shown in SHOWN.items()}
_LEAST = 1024  # tokens of a thinking budget


def mark(cache: str) -> dict[str, Any]:
    """Returns a cache mark."""
    return {"type": "ephemeral"} if cache == "5m" else {"type": "ephemeral", "ttl": cache}


def write_request(request: ChatRequest, crossing: Crossing) -> dict[str, Any]:
    """See :meth:`gwcore.codec.ChatCodec.write_request`."""
    same = request.dialect == DIALECT
    foreign(request, DIALECT, crossing, _SPOKEN)
    crossing.headers.append((b"anthropic-version", VERSION))
    traits = traits_of(crossing.model)
    if (request.n or 1) > 1:
        raise crossing.refuse("n", "one answer at a time")
    if set(request.modalities or ["text"]) != {"text"}:
        raise crossing.refuse("modalities", "it answers with text only")
    writer = _Messages(request, crossing, same=same)
    system, messages = writer.all()
    out: dict[str, Any] = {"model": crossing.model, "messages": messages}
    out["max_tokens"] = traits.max_output if request.max_tokens is None else request.max_tokens
    if system:
        out["system"] = system
    if request.stop:
        out["stop_sequences"] = request.stop
    _offer_tools(request, out, crossing, traits, same=same)
    _configure(request, out, crossing, traits, writer)
    _tune(request, out, crossing, same=same)
    if crossing.stream:
        out["stream"] = True
    if not same:
        return out
    metadata = {**request.extra.get("metadata", {}), **out.get("metadata", {})}
    return {**out, **request.needs, **request.extra, **({"metadata": metadata} if metadata else {})}


def _tune(request: ChatRequest, out: dict[str, Any], crossing: Crossing, *, same: bool) -> None:
    knobs = dict(request.knobs)
    user = knobs.pop("user", None)
    if isinstance(user, str):
        out["metadata"] = {"user_id": user}
    elif user is not None:  # Open WebUI can be told to send an object
        crossing.drop("user")
    if not same:
        if (knobs.get("temperature") or 0) > 1:
            knobs["temperature"] = 1.0
            crossing.drop("temperature above 1")
        if "temperature" in knobs and "top_p" in knobs:  # newer models accept only one of them
            del knobs["top_p"]
            crossing.drop("top_p")
        if out.get("thinking", {}).get("type") in {"enabled", "adaptive"}:
            for name in ("temperature", "top_k", "top_p"):
                if knobs.pop(name, None) is not None:
                    crossing.drop(name)
        if knobs.get("service_tier") not in {None, "auto", "standard_only"}:
            del knobs["service_tier"]
            crossing.drop("service_tier")
    out.update((name, knobs[name]) for name in _SPOKEN if name in knobs)


def _configure(
    request: ChatRequest, out: dict[str, Any], crossing: Crossing, traits: Traits, writer: _Messages
) -> None:
    """Set thinking, effort and the answer's format."""
    same = request.dialect == DIALECT
    config: dict[str, Any] = {}
    if request.thinking is not None:
        if same:
            _think_same(request.thinking, out, config)
        else:
            _think(request.thinking, out, config, crossing, traits, writer)
    form = request.format
    if form is not None and form.kind == "schema" and not (same or traits.schema):
        _answer_by_tool(request, form, out, crossing)
    elif form is not None and form.kind == "schema":
        body = {"type": "json_schema", "schema": form.schema if same else closed(form.schema)}
        if same and form.extra.get("older"):
            out["output_format"] = body
        else:
            config["format"] = body
    elif form is not None and form.kind == "json":
        crossing.drop("response_format")
        hint = {"type": "text", "text": "Answer with one JSON object and nothing else."}
        out["system"] = [*_listed(out.get("system")), hint]
    if config:
        out["output_config"] = config


def _answer_by_tool(request: ChatRequest, form: Format, out: dict[str, Any], crossing: Crossing) -> None:
    """Structured output for a model without it: a tool that it must call, whose arguments are the answer.

    If the client offers tools itself, the model must call one of them or this one. If the client requires a call of its
    own tools, the format is dropped.
    """
    choice = request.tool_choice
    if choice is not None and choice.mode == "required":
        crossing.drop("response_format")
        return
    tool = answer_tool(form, {tool["name"] for tool in out.get("tools", ())}, crossing)
    free = request.tools and (choice is None or choice.mode == "auto")
    given = {"name": tool.name, "description": tool.description, "input_schema": tool.schema}
    out["tools"] = [*out.get("tools", []), given]
    forced: dict[str, Any] = {"type": "any"} if free else {"type": "tool", "name": tool.name}
    if request.parallel is not None:
        forced["disable_parallel_tool_use"] = not request.parallel
    out["tool_choice"] = forced
    if out.pop("thinking", None) is not None:  # this API rejects thinking with a forced tool call
        crossing.drop("reasoning")


def _listed(system: Any) -> list[dict[str, Any]]:
    if not system:
        return []
    return [{"type": "text", "text": system}] if isinstance(system, str) else system


def closed(schema: Any) -> Any:
    """Returns the schema with ``additionalProperties: false`` in all objects, as this API requires."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: closed(value) for key, value in schema.items()}
    if out.get("type") == "object" or "properties" in out:
        out["additionalProperties"] = False
    return out


def _think_same(thinking: Thinking, out: dict[str, Any], config: dict[str, Any]) -> None:
    config.update(thinking.extra.get("config", {}))
    if thinking.effort is not None:
        config["effort"] = thinking.effort
    if thinking.mode is not None:
        kinds = {"on": "enabled", "off": "disabled", "auto": "adaptive"}
        pairs = {"budget_tokens": thinking.budget, "display": _DISPLAYS.get(thinking.shown or "", thinking.shown)}
        given = {key: value for key, value in pairs.items() if value is not None}
        out["thinking"] = {"type": kinds[thinking.mode], **given}


def _think(  # noqa: PLR0917 - one decision, all that bears on it
    thinking: Thinking,
    out: dict[str, Any],
    config: dict[str, Any],
    crossing: Crossing,
    traits: Traits,
    writer: _Messages,
) -> None:
    effort = effort_of(thinking)
    if thinking.mode == "off" or effort == "none":
        if traits.thinks and not traits.adaptive:
            return  # no thinking is the default
        out["thinking"] = {"type": "disabled"}
        return
    forced = out.get("tool_choice", {}).get("type") in {"any", "tool"}
    if not traits.thinks or forced or writer.unthought:
        crossing.drop("reasoning")
        return
    if traits.efforts and effort is not None:
        config["effort"] = nearest(effort, traits.efforts)
        if config["effort"] != effort:
            crossing.drop(f"reasoning_effort {effort}")
    if traits.adaptive:
        out["thinking"] = {"type": "adaptive"}
        out["thinking"]["display"] = "omitted" if thinking.shown == "none" else "summarized"
    elif effort is not None or thinking.budget is not None:
        wanted = thinking.budget or budget_of(effort or "medium")
        # max_tokens limits thinking and text together, as in other dialects: it is kept, and thinking gets at most half
        budget = min(max(_LEAST, wanted), max(_LEAST, out["max_tokens"] // 2))
        if out["max_tokens"] <= budget:
            crossing.drop("reasoning")
            return
        if budget != wanted:
            crossing.drop(f"reasoning budget {wanted}")
        out["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _offer_tools(request: ChatRequest, out: dict[str, Any], crossing: Crossing, traits: Traits, *, same: bool) -> None:
    tools = [_tool(tool, crossing, traits, same=same) for tool in request.tools]
    choice = request.tool_choice
    if not tools and not same:
        # a conversation with tool calls must declare its tools, even if none may be called now (a summary, a handover)
        used = dict.fromkeys(names_of_calls(request.messages).values())
        tools = [{"name": name, "input_schema": _EMPTY} for name in used]
        choice = ToolChoice("none") if tools else choice
    if tools:
        out["tools"] = tools
    if choice is None and request.parallel is False and tools:
        choice = ToolChoice("auto")
    if choice is not None and (tools or same):
        out["tool_choice"] = _choice(choice, request.parallel, crossing)


def _choice(choice: ToolChoice, parallel: bool | None, crossing: Crossing) -> dict[str, Any]:
    kind: dict[str, Any] = {"type": {"auto": "auto", "none": "none", "required": "any"}[choice.mode]}
    if len(choice.names) == 1 and choice.mode == "required":
        kind = {"type": "tool", "name": choice.names[0]}
    elif choice.names:
        crossing.drop("tool_choice.allowed_tools")
    if parallel is not None and choice.mode != "none":
        kind["disable_parallel_tool_use"] = not parallel
    return kind


def _tool(tool: Tool, crossing: Crossing, traits: Traits, *, same: bool) -> dict[str, Any]:
    if tool.server:
        if same:
            return dict(tool.doc)
        raise crossing.refuse(f"the server tool {tool.name}", f"it runs at vendors of {tool.dialect}")
    out: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        out["description"] = tool.description
    if tool.custom:
        if isinstance(tool.grammar, dict) and tool.grammar.get("type") not in {None, "text"}:
            crossing.drop("tools.custom.format")
        out["input_schema"] = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    else:
        schema = tool.schema if isinstance(tool.schema, dict) else _EMPTY
        out["input_schema"] = schema if same or schema.get("type") else {**schema, "type": "object"}
    if tool.strict is not None and (same or (traits.schema and tool.strict)):
        out["strict"] = tool.strict
        if not same:
            out["input_schema"] = closed(out["input_schema"])
    elif tool.strict:
        crossing.drop("tools.strict")
    if tool.cache:
        out[CACHE] = mark(tool.cache)
    return {**out, **tool.extra} if same else out


class _Messages:
    """The turns of one request. ``unthought``: the turn to be continued does not begin with its thought."""

    def __init__(self, request: ChatRequest, crossing: Crossing, *, same: bool) -> None:
        self.request = request
        self.crossing = crossing
        self.same = same
        self.unthought = False
        self._known = {p.id for m in request.messages for p in m.parts if isinstance(p, ToolCall)}

    def all(self) -> tuple[Any, list[dict[str, Any]]]:
        """Returns the system prompt and the turns."""
        listed = self.request.messages
        first = next((at for at, m in enumerate(listed) if m.role not in {"system", "developer"}), len(listed))
        system = [part for message in listed[:first] for part in message.parts]
        turns: list[dict[str, Any]] = []
        for message in listed[first:]:
            if message.role in {"system", "developer"} and not self.same:
                system += message.parts
                self.crossing.drop("the place of a later system message")
            else:
                self._turn(message, turns)
        if not self.same:
            for message in listed:
                unsayable(message, self.crossing, cache=False)
            self._check_thoughts(turns)
        return self._system(system), turns

    def _system(self, parts: list[Part]) -> Any:
        blocks = self._blocks(parts)
        if len(blocks) == 1 and set(blocks[0]) == {"type", "text"}:
            return blocks[0]["text"]
        return blocks

    def _turn(self, message: Message, turns: list[dict[str, Any]]) -> None:
        role = "user" if message.role == "tool" else message.role
        blocks = self._blocks(message.parts)
        whole = message.extra.get(CACHE)
        if (
            blocks and isinstance(whole, dict) and not self.same
        ):  # on the message, as some clients of OpenAI's API have it
            blocks[-1][CACHE] = mark(str(whole.get("ttl") or "5m"))
        if self.same:
            plain = len(blocks) == 1 and set(blocks[0]) == {"type", "text"}
            turns.append({"role": role, "content": blocks[0]["text"] if plain else blocks, **message.extra})
        elif blocks and turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})

    def _check_thoughts(self, turns: list[dict[str, Any]]) -> None:
        """Set ``unthought``: a turn that called tools must begin with its thought to continue thinking.

        Also moves tool results to the front of their turns.
        """
        last = next((turn for turn in reversed(turns) if turn["role"] == "assistant"), None)
        if last is not None and turns[-1]["role"] == "user":
            kinds = [one["type"] for one in last["content"]]
            answered = any(one["type"] == "tool_result" for one in turns[-1]["content"])
            self.unthought = answered and kinds[0] not in {"thinking", "redacted_thinking"}
        for turn in turns:
            # the API requires results directly after their calls
            if turn["role"] == "user":
                turn["content"].sort(key=lambda one: one["type"] != "tool_result")

    def _blocks(self, parts: list[Part]) -> list[dict[str, Any]]:
        made = [self._block(part) for part in parts]
        return [one for one in made if one is not None]

    def _block(self, part: Part) -> dict[str, Any] | None:
        if isinstance(part, Text):
            out = self._text(part)
        elif isinstance(part, Media):
            out = self._media(part)
        elif isinstance(part, Reasoning):
            return self._thought(part)
        elif isinstance(part, ToolCall):
            out = self._call(part)
        elif isinstance(part, ToolResult):
            out = self._result(part)
        elif self.same:
            return dict(part.doc)
        else:
            raise self.crossing.refuse(part.kind, f"it is known to {part.dialect} only")
        if out is not None and not isinstance(part, Opaque) and part.cache:
            out[CACHE] = mark(part.cache)
        return out

    def _text(self, part: Text) -> dict[str, Any] | None:
        if not self.same and not part.text.strip():
            return None  # the API rejects empty and blank blocks
        out: dict[str, Any] = {"type": "text", "text": part.text}
        if self.same:
            cited = [dict(one.doc) for one in part.citations]
            out |= {"citations": cited} if cited else {}
            out.update(part.extra)
        return out

    def _media(self, media: Media) -> dict[str, Any]:
        if media.kind in {"audio", "video"}:
            raise self.crossing.refuse(media.kind)
        if media.data is not None and media.plain:
            source: dict[str, Any] = {"type": "text", "media_type": "text/plain", "data": media.data}
        elif media.data is not None:
            mime = media.mime or ("image/png" if media.kind == "image" else "application/pdf")
            if media.kind == "file" and mime != "application/pdf" and not self.same:
                raise self.crossing.refuse(f"a document of {mime}", "PDF and plain text are supported")
            source = {"type": "base64", "media_type": mime, "data": media.data}
        elif media.url is not None and "no_urls" in self.crossing.quirks:
            raise self.crossing.refuse(f"{media.kind} by address", "send its bytes")
        elif media.url is not None:
            source = {"type": "url", "url": media.url}
        elif self.same:
            source = {"type": "file", "file_id": media.file_id}
        else:
            raise self.crossing.refuse(f"{media.kind} by file id", "files live at one vendor")
        out: dict[str, Any] = {"type": "image" if media.kind == "image" else "document", "source": source}
        if media.name is not None and media.kind == "file":
            out["title"] = media.name
        return {**out, **media.extra} if self.same else out

    def _thought(self, part: Reasoning) -> dict[str, Any] | None:
        if part.dialect != DIALECT and not (self.same and not part.dialect):
            self.crossing.drop("reasoning of another vendor")
            return None
        if part.redacted:
            return {"type": "redacted_thinking", "data": part.encrypted}
        if part.signature is None and not self.same:
            self.crossing.drop("unsigned reasoning")
            return None
        extra = part.extra if self.same else {}
        return {"type": "thinking", "thinking": part.text, "signature": part.signature or "", **extra}

    def _call(self, call: ToolCall) -> dict[str, Any]:
        if call.server:
            raise self.crossing.refuse(f"the server tool {call.name}")
        given = {"input": call.arguments} if call.custom else parsed(call.arguments)
        out = {"type": "tool_use", "id": self._id(call.id), "name": call.name, "input": given}
        return {**out, **call.extra} if self.same else out

    def _id(self, id: str) -> str:  # noqa: A002 - the field's standard name
        return id if self.same else fit_id(id, _ID, 64)

    def _result(self, result: ToolResult) -> dict[str, Any]:
        if not self.same and result.id not in self._known:
            raise BadRequest(f"a tool result for {result.id[:80]!r}, which no earlier message calls")
        out: dict[str, Any] = {"type": "tool_result", "tool_use_id": self._id(result.id)}
        blocks = self._blocks(result.parts)
        if result.parts:
            plain = len(blocks) == 1 and set(blocks[0]) == {"type", "text"}
            out["content"] = blocks[0]["text"] if plain else blocks
        if result.error:
            out["is_error"] = True
        return {**out, **result.extra} if self.same else out
