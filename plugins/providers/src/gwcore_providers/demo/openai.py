"""The demo in OpenAI's two dialects: request documents in, documents and frames out."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import Any

import orjson

from gwcore.wire.sse import encode
from gwcore_providers.demo.answer import Answer, Tool, answer, pieces, text_of, vector

Document = dict[str, Any]


def _forced(choice: Any) -> str | None:
    if choice in ("required", "any"):
        return ""
    if choice == "none":
        return "\0"
    if isinstance(choice, dict):
        return str((choice.get("function") or choice).get("name") or "")
    return None


def _schema(form: Any) -> Document | None:
    """Of ``response_format``, or of ``text.format``; ``None`` for an answer in words."""
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "json_schema":
        found = form.get("json_schema", form)
        return found.get("schema") or {} if isinstance(found, dict) else {}
    return {} if kind == "json_object" else None


def _ask(document: Document, messages: list[tuple[str, str]], limit: Any, form: Any) -> Answer:
    offered = [tool.get("function", tool) for tool in document.get("tools") or [] if isinstance(tool, dict)]
    tools = [Tool(str(t.get("name")), t.get("parameters") or {}) for t in offered if t.get("name")]
    forced = _forced(document.get("tool_choice"))
    if forced == "\0":
        tools, forced = [], None
    limit = limit if isinstance(limit, int) else None
    return answer(messages, tools, forced=forced, limit=limit, schema=_schema(form))


def _usage(said: Answer) -> Document:
    total = said.tokens_in + said.tokens_out
    return {"prompt_tokens": said.tokens_in, "completion_tokens": said.tokens_out, "total_tokens": total}


def _chat(document: Document) -> Answer:
    messages = [
        (str(m.get("role")), text_of(m.get("content"))) for m in document.get("messages") or [] if isinstance(m, dict)
    ]
    limit = document.get("max_completion_tokens") or document.get("max_tokens")
    return _ask(document, messages, limit, document.get("response_format"))


def chat(document: Document) -> Document:
    """A chat completion."""
    said = _chat(document)
    message: Document = {"role": "assistant", "content": said.text or None, "refusal": None}
    if said.call:
        function = {"name": said.call[0], "arguments": orjson.dumps(said.call[1]).decode()}
        message["tool_calls"] = [{"id": f"call_{said.key}", "type": "function", "function": function}]
    finish = "tool_calls" if said.call else "stop"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    head = {"id": f"chatcmpl-{said.key}", "object": "chat.completion", "created": 0, "model": document.get("model")}
    return {**head, "choices": [choice], "usage": _usage(said)}


def chat_stream(document: Document) -> Iterator[bytes]:
    """A chat completion's chunks."""
    said = _chat(document)
    options = document.get("stream_options")
    with_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    head: Document = {
        "id": f"chatcmpl-{said.key}",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": document.get("model"),
    }

    def chunk(delta: Document, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return encode(orjson.dumps({**head, "choices": [choice], **({"usage": None} if with_usage else {})}))

    yield chunk({"role": "assistant", "content": "" if not said.call else None})
    if said.call:
        function = {"name": said.call[0], "arguments": ""}
        yield chunk({"tool_calls": [{"index": 0, "id": f"call_{said.key}", "type": "function", "function": function}]})
        arguments = orjson.dumps(said.call[1]).decode()
        for at in range(0, len(arguments), 8):
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": arguments[at : at + 8]}}]})
    else:
        for piece in pieces(said.text):
            yield chunk({"content": piece})
    yield chunk({}, "tool_calls" if said.call else "stop")
    if with_usage:
        yield encode(orjson.dumps({**head, "choices": [], "usage": _usage(said)}))
    yield encode(b"[DONE]")


def completion(document: Document) -> Document:
    """A text completion."""
    said = answer([("user", text_of(document.get("prompt")))], [], forced=None, limit=document.get("max_tokens"))
    choice = {"index": 0, "text": said.text, "logprobs": None, "finish_reason": "stop"}
    head = {"id": f"cmpl-{said.key}", "object": "text_completion", "created": 0, "model": document.get("model")}
    return {**head, "choices": [choice], "usage": _usage(said)}


def embeddings(document: Document) -> Document:
    """Unit vectors, as floats or as base64, which the SDK requests."""
    given = document.get("input")
    texts = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    dimensions = document.get("dimensions")
    data: list[Document] = []
    for at, text in enumerate(texts):
        values = vector(str(text), dimensions if isinstance(dimensions, int) and 0 < dimensions <= 4096 else 64)
        packed: Any = values
        if document.get("encoding_format") == "base64":
            packed = base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
        data.append({"object": "embedding", "index": at, "embedding": packed})
    tokens = sum(max(1, len(str(text).split())) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": document.get("model"), "usage": usage}


def _responses(document: Document) -> Answer:
    given = document.get("input")
    items = [("user", given)] if isinstance(given, str) else []
    if isinstance(given, list):
        items = [(str(i.get("role") or i.get("type")), text_of(i)) for i in given if isinstance(i, dict)]
    text = document.get("text")
    form = text.get("format") if isinstance(text, dict) else None
    return _ask(document, items, document.get("max_output_tokens"), form)


def _response_object(document: Document, said: Answer, status: str, output: list[Document]) -> Document:
    done = status == "completed"
    usage = {
        "input_tokens": said.tokens_in,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": said.tokens_out,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": said.tokens_in + said.tokens_out,
    }
    kept = {
        key: document.get(key, default) for key, default in (("tools", []), ("tool_choice", "auto"), ("metadata", {}))
    }
    return {
        "id": f"resp_{said.key}",
        "object": "response",
        "created_at": 0,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": document.get("instructions"),
        "model": document.get("model"),
        "output": output,
        "parallel_tool_calls": True,
        "temperature": document.get("temperature"),
        "top_p": document.get("top_p"),
        "usage": usage if done else None,
        **kept,
    }


def _item(said: Answer, text: str, status: str) -> Document:
    if said.call:
        head = {"type": "function_call", "id": f"fc_{said.key}", "call_id": f"call_{said.key}", "name": said.call[0]}
        return {**head, "arguments": text, "status": status}
    content = [{"type": "output_text", "text": text, "annotations": []}] if status == "completed" else []
    return {"type": "message", "id": f"msg_{said.key}", "role": "assistant", "status": status, "content": content}


def responses(document: Document) -> Document:
    """A response object."""
    said = _responses(document)
    text = orjson.dumps(said.call[1]).decode() if said.call else said.text
    return _response_object(document, said, "completed", [_item(said, text, "completed")])


def responses_stream(document: Document) -> Iterator[bytes]:
    """A response's events, in the order of OpenAI's documentation."""
    said = _responses(document)
    number = -1

    def event(kind: str, **fields: Any) -> bytes:
        nonlocal number
        number += 1
        return encode(orjson.dumps({"type": kind, "sequence_number": number, **fields}), kind)

    text = orjson.dumps(said.call[1]).decode() if said.call else said.text
    item = _item(said, "", "in_progress")
    at = {"item_id": item["id"], "output_index": 0}
    yield event("response.created", response=_response_object(document, said, "in_progress", []))
    yield event("response.in_progress", response=_response_object(document, said, "in_progress", []))
    yield event("response.output_item.added", output_index=0, item=item)
    if said.call:
        for start in range(0, len(text), 8):
            yield event("response.function_call_arguments.delta", delta=text[start : start + 8], **at)
        yield event("response.function_call_arguments.done", arguments=text, name=said.call[0], **at)
    else:
        part = {"type": "output_text", "text": "", "annotations": []}
        yield event("response.content_part.added", content_index=0, part=part, **at)
        for piece in pieces(text):
            yield event("response.output_text.delta", content_index=0, delta=piece, logprobs=[], **at)
        yield event("response.output_text.done", content_index=0, text=text, logprobs=[], **at)
        yield event("response.content_part.done", content_index=0, part={**part, "text": text}, **at)
    whole = _item(said, text, "completed")
    yield event("response.output_item.done", output_index=0, item=whole)
    yield event("response.completed", response=_response_object(document, said, "completed", [whole]))
