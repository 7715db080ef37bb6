"""The canonical conversation → ``gemini.generate`` requests."""

from __future__ import annotations

import mimetypes
import re
from dataclasses import replace
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
from gwcore.errors import BadRequest
from gwcore_providers.crossing import answer_tool, foreign, names_of_calls, parsed, unsayable, words
from gwcore_providers.efforts import budget_of, effort_of, nearest
from gwcore_providers.gemini.read import DIALECT, KNOBS
from gwcore_providers.gemini.schema import accepted
from gwcore_providers.gemini.thoughts import SIGNS, UNSIGNED

_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
# thinking levels or budgets by model family, from Google's thinking guide
_LEVELS = (
    (re.compile(r"gemini-3(?:\.\d)?-pro"), ("low", "medium", "high")),
    (re.compile(r"gemini-(?:[3-9]|\d\d)"), ("minimal", "low", "medium", "high")),
)
# their 400: "Function calling with a response mime type: 'application/json' is unsupported"
_EITHER = re.compile(r"gemini-[12](?!\d)")
_BUDGETS = (
    (re.compile(r"gemini-2\.5-pro"), (128, 32_768)),
    (re.compile(r"gemini-2\.5-flash-lite"), (512, 24_576)),
    (re.compile(r"gemini-2\.5"), (0, 24_576)),
)


def write_request(request: ChatRequest, crossing: Crossing) -> dict[str, Any]:
    """See :meth:`gwcore.codec.ChatCodec.write_request`."""
    same = request.dialect == DIALECT
    foreign(request, DIALECT, crossing, KNOBS.values())
    if not same and _EITHER.search(crossing.model):
        request = _either(request, crossing)
    system, contents = _Contents(request, crossing, same=same).all()
    out: dict[str, Any] = {"contents": contents}
    if system is not None:
        out["systemInstruction"] = system
    if tools := _tools(request, crossing, same=same):
        out["tools"] = tools
    config = {}
    if request.tool_choice is not None and (same or request.tools):
        config["functionCallingConfig"] = _choice(request.tool_choice)
    if request.parallel is False:
        crossing.drop("parallel_tool_calls")
    generation = _generation(request, crossing, same=same)
    if same:
        for key, value in request.extra.items():
            group, _, name = key.partition(".")
            target = {"generationConfig": generation, "toolConfig": config}.get(group) if name else out
            if target is not None:
                target[name or key] = value
        out.update(request.needs)
    out |= {"toolConfig": config} if config else {}
    out |= {"generationConfig": generation} if generation else {}
    return out


def _either(request: ChatRequest, crossing: Crossing) -> ChatRequest:
    """For models that take tools or an answer format, not both: the format becomes a tool, and the model must call one.

    If the client forbids calls, its tools are dropped; if it requires one, or wants any JSON, the format is dropped.
    """
    form, choice = request.format, request.tool_choice
    if form is None or form.kind == "text" or not request.tools:
        return request
    if choice is not None and choice.mode == "none":
        return replace(request, tools=[], tool_choice=None)
    if form.kind == "json" or (choice is not None and choice.mode == "required"):
        crossing.drop("response_format")
        hint = (
            [Message("system", [Text("Answer with one JSON object and nothing else.")])] if form.kind == "json" else []
        )
        return replace(request, format=None, messages=[*hint, *request.messages])
    tool = answer_tool(form, {tool.name for tool in request.tools}, crossing)
    names = (*choice.names, tool.name) if choice is not None and choice.names else ()
    forced = ToolChoice("required", names)
    return replace(request, format=None, tools=[*request.tools, tool], tool_choice=forced)


def _generation(request: ChatRequest, crossing: Crossing, *, same: bool) -> dict[str, Any]:
    names = {knob: key for key, knob in KNOBS.items()}
    out: dict[str, Any] = {names[knob]: value for knob, value in request.knobs.items() if knob in names}
    pairs = {
        "maxOutputTokens": request.max_tokens,
        "stopSequences": request.stop or None,
        "candidateCount": request.n if same or request.n != 1 else None,
        "responseModalities": [name.upper() for name in request.modalities] if request.modalities else None,
    }
    out |= {key: value for key, value in pairs.items() if value is not None}
    if not same and out.get("responseModalities") == ["TEXT"]:
        del out["responseModalities"]
    if request.format is not None:
        out |= _format(request.format, same=same)
    if request.thinking is not None:
        thinking = _think_same(request.thinking) if same else _think(request.thinking, crossing)
        out |= {"thinkingConfig": thinking} if thinking else {}
    return out


def _format(form: Format, *, same: bool) -> dict[str, Any]:
    if same and "mime" in form.extra:
        out = {"responseMimeType": form.extra["mime"]} if form.extra["mime"] is not None else {}
        if form.kind == "schema":
            key = "responseSchema" if "responseSchema" in form.extra else "responseJsonSchema"
            out[key] = form.extra.get("responseSchema", form.schema)
        return out
    if form.kind == "text":
        return {}
    out = {"responseMimeType": "application/json"}
    if form.kind == "schema":
        out["responseJsonSchema"] = accepted(form.schema)
    return out


