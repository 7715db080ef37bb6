"""Ids of objects that vendors store: in paths, requests and answers. Their names are the same in every dialect.

OpenAI's files, batches and responses (platform.openai.com/docs/api-reference), Anthropic's files and message batches
(docs.anthropic.com/en/api), Gemini's cached contents (ai.google.dev/api/caching).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

import orjson

from gwcore.call import Call
from gwcore.dialect import Document
from gwcore.errors import BadRequest

KINDS: Final[Mapping[str, str]] = {
    "files": "file", "file_content": "file",
    "batches": "batch", "batch_cancel": "batch", "batch_results": "batch",
    "responses": "response", "response_cancel": "response", "response_items": "response",
    "cached_contents": "cache",
}  # fmt: skip
"""Operation → kind of its objects."""
LISTS: Final = ("data", "cachedContents")
RESPONSES: Final = "openai.responses"
MESSAGES: Final = "anthropic.messages"
CACHES: Final = "cachedContents/"
_NAMES: Final = ("previous_response_id", "cachedContent", "cached_content", "input_file_id")
"""Members of a request that name objects created earlier."""
_FILES: Final = frozenset({"file_id", "file_ids"})
"""Likewise, at any depth. Vector stores, conversations and prompts are created at the vendor, not here."""
_LETTER: Final = re.compile(rb"\\u00[4-7]")
"""An escape that may encode a letter of such a name."""
_CARRIED: Final = (b"file_id", b"previous_response_id", b"item_reference", b"container", b"\\u00")
"""Names of ids in the lines of an uploaded batch, and the escape that may hide them."""
_CALLERS_OWN: Final = frozenset(
    {"parameters", "input_schema", "schema", "properties", "args", "response", "metadata", "annotations", "results"}
)
"""Members in which vendors read no ids: schemas, arguments and results of tools, and citations. ``file_id`` is a common name there."""
_RUNNING: Final = ("code_execution", "code_interpreter", "shell", "web_search_2", "web_fetch_2")
"""Prefixes of tools that run code at the vendor. Claude's end in a date; its search tools run code to filter their results."""
_CONTAINERS: Final = frozenset({"container", "container_id"})
_MADE_THERE: Final = ("code_execution_output", "bash_code_execution_output")
"""Blocks that name a file written by code execution; in a request they are earlier answers, sent back."""
_PAYLOAD: Final = {"reasoning": "encrypted_content", "image_generation_call": "result"}
"""Type of item → its payload; if that is missing, the vendor uses what it has stored."""
_OUTPUTS: Final = ("output_file_id", "error_file_id")
"""Members of a batch that name the files it wrote."""
LONGEST: Final = 512


def known_as(said: str) -> str:
    """The id as stored in the book: of a name of Google's, such as ``projects/p/locations/l/cachedContents/c``, the end."""
    _, named_so, last = said.rpartition(f"/{CACHES}")
    return CACHES + last if named_so else said


def addressed(call: Call) -> str | None:
    """The id in the path; ``None`` if it names a list."""
    id_ = call.params.get("id")
    return f"{CACHES}{id_}" if id_ is not None and KINDS[call.operation] == "cache" else id_


def named(call: Call) -> dict[str, bool]:
    """The ids that the body names; ``False`` for those that may be mere labels: they count only if somebody has them.

    If it names any, or more could hide in it, the body is re-encoded, so that only what was checked is sent.
    """
    document = call.document
    if not document:
        return {}
    raw = call.raw
    found: dict[str, bool] = {}
    if call.dialect.name == RESPONSES and isinstance(items := document.get("input"), list):
        found.update(_items(items))
    names = [name for name in _NAMES if name in document]
    holders = [
        one
        for one in (document, *_listed(document, "tools"), *_requests(document))
        if isinstance(one, dict) and ("container" in one or "environment" in one)
    ]
    found.update(dict.fromkeys(chain.from_iterable(map(_containers, holders)), False))
    # two searches of bytes save most requests the walk; one regular expression is twenty times slower
    if names or holders or found or call.edited or b"file_id" in raw or (b"\\u00" in raw and _LETTER.search(raw)):
        found.update(dict.fromkeys((value for name in names for value in _texts(document[name])), True))
        found.update(dict.fromkeys(_files(document), True))
        call.edit()
    return {known_as(id_): needed for id_, needed in found.items()}


