"""Cache keys: when two calls count as the same.

A key is an HMAC over the scope that shares the answer and everything that can change it: the model and its targets,
the complete request except for configured members, and the request headers and parameters that reach the upstream.
Unknown members are included. Short chat requests that a dialect's codec reads without loss are keyed by their meaning,
so that the same conversation in another dialect finds the answer; all others by their document.
"""

from __future__ import annotations

import hmac
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import sha256
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from gwcore.call import Call, Principal
from gwcore.chat import ChatRequest, Reasoning, Text, ToolCall
from gwcore.codec import Crossing, both_ways
from gwcore.errors import MISSHAPEN, GatewayError
from gwcore.provider import Target, Upstream
from gwcore.tenancy import sharers
from gwcore.translate import CHAT
from gwcore_cache.entry import VERSION

SHARED: Final = "shared"
STREAM: Final = "stream"
OPTIONS: Final = "stream_options"
TAGS: Final = "tags"
# headers that every client of a dialect must send, and clients of other dialects cannot
_CUSTOMARY: Final = ((b"anthropic-version", b"2023-06-01"),)
_ASKS: Final = frozenset({"key", "alt"})  # query parameters to ignore: a credential, and how a stream is framed
_KNOBS: Final = {
    "prompt_cache_key": "cache_key",
    "prompt_cache_retention": "cache_retention",
    "safety_identifier": "safety_id",
}
READ: Final = 16 << 10
"""Limit in bytes for reading a request with its codec: for a long conversation, reading costs more than it can save."""
_EXACT: Final = 1 << 53
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?', re.DOTALL)
_SMALL: Final = 4096  # keys remembered


def scope_of(principal: Principal | None, scope: str) -> str:
    """Returns a unique name of those who share answers, derived only from the principal and never from the request."""
    return SHARED if scope == SHARED else sharers(principal, scope)


class Keyer:
    """Computes keys.

    Args:
        index: key of the HMAC.
        ignore: top-level keys of a request to ignore.
        volatile: patterns of text to ignore anywhere in a request.
        headers: prefixes of names of request headers to ignore.
        across: whether chat requests are keyed by their meaning.
    """

    def __init__(
        self,
        index: bytes,
        ignore: tuple[str, ...] = (),
        volatile: tuple[str, ...] = (),
        *,
        headers: tuple[str, ...] = (),
        across: bool = True,
    ) -> None:
        self._index = index
        self._skipped = tuple(name.lower().encode("latin-1") for name in headers)
        self._longest = READ if across else 0
        self._ignore = frozenset({*ignore, STREAM, OPTIONS})
        self._knobs = {_KNOBS.get(name, name) for name in ignore}
        self._tags = TAGS not in ignore
        self._volatile = re.compile("|".join(f"(?:{one})" for one in volatile)) if volatile else None
        self._known: dict[bytes, bytes] = {}
        self._places: dict[int, tuple[Upstream, str]] = {}

    def key(self, call: Call, scope: str, namespace: str = "") -> bytes:
        """Returns 32 bytes. ``call.document`` must be an object."""
        about = self._about(call, scope, namespace)
        raw = orjson.dumps(call.document) if call.edited else call.raw
        # avoids parsing equal bytes again; this digest never leaves the process
        print_ = sha256(b"%d\0%b%b" % (len(about), about, raw)).digest()
        found = self._known.get(print_)
        if found is None:
            said = self._said(call, raw)
            found = hmac.digest(self._index, b"key\0%d\0%b%b" % (len(about), about, said), "sha256")
            if len(self._known) >= _SMALL:
                self._known.clear()
            self._known[print_] = found
        return found

    def partition(self, call: Call, scope: str, namespace: str, by: Any = None) -> tuple[bytes, str] | None:
        """Returns a key of everything except the text of the last user message, and that text.

        ``None`` if they cannot be separated. ``by`` identifies the method that compares the texts.
        """
        if call.document is None or len(call.raw) > READ or (not call.edited and is_doubtful(call.raw, call.document)):
            return None
        request = self._read(call, self._canonical(call.document))
        last = request.messages[-1] if request is not None and request.messages else None
        if request is None or last is None or last.role != "user" or not last.parts:
            return None
        texts = [part for part in last.parts if isinstance(part, Text)]
        if len(texts) != len(last.parts):
            return None
        text = "\n".join(part.text for part in texts)
        last.parts = []
        said = b"near\0" + _dumps([by, request])
        about = self._about(call, scope, namespace)
        return hmac.digest(self._index, b"near\0%d\0%b%b" % (len(about), about, said), "sha256"), text

    def part(self, call: Call, scope: str, namespace: str, member: str, value: Any) -> bytes:
        """Returns the key of one of several inputs: as if the request's ``member`` contained only this one."""
        about = self._about(call, scope, namespace)
        assert call.document is not None
        document = {**self._canonical({**call.document, member: None}), member: self._plain(value)}
        said = _dumps([call.dialect.name, "part", document])
        return hmac.digest(self._index, b"part\0%d\0%b%b" % (len(about), about, said), "sha256")

    def meaning(self, target: Target) -> str:
        """Returns the target with its location: an upstream's URL, vendor or options may change under the same name."""
        upstream = target.upstream
        found = self._places.get(id(upstream))
        if found is None:
            options = upstream.options.model_dump_json() if upstream.options is not None else ""  # secrets are masked
            place = f"{upstream.provider.name} {upstream.origin} {upstream.base_path} {upstream.dialect} {options}"
            found = self._places[id(upstream)] = upstream, place  # kept, so that the id stays its own
        return f"{target} {found[1]}"

    def _about(self, call: Call, scope: str, namespace: str) -> bytes:
        """Returns everything that is part of the key except the document."""
        prefixes = _prefixes(call.dialect.forward)
        headers = [
            (header[0].decode("latin-1"), header[1].decode("latin-1"))
            for header in call.headers
            if header[0].startswith(prefixes) and not header[0].startswith(self._skipped) and header not in _CUSTOMARY
        ]
        query = call.query and sorted(
            pair for pair in parse_qsl(call.query.decode("latin-1"), keep_blank_values=True) if pair[0] not in _ASKS
        )
        chat = call.operation == CHAT and call.dialect.chat is not None
        return orjson.dumps(
            [
                VERSION,
                scope,
                namespace,
                call.operation,
                call.model,
                [self.meaning(target) for target in call.targets],
                sorted(call.tags) if self._tags else (),
                sorted(headers),
                query or [],
                # without a codec, a stream cannot be converted to a document
                None if chat else (call.stream, _options(call)),
            ]
        )

    def _said(self, call: Call, raw: bytes) -> bytes:
        assert call.document is not None
        document, doubtful = self._canonical(call.document), is_doubtful(raw, call.document)
        if not doubtful and len(raw) <= self._longest and (request := self._read(call, document)) is not None:
            return b"said\0" + _dumps(request)
        return b"own\0" + _dumps([call.dialect.name, document]) + (raw if doubtful else b"")

    def _canonical(self, document: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._plain(value) for name, value in document.items() if name not in self._ignore}

    def _plain(self, value: Any) -> Any:
        """Normalises a value: 1.0 becomes 1, as in RFC 8785, and volatile text is masked."""
        kind = type(value)
        if kind is str:
            return value if self._volatile is None else self._volatile.sub("\x00", value)
        if kind is dict:
            return {name: self._plain(inner) for name, inner in value.items()}
        if kind is list:
            return [self._plain(inner) for inner in value]
        return int(value) if kind is float and abs(value) < _EXACT and value.is_integer() else value

    def _read(self, call: Call, document: dict[str, Any]) -> ChatRequest | None:
        """Returns the canonical chat request, if its codec is lossless: writing it back must yield all its values."""
        codec = both_ways(call.dialect.chat)
        if call.operation != CHAT or codec is None:
            return None
        try:
            request = codec.read_request(document, "", stream=False)
            if request.needs or request.extra:
                return None
            written = codec.write_request(request, Crossing(""))
        except (GatewayError, *MISSHAPEN):
            return None
        asked = {name: value for name, value in document.items() if name != "model"}
        if Counter(_leaves(asked)) - Counter(_leaves(written)):
            return None
        request.dialect, request.usage_wanted = "", False
        request.knobs = {name: value for name, value in request.knobs.items() if name not in self._knobs}
        for tool in request.tools:
            if tool.custom or tool.server:
                return None
            tool.dialect = ""
        for message in request.messages:
            for part in message.parts:
                if isinstance(part, ToolCall | Reasoning) and not part.signature:
                    part.dialect = ""
        return request


