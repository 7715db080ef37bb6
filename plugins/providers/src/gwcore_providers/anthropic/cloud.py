"""Anthropic's Messages API at clouds: the model in the URL, a version in the body, the cloud's own errors.

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
# beta without its date → the body key that needs it; keys of other betas stay, and the cloud's error names them
_KNOBS = {"context-management": "context_management", "fast-mode": "speed"}


class BetaOptions(BaseModel):
    """Options of every upstream at a cloud that serves Anthropic's models."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    betas: tuple[str, ...] | None = Field(
        default=None,
        description="Values of the header `anthropic-beta` that the cloud supports. Others are removed, together with "
        "the parameters that need them. Without it all are passed on, and the cloud rejects a request "
        "with one it does not know.",
    )


def betas_of(headers: Headers, taken: tuple[str, ...] | None) -> tuple[list[str], frozenset[str]]:
    """Returns the betas to request, and the body keys to remove together with the other betas."""
    asked = [beta.strip() for name, value in headers if name == _BETA for beta in value.decode("latin-1").split(",")]
    if taken is None:
        return asked, frozenset()
    refused = {beta.rstrip("-0123456789") for beta in asked if beta not in taken}
    return [beta for beta in asked if beta in taken], frozenset(_KNOBS[name] for name in refused & _KNOBS.keys())


def versioned(raw: bytes, version: str, without: frozenset[str]) -> bytes:
    """Returns the body with ``anthropic_version`` and without the given keys; all other bytes are unchanged."""
    return insert_top_level(
        remove_top_level(raw, without | {"anthropic_version"}), "anthropic_version", orjson.dumps(version)
    )


def error_body(status: int, message: str, request_id: str) -> bytes:
    """Returns a cloud's own error as an error body of Anthropic's API."""
    return _DIALECT.error_body(Refused(message, status=status), request_id)