def _items(items: list[Any]) -> Iterator[tuple[str, bool]]:
    """Items of stored responses that a request names instead of including their contents; ``True`` if they must exist."""
    for item in items:
        if not isinstance(item, dict) or not isinstance(id_ := item.get("id"), str) or not id_:
            continue
        kind = item.get("type")
        if kind == "item_reference" or (kind is None and "role" not in item):
            yield id_, True
        elif isinstance(kind, str) and not item.get(_PAYLOAD.get(kind, "id")):
            yield id_, False


def _listed(document: Document, name: str) -> list[Any]:
    value = document.get(name)
    return value if isinstance(value, list) else []


def _requests(document: Document) -> list[Any]:
    """The requests in a batch of messages."""
    return [one.get("params") for one in _listed(document, "requests") if isinstance(one, dict)]


def _containers(holder: Document) -> list[str]:
    """Ids of containers in which code runs: in Claude's requests and answers, in OpenAI's tools and items. A new one has none."""
    places, said, shell = [holder.get("container_id")], holder.get("container"), holder.get("environment")
    places.append(said.get("id") if isinstance(said, dict) else said)
    if isinstance(shell, dict):
        places.append(shell.get("container_id"))
    return [id_ for id_ in places if isinstance(id_, str) and id_]


def _texts(value: Any) -> list[str]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and one]


def _files(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            kind = str(one.get("type"))
            opaque = "input" if kind.endswith("tool_use") else None
            for name, inner in one.items():
                if name in _FILES and kind not in _MADE_THERE:
                    yield from _texts(inner)
                if isinstance(inner, dict | list) and name not in _CALLERS_OWN and name != opaque:
                    waiting.append(inner)


def carried(upload: bytes) -> dict[str, bool]:
    """The ids in the lines of an uploaded batch, as from :func:`named`: the vendor reads each line as a request.

    Raises:
        BadRequest: a line is nested so deeply that it cannot be read.
    """
    found: dict[str, bool] = {}
    if any(word in upload for word in _CARRIED):
        for line in upload.splitlines():
            if any(word in line for word in _CARRIED):
                for id_, needed in _carried(line):
                    found[known_as(id_)] = needed or found.get(known_as(id_), False)
    return found


def _carried(line: bytes) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    members: set[str] = set()

    def see(pairs: list[tuple[str, Any]]) -> None:  # both values of a duplicate name: either may count
        nonlocal members
        members = {name for name, _ in pairs}
        refers = ("type", "item_reference") in pairs
        for name, value in pairs:
            needed = name in _NAMES or name in _FILES or (refers and name == "id")
            if needed or name in _CONTAINERS:
                found.extend((id_, needed) for id_ in _texts(value))

    try:
        json.loads(line, object_pairs_hook=see)
    except ValueError:
        return []  # not a line of a batch, as without a body in the outermost object
    except RecursionError:
        raise BadRequest("a line of the file is nested too deeply") from None
    return found if "body" in members else []


def parsed(body: bytes) -> Document:
    """The document of an answer; empty if it is not a JSON object."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def id_of(item: Any) -> str | None:
    """The id of an object in an answer, or ``None``."""
    said = (item.get("id") or item.get("name")) if isinstance(item, dict) else None
    return known_as(said) if isinstance(said, str) and said else None


def runs_code(document: Document) -> bool:
    """Whether the answer may name a container, and files written there."""
    return "container" in document or any(
        isinstance(tool, dict) and str(tool.get("type")).startswith(_RUNNING) for tool in _listed(document, "tools")
    )


def told(document: Document, kind: str) -> list[tuple[str, str]]:
    """Kind and id of all objects that an answer about one object names.

    The object itself, the files a batch wrote, the items of a response; for a message, what code execution created. A
    container is stored as a response, because it lives no longer.
    """
    if kind == "message":
        return _made(document)
    own = id_of(document)
    found = [(kind, own)] if own else []
    if kind == "batch":
        found += [("file", id_) for name in _OUTPUTS for id_ in _texts(document.get(name))]
    if kind == "response":
        items = _listed(document, "output")
        found += [(kind, id_) for item in items if (id_ := id_of(item))]
        found += [(kind, id_) for item in items if isinstance(item, dict) for id_ in _containers(item)]
    return found


def _made(document: Document) -> list[tuple[str, str]]:
    """What code execution created, from a message or an event of its stream (BetaMessage of Anthropic's API)."""
    results = [block.get("content") for block in _listed(document, "content") if isinstance(block, dict)]
    blocks = [one for result in results if isinstance(result, dict) for one in _listed(result, "content")]
    outputs = [one for one in blocks if isinstance(one, dict) and one.get("type") in _MADE_THERE]
    files = [("file", id_) for output in outputs for id_ in _texts(output.get("file_id"))]
    return files + [("response", id_) for id_ in _containers(document)]
