"""``gemini.generate`` requests → the canonical conversation. Source: Google's discovery document and guides.

Keys are read in camelCase and snake_case, since Google's servers accept both. Calls without an id get one: in a request
from their position, and results are matched to them by name and order; in an answer a unique one.
"""

from __future__ import annotations

import re
from dataclasses import replace
from hashlib import blake2b
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
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gwcore.errors import BadRequest
from gwcore_providers.crossing import objects, rest, string
from gwcore_providers.gemini.schema import json_schema
from gwcore_providers.gemini.thoughts import opened
from gwcore_providers.native import new_id

DIALECT = "gemini.generate"
KNOBS = {
    "temperature": "temperature", "topP": "top_p", "topK": "top_k", "seed": "seed",
    "presencePenalty": "presence_penalty", "frequencyPenalty": "frequency_penalty", "responseLogprobs": "logprobs",
    "logprobs": "top_logprobs",
}  # fmt: skip
"""Key in ``generationConfig`` → the canonical knob."""
_CONFIG = frozenset({
    "candidateCount", "stopSequences", "maxOutputTokens", "responseMimeType", "responseSchema", "responseJsonSchema",
    "_responseJsonSchema", "responseModalities", "thinkingConfig", *KNOBS,
})  # fmt: skip
_READ = ("model", "contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "cachedContent")
_SNAKE = re.compile(r"(?<=[a-z0-9])_([a-z])")
KINDS = (("image/", "image"), ("audio/", "audio"), ("video/", "video"))


def camel(document: Any) -> dict[str, Any]:
    """Returns an object with its top-level keys in camelCase; ``{}`` for anything else."""
    if not isinstance(document, dict):
        return {}
    if not any("_" in key for key in document):
        return document
    return {_SNAKE.sub(lambda found: found.group(1).upper(), key): value for key, value in document.items()}


def read_request(document: dict[str, Any], model: str, *, stream: bool) -> ChatRequest:
    """See :meth:`gwcore.codec.ChatCodec.read_request`."""
    top = camel(document)
    config = camel(top.get("generationConfig"))
    calls = Calls()
    messages: list[Message] = []
    if (system := top.get("systemInstruction")) is not None:
        messages.append(Message("system", _parts(system, "systemInstruction", calls)))
    listed = objects(top.get("contents"), "contents")
    messages += [_message(item, f"contents[{at}]", calls) for at, item in enumerate(listed)]
    choice = camel(top.get("toolConfig"))
    extra = {key: value for key, value in top.items() if key not in _READ and value is not None}
    extra |= {f"generationConfig.{k}": v for k, v in config.items() if k not in _CONFIG and v is not None}
    extra |= {f"toolConfig.{k}": v for k, v in choice.items() if k != "functionCallingConfig" and v is not None}
    modalities = config.get("responseModalities")
    return ChatRequest(
        DIALECT,
        model,
        messages,
        tools=[tool for at, item in enumerate(top.get("tools") or []) for tool in _tools(item, f"tools[{at}]", at)],
        tool_choice=_choice(camel(choice.get("functionCallingConfig"))),
        max_tokens=config.get("maxOutputTokens"),
        stop=list(config.get("stopSequences") or []),
        format=_format(config),
        thinking=_thinking(config),
        modalities=[str(name).lower() for name in modalities] if isinstance(modalities, list) else None,
        n=config.get("candidateCount"),
        stream=stream,
        usage_wanted=True,
        knobs={knob: config[key] for key, knob in KNOBS.items() if config.get(key) is not None},
        needs={"cachedContent": top["cachedContent"]} if top.get("cachedContent") else {},
        extra=extra,
    )


def joined(messages: list[Message]) -> list[Message]:
    """Returns the messages with consecutive answers joined into one message, and adjacent texts into one part.

    Google's SDKs keep a streamed answer as received: one content per chunk, with a piece of the text or a call.
    """
    out: list[Message] = []
    for message in messages:
        if message.role != "assistant" or not out or out[-1].role != "assistant":
            out.append(message)
            continue
        parts, more = list(out[-1].parts), list(message.parts)
        if parts and more and isinstance(parts[-1], Text) and isinstance(more[0], Text):
            parts[-1:], more = [replace(parts[-1], text=parts[-1].text + more[0].text)], more[1:]
        out[-1] = replace(out[-1], parts=parts + more)
    return out


class Calls:
    """Assigns ids to calls without one, and to their results.

    In a request, an id is made from the call's position. Answers are read independently of each other: with the
    position alone, the first call of every answer would get the same id, and clients would take the second one as done.
    So :class:`AnswerCalls` includes the answer's own id.
    """

    def __init__(self) -> None:
        self._count = 0
        self._open: list[tuple[str, str]] = []

    def called(self, name: str, given: Any) -> str:
        """Returns the id of a call."""
        self._count += 1
        id = given if isinstance(given, str) and given else self._named(name)  # noqa: A001
        self._open.append((name, id))
        return id

    def _named(self, name: str) -> str:
        return f"call_{self._count}_{name}"

    def answered(self, name: str, given: Any) -> str:
        """Returns the id of the call that a result is for: without a given id, the oldest open call of that name."""
        for at, (known, id) in enumerate(self._open):  # noqa: A001
            if id == given or (not given and known == name):
                del self._open[at]
                return id
        return given if isinstance(given, str) and given else f"call_0_{name}"


class AnswerCalls(Calls):
    """The calls of one candidate. ``answer`` is the ``responseId``, so that each reading yields the same ids."""

    def __init__(self, answer: Any, candidate: int) -> None:
        super().__init__()
        self._of = f"{answer or new_id('')}/{candidate}"

    def _named(self, name: str) -> str:
        return (
            "call_" + blake2b(f"{self._of}/{self._count}/{name}".encode(errors="replace"), digest_size=12).hexdigest()
        )


def _message(item: dict[str, Any], where: str, calls: Calls) -> Message:
    role: Role = "assistant" if item.get("role") == "model" else "user"
    return Message(role, _parts(item, where, calls), extra={"role": None} if "role" not in item else {})


def _parts(content: Any, where: str, calls: Calls) -> list[Part]:
    if isinstance(content, str):
        return [Text(content)]
    if not isinstance(content, dict):
        raise BadRequest(f"{where} must be an object with parts")
    found = content.get("parts")
    listed = objects([found] if isinstance(found, dict) else found or [], f"{where}.parts")
    return [part for at, item in enumerate(listed) for part in parts_of(camel(item), f"{where}.parts[{at}]", calls)]


def parts_of(item: dict[str, Any], where: str, calls: Calls) -> list[Part]:
    """Reads one of Google's parts; a signature on a text becomes a separate thought after it."""
    signature = item.get("thoughtSignature")
    if "text" in item:
        return _text(item, where, signature)
    if "functionCall" in item:
        body = camel(item["functionCall"])
        name = string(body, "name", f"{where}.functionCall")
        arguments = orjson.dumps(body.get("args") or {}).decode()
        extra = {**({} if body.get("id") else {"noid": True}), **rest(item, "functionCall", "thoughtSignature")}
        call = ToolCall(calls.called(name, body.get("id")), name, arguments, signature=signature, extra=extra)
        call.dialect = DIALECT
        return [call]
    if "functionResponse" in item:
        return [_result(camel(item["functionResponse"]), where, calls)]
    for key in ("inlineData", "fileData"):
        if key in item:
            return [_media(camel(item[key]), item, key, signature)]
    kind = next((key for key in item if key not in {"thought", "thoughtSignature"}), "an empty part")
    return [Opaque(DIALECT, kind, item)]


def _text(item: dict[str, Any], where: str, signature: Any) -> list[Part]:
    text = string(item, "text", where)
    extra = rest(item, "text", "thought", "thoughtSignature")
    if item.get("thought"):
        foreign = opened(signature)
        if foreign is not None:
            return [foreign]
        return [Reasoning(text, signature, summary=True, dialect=DIALECT, extra=extra)]
    parts: list[Part] = [Text(text, extra=extra)] if text or not signature else []
    if signature:
        parts.append(
            opened(signature) or Reasoning("", signature, dialect=DIALECT, extra={"on": "text" if text else "none"})
        )
    return parts


def _media(source: dict[str, Any], item: dict[str, Any], key: str, signature: Any) -> Media:
    mime = source.get("mimeType")
    kind = next((kind for prefix, kind in KINDS if str(mime).startswith(prefix)), "file")
    extra = rest(item, key, "thoughtSignature") | ({"thoughtSignature": signature} if signature else {})  # type: ignore[operator]
    media = Media(kind, mime, name=source.get("displayName"), extra=extra)  # type: ignore[arg-type]
    if key == "inlineData":
        media.data = source.get("data")
        if media.data is not None and mime == "text/plain":
            media.kind = "file"
    else:
        media.url = source.get("fileUri")
    return media


def _result(body: dict[str, Any], where: str, calls: Calls) -> ToolResult:
    name = string(body, "name", f"{where}.functionResponse")
    document = body.get("response")
    known = document if isinstance(document, dict) else {}
    said = next((known[key] for key in ("output", "result", "error") if set(known) == {key}), document)
    text = said if isinstance(said, str) else orjson.dumps(said).decode()
    parts: list[Part] = [Text(text)]
    for item in body.get("parts") or []:
        inner = camel(item)
        if "inlineData" in inner:
            parts.append(_media(camel(inner["inlineData"]), inner, "inlineData", None))
    extra = {**({} if body.get("id") else {"noid": True}), **rest(body, "id", "name", "response", "parts")}
    id = calls.answered(name, body.get("id"))  # noqa: A001
    return ToolResult(id, parts, name, set(known) == {"error"}, document=document, extra=extra)


def _tools(item: Any, where: str, at: int) -> list[Tool]:
    if not isinstance(item, dict):
        raise BadRequest(f"{where} must be an object")
    tools: list[Tool] = []
    for key, value in camel(item).items():
        if key == "functionDeclarations":
            tools += [_declared(camel(one), f"{where}.functionDeclarations", at) for one in objects(value, where)]
        else:
            tools.append(Tool(key, server=True, dialect=DIALECT, doc={key: value}, extra={"at": at}))
    return tools


def _declared(body: dict[str, Any], where: str, at: int) -> Tool:
    given = next((body[key] for key in ("parametersJsonSchema", "parameters_json_schema") if key in body), None)
    raw = body.get("parameters")
    extra: dict[str, Any] = {"at": at, **({"parameters": raw} if given is None and raw is not None else {})}
    extra |= rest(body, "name", "description", "parameters", "parametersJsonSchema")
    schema = given if given is not None else json_schema(raw)
    return Tool(string(body, "name", where), body.get("description"), schema, dialect=DIALECT, extra=extra)


def _choice(config: dict[str, Any]) -> ToolChoice | None:
    mode = str(config.get("mode") or "").upper()
    if not mode and not config:
        return None
    names = tuple(config.get("allowedFunctionNames") or ())
    if mode == "NONE":
        return ToolChoice("none")
    extra = {} if mode in {"AUTO", "ANY"} else {"mode": mode}
    return ToolChoice("required" if mode == "ANY" else "auto", names, extra=extra)


def _format(config: dict[str, Any]) -> Format | None:
    mime = config.get("responseMimeType")
    schema = config.get("responseJsonSchema", config.get("_responseJsonSchema"))
    if schema is not None:
        return Format("schema", schema, extra={"mime": mime})
    if (raw := config.get("responseSchema")) is not None:
        return Format("schema", json_schema(raw), extra={"mime": mime, "responseSchema": raw})
    if mime is None:
        return None
    if mime == "application/json":
        return Format("json")
    return Format("text", extra={"mime": mime})


def _thinking(config: dict[str, Any]) -> Thinking | None:
    thinking = camel(config.get("thinkingConfig"))
    if not thinking:
        return None
    budget = thinking.get("thinkingBudget")
    level = thinking.get("thinkingLevel")
    shown = thinking.get("includeThoughts")
    return Thinking(
        mode={0: "off", -1: "auto"}.get(budget, "on") if isinstance(budget, int) else None,  # type: ignore[arg-type]
        effort=str(level).lower() if level else None,
        budget=budget if isinstance(budget, int) and budget >= 0 else None,
        shown=None if shown is None else "auto" if shown else "none",
        extra={
            "budget": budget,
            "level": level,
            **rest(thinking, "thinkingBudget", "thinkingLevel", "includeThoughts"),
        },
    )
