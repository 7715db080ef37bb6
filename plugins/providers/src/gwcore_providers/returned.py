"""What another vendor signed or sealed, out of a request that goes to the vendor of the client's own dialect.

A client keeps the whole conversation. Where another vendor answered some of its turns, as in a fallback, their thoughts and
signatures stand in it as :mod:`gwcore_providers.crossing` sealed them, and a vendor refuses whatever it did not sign.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gwcore.dialect import Document
from gwcore_providers.crossing import SEAL, THOUGHT, thought_of
from gwcore_providers.gemini.thoughts import SEALED

_Keep = Callable[[dict[str, Any]], dict[str, Any] | None]


def chat(raw: bytes, document: Document) -> Document | None:
    """OpenAI's chat, whose ids of calls have at most forty characters: without the signature behind an id."""
    return _each(document, "messages", _plain_ids) if THOUGHT.encode() in raw else None


def responses(raw: bytes, document: Document) -> Document | None:
    """OpenAI's responses."""
    return _each(document, "input", _unless_sealed) if SEAL.encode() in raw else None


def messages(_raw: bytes, document: Document) -> Document | None:
    """Anthropic's messages; a thought that nobody signed is another vendor's, too."""
    turns = document.get("messages")
    # looking through the blocks is cheaper than through the bytes: they are many, and what is unsigned begins with a quote
    for turn in turns if isinstance(turns, list) else ():
        blocks = turn.get("content") if isinstance(turn, dict) and turn.get("role") == "assistant" else None
        if isinstance(blocks, list) and any(isinstance(one, dict) and _unless_foreign(one) is None for one in blocks):
            return _each(document, "messages", lambda item: _inner(item, "content", _unless_foreign))
    return None


def generate(raw: bytes, document: Document) -> Document | None:
    """Gemini's contents."""
    if SEALED.encode() not in raw:
        return None
    return _each(document, "contents", lambda item: _inner(item, "parts", _unless_signed))


def _each(document: Document, key: str, keep: _Keep) -> Document:
    listed = document.get(key)
    if not isinstance(listed, list):
        return document
    kept = ((keep(item) if isinstance(item, dict) else item) for item in listed)
    return {**document, key: [item for item in kept if item is not None]}


def _inner(turn: dict[str, Any], key: str, keep: _Keep) -> dict[str, Any] | None:
    """A turn of nothing else goes as a whole: empty ones are refused, and neighbours of one role are not."""
    kept = dict(_each(turn, key, keep))
    return None if turn.get(key) and not kept[key] else kept


def _starts(value: Any, mark: str) -> bool:
    return isinstance(value, str) and value.startswith(mark)


def _plain_ids(message: dict[str, Any]) -> dict[str, Any]:
    out = dict(message)
    if isinstance(id_ := out.get("tool_call_id"), str):
        out["tool_call_id"] = thought_of(id_)[0]
    if isinstance(calls := out.get("tool_calls"), list):
        out["tool_calls"] = [
            {**call, "id": thought_of(call["id"])[0]}
            if isinstance(call, dict) and isinstance(call.get("id"), str)
            else call
            for call in calls
        ]
    return out


def _unless_sealed(item: dict[str, Any]) -> dict[str, Any] | None:
    return None if item.get("type") == "reasoning" and _starts(item.get("encrypted_content"), SEAL) else item


def _unless_foreign(block: dict[str, Any]) -> dict[str, Any] | None:
    kind, signature = block.get("type"), block.get("signature")
    if kind == "thinking":
        return None if signature == "" or _starts(signature, SEAL) else block
    return None if kind == "redacted_thinking" and _starts(block.get("data"), SEAL) else block


def _unless_signed(part: dict[str, Any]) -> dict[str, Any] | None:
    key = next((key for key in ("thoughtSignature", "thought_signature") if _starts(part.get(key), SEALED)), None)
    if key is None:
        return part
    rest = {name: value for name, value in part.items() if name != key}
    return None if rest.get("thought") or rest.get("text") == "" or not rest else rest
