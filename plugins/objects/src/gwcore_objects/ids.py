"""Ids of what vendors keep: in addresses, in requests, and in answers. The same words in every dialect.

OpenAI's files, batches and responses (platform.openai.com/docs/api-reference), Anthropic's files and message batches
(docs.anthropic.com/en/api), Gemini's cached contents (ai.google.dev/api/caching).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from gwcore.call import Call
from gwcore.dialect import Document

KINDS: Final[Mapping[str, str]] = {
    "files": "file", "file_content": "file",
    "batches": "batch", "batch_cancel": "batch", "batch_results": "batch",
    "responses": "response", "response_cancel": "response", "response_items": "response",
    "cached_contents": "cache",
}  # fmt: skip
"""Operation → what it is about."""
LISTS: Final = ("data", "cachedContents")
CACHES: Final = "cachedContents/"
_NAMES: Final = ("previous_response_id", "cachedContent", "cached_content", "input_file_id")
"""Members of a request that name what somebody made before."""
_FILES: Final = frozenset({"file_id", "file_ids"})
"""Likewise, at any depth. Vector stores, conversations and prompts are made at the vendor, not here."""
_HIDING: Final = re.compile(rb"file_id|previous_response_id|cached_?[cC]ontent|\\u00")
"""Such a member, or a letter that may be one of its."""
_OUTPUTS: Final = ("output_file_id", "error_file_id")
"""Members of a batch that name what it made."""
_RESPONSE: Final = re.compile(rb'"id"\s*:\s*"(resp[^"\\]{1,400})"')
LONGEST: Final = 512


def names_of(said: str) -> list[str]:
    """What an id is known by: of a name of Google's, such as ``projects/p/locations/l/cachedContents/c``, also its end."""
    place, named_so, last = said.rpartition(f"/{CACHES}")
    return [said, CACHES + last] if place and named_so else [said]


def addressed(call: Call) -> str | None:
    """The id in the address; ``None`` where it names a list."""
    id_ = call.params.get("id")
    return f"{CACHES}{id_}" if id_ is not None and KINDS[call.operation] == "cache" else id_


def named(call: Call) -> list[str]:
    """The ids that the body names. What was looked at is what is sent: a body in which more could hide is written anew."""
    document = call.document
    if not document:
        return []
    found = [value for name in _NAMES if isinstance(value := document.get(name), str) and value]
    if call.edited or _HIDING.search(call.raw):  # a search of bytes spares most requests the walk
        found += _files(document)
        call.edit()
    return list(dict.fromkeys(found))


def _files(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            for name, inner in one.items():
                if name in _FILES and inner:
                    yield from (
                        each for each in ([inner] if isinstance(inner, str) else inner) if isinstance(each, str)
                    )
                elif isinstance(inner, dict | list):
                    waiting.append(inner)


def parsed(body: bytes) -> Document:
    """The document of an answer; empty where it is none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def id_of(item: Any) -> str | None:
    """The id of one thing as an answer shows it."""
    said = (item.get("id") or item.get("name")) if isinstance(item, dict) else None
    return said if isinstance(said, str) and said else None


def told(document: Document, kind: str) -> list[tuple[str, str]]:
    """Kind and id of everything that an answer about one thing tells of: itself and, of a batch, the files it wrote."""
    own = id_of(document)
    found = [(kind, name) for name in names_of(own)] if own else []
    if kind == "batch":
        found += [("file", value) for name in _OUTPUTS if isinstance(value := document.get(name), str) and value]
    return found


def response_of(head: bytes) -> str | None:
    """The id of a response, from the first bytes of its document or of its events: it stands before all content."""
    found = _RESPONSE.search(head)
    return found[1].decode("utf-8", "replace") if found else None
