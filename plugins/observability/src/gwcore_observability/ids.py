"""Deterministic identifiers, by which receivers recognize a repeated delivery."""

from __future__ import annotations

from functools import cache, lru_cache
from hashlib import blake2b
from uuid import UUID, uuid5

NAMESPACE = UUID("5b3c1c5e-0b8a-5d0e-9d0e-6c1f6f0f7a11")


REMEMBERED = 4096
"""Calls whose ids are cached, since every sink needs the same ones; usually enough for all not yet delivered."""


@cache
def _key(kind: str) -> bytes:
    return f"gwcore {kind}".encode()


@lru_cache(REMEMBERED)
def event_id(call_id: str, kind: str = "call", attempt: int = 0) -> str:
    """A UUID for one event of a call; ``attempt`` is 0 for the call itself."""
    return str(uuid5(NAMESPACE, f"{call_id}|{attempt}|{kind}"))


@lru_cache(REMEMBERED)
def trace_id(call_id: str) -> str:
    """32 hex digits: the trace id of a call whose client sends none."""
    return blake2b(call_id.encode(), digest_size=16, key=_key("trace")).hexdigest()


@lru_cache(2 * REMEMBERED)
def span_id(id_: str) -> str:
    """16 hex digits for a call's id, or an attempt's (``call.id:n``)."""
    return blake2b(id_.encode(), digest_size=8, key=_key("span")).hexdigest()
