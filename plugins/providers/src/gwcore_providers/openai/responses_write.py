"""The canonical conversation → ``openai.responses`` requests."""

from __future__ import annotations

import base64
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
from gwcore_providers.crossing import data_url, fit_id, foreign, object_format, unsayable, words
from gwcore_providers.efforts import effort_of, nearest
from gwcore_providers.openai.chat_write import fit_tier
from gwcore_providers.openai.models import accepted_efforts, reasons
from gwcore_providers.openai.namespaces import grouped
from gwcore_providers.openai.responses_read import DIALECT, ENCRYPTED, KNOBS, LOGPROBS

Document = dict[str, Any]
_KEYS = {knob: key for key, knob in KNOBS.items()}
_SPOKEN = frozenset({*_KEYS, "verbosity", "logprobs"})
_LEAST = 16  # output tokens; OpenAI rejects a lower limit
_CALL = re.compile(r"[a-zA-Z0-9_.:-]+")
_FORMAT = re.compile(r"[^a-zA-Z0-9_-]")
_DETAILS = frozenset({"low", "high", "auto", "original"})


def write_request(request: ChatRequest, crossing: Crossing) -> Document:
    """See :meth:`gwcore.codec.ChatCodec.write_request`. A request from another dialect is sent stateless."""
    same = request.dialect == DIALECT
    foreign(request, DIALECT, crossing, _SPOKEN)
    out = _Items(request, crossing).document()
    out["model"] = crossing.model
    _offer_tools(request, out, crossing, same=same)
    if request.max_tokens is not None:
        out["max_output_tokens"] = request.max_tokens if same else _enough(request.max_tokens, crossing)
    include = [ENCRYPTED] if not same or (request.thinking and request.thinking.extra.get("encrypted")) else []
    _think(request.thinking, out, crossing, same=same)
    if request.knobs.get("logprobs"):
        include.append(LOGPROBS)
    if include:
        out["include"] = include
    text = _shape(request, crossing)
    if text:
        out["text"] = text
    if request.stream or crossing.stream:
        out["stream"] = True
    out.update((_KEYS[knob], value) for knob, value in request.knobs.items() if knob in _KEYS)
    if same:
        _own(request, out)
    else:
        _fit(request, out, crossing)
    return out


def _own(request: ChatRequest, out: Document) -> None:
    """Add what only this dialect can express."""
    for key, value in {**request.needs, **request.extra}.items():
        if key == "text":
            out["text"] = {**out.get("text", {}), **value}
        elif key == "text.format":
            out["text"] = {**out.get("text", {}), "format": value}
        elif key == "include":
            out["include"] = [*value, *out.get("include", ())]
        else:
            out[key] = value


def _fit(request: ChatRequest, out: Document, crossing: Crossing) -> None:
    """Adapt, drop or refuse what other dialects can express and this one cannot, or only in part."""
    if out.get("store"):
        crossing.drop("store")
    out["store"] = False
    if request.n not in {None, 1}:
        raise crossing.refuse("n", "one request has one answer")
    if request.modalities and set(request.modalities) - {"text", "TEXT"}:
        raise crossing.refuse("modalities", "the answer is text")
    if request.stop:
        crossing.drop("stop")
    if reasons(crossing.model):
        for key in ("temperature", "top_p"):
            if out.pop(key, None) is not None:
                crossing.drop(key)
    fit_tier(out, crossing)
    metadata = out.get("metadata")
    _fit_value(out, "metadata", metadata if _is_metadata(metadata) else None, crossing)


def _fit_value(out: Document, key: str, fit: Any, crossing: Crossing) -> None:
    """Replace the value with ``fit``; drop it if that is ``None``."""
    if key not in out:
        return
    out[key] = fit
    if fit is None:
        del out[key]
        crossing.drop(key)


def _is_metadata(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= 16
        and all(isinstance(text, str) and len(text) <= 512 and len(key) <= 64 for key, text in value.items())
    )


def _enough(limit: int, crossing: Crossing) -> int:
    if limit < _LEAST:
        crossing.drop(f"max_tokens below {_LEAST}")
    return max(limit, _LEAST)


