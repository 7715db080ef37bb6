"""Messages as clouds take them: the model in the address, a version in the body, errors of the cloud's own.

Source: the "Claude on Amazon Bedrock" and "Claude on Vertex AI" pages of Anthropic's documentation.
"""

from __future__ import annotations

import orjson
from pydantic import BaseModel, ConfigDict, Field

from gwcore.errors import Refused
from gwcore.wire.splice import insert_top_level, remove_top_level
from gwcore.wire.transport import Headers
from gwcore_providers.anthropic.messages import AnthropicMessages

_DIALECT = AnthropicMessages()
_BETA = b"anthropic-beta"
# beta, less its date → the knob in the body that is refused without it. What is no knob stays, and is refused by name.
_KNOBS = {"context-management": "context_management", "fast-mode": "speed"}


class BetaOptions(BaseModel):
    """A key of every upstream at a cloud that serves Anthropic's models."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    betas: tuple[str, ...] | None = Field(
        default=None,
        description="values of anthropic-beta that it takes; others are left out, with the knobs that need them; "
        "null passes all, and one that the cloud does not know fails the request",
    )


def betas_of(headers: Headers, taken: tuple[str, ...] | None) -> tuple[list[str], frozenset[str]]:
    """The betas to ask for, and the keys of the body to leave out with the others."""
    asked = [beta.strip() for name, value in headers if name == _BETA for beta in value.decode("latin-1").split(",")]
    if taken is None:
        return asked, frozenset()
    refused = {beta.rstrip("-0123456789") for beta in asked if beta not in taken}
    return [beta for beta in asked if beta in taken], frozenset(_KNOBS[name] for name in refused & _KNOBS.keys())


def versioned(raw: bytes, version: str, without: frozenset[str]) -> bytes:
    """The body with ``anthropic_version``, less the keys that stand elsewhere; every other byte as it was."""
    return insert_top_level(
        remove_top_level(raw, without | {"anthropic_version"}), "anthropic_version", orjson.dumps(version)
    )


def error_body(status: int, message: str, request_id: str) -> bytes:
    """A cloud's own error, as Anthropic's API would say it."""
    return _DIALECT.error_body(Refused(message, status=status), request_id)
