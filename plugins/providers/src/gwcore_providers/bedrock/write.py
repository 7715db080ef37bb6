"""The canonical conversation → Amazon Bedrock's Converse. Source: "Converse" of the Bedrock API reference."""

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
    ToolCall,
    ToolResult,
)
from gwcore.codec import Crossing
from gwcore_providers import native
from gwcore_providers.anthropic.write import closed
from gwcore_providers.crossing import fit_id, foreign, parsed
from gwcore_providers.efforts import effort_of, nearest

Document = dict[str, Any]
DIALECT = "bedrock.converse"
_CONFIG = {"temperature": "temperature", "top_p": "topP"}
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9()\[\] -]+|(?<= ) +")
# model families, from "Supported models and model features" of the guide
_FORCED = re.compile(r"anthropic\.|amazon\.nova|mistral\.")
_MARKED = re.compile(r"anthropic\.|amazon\.nova")
_SCHEMAS = re.compile(r"anthropic\.claude-(?:(?:haiku|sonnet|opus)-4-5|opus-4-6)")
_THINKS = re.compile(r"amazon\.nova-(?:2|[3-9])")
_DEGREES = ("low", "medium", "high")
_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_VIDEOS = {
    "video/mp4": "mp4", "video/quicktime": "mov", "video/x-matroska": "mkv", "video/webm": "webm", "video/x-flv": "flv",
    "video/mpeg": "mpeg", "video/x-ms-wmv": "wmv", "video/3gpp": "three_gp",
}  # fmt: skip
_DOCUMENTS = {
    "application/pdf": "pdf", "text/csv": "csv", "text/html": "html", "text/plain": "txt", "text/markdown": "md",
    "application/msword": "doc", "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}  # fmt: skip
_FORMS = {"image": ("png", _IMAGES), "video": ("mp4", _VIDEOS), "file": ("pdf", _DOCUMENTS)}


def write_request(request: ChatRequest, crossing: Crossing) -> Document:
    """See :meth:`gwcore.codec.UpstreamCodec.write_request`."""
    foreign(request, DIALECT, crossing, _CONFIG)
    native.one_answer_in_words(request, crossing)
    turns = _Turns(crossing)
    for message in request.messages:
        turns.add(message)
    out: Document = {"messages": turns.turns}
    config: Document = {key: request.knobs[knob] for knob, key in _CONFIG.items() if knob in request.knobs}
    if request.max_tokens is not None:
        config["maxTokens"] = request.max_tokens
    if request.stop:
        config["stopSequences"] = request.stop
    if request.format is not None and request.format.kind == "schema":
        out["outputConfig"] = {"textFormat": _schema(request.format, crossing)}
    if request.format is not None and request.format.kind == "json":
        crossing.drop("response_format")
        turns.system.append({"text": "Answer with one JSON object and nothing else."})
    if request.thinking is not None:
        _think(request.thinking, out, crossing)
    if turns.system:
        out["system"] = turns.system
    if config:
        out["inferenceConfig"] = config
    if tools := _tools(request, crossing):
        out["toolConfig"] = tools
    return out


def _schema(form: Format, crossing: Crossing) -> Document:
    """See "Get validated JSON results from models" of the guide; the schema is sent as text."""
    if not _SCHEMAS.search(crossing.model):
        raise crossing.refuse("response_format", "Converse has no structured output for this model")
    described = {"description": form.description} if form.description else {}
    schema = {"name": form.name or "answer", "schema": orjson.dumps(closed(form.schema)).decode(), **described}
    return {"type": "json_schema", "structure": {"jsonSchema": schema}}


def _think(thinking: Thinking, out: Document, crossing: Crossing) -> None:
    effort = effort_of(thinking) or ("medium" if thinking.mode in {"on", "auto"} else "none")
    if effort == "none":
        return
    if not _THINKS.search(crossing.model):
        crossing.drop("reasoning")
        return
    taken = nearest(effort, _DEGREES)
    if taken != effort:
        crossing.drop(f"reasoning_effort {effort}")
    out["additionalModelRequestFields"] = {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": taken}}


def _tools(request: ChatRequest, crossing: Crossing) -> Document | None:
    choice = request.tool_choice
    used = [part.name for message in request.messages for part in message.parts if isinstance(part, ToolCall)]
    offered = native.functions(request, crossing)
    if choice is not None and choice.mode == "none":
        if used and offered:
            raise crossing.refuse("tool_choice", "Converse cannot forbid tool calls")
        offered = []
    elif choice is not None and choice.names:
        offered = [tool for tool in offered if tool["name"] in choice.names]
    # a conversation with tool calls must declare these tools
    missing = dict.fromkeys(name for name in used if name not in {tool["name"] for tool in offered})
    offered += [{"name": name, "parameters": {"type": "object", "properties": {}}} for name in missing]
    if not offered:
        return None
    out: Document = {"tools": [{"toolSpec": _spec(tool)} for tool in offered]}
    if choice is not None and choice.mode == "required":
        if not _FORCED.search(crossing.model):
            raise crossing.refuse("tool_choice", "this model cannot be forced to call a tool")
        out["toolChoice"] = {"tool": {"name": choice.names[0]}} if len(choice.names) == 1 else {"any": {}}
    if request.parallel is False:
        crossing.drop("parallel_tool_calls")
    return out


def _spec(tool: Document) -> Document:
    described = {"description": tool["description"]} if tool.get("description") else {}
    return {"name": tool["name"], **described, "inputSchema": {"json": tool["parameters"]}}


class _Turns:
    """Alternating turns, as this API requires, and a separate system prompt."""

    def __init__(self, crossing: Crossing) -> None:
        self.crossing = crossing
        self.system: list[Document] = []
        self.turns: list[Document] = []

    def add(self, message: Message) -> None:
        """Add one message of the request."""
        if message.role in {"system", "developer"}:
            if self.turns:
                self.crossing.drop("the place of a later system message")
            self.system += self._blocks(message.parts)
            return
        role = "assistant" if message.role == "assistant" else "user"
        blocks = self._blocks(message.parts)
        if blocks and self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"] += blocks
        elif blocks:
            self.turns.append({"role": role, "content": blocks})
        if role == "user" and blocks:  # results first
            self.turns[-1]["content"].sort(key=lambda block: "toolResult" not in block)

    def _blocks(self, parts: list[Part]) -> list[Document]:
        out: list[Document] = []
        for part in parts:
            block = self._block(part)
            if block is None:
                continue
            out.append(block)
            cache = None if isinstance(part, Reasoning | Opaque) else part.cache
            if cache and _MARKED.search(self.crossing.model):
                out.append({"cachePoint": {"type": "default"}})
            elif cache:
                self.crossing.drop("cache_control")
        return out

    def _block(self, part: Part) -> Document | None:
        if isinstance(part, Text):
            return {"text": part.text} if part.text.strip() else None
        if isinstance(part, Media):
            return self._media(part)
        if isinstance(part, Reasoning):
            return self._thought(part)
        if isinstance(part, ToolCall):
            given = parsed(native.arguments_of(part, self.crossing))
            return {"toolUse": {"toolUseId": fit_id(part.id, _ID), "name": part.name, "input": given}}
        if isinstance(part, ToolResult):
            return self._result(part)
        raise self.crossing.refuse(part.kind, f"it is known to {part.dialect} only")

    def _thought(self, part: Reasoning) -> Document | None:
        if part.dialect != DIALECT:
            self.crossing.drop("reasoning of another vendor")
            return None
        if part.redacted:
            return {"reasoningContent": {"redactedContent": part.encrypted}}
        signed = {"signature": part.signature} if part.signature is not None else {}
        return {"reasoningContent": {"reasoningText": {"text": part.text, **signed}}}

    def _media(self, media: Media) -> Document:
        if media.plain and media.data is not None:
            return {"text": f"{media.name}\n\n{media.data}" if media.name else media.data}
        if media.kind not in _FORMS:
            raise self.crossing.refuse(media.kind, "Converse does not take it")
        usual, forms = _FORMS[media.kind]
        form = forms.get(media.mime or "", usual if media.mime is None else None)
        if form is None:
            raise self.crossing.refuse(
                f"{media.kind} of {media.mime}", f"{', '.join(sorted(forms.values()))} are supported"
            )
        if media.data is not None:
            source: Document = {"bytes": media.data}
        elif media.url is not None and media.url.startswith("s3://"):
            source = {"s3Location": {"uri": media.url}}
        else:
            raise self.crossing.refuse(f"{media.kind} by address or file id", "send its bytes")
        if media.kind != "file":
            return {media.kind: {"format": form, "source": source}}
        name = _NOT_IN_A_NAME.sub("-", (media.name or "document").rpartition(".")[0] or media.name or "document")
        return {"document": {"format": form, "name": name[:200], "source": source}}

    def _result(self, result: ToolResult) -> Document:
        if isinstance(result.document, dict):
            content: list[Document] = [{"json": result.document}]
        else:
            # Converse rejects an empty text: this is the empty string in JSON
            content = self._blocks(result.parts) or [{"text": '""'}]
        status = {"status": "error"} if result.error else {}
        return {"toolResult": {"toolUseId": fit_id(result.id, _ID), "content": content, **status}}