# ── settings of the answer ───────────────────────────────────────────────────────────────────────────────────────────


def _offer_tools(request: ChatRequest, out: Document, crossing: Crossing, *, same: bool) -> None:
    tools = grouped([_tool(tool, crossing, same=same) for tool in request.tools])
    if tools:
        out["tools"] = tools
    if request.parallel is not None and (tools or same):
        out["parallel_tool_calls"] = request.parallel
    if request.tool_choice is not None and (tools or same):
        out["tool_choice"] = _choice(request.tool_choice, {tool.name for tool in request.tools if tool.custom})


def _tool(tool: Tool, crossing: Crossing, *, same: bool) -> Document:
    if tool.server:
        if tool.dialect == DIALECT:
            return dict(tool.doc)
        raise crossing.refuse(f"the server tool {tool.name}", f"it runs at vendors of {tool.dialect}")
    if tool.cache is not None:
        crossing.drop("cache_control")
    out: Document = {"type": "custom" if tool.custom else "function", "name": tool.name}
    if tool.description is not None:
        out["description"] = tool.description
    if tool.custom:
        if tool.grammar is not None:
            out["format"] = _flat(tool.grammar)
    elif same:
        pairs = {"parameters": tool.schema, "strict": tool.strict}
        out |= {key: value for key, value in pairs.items() if value is not None}
    else:
        # a tool without ``strict`` is strict in this API, but not in others
        out["parameters"] = tool.schema if tool.schema is not None else {"type": "object", "properties": {}}
        out["strict"] = bool(tool.strict)
    return {**out, **tool.extra} if same else out


def _flat(grammar: Any) -> Any:
    inner = grammar.get("grammar") if isinstance(grammar, dict) else None
    return {"type": "grammar", **inner} if isinstance(inner, dict) else grammar


def _choice(choice: ToolChoice, custom: set[str]) -> Any:
    if not choice.names:
        return choice.mode
    tools = [
        {"type": "custom" if choice.custom or name in custom else "function", "name": name} for name in choice.names
    ]
    if len(tools) == 1 and choice.mode == "required" and not choice.extra.get("allowed"):
        return tools[0]
    return {"type": "allowed_tools", "mode": choice.mode, "tools": tools}


def _shape(request: ChatRequest, crossing: Crossing) -> Document:
    out: Document = {}
    if request.format is not None:
        same = request.dialect == DIALECT
        out["format"] = _format(request.format if same else object_format(request.format, crossing))
    if "verbosity" in request.knobs:
        out["verbosity"] = request.knobs["verbosity"]
    return out


def _format(form: Format) -> Document:
    if form.kind != "schema":
        return {"type": "json_object" if form.kind == "json" else "text"}
    name = _FORMAT.sub("_", form.name or "answer")[:64]
    pairs = {"name": name, "schema": form.schema, "description": form.description, "strict": form.strict}
    return {"type": "json_schema", **{key: value for key, value in pairs.items() if value is not None}}


