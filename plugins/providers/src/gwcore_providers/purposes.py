"""Purposes of embeddings: the vendors' names and ours. Also what all list codecs share."""

from __future__ import annotations

from typing import Any

import orjson

from gwcore.codec import Complaint, Crossing
from gwcore.errors import BadRequest, Malformed
from gwcore.lists import Item, ListRequest, Vector
from gwcore_providers.crossing import complaint_of

_MEANT = {
    "query": "query", "search_query": "query", "retrieval_query": "query", "retrieval.query": "query",
    "document": "document", "search_document": "document", "passage": "document", "retrieval_document": "document",
    "retrieval.passage": "document", "classification": "classification", "clustering": "clustering", "separation": "clustering",
    "semantic_similarity": "similarity", "text-matching": "similarity", "similarity": "similarity",
}  # fmt: skip


def meant(word: Any) -> str | None:
    """A vendor's name of a purpose → ours; an unknown one is passed on unchanged."""
    return _MEANT.get(word.lower(), word) if isinstance(word, str) and word else None


def say(request: ListRequest, crossing: Crossing, *spoken: str) -> None:
    """Drop by name whatever the request contains and the dialect cannot express; it can express ``spoken``."""
    for name in ("purpose", "dimensions", "truncate", "user"):
        if getattr(request, name) is not None and name not in spoken:
            crossing.drop({"purpose": "input_type"}.get(name, name))
    for name in request.extra:
        if name not in spoken:
            crossing.drop(name)


def words(request: ListRequest, crossing: Crossing) -> list[str]:
    """The items, which must be texts. Raises ``Untranslatable``."""
    if any(not isinstance(item, str) for item in request.items):
        raise crossing.refuse("input as tokens", "send its text")
    return [item for item in request.items if isinstance(item, str)]


def in_order(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort by ``index``, if present."""
    return sorted(items, key=lambda item: item.get("index", 0))


def vector(value: Any) -> Vector:
    """A vector, as received: a list or base64. Raises ``Malformed``."""
    if not isinstance(value, str | list):
        raise Malformed("the upstream's answer holds no vector")
    return value


def texts(value: Any, where: str) -> list[Item]:
    """One text, texts, token ids, or lists of them. Raises ``BadRequest``."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(type(one) is int for one in value):
            return [value]
        if all(isinstance(one, str) or (isinstance(one, list) and all(type(id) is int for id in one)) for one in value):  # noqa: A001
            return list(value)
    raise BadRequest(f"{where} must be a text or a list of texts, not empty")


def count(document: dict[str, Any], key: str) -> int | None:
    """A whole number above 0, or ``None`` if absent. Raises ``BadRequest``."""
    value = document.get(key)
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise BadRequest(f"{key} must be a whole number above 0")
    return value


def document_text(value: Any, fields: Any) -> str:
    """A document to rank: a string, or an object's ``fields``, ``text`` or JSON. Raises ``BadRequest``."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        if isinstance(fields, list) and fields:
            return "\n".join(f"{name}: {value[name]}" for name in fields if name in value)
        if isinstance(value.get("text"), str):
            return str(value["text"])
        return orjson.dumps(value).decode()
    raise BadRequest("documents must be texts, or objects with a text")


class Errors:
    """Base of the list codecs: reads errors."""

    def read_error(self, _status: int, body: bytes) -> Complaint:
        """See :meth:`gwcore.lists.UpstreamListCodec.read_error`."""
        return complaint_of(body)