def _think_same(thinking: Thinking) -> dict[str, Any]:
    extra = dict(thinking.extra)
    pairs = {"thinkingBudget": extra.pop("budget", None), "thinkingLevel": extra.pop("level", None)}
    out = {key: value for key, value in pairs.items() if value is not None} | extra
    if thinking.shown is not None:
        out["includeThoughts"] = thinking.shown != "none"
    return out


def _think(thinking: Thinking, crossing: Crossing) -> dict[str, Any]:
    effort = effort_of(thinking)
    levels = next((levels for pattern, levels in _LEVELS if pattern.search(crossing.model)), None)
    limits = next((limits for pattern, limits in _BUDGETS if pattern.search(crossing.model)), None)
    if levels is None and limits is None:
        if effort != "none":
            crossing.drop("reasoning")
        return {}
    out: dict[str, Any] = {}
    if effort != "none" and thinking.shown != "none":
        out["includeThoughts"] = True
    if levels is not None and effort is not None:
        taken = nearest(effort, levels)
        if taken != effort:
            crossing.drop(f"reasoning_effort {effort}")
        out["thinkingLevel"] = taken.upper()
    elif limits is not None:
        least, most = limits
        wanted = thinking.budget if thinking.budget is not None else budget_of(effort) if effort else None
        if wanted is not None:
            out["thinkingBudget"] = 0 if wanted == 0 and least != 128 else max(least, min(most, wanted))
            if wanted != out["thinkingBudget"]:
                crossing.drop(f"reasoning budget {wanted}")
        elif thinking.mode == "auto":
            out["thinkingBudget"] = -1
    return out


def _tools(request: ChatRequest, crossing: Crossing, *, same: bool) -> list[dict[str, Any]]:
    groups: dict[int, dict[str, Any]] = {}
    for tool in request.tools:
        group = groups.setdefault(tool.extra.get("at", 0) if same else 0, {})
        if not tool.server:
            group.setdefault("functionDeclarations", []).append(_declaration(tool, crossing, same=same))
        elif same:
            group.update(tool.doc)
        else:
            raise crossing.refuse(f"the server tool {tool.name}", f"it runs at vendors of {tool.dialect}")
    return [groups[at] for at in sorted(groups)]


def _declaration(tool: Tool, crossing: Crossing, *, same: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"name": tool.name}
    if tool.description is not None or not same:
        out["description"] = tool.description or ""  # required by the API
    if tool.custom:
        if isinstance(tool.grammar, dict) and tool.grammar.get("type") not in {None, "text"}:
            crossing.drop("tools.custom.format")
        schema = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
        return {**out, "parametersJsonSchema": schema}
    if tool.cache:
        crossing.drop("cache_control")
    if tool.strict:
        crossing.drop("tools.strict")
    if not same:
        return {**out, "parametersJsonSchema": accepted(tool.schema)}
    if "parameters" in tool.extra:
        out["parameters"] = tool.extra["parameters"]
    elif tool.schema is not None:
        out["parametersJsonSchema"] = tool.schema
    return {**out, **{key: value for key, value in tool.extra.items() if key not in {"at", "parameters"}}}


def _choice(choice: ToolChoice) -> dict[str, Any]:
    out: dict[str, Any] = {"mode": choice.extra.get("mode") or _MODES[choice.mode]}
    if not out["mode"]:
        del out["mode"]
    if choice.names:
        out["allowedFunctionNames"] = list(choice.names)
        if choice.mode == "auto" and "mode" not in choice.extra:
            out["mode"] = "VALIDATED"  # AUTO accepts no names
    return out


