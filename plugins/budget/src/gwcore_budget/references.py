"""What a request refers to that the gateway does not see: files, pictures by address, earlier answers.

Found by searching the bytes, since an upstream may read what a duplicate name hides in the document. The schemas and arguments
of the client's own tools may use the same words for their parameters: what is found in them, and nowhere else, refers to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

Document = Mapping[str, Any]
_ELSEWHERE = frozenset({"previous_response_id", "conversation", "cachedContent", "container", "prompt", "thread"})
"""Members that refer to input the gateway does not see; a ``prompt`` only if it is an object."""
_UNSEEN = (
    '"document"',
    '"document_url"',
    '"input_audio"',
    '"audio_url"',
    '"video',
    '"inlineData"',
    '"inline_data"',
    '"item_reference"',
)
_FILE = re.compile(r'"file(?<!\\"file)(?:"|:|id:|Id|Data|Uri|Search|_ids?"|_data|_ur[il]|_search)')
"""What refers to a file, in all spellings; not names of tool parameters, such as ``file_path``. An escaped quote is within a text."""
_LARGE, _CUT, _ENDS = 32_768, 256, 64
"""Bytes from which a request is cut, and its texts; and what is left of their beginning and their end."""
_PICTURES = ('"image_url"', '"input_image"', '"image"')
_SCHEMAS = ("function", "parameters", "input_schema", "functionDeclarations", "function_declarations")
"""Members of the client's own tools that only describe them."""
_FORMS = ("responseSchema", "response_schema", "responseJsonSchema", "response_json_schema", "format")
"""Members of a request's settings that only describe the answer."""
_CALLED = {
    "functionCall": "args",
    "function_call": "args",
    "functionResponse": "response",
    "function_response": "response",
}


def outline(raw: bytes) -> bytes:
    """A large request with its long texts cut to their ends, to be searched for marks.

    A mark is the beginning of a string, so none is lost: of pictures and files, whose base64 is one long string, and of
    texts little is left to search.
    """
    if len(raw) < _LARGE:
        return raw
    parts = b".".join(raw.split(b'\\"')).split(b'"')  # an escaped quote is within a text
    return b'"'.join([part if len(part) < _CUT else part[:_ENDS] + part[-_ENDS:] for part in parts])


def unseen(document: Document, text: str) -> bool:
    """Whether a request refers to input of unknown size. ``text``: its outline, in which plain letters are not escaped."""
    if _elsewhere(document, text):
        return True
    found = _references(text)
    return found > 0 and found > _references(_own_text(document))


def pictures(document: Document, text: str) -> int:
    """How many pictures a request may have; one may be counted twice."""
    found = _count(text, _PICTURES) if "image" in text else 0
    return found and max(0, found - _count(_own_text(document), _PICTURES))


def _references(text: str) -> int:
    return _count(text, _UNSEEN) + (len(_FILE.findall(text)) if '"file' in text else 0)


def _count(text: str, marks: Iterable[str]) -> int:
    """Occurrences, except after a backslash: such a quote is escaped, so the mark is within a text."""
    count = 0
    for mark in marks:  # most requests have none, and `in` is faster than count()
        if mark in text:
            count += text.count(mark) - text.count("\\" + mark)
    return count


def _elsewhere(document: Document, text: str) -> bool:
    if '"audio"' in text and _spoken(document):
        return True
    if _ELSEWHERE.isdisjoint(document):
        return False
    return any(document.get(name) for name in _ELSEWHERE - {"prompt"}) or isinstance(document.get("prompt"), dict)


def _spoken(document: Document) -> bool:
    """Whether a message refers to an earlier audio answer by its id."""
    return any(message.get("audio") for message in _objects(document.get("messages")))


def _own_text(document: Document) -> str:
    """What belongs to the client's own tools and to the form of the answer, as JSON."""
    parts = [*_schemas(document.get("tools")), document.get("functions"), *_forms(document), *_arguments(document)]
    return "\n".join(orjson.dumps(part).decode("latin-1") for part in parts)


def _schemas(tools: Any) -> Iterator[Any]:
    for tool in _objects(tools):
        kind = tool.get("type", "function")
        if kind == "namespace":
            yield from _schemas(tool.get("tools"))
        elif kind in ("function", "custom"):
            yield from (tool[name] for name in _SCHEMAS if name in tool)


def _forms(document: Document) -> Iterator[Any]:
    yield document.get("response_format")
    for settings in (document, *map(document.get, ("text", "output_config", "generationConfig", "generation_config"))):
        if isinstance(settings, dict):
            yield from (settings[name] for name in _FORMS if name in settings)


def _arguments(document: Document) -> Iterator[Any]:
    """Arguments of calls of the client's own tools, where they are objects; others are texts."""
    for message in _objects(document.get("messages")):
        yield from (call.get("function") for call in _objects(message.get("tool_calls")))
        yield from (part.get("input") for part in _objects(message.get("content")) if part.get("type") == "tool_use")
    for message in _objects(document.get("contents")):
        for part in _objects(message.get("parts")):
            yield from (part[name].get(inner) for name, inner in _CALLED.items() if isinstance(part.get(name), dict))


def _objects(found: Any) -> Iterator[Document]:
    return (one for one in found if isinstance(one, dict)) if isinstance(found, list) else iter(())
