"""Answers to questions with the same meaning: optional, off by default, and never exact.

Two requests can match only if everything except the text of the last user message is equal: scope, model, targets,
system prompt, tools, history, every parameter. These requests form a partition, whose texts are compared by an
embedding model of the stack. The operator sets the similarity; requests cannot change it.

The index of a partition is stored like an answer: under its own key, sealed, purged and expiring.
"""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from operator import mul
from typing import Any, Final, Protocol

import orjson

from gwcore.call import Call
from gwcore.dialect import Dialect, Route
from gwcore.errors import BadConfig, GatewayError
from gwcore.ids import new_id
from gwcore.plugin import Setup
from gwcore.reply import Reply
from gwcore.service import Service
from gwcore_cache.ask import Ask, Question, now_ms, usable
from gwcore_cache.config import Semantic
from gwcore_cache.entry import Entry

OPERATION: Final = "semantic"
SIMILARITY: Final = b"x-gwcore-cache-similarity"
_KEY: Final = 32


class Home(Protocol):
    """What this module uses of the plugin."""

    setup: Setup
    shelf: Any
    keyer: Any
    counts: Any
    service: Service[Call] | None


@dataclass(slots=True, frozen=True)
class Near:
    """An answer to a similar question."""

    entry: Entry
    key: bytes
    similarity: float


class Nearest:
    """Finds answers to similar questions; one per plugin."""

    def __init__(self, home: Home, config: Semantic) -> None:
        self._home = home
        self._config = config
        self._dialect, self._route = _embeddings(home.setup)

    def question(self, ask: Ask) -> Question | None:
        """Returns the question of a request; ``None`` if it cannot be separated from the rest of the request."""
        config, models = self._config, self._home.setup.models
        # vectors of two embedding models cannot be compared, not even with equal dimensions
        keyer = self._home.keyer
        by = (config.model, [keyer.meaning(target) for target in models.means(config.model)], config.dimensions)
        found = keyer.partition(ask.call, ask.scope, ask.control.namespace, by)
        return None if found is None else Question(*found)

    async def find(self, ask: Ask, question: Question) -> Near | None:
        """Returns the usable answer to the most similar question; ``None`` if none is similar enough."""
        shelf = self._home.shelf
        (index,) = await shelf.get([question.partition], ask.scope)
        if index is None or index.operation != OPERATION:
            return None
        question.vector = vector = await self._embed(ask, question.text)
        if vector is None:
            return None
        known = _unpack(index.body)
        ranked = sorted(((_dot(vector, other), key) for key, other in known if len(other) == len(vector)), reverse=True)
        for similarity, key in ranked:
            if similarity < self._config.similarity:
                return None
            (entry,) = await shelf.get([key], ask.scope)
            if entry is not None and entry.operation == ask.call.operation and usable(ask, entry, now_ms()) is not None:
                return Near(entry, key, similarity)
        return None

    async def remember(self, ask: Ask, question: Question, entry: Entry, epoch: int) -> None:
        """Add the question whose answer was stored under ``ask.key``."""
        shelf = self._home.shelf
        vector = question.vector or await self._embed(ask, question.text)
        if vector is None:
            return
        (index,) = await shelf.get([question.partition], ask.scope)
        known = [] if index is None else [(k, v) for k, v in _unpack(index.body) if k != ask.key]
        known = [(ask.key, vector), *known][: self._config.most]
        # if workers write at the same time, one question is lost: it is sent upstream once more
        fresh = replace(
            entry,
            operation=OPERATION,
            form="json",
            shape="",
            body=_pack(known),
            usage=None,
            cost=None,
            dropped=b"",
            tags=(),
        )
        await shelf.put([(question.partition, fresh)], None, epoch)

    async def _embed(self, ask: Ask, text: str) -> array[float] | None:
        """Returns a vector of length 1, from a call by the same principal through the stack; ``None`` if it fails."""
        home, config = self._home, self._config
        document: dict[str, Any] = {"model": config.model, "input": text}
        if config.dimensions is not None:
            document["dimensions"] = config.dimensions
        body = bytearray()

        async def take(message: MutableMapping[str, Any]) -> None:
            body.extend(message.get("body", b""))

        call = ask.call.twin(new_id(), Reply(take))
        call.dialect, call.route, call.operation = self._dialect, self._route, self._route.operation
        call.raw, call.document, call.edited = orjson.dumps(document), document, False
        call.model, call.stream, call.headers, call.query, call.params = config.model, False, [], b"", {}
        try:
            call.targets = home.setup.models.resolve(config.model)
            assert home.service is not None
            async with asyncio.timeout(config.timeout):
                outcome = await home.setup.detached.call(call, home.service)
            if outcome.status != 200 or outcome.error is not None:
                raise ValueError("no embedding")
            return _unit(array("f", orjson.loads(bytes(body))["data"][0]["embedding"]))
        except (GatewayError, TimeoutError, ValueError, KeyError, TypeError, IndexError):
            home.counts["not_embedded"] += 1
            return None


def _embeddings(setup: Setup) -> tuple[Dialect, Route]:
    for dialect in setup.dialects.values():
        for route in dialect.routes:
            if route.operation == "embeddings" and route.model == "body":
                return dialect, route
    raise BadConfig("cache.semantic needs a dialect with embeddings: pip install gwcore-providers")


def _unit(vector: array[float]) -> array[float]:
    length = math.sqrt(sum(map(mul, vector, vector)))
    if not length or not math.isfinite(length):
        raise ValueError("no direction")
    return array("f", [one / length for one in vector])


def _dot(one: array[float], other: array[float]) -> float:
    return float(sum(map(mul, one, other)))


def _pack(known: list[tuple[bytes, array[float]]]) -> bytes:
    return b"".join(key + len(vector).to_bytes(4, "big") + vector.tobytes() for key, vector in known)


def _unpack(body: bytes) -> list[tuple[bytes, array[float]]]:
    known, at = [], 0
    while at < len(body):
        key, size = body[at : at + _KEY], int.from_bytes(body[at + _KEY : at + _KEY + 4], "big") * 4
        at += _KEY + 4
        vector = array("f")
        vector.frombytes(body[at : at + size])
        known.append((key, vector))
        at += size
    return known