class _Contents:
    """The turns of one request."""

    def __init__(self, request: ChatRequest, crossing: Crossing, *, same: bool) -> None:
        self.request = request
        self.crossing = crossing
        self.same = same
        self._names = names_of_calls(request.messages)

    def all(self) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Returns the system instruction and the contents."""
        listed = self.request.messages
        first = next((at for at, m in enumerate(listed) if m.role not in {"system", "developer"}), len(listed))
        system = [part for message in listed[:first] for part in message.parts]
        if not self.same:
            for message in listed[:first]:
                unsayable(message, self.crossing, signature=False)
        contents: list[dict[str, Any]] = []
        for message in listed[first:]:
            if message.role in {"system", "developer"}:
                system += message.parts
                self.crossing.drop("the place of a later system message")
            else:
                self._turn(message, contents)
        if not self.same:
            for content in contents:  # results first, because they must directly follow their calls
                content["parts"].sort(key=lambda part: "functionResponse" not in part and content["role"] == "user")
                call = next((part for part in content["parts"] if "functionCall" in part), None)
                if call is not None and SIGNS.search(self.crossing.model):
                    call.setdefault("thoughtSignature", UNSIGNED)
        if not listed[:first] and not system:
            return None, contents
        return {"parts": self._parts(system)}, contents

    def _turn(self, message: Message, contents: list[dict[str, Any]]) -> None:
        if not self.same:
            unsayable(message, self.crossing, signature=False)
        role = "model" if message.role == "assistant" else "user"
        parts = self._parts(message.parts)
        if self.same:
            contents.append({"parts": parts, **({} if "role" in message.extra else {"role": role})})
        elif parts and contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"role": role, "parts": parts})

    def _parts(self, parts: list[Part]) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, Reasoning):
                self._thought(part, out)
            elif isinstance(part, ToolResult):
                out += self._result(part)
            else:
                made = self._part(part)
                if made is not None:
                    out.append(made)
        return out

    def _part(self, part: Text | Media | ToolCall | Opaque) -> dict[str, Any] | None:
        if isinstance(part, Text):
            if not part.text and not self.same:
                return None
            return {"text": part.text, **(part.extra if self.same else {})}
        if isinstance(part, Media):
            return self._media(part)
        if isinstance(part, ToolCall):
            return self._call(part)
        if self.same:
            return dict(part.doc)
        raise self.crossing.refuse(part.kind, f"it is known to {part.dialect} only")

    def _thought(self, part: Reasoning, out: list[dict[str, Any]]) -> None:
        if part.dialect != DIALECT:
            self.crossing.drop("reasoning of another vendor" if part.dialect else "unsigned reasoning")
            return
        on = part.extra.get("on")
        if on == "text" and out and "text" in out[-1]:
            out[-1]["thoughtSignature"] = part.signature
        elif on is not None:
            out.append({"text": "", "thoughtSignature": part.signature})
        elif self.same or part.signature:
            made: dict[str, Any] = {"text": part.text, "thought": True}
            if part.signature:
                made["thoughtSignature"] = part.signature
            out.append({**made, **(part.extra if self.same else {})})

    def _media(self, media: Media) -> dict[str, Any]:
        if media.data is not None and media.plain:
            title = f"{media.name}\n\n" if media.name else ""
            return {"text": f"{title}{media.data}"}
        name = {"displayName": media.name} if media.name is not None and self.same else {}
        mime = media.mime or _guess(media)
        if media.data is not None:
            out: dict[str, Any] = {"inlineData": {"mimeType": mime, "data": media.data, **name}}
        elif media.url is not None:
            source = {"fileUri": media.url, **({"mimeType": mime} if media.mime or not self.same else {}), **name}
            out = {"fileData": source}
        else:
            raise self.crossing.refuse(f"{media.kind} by file id", "files live at one vendor")
        if media.detail not in {None, "auto"}:
            self.crossing.drop("detail")
        return {**out, **media.extra} if self.same else out

    def _call(self, call: ToolCall) -> dict[str, Any]:
        if call.server:
            raise self.crossing.refuse(f"the server tool {call.name}")
        given = {"input": call.arguments} if call.custom else parsed(call.arguments)
        body: dict[str, Any] = {"name": call.name, "args": given}
        if not call.extra.get("noid") and "no_ids" not in self.crossing.quirks:
            body["id"] = call.id
        out: dict[str, Any] = {"functionCall": body}
        if call.signature is not None and call.dialect == DIALECT:
            out["thoughtSignature"] = call.signature
        elif call.signature is not None:
            self.crossing.drop("reasoning of another vendor")
        return {**out, **{k: v for k, v in call.extra.items() if k != "noid"}} if self.same else out

    def _result(self, result: ToolResult) -> list[dict[str, Any]]:
        name = result.name or self._names.get(result.id)
        if not self.same and result.id in self._names:
            name = self._names[result.id]
        if name is None:
            raise BadRequest(f"a tool result for {result.id[:80]!r}, which no earlier message calls")
        body: dict[str, Any] = {"name": name, "response": self._response(result)}
        if not result.extra.get("noid") and "no_ids" not in self.crossing.quirks:
            body["id"] = result.id
        media = [part for part in result.parts if isinstance(part, Media)]
        for part in result.parts:
            if isinstance(part, Opaque):
                raise self.crossing.refuse(part.kind, "in a tool result")
        if self.same:
            if media:
                body["parts"] = [self._media(part) for part in media]
            body |= {key: value for key, value in result.extra.items() if key != "noid"}
            return [{"functionResponse": body}]
        return [{"functionResponse": body}, *(self._media(part) for part in media)]

    def _response(self, result: ToolResult) -> Any:
        if result.document is not None:
            return result.document
        text = words(result.parts, "\n")
        if result.error:
            return {"error": text}
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return {"result": text}
        return value if isinstance(value, dict) else {"result": text}


def _guess(media: Media) -> str:
    guessed = mimetypes.guess_type(media.url or media.name or "")[0]
    fallback = {"image": "image/jpeg", "audio": "audio/wav", "video": "video/mp4", "file": "application/pdf"}
    return guessed or fallback[media.kind]
