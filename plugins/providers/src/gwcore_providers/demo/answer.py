"""The demo's answers: deterministic, from the request alone."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import orjson

DIMENSIONS = 64
_DEPTH = 8
_SAMPLES = {"string": "Paris", "integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}, "null": None}


@dataclass(slots=True, frozen=True)
class Tool:
    """A tool the client offers, in any dialect."""

    name: str
    schema: dict[str, Any]


@dataclass(slots=True, frozen=True)
class Answer:
    """Text or one tool call, and token counts estimated from words."""

    text: str
    call: tuple[str, dict[str, Any]] | None
    tokens_in: int
    tokens_out: int
    key: str


def sample(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """A value that satisfies a JSON Schema's required properties. ``root``: where its references point into."""
    if not isinstance(schema, dict) or depth > _DEPTH:
        return "demo"
    root = schema if root is None else root
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if choices:
        return choices[0]
    inner = _inner(schema, root)
    if inner is not None:
        return sample(inner, root, depth + 1)
    kind = schema.get("type")
    kind = (kind[0] if isinstance(kind, list) and kind else kind) or ("object" if "properties" in schema else "string")
    kind = str(kind).lower()
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: sample(properties.get(name), root, depth + 1) for name in schema.get("required") or properties}
    if kind == "array" and schema.get("items"):
        return [sample(schema["items"], root, depth + 1)]
    return _SAMPLES.get(kind, "demo")


def _inner(schema: dict[str, Any], root: Any) -> Any:
    """The schema that a reference (``#/$defs/name``) points to, or the first of several."""
    if "$ref" in schema:
        for step in str(schema["$ref"]).split("/")[1:]:
            root = root.get(step) if isinstance(root, dict) else None
        return root
    return next((schema[union][0] for union in ("anyOf", "oneOf", "allOf") if schema.get(union)), None)


def text_of(content: Any) -> str:
    """The text in a message's content, in any dialect's form."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(filter(None, (text_of(part) for part in content)))
    if isinstance(content, dict):
        if isinstance(content.get("functionResponse"), dict):
            return orjson.dumps(content["functionResponse"].get("response")).decode()
        for key in ("text", "content", "parts", "output"):
            if key in content:
                return text_of(content[key])
    return ""


def answer(
    messages: list[tuple[str, str]],
    tools: list[Tool],
    *,
    forced: str | None,
    limit: int | None,
    schema: dict[str, Any] | None = None,
) -> Answer:
    """Answer the last message; ``forced`` names a tool that must be called, ``""`` any tool.

    A tool is called when it is forced, or when the last message is the user's and names it. Where the client asks for JSON, the
    answer is a sample of its ``schema``; an empty one is any object.
    """
    role, last = messages[-1] if messages else ("user", "")
    tokens_in = max(1, sum(len(text.split()) for _, text in messages) + 3 * len(messages))
    key = hashlib.sha256(repr((messages, tools)).encode()).hexdigest()[:24]
    chosen = next((tool for tool in tools if tool.name == forced), None)
    if chosen is None and tools and forced is not None:
        chosen = tools[0]
    if chosen is None and role == "user" and forced is None:
        chosen = next((tool for tool in tools if tool.name.lower() in last.lower()), None)
    if chosen is not None:
        arguments = sample(chosen.schema)
        called = (chosen.name, arguments if isinstance(arguments, dict) else {})
        return Answer("", called, tokens_in, 8, key)
    if schema is not None:
        text = orjson.dumps(sample(schema) if schema else {"said": last[:400]}).decode()
        return Answer(text, None, tokens_in, len(text.split()), key)
    words = f"This is gwcore's offline demo. You said: {last[:400] or '(nothing)'}".split()
    cut = words[: max(1, limit)] if limit else words
    return Answer(" ".join(cut), None, tokens_in, len(cut), key)


def pieces(text: str) -> list[str]:
    """The text in stream pieces of one word each."""
    words = text.split(" ")
    return [word if at == 0 else f" {word}" for at, word in enumerate(words)]


def vector(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A unit vector that depends on the text alone."""
    values: list[float] = []
    block = 0
    while len(values) < dimensions:
        digest = hashlib.sha256(f"{block}:{text}".encode()).digest()
        values.extend(byte / 127.5 - 1 for byte in digest)
        block += 1
    values = values[:dimensions]
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / norm for value in values]
