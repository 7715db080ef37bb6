"""Messages as clouds take them: the model in the address, a version in the body, errors of the cloud's own.

Source: the "Claude on Amazon Bedrock" and "Claude on Vertex AI" pages of Anthropic's documentation.
"""

from __future__ import annotations

import orjson

from gwcore.errors import Refused
from gwcore.wire.splice import insert_top_level, remove_top_level
from gwcore_providers.anthropic.messages import AnthropicMessages

_DIALECT = AnthropicMessages()


def versioned(raw: bytes, version: str, without: frozenset[str]) -> bytes:
    """The body with ``anthropic_version``, less the keys that stand elsewhere; every other byte as it was."""
    return insert_top_level(
        remove_top_level(raw, without | {"anthropic_version"}), "anthropic_version", orjson.dumps(version)
    )


def error_body(status: int, message: str, request_id: str) -> bytes:
    """A cloud's own error, as Anthropic's API would say it."""
    return _DIALECT.error_body(Refused(message, status=status), request_id)
