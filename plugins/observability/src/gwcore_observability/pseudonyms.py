"""``Pseudonyms``: wraps a sink, and replaces ids of users by keyed hashes before the sink sees them.

The same id and secret give the same pseudonym in every sink, so calls of one user stay together. The hash has a key
because ids are often mail addresses, which could be found by hashing a list of addresses.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from gwcore_observability.content import Content
from gwcore_observability.record import Record
from gwcore_observability.sink import Delivery, Sink, Verdict
from gwcore_observability.spill import Item

LENGTH: Final = 32
"""Hex digits of a pseudonym."""
_MEMBERS: Final = ("user", "safety_identifier")
"""Request members that identify a user (OpenAI); Anthropic has ``metadata.user_id``. The Responses API echoes them."""
_WRITTEN = re.compile(r'("(?:user|safety_identifier|user_id)"\s*:\s*)"((?:[^"\\]|\\.)*)(?:"|\Z)')


class Pseudonyms:
    """Hashes ``user`` and ``end_user`` of records, and the members of content that identify a user.

    Args:
        sink: the wrapped sink.
        secret: the key of the hash, HMAC-SHA256.
    """

    def __init__(self, sink: Sink, secret: str) -> None:
        self._sink = sink
        self._secret = secret.encode()

    def of(self, id_: str | None) -> str | None:
        """The pseudonym of an id."""
        return id_ and hmac.digest(self._secret, id_.encode("utf-8", "surrogatepass"), "sha256").hex()[:LENGTH]

    def encode(self, record: Record, content: Content | None) -> Item | None:
        """Encode with the wrapped sink, after replacing ids of users."""
        if record.user or record.end_user:
            record = replace(record, user=self.of(record.user), end_user=self.of(record.end_user))
        if content is not None:
            request, response = self._unnamed(content.request), self._unnamed(content.response)
            content = replace(content, request=request, response=response)
        return self._sink.encode(record, content)

    def _unnamed(self, document: Any) -> Any:
        if isinstance(document, str):  # a raw stream
            return _WRITTEN.sub(self._in_text, document)
        if not isinstance(document, dict):
            return document
        said = {
            name: self.of(one) if name in _MEMBERS and isinstance(one, str) else one for name, one in document.items()
        }
        metadata = said.get("metadata")
        if isinstance(metadata, dict) and isinstance(metadata.get("user_id"), str):
            said["metadata"] = {**metadata, "user_id": self.of(metadata["user_id"])}
        return said

    def _in_text(self, match: re.Match[str]) -> str:
        try:
            id_ = json.loads(f'"{match[2]}"')
        except ValueError:  # truncated
            id_ = match[2]
        return f'{match[1]}"{self.of(id_)}"'

    def pack(self, items: Sequence[Item]) -> Sequence[Delivery]:
        """As the sink does."""
        return self._sink.pack(items)

    async def send(self, delivery: Delivery) -> Verdict:
        """As the sink does."""
        return await self._sink.send(delivery)
