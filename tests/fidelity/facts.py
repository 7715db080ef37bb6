"""What a request says, as facts that can be counted: before and after it was translated.

A fact is (feature, value). Values are in a form that no dialect's spelling changes: a call is known by its place among
the calls instead of its id, arguments are parsed, schemas lose the marks that only some vendors take.
"""

import base64
import json
from collections import Counter

from gwcore.chat import ChatRequest, Media, Opaque, Reasoning, Text, ToolCall, ToolResult
from gwcore_providers.efforts import effort_of

CUSTOM = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
NOTES = {
    "instructions", "role", "item", "legacy", "given", "noid", "at", "parameters", "id", "status", "thought", "reasoning",
    "reasoning_content", "index", "annotations", "logprobs",
}  # fmt: skip
LATER = "The result follows in the next message."
_MARKS = {"$schema", "$id", "$comment", "additionalProperties"}


def schema_of(value):
    """A schema without what vendors add or refuse."""
    if isinstance(value, dict):
        return {k: schema_of(v) for k, v in value.items() if k not in _MARKS and not (k == "properties" and v == {})}
    return [schema_of(one) for one in value] if isinstance(value, list) else value


def frozen(value):
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def parsed(text):
    try:
        return json.loads(text) if text.strip() else {}
    except ValueError:
        return text


def _media(part: Media):
    data = part.data
    if part.kind == "file" and data is not None and part.plain:
        data = base64.b64encode(data.encode()).decode()
    return frozen([part.kind, data or part.url or part.file_id])


class _Facts:
    def __init__(self, request: ChatRequest):
        self.found = Counter()
        self.request = request
        calls = [p for m in request.messages for p in m.parts if isinstance(p, ToolCall)]
        self.place = {call.id: at for at, call in enumerate(calls)}
        self.calls = 0

    def add(self, feature, value):
        self.found[feature, value if isinstance(value, str) else frozen(value)] += 1

    def all(self):
        for message in self.request.messages:
            if message.name is not None:
                self.add("participant's name", message.name)
            self.keys("messages", message.extra)
            for part in message.parts:
                self.part(part, message.role)
                if not isinstance(part, Opaque | Reasoning):
                    self.keys("messages.content", part.extra)
        self.tools()
        self.settings()
        return self.found

    def part(self, part, role):
        if isinstance(part, Text):
            if part.text:
                role = "system" if role == "developer" else role
                self.add("refusal" if part.refusal else f"{role} text", part.text)
            for cited in part.citations:
                self.add("citation in the history", frozen([cited.url, cited.quote]))
        elif isinstance(part, Media):
            self.add(part.kind, _media(part))
            if part.detail not in (None, "auto"):
                self.add("image detail", part.detail)
        elif isinstance(part, Reasoning):
            self.thought(part)
        elif isinstance(part, ToolCall):
            self.call(part)
        elif isinstance(part, ToolResult):
            self.result(part)
        elif isinstance(part, Opaque):
            self.add("part of one vendor", part.kind)
        if getattr(part, "cache", None):
            self.add("cache mark", part.cache)

    def thought(self, part):
        if part.text:
            self.add("reasoning text", part.text)
        if part.signature or part.encrypted:
            self.add("reasoning signature", frozen([part.dialect, part.signature, part.encrypted]))

    def call(self, part):
        self.calls += 1
        given = {"input": part.arguments} if part.custom else parsed(part.arguments)
        self.add("tool call", frozen([part.name, given]))
        if part.signature:
            self.add("tool call signature", part.signature)

    def result(self, part):
        place = self.place.get(part.id, -1)
        said = part.document if part.document is not None else None
        texts = [p.text for p in part.parts if isinstance(p, Text)]
        if said is not None:
            texts = [frozen(said)]
        self.add("tool result", frozen([place, result_text(texts)]))
        if part.error:
            self.add("tool error", place)
        for inner in part.parts:
            if isinstance(inner, Media):
                self.add(f"{inner.kind} in a tool result", _media(inner))
            elif isinstance(inner, Opaque):
                self.add("part of one vendor", inner.kind)
            if getattr(inner, "cache", None):
                self.add("cache mark", inner.cache)

    def tools(self):
        for tool in self.request.tools:
            if tool.server:
                self.add("server tool", tool.name)
                continue
            schema = CUSTOM if tool.custom else tool.schema or {"type": "object", "properties": {}}
            if not tool.custom and not schema.get("type"):
                schema = {**schema, "type": "object"}
            self.add(
                "custom tool" if tool.custom else "tool", frozen([tool.name, tool.description or "", schema_of(schema)])
            )
            if tool.strict:
                self.add("strict tool", tool.name)
            if tool.custom and isinstance(tool.grammar, dict) and tool.grammar.get("type") not in (None, "text"):
                self.add("grammar of a custom tool", tool.name)
            if tool.cache:
                self.add("cache mark", tool.cache)
            self.keys("tools", tool.extra)

    def keys(self, where, extra):
        """Keys that only one dialect knows; not what a reader notes for its own writer."""
        for key, value in extra.items():
            if key == "cache_control":
                self.add("cache mark", str(value.get("ttl") or "5m"))
            elif value and key not in NOTES:
                self.add("key of one vendor", f"{where}.{key}")

    def settings(self):
        request = self.request
        choice = request.tool_choice
        if choice is not None and request.tools and (choice.mode != "auto" or choice.names):
            self.add("tool choice", frozen([choice.mode, sorted(choice.names)]))
        if request.parallel is False and request.tools:
            self.add("no parallel tool calls", "")
        if request.max_tokens is not None:
            self.add("max tokens", request.max_tokens)
        if request.stop:
            self.add("stop sequences", sorted(request.stop))
        form = request.format
        if form is not None and form.kind != "text":
            kind = "JSON schema" if form.kind == "schema" else "JSON mode"
            self.add(kind, schema_of(form.schema) if form.kind == "schema" else "")
        if request.thinking is not None and (effort := effort_of(request.thinking)) is not None:
            self.add("reasoning effort", "off" if effort == "none" else "on")
        if request.modalities and {one.lower() for one in request.modalities} != {"text"}:
            self.add("output modalities", sorted(one.lower() for one in request.modalities))
        if (request.n or 1) > 1:
            self.add("n", request.n)
        for knob, value in request.knobs.items():
            if value not in (False, None):
                self.add(knob, value)
        for key in request.needs:
            self.add("state or tool of one vendor", key)
        for key in request.extra:
            self.add("other key", key)


def result_text(texts):
    """A result's words. Gemini's are an object, whose one string or whole JSON is what other dialects say."""
    text = "\n".join(texts)
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ("result", "output", "error"):
        inner = next(iter(value.values()))
        value = (parsed(inner) if inner else "") if isinstance(inner, str) else inner
    return value if isinstance(value, str) else frozen(value)


def facts(request: ChatRequest) -> Counter:
    """Every fact, with how often it is said."""
    return _Facts(request).all()
