"""Caches embeddings per input: only the inputs of a request that are not cached are sent upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol

import orjson

from gwcore.call import Attempt, CacheUse, Call, Outcome
from gwcore.errors import Malformed
from gwcore.plugin import Setup
from gwcore.reply import Held
from gwcore.service import Service
from gwcore.usage import Cost, Usage
from gwcore_cache.ask import Ask, NotCached, fails, now_ms, usable
from gwcore_cache.config import CacheConfig
from gwcore_cache.entry import Entry
from gwcore_cache.flight import Flight, Landed, lost, shared, waits
from gwcore_cache.key import is_doubtful
from gwcore_cache.record import HEADER, entry_of, is_asked_for
from gwcore_cache.replay import STALE, Told, tell
from gwcore_cache.shelf import Turn, Turned

INPUTS: Final = b"x-gwcore-cache-inputs"
# operation → the key of the inputs in the request, and the key of the results in the answer
_MEMBERS: Final = {"embeddings": ("input", "data"), "batch_embeddings": ("requests", "embeddings")}
_MOST: Final = 4096


class Home(Protocol):
    """What this module uses of the plugin."""

    setup: Setup
    config: Any
    shelf: Any
    keyer: Any
    counts: Any
    flights: dict[bytes, Flight]

    def spawn(self, work: Any) -> None:
        """Run in the background."""
        ...

    def land(self, ask: Ask, flight: Flight | None, landed: Landed) -> None:
        """End the flight."""
        ...

    def give_back(
        self, ask: Ask, flight: Flight | None, turned: Turned | None, landed: Landed, *, alone: bool = False
    ) -> None:
        """End the flight without storing anything."""
        ...

    def refresh(self, ask: Ask, anew: Any) -> None:
        """Fetch the answer again in the background."""
        ...

    async def turn(self, ask: Ask, until: float) -> Turned:
        """Wait for the turn, at most until ``until``."""
        ...


@dataclass(slots=True)
class Parts:
    """The inputs of one request.

    Attributes:
        member: key of the inputs in the request.
        output: key of the results in the answer.
        values: as the client wrote them.
        keys: cache key of each value.
        entries: cached result of each value, or ``None``.
    """

    member: str
    output: str
    values: list[Any]
    keys: list[bytes]
    entries: list[Entry | None]

    def missing(self, ask: Ask, *, stale_for: float | None = None) -> list[int]:
        """Returns the positions of inputs without a usable entry; see :func:`gwcore_cache.ask.usable`."""
        now = now_ms()
        return [at for at, entry in enumerate(self.entries) if usable(ask, entry, now, stale_for=stale_for) is None]


class Inputs:
    """Answers embedding requests input by input; one per plugin."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def parts(self, ask: Ask) -> Parts | None:
        """Returns the inputs of a request; ``None`` if they cannot be cached one by one."""
        call = ask.call
        names = _MEMBERS.get(call.operation)
        if names is None or call.document is None or call.reply.held:
            return None
        values = call.document.get(names[0])
        if isinstance(values, str):
            values = [values]
        if not isinstance(values, list) or not 0 < len(values) <= _MOST or not isinstance(values[0], str | list | dict):
            return None  # a list of numbers is one input in tokens
        if not call.edited and is_doubtful(call.raw, call.document):
            return None  # an edited one is sent as we parsed it
        keyer = self._home.keyer
        keys = [keyer.part(call, ask.scope, ask.control.namespace, names[0], value) for value in values]
        return Parts(*names, values, keys, [None] * len(values))

    async def answer(self, ask: Ask, parts: Parts) -> Outcome:
        """Answer from the cache as far as possible, and fetch the rest."""
        home, loop = self._home, asyncio.get_running_loop()
        config: CacheConfig = home.config
        until = loop.time() + min(config.wait, ask.control.patience)
        if not ask.control.read:
            return await self._fetch(ask, parts, None, await home.shelf.turn(ask.key, ask.scope))
        while True:
            parts.entries = await home.shelf.get(parts.keys, ask.scope)
            stale_for = ask.settings.stale_if_error if ask.failures else None
            if not parts.missing(ask, stale_for=stale_for):
                return await self._tell(ask, parts, stale_for=stale_for)
            if ask.control.only:
                raise NotCached("nothing in the cache answers this request", plugin="cache")
            flight = home.flights.get(ask.key)
            if flight is None:
                return await self._lead(ask, parts, until)
            landed = await flight.join(until - loop.time())
            if landed is not None and landed.error is not None:
                raise shared(landed.error) or landed.error
            if landed is None or not waits(ask, landed):
                return await self._fetch(ask, parts, None, await home.shelf.turn(ask.key, ask.scope))

    async def _lead(self, ask: Ask, parts: Parts, until: float) -> Outcome:
        home = self._home
        flight = home.flights[ask.key] = Flight()
        turned = None
        try:
            turned = await home.turn(ask, until)
            # another worker may have stored them since the first look-up
            parts.entries = await home.shelf.get(parts.keys, ask.scope)
        except BaseException:
            home.give_back(ask, flight, turned, Landed(again=True))
            raise
        if parts.missing(ask):
            return await self._fetch(ask, parts, flight, turned)
        home.give_back(ask, flight, turned, Landed(again=True))
        return await self._tell(ask, parts)

    async def _fetch(self, ask: Ask, parts: Parts, flight: Flight | None, turned: Turned) -> Outcome:
        """Fetch the missing inputs, and merge them with the cached ones."""
        home, call = self._home, ask.call
        missing = parts.missing(ask) if ask.control.read else list(range(len(parts.values)))
        call.cache = CacheUse("miss", key=ask.key.hex())
        home.counts["miss"] += 1
        whole = len(missing) == len(parts.values)
        document = call.document
        assert document is not None
        asked = document[parts.member]
        new: list[tuple[bytes, Entry]] | None = None
        try:
            if not whole:
                call.edit()[parts.member] = [parts.values[at] for at in missing]
            async with call.reply.hold() as held:
                outcome = await ask.inner(call)
                new = self._join(ask, parts, missing, held, outcome)
        except BaseException as error:
            home.give_back(ask, flight, turned, lost(error), alone=ask.failures > 0 and fails(error))
            late = fails(error) and ask.control.read and not call.reply.committed
            stale_for = ask.settings.stale_if_error
            if late and not parts.missing(ask, stale_for=stale_for):
                return await self._tell(ask, parts, stale_for=stale_for)
            raise
        finally:
            document[parts.member] = asked
        home.spawn(self._keep(ask, flight, turned, new if ask.control.write else None))
        return outcome

    async def _keep(
        self, ask: Ask, flight: Flight | None, turned: Turned, new: list[tuple[bytes, Entry]] | None
    ) -> None:
        home, ours = self._home, turned.turn is Turn.OURS
        done = False
        try:
            if new:
                done = await home.shelf.put(new, ask.key if ours else None, turned.epoch)
            elif ours:
                await home.shelf.leave(ask.key, alone=True)
            home.counts["kept" if done else "not_kept"] += 1
        finally:
            home.land(ask, flight, Landed(again=done))

    def _join(
        self, ask: Ask, parts: Parts, missing: Sequence[int], held: Held, outcome: Outcome
    ) -> list[tuple[bytes, Entry]] | None:
        """Merge the upstream's answer with cached items; returns the new entries, ``None`` if nothing may be stored.

        An answer with the wrong items is passed on unchanged if all inputs were sent.

        Raises:
            Malformed: the items are wrong, and would have to be merged.
        """
        call, served = ask.call, ask.call.served
        held.headers.append((HEADER, b"miss"))
        if held.status != 200 or outcome.error is not None or served is None:
            return None
        try:
            document = orjson.loads(b"".join(held.body))
        except orjson.JSONDecodeError:
            document = None
        items = _in_order(document.get(parts.output) if isinstance(document, dict) else None, len(missing))
        try:
            new = items and self._entries(ask, parts, dict(zip(missing, items, strict=True)), document, served)
        except TypeError:  # nested too deeply to be serialized
            new = None
        if items is None or new is None:
            if len(missing) == len(parts.values):
                return None
            raise Malformed("the upstream's answer does not hold what was asked for")
        if len(missing) < len(parts.values):
            found = [orjson.loads(entry.body)["item"] if entry else None for entry in parts.entries]
            for at, item in zip(missing, items, strict=True):
                found[at] = item
            body = orjson.dumps({**document, parts.output: _numbered(found)})
            held.body = [body]
            held.headers = [h for h in held.headers if h[0] != b"content-length"]
            held.headers += [
                (b"content-length", b"%d" % len(body)),
                (INPUTS, b"%d/%d" % (len(parts.values) - len(missing), len(parts.values))),
            ]
            there = [e for at, e in enumerate(parts.entries) if e is not None and at not in missing]
            call.cache = self._use("miss", there, ask)
        return new if is_asked_for(call, served, any_target=ask.settings.any_target) else None

    def _entries(
        self, ask: Ask, parts: Parts, items: dict[int, Any], document: dict[str, Any], served: Attempt
    ) -> list[tuple[bytes, Entry]]:
        """Returns one entry per item, with a share of usage and cost in proportion to the length of its input."""
        config: CacheConfig = self._home.config
        usage = document.get("usage")
        rest = {name: value for name, value in document.items() if name not in {parts.output, "usage"}}
        weights = [len(orjson.dumps(parts.values[at])) for at in items]
        counted = {name: n for name, n in usage.items() if type(n) is int} if isinstance(usage, dict) else {}
        shown = {name: shares(n, weights) for name, n in counted.items()}
        tokens = shares(served.usage.total_in if served.usage is not None else 0, weights)
        nano = shares(served.cost.nano if served.cost is not None else 0, weights)
        ttl = ask.ttl(config.max_ttl)
        made = []
        for n, (at, item) in enumerate(items.items()):
            body = orjson.dumps(
                {"item": item, "rest": rest, "usage": {name: split[n] for name, split in shown.items()}}
            )
            if len(body) > config.max_size or ttl <= 0:
                continue
            cost = served.cost and Cost(nano[n], served.cost.source, served.cost.version, served.cost.unpriced)
            entry = entry_of(
                ask.call, served, ask.settings, ttl=ttl, jitter=config.jitter, scope=ask.scope,
                form="json", content_type=b"application/json", body=body,
                usage=Usage(input=tokens[n]), cost=cost,
            )  # fmt: skip
            made.append((parts.keys[at], entry))
        return made

    async def _anew(self, parts: Parts, ask: Ask, turned: Turned) -> Service[Call] | None:
        """Returns the service that fetches all inputs that are stale now; ``None`` if there are none."""
        entries, now = await self._home.shelf.get(parts.keys, ask.scope), now_ms()
        again = replace(parts, entries=[entry if entry and now < entry.fresh else None for entry in entries])
        return (lambda _call: self._fetch(ask, again, None, turned)) if None in again.entries else None

    async def _tell(self, ask: Ask, parts: Parts, *, stale_for: float | None = None) -> Outcome:
        """Answer from cached entries only. ``stale_for``: accepts stale ones, because the upstream failed."""
        call, counts = ask.call, self._home.counts
        entries = [entry for entry in parts.entries if entry is not None]
        kept = [orjson.loads(entry.body) for entry in entries]
        usage: dict[str, int] = {}
        for one in kept:
            for name, n in one["usage"].items():
                usage[name] = usage.get(name, 0) + n
        document = {**kept[0]["rest"], parts.output: _numbered([one["item"] for one in kept])}
        if usage:
            document["usage"] = usage
        now = now_ms()
        stale = any(now >= entry.fresh for entry in entries)
        if stale and stale_for is None:
            self._home.refresh(ask, partial(self._anew, parts))
        counts["stale" if stale else "hit"] += 1
        use = self._use(STALE if stale else "hit", entries, ask)
        return await tell(call, Told(b"application/json", orjson.dumps(document)), use)

    def _use(self, status: str, entries: list[Entry], ask: Ask) -> CacheUse:
        tokens = sum(entry.usage.input for entry in entries if entry.usage is not None)
        costs = [entry.cost for entry in entries if entry.cost is not None]
        saved = Cost(sum(c.nano for c in costs), costs[0].source, costs[0].version) if costs else None
        if saved is not None:
            self._home.counts["saved_nano_usd"] += saved.nano
        oldest = min((entry.made for entry in entries), default=now_ms())
        return CacheUse(status, max(0, now_ms() - oldest) / 1000, Usage(input=tokens), saved, ask.key.hex())


def _in_order(items: Any, count: int) -> list[Any] | None:
    """Returns one item per input, in input order; ``None`` if the items do not match the inputs."""
    if not isinstance(items, list) or len(items) != count or not all(isinstance(item, dict) for item in items):
        return None
    if not any("index" in item for item in items):
        return items
    if not all(type(item.get("index")) is int for item in items):
        return None
    places = {item["index"]: item for item in items}
    return [places[at] for at in range(count)] if places.keys() == set(range(count)) else None


def _numbered(items: list[Any]) -> list[Any]:
    return [{**item, "index": at} if "index" in item else item for at, item in enumerate(items)]


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Splits ``total`` by weight into integers that sum up to it."""
    whole, done, given = sum(weights) or 1, 0, 0
    parts = []
    for weight in weights:
        done += weight
        upto = total * done // whole
        parts.append(upto - given)
        given = upto
    return parts
