"""Shared by all codecs: sealed thoughts, tool call ids, data URLs, text of parts."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

import orjson

from gwcore.chat import (
    ChatRequest,
    Extra,
    Format,
    Media,
    Message,
    Opaque,
    Part,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from gwcore.codec import Complaint, Crossing
from gwcore.errors import BadRequest
from gwcore.restore import AnswerTool

# ── thoughts carried through a dialect that did not sign them ────────────────────────────────────────────────────────

SEAL = "gw1."
THOUGHT = "__thought__"


def seal(thought: Reasoning) -> str:
    """A thought with its signature as one token, for the field of the client's dialect that carries opaque data.

    The client sends it back in its next turn; :func:`unseal` then returns the same thought, byte for byte. It is not
    encrypted: it contains only what the vendor sent to this client.
    """
    known = {
        "d": thought.dialect, "t": thought.text, "s": thought.signature, "e": thought.encrypted, "i": thought.id,
        "r": thought.redacted, "u": thought.summary, "x": dict(thought.extra),
    }  # fmt: skip
    packed = orjson.dumps({key: value for key, value in known.items() if value})
    return SEAL + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def unseal(token: object) -> Reasoning | None:
    """The thought in a token of :func:`seal`; ``None`` for anything else. Raises ``BadRequest`` for a damaged one."""
    if not isinstance(token, str) or not token.startswith(SEAL):
        return None
    packed = token[len(SEAL) :]
    try:
        known = orjson.loads(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
        return Reasoning(
            known.get("t", ""), known.get("s"), known.get("e"), known.get("r", False), known.get("u", False),
            known.get("i"), known.get("d", ""), known.get("x", {}),
        )  # fmt: skip
    except (binascii.Error, orjson.JSONDecodeError, KeyError, AttributeError):
        raise BadRequest("encrypted reasoning (gw1.…) was modified: send it back unchanged") from None


def with_thought(call: ToolCall) -> str:
    """The call's id with its signature appended: for dialects whose tool calls have no field for a signature."""
    if call.signature is None:
        return call.id
    try:
        raw = base64.b64decode(call.signature, validate=True)
        plain = base64.b64encode(raw).decode() == call.signature
    except (binascii.Error, ValueError):
        plain = False
    # "b" for base64, as Google's are; "t" for any other text
    packed = b"b" + raw if plain else b"t" + call.signature.encode()
    return f"{call.id}{THOUGHT}{base64.urlsafe_b64encode(packed).decode().rstrip('=')}"


def thought_of(id: str) -> tuple[str, str | None]:  # noqa: A002 - the field's standard name
    """An id and the signature that :func:`with_thought` appended to it, if any."""
    plain, mark, packed = id.partition(THOUGHT)
    plain = _unpacked(plain)
    if not mark:
        return plain, None
    try:
        raw = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
    except (binascii.Error, ValueError):
        return plain, None
    return plain, base64.b64encode(raw[1:]).decode() if raw[:1] == b"b" else raw[1:].decode("utf-8", "replace")


_PACKED = "gwid_"


