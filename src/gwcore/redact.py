"""Secrets out of whatever is written down: known values first, then what looks like one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr

REDACTED = "[redacted]"
SHORTEST = 8
"""Characters below which a configured value is no secret to look for: it would be found everywhere."""

PATTERN = re.compile(
    r"(?:sk-|gsk_|xai-|hf_|pk-lf-|ghp_|github_pat_|AIza|ya29\.)[A-Za-z0-9_\-.]{8,}"
    r"|(?:Bearer|Basic)\s+[A-Za-z0-9_\-.+/=]{8,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)
"""Keys of vendors, bearer and basic credentials, AWS key ids, JWTs, PEM private keys."""


class Redactor:
    """Replaces secrets in text."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        # the longest first: one secret may be part of another
        self._known = sorted({one for one in known if len(one) >= SHORTEST}, key=len, reverse=True)

    def holds_secret(self, text: str) -> bool:
        """Whether something would be replaced."""
        return PATTERN.search(text) is not None or any(one in text for one in self._known)

    def text(self, text: str) -> str:
        """The text with ``[redacted]`` for every secret."""
        for one in self._known:
            if one in text:
                text = text.replace(one, REDACTED)
        return PATTERN.sub(REDACTED, text)


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
