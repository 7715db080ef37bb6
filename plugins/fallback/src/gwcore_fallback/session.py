"""Which calls belong to one session and should use the same prompt cache."""

from __future__ import annotations

from hashlib import blake2b

import orjson

from gwcore.call import Call

# keys that begin a conversation or contain the whole input, of all dialects
_PREFIX = ("system", "instructions", "systemInstruction", "tools")
_TURNS = ("messages", "input", "contents", "prompt", "query")
_OPENING = 2  # turns


def session_of(call: Call, affinity: str) -> bytes | None:
    """Returns a hash that identifies the session; ``None`` if it has none.

    The first of: a header, ``prompt_cache_key``, ``metadata.user_id`` and, with ``prefix``, the beginning of the call.
    The caller's id is included, so that callers who use the same name do not share a session.
    """
    named = call.session
    document = call.document or {}
    if named is None:
        metadata = document.get("metadata")
        for value in (
            document.get("prompt_cache_key"),
            metadata.get("user_id") if isinstance(metadata, dict) else None,
        ):
            if isinstance(value, str) and value:
                named = value.encode("utf-8", "replace")
                break
    if named is None:
        if affinity != "prefix":
            return None
        named = _beginning(document)
        if named is None:
            return None
    caller = call.principal.id if call.principal is not None else ""
    return blake2b(named, digest_size=16, key=caller.encode()[:64]).digest()


def _beginning(document: dict[str, object]) -> bytes | None:
    """Returns the part that stays the same while a conversation grows; ``None`` if it is empty."""
    parts = [document.get(key) for key in _PREFIX]
    for key in _TURNS:
        turns = document.get(key)
        if isinstance(turns, list):
            parts += turns[: _opening(turns)]
        elif isinstance(turns, str):
            parts.append(turns[:4096])
    return orjson.dumps(parts) if any(parts) else None


def _opening(turns: list[object]) -> int:
    """Number of turns up to the first user turn, at most two: the answer to it is in later calls only."""
    for at, turn in enumerate(turns[:_OPENING], 1):
        if isinstance(turn, dict) and turn.get("role") == "user":
            return at
    return _OPENING
