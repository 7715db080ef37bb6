"""Where clients put their credential. Nothing found there reaches an upstream, log or sink."""

from __future__ import annotations

from collections.abc import Iterable

# How each official SDK, and LiteLLM's clients, send a key.
CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"x-litellm-api-key"})
_BEARER = "bearer "


def credential(value: bytes) -> str:
    """The value of a credential header, without the scheme."""
    text = value.decode("latin-1").strip()
    return text[7:].strip() if text[:7].lower() == _BEARER else text


def credentials_of(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, ...]:
    """All distinct credentials in the headers."""
    found = (credential(value) for name, value in headers if name in CREDENTIALS)
    return tuple(dict.fromkeys(text for text in found if text))
