"""Anthropic's thinking blocks: content of its own dialect, and ``thinking_blocks`` of LiteLLM's chat completions."""

from __future__ import annotations

from typing import Any

from gwcore.chat import Reasoning
from gwcore.codec import Crossing
from gwcore_providers.crossing import rest, seal, string, unseal

SIGNER = "anthropic.messages"


def read_block(item: dict[str, Any], where: str) -> Reasoning:
    """Returns the thought in a block; one that this gateway sealed is unsealed. Raises ``BadRequest``."""
    if item.get("type") == "redacted_thinking":
        data = string(item, "data", where)
        return unseal(data) or Reasoning(encrypted=data, redacted=True, dialect=SIGNER)
    signature = item.get("signature")
    others = rest(item, "type", "thinking", "signature")
    return unseal(signature) or Reasoning(
        str(item.get("thinking") or ""), signature or None, dialect=SIGNER if signature else "", extra=others
    )


def block_of(part: Reasoning) -> dict[str, Any]:
    """Returns a thinking block. A thought that another vendor signed or encrypted is sealed in its opaque field."""
    if part.dialect == SIGNER:
        if part.redacted:
            return {"type": "redacted_thinking", "data": part.encrypted}
        return {"type": "thinking", "thinking": part.text, "signature": part.signature or ""}
    if not part.text:
        return {"type": "redacted_thinking", "data": seal(part)}
    signature = seal(part) if part.signature or part.encrypted else ""
    return {"type": "thinking", "thinking": part.text, "signature": signature}


def wants_blocks(crossing: Crossing) -> bool:
    """Whether a client of chat completions asked in LiteLLM's words: then it also reads the thoughts in LiteLLM's form."""
    return "thinking" in crossing.request
