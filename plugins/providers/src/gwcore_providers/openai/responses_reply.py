"""Complete ``openai.responses`` replies, in both directions, and errors."""

from __future__ import annotations

import time
from typing import Any

from gwcore.chat import ChatReply, Choice, Finish, Media, Opaque, Part, Reasoning, Text, ToolCall
from gwcore.codec import Complaint, Crossing
from gwcore.errors import Malformed
from gwcore_providers.crossing import complaint_of, rest
from gwcore_providers.openai.namespaces import apart, spaces
from gwcore_providers.openai.responses_object import (
    Document,
    call_item,
    ended,
    finish_of,
    message,
    reasoning_item,
    response,
    stem_of,
    text_piece,
    usage_document,
    usage_of,
    whole_item,
)
from gwcore_providers.openai.responses_read import DIALECT, part_of, said
from gwcore_providers.openai.responses_write import thought_item

_READ = ("id", "object", "created_at", "model", "output", "status", "incomplete_details", "usage", "service_tier")


def read_reply(document: Any) -> ChatReply:
    """See :meth:`gwcore.codec.ChatCodec.read_reply`."""
    output = document.get("output") if isinstance(document, dict) else None
    if not isinstance(output, list):
        raise Malformed("the upstream's answer has no output")
    parts: list[Part] = []
    for item in output:
        if isinstance(item, dict):
            parts += parts_of(item)
    logprobs = [one for part in parts if isinstance(part, Text) for one in part.extra.get("logprobs") or ()]
    calls = any(isinstance(part, ToolCall) for part in parts)
    refused = any(isinstance(part, Text) and part.refusal for part in parts)
    created = document.get("created_at")
    return ChatReply(
        DIALECT,
        str(document.get("id") or ""),
        str(document.get("model") or ""),
        [Choice(parts, finish_of(document, calls=calls, refused=refused), logprobs or None)],
        usage_of(document),
        int(created) if isinstance(created, int | float) else None,
        document.get("service_tier"),
        {key: value for key, value in rest(document, *_READ).items() if key != "reasoning" or isinstance(value, dict)},
    )


def parts_of(item: Document) -> list[Part]:
    """The parts of an output item. Raises ``Malformed``."""
    kind = item.get("type")
    if not isinstance(kind, str):
        raise Malformed("an item of the upstream's answer has no type")
    try:
        return said(item, "output") if kind == "message" else [part_of(kind, item, "output")]
    except Exception as error:
        raise Malformed(f"an item of the upstream's answer cannot be read: {error}") from None


def write_reply(reply: ChatReply, crossing: Crossing) -> Document:
    """See :meth:`gwcore.codec.ChatCodec.write_reply`. This dialect has one answer; others are dropped by name."""
    choice = reply.choices[0] if reply.choices else Choice([], Finish("unknown"))
    if len(reply.choices) > 1:
        crossing.drop("n")
    out = response(reply.id, reply.created, crossing, reply.service_tier)
    out["output"] = _output(choice, stem_of(reply.id), crossing)
    refused = any(isinstance(part, Text) and part.refusal for part in choice.parts)
    out |= ended(choice.finish, refused=refused)
    if out["status"] == "completed":
        out["completed_at"] = int(time.time())
    if reply.dialect == DIALECT:
        out |= reply.extra
        out["service_tier"] = reply.service_tier
    if reply.usage is not None:
        out["usage"] = usage_document(reply.usage)
    return out


def _output(choice: Choice, stem: str, crossing: Crossing) -> list[Document]:
    out: list[Document] = []
    words: Document | None = None  # the message that the next text belongs to
    logprobs = choice.logprobs
    for part in choice.parts:
        if isinstance(part, Text):
            known = part.extra.get("item")
            if words is None or known is not None:
                words = {**message(f"msg_{stem}_{len(out)}", []), **(known or {})}
                out.append(words)
            if not part.extra.get("empty"):
                own = part.extra.get("logprobs") or logprobs
                words["content"].append(text_piece(part, own, crossing))
                logprobs = None
            continue
        words = None
        item = _item(part, f"{stem}_{len(out)}", crossing)
        if item is not None:
            out.append(item)
    return out


def _item(part: Part, id: str, crossing: Crossing) -> Document | None:  # noqa: A002
    if isinstance(part, Reasoning):
        own = part.dialect == DIALECT and part.id is not None
        return thought_item(part) if own else reasoning_item(f"rs_{id}", part.text, part)
    if isinstance(part, ToolCall):
        if part.server:
            crossing.drop(f"the server tool {part.name}")
            return None
        part = apart(part, spaces(crossing.request), DIALECT)
        given = part.arguments or ("" if part.custom else "{}")
        item_id = part.item_id if part.dialect == DIALECT else None
        return call_item(item_id or f"fc_{id}", part, given, "completed")
    assert isinstance(part, Media | Opaque)
    return whole_item(f"ig_{id}", part, crossing)


def read_error(_status: int, body: bytes) -> Complaint:
    """See :meth:`gwcore.codec.ChatCodec.read_error`."""
    return complaint_of(body)