def shown_id(id: str, allowed: re.Pattern[str]) -> str:  # noqa: A002
    """An id encoded in the characters that a client's dialect allows; :func:`thought_of` restores the vendor's id."""
    if allowed.fullmatch(id):
        return id
    return _PACKED + base64.urlsafe_b64encode(id.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def _unpacked(id: str) -> str:  # noqa: A002
    if not id.startswith(_PACKED):
        return id
    packed = id[len(_PACKED) :]
    try:
        return base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode("utf-8", "surrogatepass")
    except (binascii.Error, UnicodeDecodeError):
        return id


_ANY_ID = re.compile(r"[\x21-\x7e]+")


def fit_id(id: str, allowed: re.Pattern[str] = _ANY_ID, limit: int = 64) -> str:  # noqa: A002
    """An id in a form that a vendor accepts: unchanged if it fits, else a digest; always the same for the same id."""
    if len(id) <= limit and allowed.fullmatch(id):
        return id
    return ("call" + hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest())[: min(limit, 28)]


# ── documents ────────────────────────────────────────────────────────────────────────────────────────────────────────

KEPT = "it refers to something stored at a vendor, and translated responses are not stored: send the items themselves, as clients do with store: false"
_NAMED = frozenset({"previous_response_id", "conversation"})
_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_DATA = re.compile(r"data:([^;,]*)(?:;[^,]*?)??(;base64)?,", re.IGNORECASE)


def data_url(media: Media) -> str:
    """The media's content as a data URL."""
    return f"data:{media.mime or 'application/octet-stream'};base64,{media.data}"


def from_url(url: str) -> tuple[str | None, str | None, str | None]:
    """``(mime, base64, None)`` for a base64 data URL, else ``(None, None, url)``."""
    found = _DATA.match(url[:200])
    if found is None or not found.group(2):
        return None, None, url
    return found.group(1) or None, url[found.end() :], None


def rest(document: Mapping[str, Any], *known: str) -> Extra:
    """The keys that were not read; ``null`` counts as absent."""
    return {key: value for key, value in document.items() if key not in known and value is not None}


def unsaid(document: Any, known: AbstractSet[str], where: str = "") -> list[Opaque]:
    """An answer's values under unknown keys, as parts: every writer, also its own dialect's, drops them by name."""
    if not isinstance(document, dict) or document.keys() <= known:
        return []
    return [Opaque("", where + key, value) for key, value in document.items() if key not in known and value]


def objects(value: object, where: str) -> list[dict[str, Any]]:
    """A list of objects. Raises ``BadRequest`` naming the place."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRequest(f"{where} must be a list of objects")
    return value


def string(document: Mapping[str, Any], key: str, where: str) -> str:
    """A required string. Raises ``BadRequest`` naming the place."""
    value = document.get(key)
    if not isinstance(value, str):
        raise BadRequest(f"{where}.{key} must be a string")
    return value


def parsed(arguments: str) -> dict[str, Any]:
    """Arguments as an object, for dialects that send one; anything else is put under ``_raw``."""
    if not arguments.strip():
        return {}
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {"_raw": arguments}
    return value if isinstance(value, dict) else {"_raw": value}


def spelled(arguments: Any) -> str:
    """Arguments as JSON text; what :func:`parsed` put under ``_raw`` is restored."""
    if isinstance(arguments, str):
        return arguments
    if isinstance(arguments, dict) and set(arguments) == {"_raw"}:
        raw = arguments["_raw"]
        return raw if isinstance(raw, str) else orjson.dumps(raw).decode()
    return orjson.dumps(arguments if arguments is not None else {}).decode()


def words(parts: Iterable[Part], between: str = "") -> str:
    """The text of the text parts."""
    return between.join(part.text for part in parts if isinstance(part, Text))


def names_of_calls(messages: Iterable[Message]) -> dict[str, str]:
    """Tool call id → tool name, for a whole conversation: for dialects whose results name the tool."""
    return {part.id: part.name for message in messages for part in message.parts if isinstance(part, ToolCall)}


def answer_tool(form: Format, taken: Container[str], crossing: Crossing) -> Tool:
    """Structured output as a tool that the model must call: its arguments are the answer, and are returned as text."""
    name = _NAME.sub("_", form.name or "answer")[:60]
    while name in taken:
        name += "_"
    schema = form.schema if isinstance(form.schema, dict) else {"type": "object", "properties": {}}
    schema, wrapped = _in_an_object(schema)
    crossing.answer = AnswerTool(name, wrapped)
    described = form.description or "Give your final answer by calling this tool."
    return Tool(name, described, {"type": "object", **schema})


def object_format(form: Format, crossing: Crossing) -> Format:
    """For vendors that take an object's schema only: any other is nested in one, and the answer is taken out of it."""
    if form.kind != "schema" or not isinstance(form.schema, dict):
        return form
    schema, wrapped = _in_an_object(form.schema)
    if not wrapped:
        return form
    crossing.answer = AnswerTool(None, wrapped)
    return replace(form, schema=schema)


def _in_an_object(schema: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The schema, nested under ``value`` if it is not an object's; and whether it is nested."""
    if schema.get("type", "object") == "object" and "$ref" not in schema and "anyOf" not in schema:
        return schema, False
    inner = {key: value for key, value in schema.items() if key not in {"$defs", "definitions"}}
    outer: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    nest = {"type": "object", "properties": {"value": inner}, "required": ["value"], "additionalProperties": False}
    return {**nest, **outer}, True


def _needed(request: ChatRequest, crossing: Crossing) -> None:
    for name in request.needs:
        raise crossing.refuse(name, KEPT if name in _NAMED else f"it is known to {request.dialect} only")
    if any(
        isinstance(part, Opaque) and part.kind == "item_reference" for one in request.messages for part in one.parts
    ):
        raise crossing.refuse("item_reference", KEPT)
    if request.format is not None and request.format.extra.get("mime") == "text/x.enum":
        # others refuse a schema that is no object, or answer in quotes, which a client of Google's takes for no member
        raise crossing.refuse(
            "responseMimeType text/x.enum", "only Gemini answers with a bare word; request application/json"
        )


def foreign(request: ChatRequest, dialect: str, crossing: Crossing, spoken: Iterable[str]) -> None:
    """Refuse, or drop by name, what another dialect's writer cannot express: refused if essential, dropped if not.

    ``dialect`` is the writer's, ``spoken`` are the knobs it can write, except those this vendor lacks (``no:`` among
    its quirks). A knob that is ``False`` requests nothing.
    """
    if request.dialect == dialect:
        return
    _needed(request, crossing)
    if any(message.extra.get("audio") and not message.parts for message in request.messages):
        raise crossing.refuse("messages.audio", "a spoken answer is stored at its vendor, and there is no text of it")
    for knob in [knob for knob in request.knobs if f"no:{knob}" in crossing.quirks]:
        del request.knobs[knob]
        crossing.drop(knob)
    if request.stop and "no:stop" in crossing.quirks:
        request.stop = []
        crossing.drop("stop")
    said = set(spoken)
    for name in (
        *request.extra,
        *(knob for knob, value in request.knobs.items() if knob not in said and value is not False),
    ):
        crossing.drop(name)
    for where, extra in _extras(request):
        for key, value in extra.items():
            if value and key not in _KEPT:
                crossing.drop(key if key == "cache_control" else f"{where}.{key}")


def _extras(request: ChatRequest) -> Iterator[tuple[str, Extra]]:
    """The keys that only the client's dialect knows, with the name of their place."""
    for message in request.messages:
        yield "messages", message.extra
        for part in message.parts:
            if not isinstance(part, Reasoning | Opaque):
                yield "messages.content", part.extra
            if isinstance(part, ToolResult):
                yield from (("messages.content", one.extra) for one in part.parts if isinstance(one, Text | Media))
    yield from (("tools", tool.extra) for tool in request.tools if not tool.server)
    if request.thinking is not None:
        own = request.thinking.extra
        yield "output_config", own.get("config", {})
        yield "reasoning", {key: value for key, value in own.items() if key not in _OF_THINKING}


# keys that readers keep in ``extra`` for the same dialect's writer, and an API's bookkeeping: ids and states of items
_OF_THINKING = frozenset({"config", "encrypted", "reasoning", "budget", "level", "switch"})
_KEPT = frozenset({
    "instructions", "role", "item", "empty", "legacy", "given", "noid", "at", "parameters", "id", "status", "type", "annotations",
    "logprobs", "thought", "thoughtSignature", "reasoning", "reasoning_content", "index", "input_schema", "name", "object",
    "namespace",
})  # fmt: skip


def cached(parts: Iterable[Part]) -> bool:
    """Whether one of these parts, or a part of a tool result among them, has a prompt-cache mark."""
    return any(
        not isinstance(part, Reasoning | Opaque)
        and (part.cache or (isinstance(part, ToolResult) and cached(part.parts)))
        for part in parts
    )


def unsayable(
    message: Message, crossing: Crossing, *, cache: bool = True, name: bool = True, signature: bool = True
) -> None:
    """Drop by name what the writer's dialect has no field for.

    That is a prompt-cache mark, the participant's name, a thought's signature on a call.
    """
    if cache and cached(message.parts):
        crossing.drop("cache_control")
    if name and message.name is not None:
        crossing.drop("messages.name")
    if signature and any(isinstance(part, ToolCall) and part.signature for part in message.parts):
        crossing.drop("reasoning of another vendor")


OVERFLOW = "context_length_exceeded"
"""Error code for a conversation longer than the model accepts, whatever code the vendor uses."""
_OVERFLOW = re.compile(
    r"prompt is too long|maximum context length|context[ _](?:window|length|size|limit)"
    r"|exceeds? the (?:model's )?(?:maximum|available) (?:number of tokens|context|input)|input is too long|too many tokens in",
    re.IGNORECASE,
)


def complaint(document: Any, body: bytes) -> Complaint:
    """An upstream's error; its code is :data:`OVERFLOW` if the message says that the conversation is too long."""
    found = _complaint(document, body)
    return replace(found, code=OVERFLOW) if _OVERFLOW.search(found.message) else found


def _complaint(document: Any, body: bytes) -> Complaint:
    """Most vendors' errors: an object, possibly under ``error``, that contains a message."""
    error = document.get("error", document) if isinstance(document, dict) else document
    if isinstance(error, list) and error:
        error = error[0]
    if isinstance(error, str):
        return Complaint(error)
    if not isinstance(error, dict):
        return Complaint(body[:2000].decode("utf-8", "replace").strip() or "no message")
    if isinstance(error.get("error"), dict):
        error = error["error"]
    message = next((error[key] for key in ("message", "detail", "msg") if isinstance(error.get(key), str)), None)
    if message is None and isinstance(error.get("detail"), list):
        message = "; ".join(_problem(one) for one in error["detail"])
    kind, code, param = (error.get(key) for key in ("type", "code", "param"))
    if isinstance(code, int) and isinstance(error.get("status"), str):
        code = error["status"]  # Google's code only repeats the HTTP status
    outer = document if isinstance(document, dict) else {}
    request_id = outer.get("request_id") or error.get("request_id")
    return Complaint(
        message or orjson.dumps(error)[:2000].decode("utf-8", "replace"),
        kind if isinstance(kind, str) else None,
        str(code) if isinstance(code, str | int) else None,
        param if isinstance(param, str) else None,
        request_id if isinstance(request_id, str) else None,
    )


def _problem(one: Any) -> str:
    """One of FastAPI's ``detail``."""
    if not isinstance(one, dict):
        return str(one)
    return f"{'.'.join(map(str, one.get('loc') or ()))}: {one.get('msg')}"


def complaint_of(body: bytes) -> Complaint:
    """:func:`complaint` of bytes."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    return complaint(document, body)
