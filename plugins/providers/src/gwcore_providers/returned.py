"""Removes what another vendor signed or sealed from a request to the vendor of the client's own dialect.

A client keeps the whole conversation. If another vendor answered some of its turns, as in a fallback, it contains their
thoughts and signatures as :mod:`gwcore_providers.crossing` sealed them, and a vendor rejects what it did not sign. If
such a turn lacks what the vendor requires (a thought before a tool call, or a signature on it), the request is adapted as
the vendor documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gwcore.dialect import Document, Returned
from gwcore_providers.crossing import SEAL, THOUGHT, thought_of
from gwcore_providers.gemini.thoughts import SEALED, SIGNS, UNSIGNED

_Keep = Callable[[dict[str, Any]], dict[str, Any] | None]
_THOUGHTS = "reasoning of another vendor"


def chat(raw: bytes, document: Document) -> Returned | None:
    """OpenAI's chat: remove signatures from tool call ids (at most 40 characters)."""
    return (_each(document, "messages", _plain_ids), [_THOUGHTS]) if THOUGHT.encode() in raw else None


def responses(raw: bytes, document: Document) -> Returned | None:
    """OpenAI's responses: remove sealed thoughts, and signatures from tool call ids (at most 64 characters)."""
    if SEAL.encode() not in raw and THOUGHT.encode() not in raw:
        return None
    return _each(document, "input", _unless_sealed), [_THOUGHTS]


def messages(document: Document) -> Returned | None:
    """Anthropic's messages: remove foreign and unsigned thoughts, and ``thinking`` if a required thought is missing."""
    turns = document.get("messages")
    # checking the blocks is cheaper than searching all bytes, since the pattern of an empty signature begins with a quote
    said = [turn for turn in (turns if isinstance(turns, list) else ()) if isinstance(turn, dict)]
    foreign = any(
        _unless_foreign(one) is None for turn in said if turn.get("role") == "assistant" for one in _blocks(turn)
    )
    out = _each(document, "messages", lambda item: _inner(item, "content", _unless_foreign)) if foreign else document
    dropped = [_THOUGHTS] if foreign else []
    thinking = document.get("thinking")
    if (
        isinstance(thinking, dict)
        and thinking.get("type") == "enabled"
        and _unthought(out.get("messages"), foreign=foreign)
    ):
        out, dropped = _without_thinking(out), [*dropped, "reasoning"]
    return (out, dropped) if dropped else None


def generate(raw: bytes, document: Document, model: str) -> Returned | None:
    """Gemini's contents: remove foreign thoughts, and add the placeholder where a model requires a signature."""
    out, dropped = document, []
    if SEALED.encode() in raw:
        out = _each(document, "contents", lambda item: _inner(item, "parts", _unless_signed))
        dropped.append(_THOUGHTS)
    if (b'"functionCall"' in raw or b'"function_call"' in raw) and SIGNS.search(model):
        out = _signed(out)
    return (out, dropped) if out is not document else None


def _each(document: Document, key: str, keep: _Keep) -> Document:
    listed = document.get(key)
    if not isinstance(listed, list):
        return document
    kept = ((keep(item) if isinstance(item, dict) else item) for item in listed)
    return {**document, key: [item for item in kept if item is not None]}


def _inner(turn: dict[str, Any], key: str, keep: _Keep) -> dict[str, Any] | None:
    """The turn without these; ``None`` if nothing is left: empty turns are rejected, adjacent ones of a role are not."""
    kept = dict(_each(turn, key, keep))
    return None if turn.get(key) and not kept[key] else kept


def _starts(value: Any, mark: str) -> bool:
    return isinstance(value, str) and value.startswith(mark)


def _blocks(turn: dict[str, Any], key: str = "content") -> Iterator[dict[str, Any]]:
    listed = turn.get(key)
    return (one for one in (listed if isinstance(listed, list) else ()) if isinstance(one, dict))


def _unthought(turns: Any, *, foreign: bool) -> bool:
    """Whether the current turn, with its tool calls, was begun by another vendor and so lacks the initial thought.

    With a thinking budget, this API rejects such a turn; with adaptive thinking it does not require the thought:
    https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking. Its own call ids begin with ``toolu_``.
    """
    first = None
    for turn in reversed(turns if isinstance(turns, list) else []):
        if not isinstance(turn, dict):
            return False
        if turn.get("role") == "assistant":
            first = turn
        elif not any(one.get("type") == "tool_result" for one in _blocks(turn)):
            break
    begun = list(_blocks(first)) if first is not None and first is not turns[-1] else []
    if not begun or begun[0].get("type") in {"thinking", "redacted_thinking"}:
        return False
    calls = [one.get("id") for one in begun if one.get("type") == "tool_use"]
    return bool(calls) and (foreign or not any(_starts(id_, "toolu_") for id_ in calls))


def _without_thinking(document: Document) -> Document:
    """The request without ``thinking`` and without the edits that clear thoughts, which the API rejects without it."""
    out = {key: value for key, value in document.items() if key != "thinking"}
    managed = out.get("context_management")
    if isinstance(managed, dict) and isinstance(edits := managed.get("edits"), list):
        kept = [one for one in edits if not (isinstance(one, dict) and _starts(one.get("type"), "clear_thinking_"))]
        out["context_management"] = {**managed, "edits": kept}
        if not kept:
            del out["context_management"]
    return out


def _signed(document: Document) -> Document:
    """Add Google's placeholder if the first call of a step in the current turn has no signature."""
    contents = document.get("contents")
    contents = contents if isinstance(contents, list) else []
    out = list(contents)
    step: int | None = None  # index of the step being checked; from last to first
    for at in range(len(out) - 1, -1, -1):
        if not isinstance(out[at], dict):
            return document
        if out[at].get("role") == "model":
            step = at if any(map(_call, _blocks(out[at], "parts"))) else step
        else:
            _sign(out, step)
            step = None
            if not any("functionResponse" in one or "function_response" in one for one in _blocks(out[at], "parts")):
                break
    _sign(out, step)
    changed = any(new is not old for new, old in zip(out, contents, strict=True))
    return {**document, "contents": out} if changed else document


def _call(part: Any) -> bool:
    return isinstance(part, dict) and ("functionCall" in part or "function_call" in part)


def _sign(contents: list[Any], at: int | None) -> None:
    if at is None:
        return
    parts = list(contents[at]["parts"])
    first = next(place for place, part in enumerate(parts) if _call(part))
    if not (parts[first].get("thoughtSignature") or parts[first].get("thought_signature")):
        parts[first] = {**parts[first], "thoughtSignature": UNSIGNED}
        contents[at] = {**contents[at], "parts": parts}


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
    if isinstance(id_ := item.get("call_id"), str) and THOUGHT in id_:
        return {**item, "call_id": thought_of(id_)[0]}
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
