"""Redacts secrets from anything written out: known values first, then whatever looks like one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr

REDACTED = "[redacted]"
SHORTEST = 8
"""Minimum length of a configured value to be redacted: a shorter one would match everywhere."""

PATTERN = re.compile(
    r"(?:sk-|gsk_|xai-|hf_|pk-lf-|ghp_|github_pat_|AIza|ya29\.)[A-Za-z0-9_\-.]{8,}"
    r"|(?:Bearer|Basic)\s+[A-Za-z0-9_\-.+/=]{8,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*"
)
"""Keys of vendors, bearer and basic credentials, AWS key ids, JWTs."""

_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)")
PIECE = 16 * 1024

_MARKS = (
    "sk-", "gsk_", "xai-", "hf_", "pk-lf-", "ghp_", "github_pat_", "AIza", "ya29.", "Bearer", "Basic", "AKIA", "ASIA", "eyJ",
    "PRIVATE KEY",
)  # fmt: skip
"""One of them stands in whatever looks like a secret; looking for them is a hundred times faster than for that."""


def cleaned(text: str) -> str:
    """The text with anything that looks like a secret redacted."""
    if not any(mark in text for mark in _MARKS):
        return text
    if "PRIVATE KEY" in text:
        text = _PEM.sub(REDACTED, text)
    return "".join([PATTERN.sub(REDACTED, piece) for piece in pieces(text)])


def pieces(text: str) -> Iterator[str]:
    """Parts of a long text, cut between lines or words: one search holds up all threads for as long as it runs."""
    while len(text) > PIECE:
        at = text.rfind("\n", PIECE // 2, PIECE) + 1 or text.rfind(" ", PIECE // 2, PIECE) + 1 or PIECE
        yield text[:at]
        text = text[at:]
    yield text


class Redactor:
    """Replaces secrets in text."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        # the longest first: one secret may be part of another
        self._known = sorted({one for one in known if len(one) >= SHORTEST}, key=len, reverse=True)

    def holds_secret(self, text: str) -> bool:
        """Whether something would be replaced."""
        return any(one in text for one in self._known) or cleaned(text) != text

    def text(self, text: str) -> str:
        """The text with ``[redacted]`` for every secret."""
        for one in self._known:
            if one in text:
                text = text.replace(one, REDACTED)
        return cleaned(text)


def secrets_of(config: Any) -> frozenset[str]:
    """Every ``SecretStr`` of a configuration, and the passwords in the URLs of its ``stores``."""
    found = set(_secrets(config))
    for url in (getattr(config, "stores", None) or {}).values():
        password = urlsplit(url).password
        if password:
            found |= {password, unquote(password)}
    return frozenset(found)


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))
        yield from _secrets(value.model_extra)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _secrets(one)
    elif isinstance(value, list | tuple | set | frozenset):
        for one in value:
            yield from _secrets(one)