def _think(thinking: Thinking | None, out: Document, crossing: Crossing, *, same: bool) -> None:
    if thinking is None:
        return
    asked: Document = {"summary": thinking.shown}
    if same:
        asked["effort"] = thinking.effort
        asked |= {key: value for key, value in thinking.extra.items() if key != "encrypted"}
    else:
        asked["summary"] = {"none": None, "summary": "auto"}.get(thinking.shown or "none", thinking.shown)
        asked["effort"] = effort = effort_of(thinking)
        allowed = accepted_efforts(crossing.model)
        if effort is not None and allowed is not None:
            asked["effort"] = nearest(effort, allowed) if allowed else None
        if allowed == ():
            asked["summary"] = None
        if effort != asked["effort"] and (effort, asked["effort"]) != ("none", None):
            crossing.drop("reasoning_effort" if asked["effort"] is None else f"reasoning_effort {effort}")
    asked = {key: value for key, value in asked.items() if value is not None}
    if asked:
        out["reasoning"] = asked


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Items:
    """``input`` and ``instructions`` of one request."""

    def __init__(self, request: ChatRequest, crossing: Crossing) -> None:
        self.request = request
        self.crossing = crossing
        self.same = request.dialect == DIALECT
        self.out: list[Document] = []
        calls = (part for message in request.messages for part in message.parts if isinstance(part, ToolCall))
        self.custom = {call.id for call in calls if call.custom}
        self.made = 0

    def document(self) -> Document:
        """The request's two keys."""
        out: Document = {}
        for at, message in enumerate(self.request.messages):
            if self._instructs(at, message):
                out["instructions"] = words(message.parts)
                if not self.same:
                    unsayable(message, self.crossing)
            else:
                self._message(message)
        if self.out or not self.same:
            out["input"] = self.out
        return out

    def _instructs(self, at: int, message: Message) -> bool:
        if self.same:
            return bool(message.extra.get("instructions"))
        one = message.parts[0] if len(message.parts) == 1 else None
        return at == 0 and message.role == "system" and isinstance(one, Text) and message.name is None

    def _message(self, message: Message) -> None:
        if not self.same:
            unsayable(message, self.crossing)
        run: list[Part] = []
        for part in message.parts:
            loose = isinstance(part, Text | Media | Opaque) and (
                message.role != "assistant" or (isinstance(part, Text) and not (run and "item" in part.extra))
            )
            if not loose:
                self._flush(message, run)
                run = []
            if loose or isinstance(part, Text):
                run.append(part)
            else:
                self._item(part)
        if run or not message.parts:
            self._flush(message, run, empty=True)

    def _flush(self, message: Message, run: list[Part], *, empty: bool = False) -> None:
        if not run and not (empty and self.same):
            return
        if message.role == "assistant":
            self.out.append(self._said(run))
            return
        role = "user" if message.role == "tool" else message.role
        content = self._content(run, "input_text") if run else []
        more = message.extra if self.same else {}
        self.out.append({"type": "message", "role": role, "content": content, **more})

    def _said(self, run: list[Part]) -> Document:
        first = run[0]
        assert isinstance(first, Text)
        more = first.extra.get("item", {}) if self.same else {}
        head = {"type": "message", "role": "assistant"}
        plain = len(run) == 1 and not first.refusal and not first.citations and not set(first.extra) - {"item"}
        if self.same and first.extra.get("empty"):
            return {**head, "content": [], **more}
        if plain and "id" not in more:
            return {**head, "content": first.text, **more}
        if not self.same:
            self.made += 1
            more = {"id": f"msg_{self.made}", "status": "completed"}
        return {**head, "content": [self._piece(part, "output_text") for part in run], **more}

    def _content(self, run: list[Part], usual: str) -> Any:
        first = run[0]
        if len(run) == 1 and isinstance(first, Text) and not first.refusal and not (self.same and first.extra):
            return first.text
        return [self._piece(part, usual) for part in run]

    def _piece(self, part: Part, usual: str) -> Document:
        if isinstance(part, Opaque):
            return self._opaque(part)
        if isinstance(part, Media):
            return self._media(part)
        assert isinstance(part, Text)
        extra = {key: value for key, value in part.extra.items() if key != "item"} if self.same else {}
        if part.refusal:
            return {"type": "refusal", "refusal": part.text, **extra}
        out: Document = {"type": usual, "text": part.text}
        if usual == "output_text":
            out["annotations"] = [dict(one.doc) for one in part.citations if one.dialect == DIALECT]
            if len(out["annotations"]) < len(part.citations):
                self.crossing.drop("citations")
            if not self.same:
                out["logprobs"] = []
        return {**out, **extra}

    def _opaque(self, part: Opaque) -> Document:
        if part.dialect != DIALECT:
            raise self.crossing.refuse(part.kind, f"it is known to {part.dialect} only")
        return dict(part.doc)

    def _media(self, media: Media) -> Document:
        extra = media.extra if self.same else {}
        if media.kind == "image":
            out: Document = {"type": "input_image", "image_url": self._address(media)}
            if media.detail is not None or not self.same:
                out["detail"] = media.detail if self.same or media.detail in _DETAILS else "auto"
        elif media.kind == "file":
            out = self._file(media)
        elif media.kind == "audio" and self.same:
            form = (media.mime or "audio/wav").partition("/")[2]
            out = {"type": "input_audio", "input_audio": {"data": media.data, "format": form}}
        else:
            raise self.crossing.refuse(media.kind, "text, images and files are supported")
        if media.file_id is not None:
            if not self.request.dialect.startswith("openai."):
                raise self.crossing.refuse(f"{media.kind} by file id", "files live at one vendor")
            out["file_id"] = media.file_id
        return {**{key: value for key, value in out.items() if value is not None}, **extra}

    def _address(self, media: Media) -> str | None:
        return data_url(media) if media.data is not None else media.url

    def _file(self, media: Media) -> Document:
        out: Document = {"type": "input_file", "file_url": media.url, "filename": media.name, "detail": media.detail}
        if media.data is None:
            return out
        if media.plain:
            coded = base64.b64encode(media.data.encode()).decode()
            out["file_data"] = f"data:{media.mime or 'text/plain'};base64,{coded}"
        else:
            out["file_data"] = media.data if self.same and media.mime is None else data_url(media)
        if not self.same:
            out["filename"] = media.name or ("document.txt" if media.plain else "document.pdf")
            out["detail"] = None
        return out

    # ── items ──

    def _item(self, part: Part) -> None:
        if isinstance(part, ToolCall):
            self.out.append(self._call(part))
        elif isinstance(part, ToolResult):
            self.out.append(self._result(part))
        elif isinstance(part, Reasoning):
            if self.same or (part.dialect == DIALECT and part.encrypted is not None):
                self._thought(part)
            elif part.text or part.signature or part.encrypted:
                self.crossing.drop("reasoning")
        elif isinstance(part, Opaque):
            self.out.append(self._opaque(part))
        elif isinstance(part, Media):
            self.out.append(self._drawn(part))

    def _thought(self, part: Reasoning) -> None:
        if part.dialect != DIALECT:  # another vendor's, which this one cannot read
            self.crossing.drop("reasoning")
            return
        self.out.append(thought_item(part))

    def _id(self, id: str) -> str:  # noqa: A002 - the field's standard name
        return id if self.same else fit_id(id, _CALL)

    def _call(self, call: ToolCall) -> Document:
        if call.server:
            raise self.crossing.refuse(f"the server tool {call.name}")
        key = "input" if call.custom else "arguments"
        given = call.arguments if self.same or call.custom else call.arguments or "{}"
        out = {"type": kind_of(call), "call_id": self._id(call.id), "name": call.name, key: given}
        if call.item_id is not None and call.dialect == DIALECT:
            out["id"] = call.item_id
        return {**out, **call.extra} if self.same else out

    def _result(self, result: ToolResult) -> Document:
        custom = result.custom or result.id in self.custom
        output = self._content(result.parts, "input_text") if result.parts else [] if self.same else ""
        if result.error and not self.same:
            output = (
                f"Error: {output}" if isinstance(output, str) else [{"type": "input_text", "text": "Error:"}, *output]
            )
        kind = "custom_tool_call_output" if custom else "function_call_output"
        more = result.extra if self.same else {}
        return {"type": kind, "call_id": self._id(result.id), "output": output, **more}

    def _drawn(self, media: Media) -> Document:
        """An image that the model generated in an earlier turn."""
        result = media.data or media.url
        if media.kind != "image" or result is None:
            raise self.crossing.refuse(f"{media.kind} in an answer of the assistant")
        if self.same:
            return {"type": "image_generation_call", "result": result, **media.extra}
        self.made += 1
        return {"type": "image_generation_call", "id": f"ig_{self.made}", "status": "completed", "result": result}


def kind_of(call: ToolCall) -> str:
    """The item type of a tool call."""
    return "custom_tool_call" if call.custom else "function_call"


def thought_item(part: Reasoning) -> Document:
    """A reasoning item of this dialect, rebuilt as it was read."""
    out: Document = {"type": "reasoning", "summary": []}
    if part.text and part.summary:
        out["summary"] = [{"type": "summary_text", "text": part.text}]
    elif part.text:
        out["content"] = [{"type": "reasoning_text", "text": part.text}]
    if part.id is not None:
        out["id"] = part.id
    if part.encrypted is not None:
        out["encrypted_content"] = part.encrypted
    return {**out, **part.extra}