@cache
def _prefixes(forward: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(prefix.encode() for prefix in forward)


def shape_of(call: Call) -> str:
    """Returns the stream options as JSON, since they change a stream; ``""`` if the call does not stream."""
    return "" if not call.stream else orjson.dumps(_options(call), option=orjson.OPT_SORT_KEYS).decode()


def _options(call: Call) -> Any:
    options = (call.document or {}).get(OPTIONS)
    return options or None


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, bytes]]:
    """Yields every value with the name of its key."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, key)
    elif isinstance(value, list) and value:
        for inner in value:
            yield from _leaves(inner, name)
    else:
        yield name, orjson.dumps(value)


def is_doubtful(raw: bytes, document: Any) -> bool:
    """Whether the bytes say more than the document: a repeated key, or a number with more digits than a double.

    An upstream may read them differently.
    """
    if orjson.dumps(document) == raw:  # the usual case: nothing is hidden
        return False
    return _keys(raw) != _count(document) or _vast(document)


def _vast(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_vast, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and abs(value) >= _EXACT


def _keys(raw: bytes) -> int:
    """Number of keys in all objects of a JSON text, including repeated ones."""
    return sum(1 for found in _STRING.finditer(raw) if found[1] is not None)


def _count(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(_count, value.values()))
    return sum(map(_count, value)) if isinstance(value, list) else 0


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=_other)


def _other(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)


def is_stateful(document: Mapping[str, Any]) -> bool:
    """Whether the answer depends on state at the vendor, or comes later."""
    kept = document.get("conversation"), document.get("thread")  # OpenAI's, Anthropic's
    return bool(document.get("background")) or kept != (None, None)


def is_fickle(document: Mapping[str, Any]) -> bool:
    """Whether it asks for several different answers: n above 1, unless the temperature is 0."""
    settings = document.get("generationConfig")
    more = settings if isinstance(settings, dict) else document
    several = document.get("n") or document.get("best_of") or more.get("candidateCount") or 1
    return several != 1 and more.get("temperature") != 0
