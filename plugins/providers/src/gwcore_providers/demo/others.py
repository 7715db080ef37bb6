"""The demo in Anthropic's and Google's dialects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from gwcore.wire.sse import encode
from gwcore_providers.demo.answer import Answer, Tool, answer, pieces, text_of, vector

Document = dict[str, Any]


def _messages(document: Document) -> Answer:
    said = [("system", text_of(document.get("system")))] if document.get("system") else []
    said += [
        (str(m.get("role")), text_of(m.get("content"))) for m in document.get("messages") or [] if isinstance(m, dict)
    ]
    tools = [Tool(str(t.get("name")), t.get("input_schema") or {}) for t in document.get("tools") or []]
    choice = document.get("tool_choice") or {}
    kind = choice.get("type") if isinstance(choice, dict) else None
    forced = choice.get("name") if kind == "tool" else "" if kind == "any" else None
    output = document.get("output_config")
    form = output.get("format") if isinstance(output, dict) else document.get("output_format")
    schema = form.get("schema") or {} if isinstance(form, dict) else None
    limit = document.get("max_tokens")
    return answer(said, [] if kind == "none" else tools, forced=forced, limit=limit, schema=schema)


def _block(said: Answer) -> Document:
    if said.call:
        return {"type": "tool_use", "id": f"toolu_{said.key}", "name": said.call[0], "input": said.call[1]}
    return {"type": "text", "text": said.text}


def messages(document: Document) -> Document:
    """A message."""
    said = _messages(document)
    return {
        "id": f"msg_{said.key}",
        "type": "message",
        "role": "assistant",
        "model": document.get("model"),
        "content": [_block(said)],
        "stop_reason": "tool_use" if said.call else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": said.tokens_in, "output_tokens": said.tokens_out},
    }


def messages_stream(document: Document) -> Iterator[bytes]:
    """A message's events."""

    def event(kind: str, **fields: Any) -> bytes:
        return encode(orjson.dumps({"type": kind, **fields}), kind)

    said = _messages(document)
    start = messages(document) | {"content": [], "stop_reason": None}
    start["usage"] = {"input_tokens": said.tokens_in, "output_tokens": 1}
    yield event("message_start", message=start)
    yield event(
        "content_block_start", index=0, content_block={**_block(said), **({"input": {}} if said.call else {"text": ""})}
    )
    yield event("ping")
    if said.call:
        arguments = orjson.dumps(said.call[1]).decode()
        for at in range(0, len(arguments), 8):
            delta = {"type": "input_json_delta", "partial_json": arguments[at : at + 8]}
            yield event("content_block_delta", index=0, delta=delta)
    else:
        for piece in pieces(said.text):
            yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
    yield event("content_block_stop", index=0)
    stop = {"stop_reason": "tool_use" if said.call else "end_turn", "stop_sequence": None}
    yield event("message_delta", delta=stop, usage={"output_tokens": said.tokens_out})
    yield event("message_stop")


def count_messages(document: Document) -> Document:
    """A token count."""
    return {"input_tokens": _messages(document).tokens_in}


def _schema(declared: Document) -> Document:
    for key in ("parametersJsonSchema", "parameters_json_schema", "parameters"):
        if isinstance(declared.get(key), dict):
            found: Document = declared[key]
            return found
    return {}


def _contents(document: Document) -> Answer:
    given = document.get("contents") or []
    given = given if isinstance(given, list) else [given]
    said = [(str(c.get("role") or "user"), text_of(c)) for c in given if isinstance(c, dict)]
    declared = [
        f
        for t in document.get("tools") or []
        if isinstance(t, dict)
        for f in t.get("functionDeclarations") or t.get("function_declarations") or []
    ]
    tools = [Tool(str(f.get("name")), _schema(f)) for f in declared]
    mode = ((document.get("toolConfig") or {}).get("functionCallingConfig") or {}).get("mode")
    config = document.get("generationConfig") or {}
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    if schema is None and config.get("responseMimeType") == "application/json":
        schema = {}
    forced = "" if mode == "ANY" else None
    return answer(
        said, [] if mode == "NONE" else tools, forced=forced, limit=config.get("maxOutputTokens"), schema=schema
    )


def _candidate(said: Answer, parts: list[Document], finish: str | None) -> Document:
    candidate: Document = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    usage = {
        "promptTokenCount": said.tokens_in,
        "candidatesTokenCount": said.tokens_out,
        "totalTokenCount": said.tokens_in + said.tokens_out,
    }
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "demo", "responseId": said.key}


def _call_part(said: Answer) -> list[Document]:
    assert said.call is not None
    return [{"functionCall": {"name": said.call[0], "args": said.call[1]}}]


def generate(document: Document) -> Document:
    """A GenerateContentResponse."""
    said = _contents(document)
    return _candidate(said, _call_part(said) if said.call else [{"text": said.text}], "STOP")


def generate_stream(document: Document) -> Iterator[Document]:
    """A response's chunks, as documents: the URL decides how they are framed."""
    said = _contents(document)
    if said.call:
        yield _candidate(said, _call_part(said), "STOP")
        return
    parts = pieces(said.text)
    for at, piece in enumerate(parts):
        yield _candidate(said, [{"text": piece}], "STOP" if at == len(parts) - 1 else None)


def count_contents(document: Document) -> Document:
    """A CountTokensResponse."""
    inner = document.get("generateContentRequest")
    return {"totalTokens": _contents(inner if isinstance(inner, dict) else document).tokens_in}


def embed(document: Document) -> Document:
    """One embedding."""
    dimensions = document.get("outputDimensionality")
    return {"embedding": {"values": vector(text_of(document.get("content")), dimensions or 64)}}


def batch_embed(document: Document) -> Document:
    """Several embeddings."""
    return {"embeddings": [embed(request)["embedding"] for request in document.get("requests") or []]}
