"""Which calls belong together, so that they meet the same prompt cache."""

from __future__ import annotations

from hashlib import blake2b

import orjson

from gwcore.call import Call

# what begins a conversation, in every dialect, or is all that is asked
_PREFIX = ("system", "instructions", "systemInstruction", "tools")
_TURNS = ("messages", "input", "contents", "prompt", "query")
_OPENING = 2  # turns


def session_of(call: Call, affinity: str) -> bytes | None:
    """Names the session: a header, ``prompt_cache_key``, ``metadata.user_id``; with ``prefix`` else how the call begins.

    The caller is part of it, so that no two callers meet by a name.
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
    """What stays the same while a conversation grows; ``None`` where nothing can be told from it."""
    parts = [document.get(key) for key in _PREFIX]
    for key in _TURNS:
        turns = document.get(key)
        if isinstance(turns, list):
            parts += turns[: _opening(turns)]
        elif isinstance(turns, str):
            parts.append(turns[:4096])
    return orjson.dumps(parts) if any(parts) else None


def _opening(turns: list[object]) -> int:
    """How many turns there are up to what the user said first: the answer to it is in later calls only."""
    for at, turn in enumerate(turns[:_OPENING], 1):
        if isinstance(turn, dict) and turn.get("role") == "user":
            return at
    return _OPENING
