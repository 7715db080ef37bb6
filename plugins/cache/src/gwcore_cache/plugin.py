"""The ``cache`` plugin: a call layer after authentication and rate limits, before the router and budgets."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from random import random
from typing import Any

import structlog

from gwcore.call import CacheUse, Call, Outcome
from gwcore.ids import new_id
from gwcore.plugin import Demand, Plugin, Setup
from gwcore.ports import AdminRoute, Sample
from gwcore.reply import Reply
from gwcore.service import Service
from gwcore.units import DOLLAR
from gwcore.when import Condition
from gwcore_cache import admin
from gwcore_cache.ask import Ask, NotCached, fails, now_ms, usable
from gwcore_cache.config import CacheConfig, CachePolicy, Mode, Settings, merged
from gwcore_cache.control import Control, control_of
from gwcore_cache.entry import Entry
from gwcore_cache.flight import Flight, Landed, lost, shared, waits
from gwcore_cache.inputs import Inputs
from gwcore_cache.key import Keyer, is_fickle, is_stateful, scope_of
from gwcore_cache.record import HEADER, Record, kept, wanted_form
from gwcore_cache.replay import STALE, tell, told
from gwcore_cache.seal import Envelope, Plain, Sealed
from gwcore_cache.semantic import SIMILARITY, Near, Nearest
from gwcore_cache.shelf import Turn, Turned
from gwcore_cache.shelf.guard import Guard
from gwcore_cache.shelf.memory import MemoryShelf
from gwcore_cache.shelf.redis import RedisShelf
from gwcore_cache.shelf.sql import SqlShelf

_POLL, _SLOWEST = 0.01, 0.1  # seconds between two checks whether another worker has the answer: first and longest
_REFRESHES = 64  # limit of concurrent refreshes
_log = structlog.get_logger("gwcore")
Anew = Callable[[Ask, Turned], Awaitable[Service[Call] | None]]
_STRICT = {"on": 0, "opt-in": 1, "off": 2}


class Cache(Plugin):
    """Answers repeated requests from a store; of identical concurrent requests, only one is sent to the upstream."""

    name = "cache"
    Config = CacheConfig
    Policy = CachePolicy
    inside = ("auth", "ratelimit", "objects")
    demand = Demand.USAGE
    priced = True

    def __init__(self, config: CacheConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.store = setup.store(config.store)
        self.envelope: Envelope = Sealed(config.seal.get_secret_value()) if config.seal is not None else Plain()
        self.keyer = Keyer(
            self.envelope.index,
            config.ignore,
            config.volatile,
            headers=config.ignore_headers,
            across=config.across_dialects,
        )
        self.shelf, self.home = self._shelf(config)
        self.counts: Counter[str] = Counter()
        self.flights: dict[bytes, Flight] = {}
        self._plain = merged(config, None)
        self._rules = [
            (Condition(rule.models, rule.operations, rule.dialects, rule.tags), merged(config, rule))
            for rule in config.rules
        ]
        self._operations = frozenset(config.operations)
        self._refreshing: set[bytes] = set()
        self._writes: set[asyncio.Task[Any]] = set()
        self.inputs = Inputs(self)
        self.service: Service[Call] | None = None
        self.nearest = Nearest(self, config.semantic) if config.semantic is not None else None

    def _shelf(self, config: CacheConfig) -> tuple[Any, Any]:
        """Returns the shelf for calls, which tolerates failures, and the shelf itself."""
        if self.store.scheme == "memory":
            workers = self.setup.workers
            news = workers.folder / "cache-purges" if workers.folder is not None and workers.count > 1 else None
            home: Any = self.store.once(("cache", config.capacity), lambda: MemoryShelf(config.capacity, news))
            return home, home
        if self.store.scheme == "redis":
            home = RedisShelf(
                self.store, self.envelope, namespace=config.namespace, timeout=config.timeout, lease=config.lease
            )
        else:
            home = SqlShelf(self.store, self.envelope, capacity=config.capacity, timeout=config.timeout)
        return Guard(home), home

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open the store; pending writes are completed at the end, for at most 2 seconds."""
        if self.config.seal is None and self.store.scheme != "memory":
            _log.warning("what is cached can be read in its store; set `seal` to encrypt it", store=self.store.scheme)
        async with self.home.open():
            try:
                yield
            finally:
                if self._writes:
                    await asyncio.wait(self._writes, timeout=2.0)

    # ── the call layer ───────────────────────────────────────────────────────────────────────────────────────────

    def call_layer(self, inner: Service[Call]) -> Service[Call]:
        """Returns the layer that answers from the cache, or calls ``inner`` and stores the answer."""

        async def cache(call: Call) -> Outcome:
            control = control_of(call)
            settings = self._settings(call, control)
            if settings is None:
                if control.only:
                    raise NotCached(
                        "only-if-cached was requested, but answers to this request are not cached", plugin=self.name
                    )
                return await self._bypass(call, inner)
            scope = scope_of(call.principal, settings.scope)
            ask = Ask(call, inner, settings, control, scope, self.keyer.key(call, scope, control.namespace))
            parts = self.inputs.parts(ask)
            return await (self._answer(ask) if parts is None else self.inputs.answer(ask, parts))

        self.service = cache
        return cache

    def _settings(self, call: Call, control: Control) -> Settings | None:
        """Returns the settings for the call; ``None`` if it must not be cached."""
        document = call.document
        if (
            document is None
            or call.operation not in self._operations
            or wanted_form(call) is None
            or not (control.read or control.write)
            or is_stateful(document)
        ):
            return None
        settings = next((found for condition, found in self._rules if condition.now(call)), self._plain)
        mode = self._mode(call, settings)
        if mode == "off" or (mode == "opt-in" and not control.wanted):
            return None
        return None if is_fickle(document) and not settings.several else settings

    @staticmethod
    def _mode(call: Call, settings: Settings) -> Mode:
        said = call.principal.policies.get("cache") if call.principal is not None else None
        if not said:
            return settings.mode
        modes: list[Mode] = [policy.mode for policy in said.values() if policy.mode is not None]
        return max([settings.mode, *modes], key=_STRICT.__getitem__)

    async def _bypass(self, call: Call, inner: Service[Call]) -> Outcome:
        self.counts["bypass"] += 1
        call.cache = CacheUse("bypass")
        call.reply.add_header(HEADER, b"bypass")
        return await inner(call)

    async def _answer(self, ask: Ask) -> Outcome:
        """Answer a call: exact hit, semantic hit or miss."""
        control = ask.control
        if not control.read:
            turned = await self.shelf.turn(ask.key, ask.scope)
            return await self.lead(ask, None, turned)
        (entry,) = await self.shelf.get([ask.key], ask.scope)
        if (outcome := await self._hit(ask, entry)) is not None:
            return outcome
        if control.only:
            raise NotCached("nothing in the cache answers this request", plugin=self.name)
        if self.nearest is not None and (question := self.nearest.question(ask)) is not None:
            ask.question = question
            near = await self.nearest.find(ask, question)
            if near is not None and (outcome := await self._hit(ask, near.entry, near=near)) is not None:
                return outcome
        return await self._miss(ask)

    # ── hits ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _hit(
        self, ask: Ask, entry: Entry | None, *, stale_for: float | None = None, near: Near | None = None
    ) -> Outcome | None:
        """Answer with the entry if it is usable and the client's dialect can express it; ``None`` if not."""
        now = now_ms()
        status = usable(ask, entry, now, stale_for=stale_for)
        if entry is None or status is None:
            return None
        answer = told(entry, ask.call, self.setup.dialects)
        if answer is None:
            self.counts["unsayable"] += 1
            return None
        if near is not None:
            ask.call.reply.add_header(SIMILARITY, b"%.4f" % near.similarity)
        elif stale_for is None and (status == "stale" or self._early(entry, now)):
            self.refresh(ask, partial(self._anew, entry))
        self.counts[status] += 1
        if entry.cost is not None:
            self.counts["saved_nano_usd"] += entry.cost.nano
        use = CacheUse(
            STALE if status == "stale" else status if near is None else "hit/semantic",
            max(0, now - entry.made) / 1000,
            entry.usage,
            entry.cost,
            ask.key.hex(),
        )
        return await tell(ask.call, answer, use)

    def _early(self, entry: Entry, now: int) -> bool:
        """XFetch (Vattani et al., 2015): likelier the closer the expiry is and the longer the answer took."""
        beta = self.config.early_refresh
        return bool(beta) and now - entry.took * beta * math.log(1.0 - random()) >= entry.fresh  # noqa: S311

    def refresh(self, ask: Ask, anew: Anew) -> None:
        """Fetch the answer again in the background, once among workers that share leases.

        ``anew`` returns the service to call; ``None`` if a refresh is no longer needed.
        """
        if ask.key in self._refreshing or ask.key in self.flights or len(self._refreshing) >= _REFRESHES:
            return
        self._refreshing.add(ask.key)
        call = ask.call.twin(new_id(), Reply(_nowhere))
        self.setup.detached.start(self._refreshed(replace(ask, call=call), anew))

    async def _refreshed(self, ask: Ask, anew: Anew) -> None:
        try:
            turned = await self.shelf.turn(ask.key, ask.scope)
            if turned.turn is not Turn.OURS:
                return
            service = await anew(ask, turned)
            if service is None:
                await self.shelf.leave(ask.key, alone=False)
                return
            self.counts["refresh"] += 1
            await self.setup.detached.call(ask.call, service)
        finally:
            self._refreshing.discard(ask.key)

    async def _anew(self, old: Entry, ask: Ask, turned: Turned) -> Service[Call] | None:
        if turned.entry is not None and turned.entry.made > old.made:
            return None
        # no client waits, so an error needs no stale answer in its place
        return lambda _call: self.lead(ask, None, replace(turned, entry=None))

    # ── misses ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _miss(self, ask: Ask) -> Outcome:
        """Wait for the call that already asks the upstream, or become it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + min(self.config.wait, ask.control.patience)
        while True:
            flight = self.flights.get(ask.key)
            if flight is None:
                break
            landed = await flight.join(until - loop.time())
            if landed is not None:
                if landed.error is not None:
                    raise shared(landed.error) or landed.error
                stale_for = ask.settings.stale_if_error if landed.failed else None
                if (outcome := await self._hit(ask, landed.entry, stale_for=stale_for)) is not None:
                    self.counts["coalesced"] += 1
                    return outcome
                if waits(ask, landed):
                    continue
            turned = await self.shelf.turn(ask.key, ask.scope)
            return await self.lead(ask, None, turned)
        flight = self.flights[ask.key] = Flight()
        turned = None
        try:
            turned = await self.turn(ask, until)
            outcome = await self._hit(ask, turned.entry)
        except BaseException:
            self.give_back(ask, flight, turned, Landed(again=True))
            raise
        if outcome is None:
            return await self.lead(ask, flight, turned)
        self.give_back(ask, flight, turned, Landed(turned.entry))
        return outcome

    async def turn(self, ask: Ask, until: float) -> Turned:
        """Wait until the turn is ours, another worker has a usable answer, or ``until`` has passed: ``ALONE``."""
        loop, pause = asyncio.get_running_loop(), _POLL
        while True:
            turned: Turned = await self.shelf.turn(ask.key, ask.scope)
            if turned.turn is not Turn.OTHERS or usable(ask, turned.entry, now_ms()) is not None:
                return turned
            if loop.time() >= until:
                return replace(turned, turn=Turn.ALONE)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _SLOWEST)

    def land(self, ask: Ask, flight: Flight | None, landed: Landed) -> None:
        """End the flight and free its place."""
        if flight is not None:
            if self.flights.get(ask.key) is flight:
                del self.flights[ask.key]
            flight.land(landed)

    def give_back(
        self, ask: Ask, flight: Flight | None, turned: Turned | None, landed: Landed, *, alone: bool = False
    ) -> None:
        """End the flight without storing anything, and end the turn so that other workers can continue."""
        self.land(ask, flight, landed)
        if turned is not None and turned.turn is Turn.OURS:
            self.spawn(self.shelf.leave(ask.key, alone=alone))

    async def lead(self, ask: Ask, flight: Flight | None, turned: Turned) -> Outcome:
        """Call the upstream; store the answer if that is allowed, and pass the result to all waiting calls."""
        call = ask.call
        record = Record(call, self.config.max_size)
        call.cache = CacheUse("miss", key=ask.key.hex())
        self.counts["miss"] += 1
        try:
            with call.reply.record(record):
                outcome = await ask.inner(call)
        except BaseException as error:
            self.give_back(ask, flight, turned, lost(error, turned.entry), alone=ask.failures > 0 and fails(error))
            if fails(error) and not call.reply.committed and ask.control.read:
                stale = await self._hit(ask, turned.entry, stale_for=ask.settings.stale_if_error)
                if stale is not None:
                    return stale
            raise
        entry = self._kept(ask, record, outcome)
        if entry is None:
            self.counts["not_kept"] += 1
            self.give_back(ask, flight, turned, Landed(), alone=True)
            return outcome
        if flight is not None:
            flight.land(Landed(entry))
        self.spawn(self._keep(ask, flight, turned, entry))
        return outcome

    def _kept(self, ask: Ask, record: Record, outcome: Outcome) -> Entry | None:
        ttl = ask.ttl(self.config.max_ttl)
        if not ask.control.write or ttl <= 0:
            return None
        try:
            return kept(record, outcome, ask.settings, ttl=ttl, jitter=self.config.jitter, scope=ask.scope)
        except Exception as error:  # the client has its answer already; an answer that cannot be judged is not stored
            self.counts["not_judged"] += 1
            _log.error("an answer cannot be judged", error=type(error).__name__)
            return None

    async def _keep(self, ask: Ask, flight: Flight | None, turned: Turned, entry: Entry) -> None:
        """Store the entry, then free the flight's place: later calls find the entry."""
        try:
            turn = ask.key if turned.turn is Turn.OURS else None
            done = await self.shelf.put([(ask.key, entry)], turn, turned.epoch)
            self.counts["kept" if done else "not_kept"] += 1
        finally:
            self.land(ask, flight, Landed(entry))
        if done and ask.question is not None and self.nearest is not None:
            self.setup.detached.start(self.nearest.remember(ask, ask.question, entry, turned.epoch))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run in the background; awaited at shutdown."""
        task = asyncio.create_task(work)
        self._writes.add(task)
        task.add_done_callback(self._wrote)

    def _wrote(self, task: asyncio.Task[Any]) -> None:
        self._writes.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.counts["write_failed"] += 1

    # ── admin API, metrics, health ───────────────────────────────────────────────────────────────────────────────

    def admin_routes(self) -> Sequence[AdminRoute]:
        """Routes for purges, and for the state of the store."""
        return admin.routes(self)

    def explain(self, call: Call) -> str | None:
        """Whether the call would be looked up, and how long its answer would be fresh."""
        control = Control()
        settings = self._settings(call, control)
        if settings is None:
            return "not for the cache"
        return (
            f"shared by {settings.scope}, fresh for {settings.ttl:g} s, in {self.store.scheme} ({self.envelope.name})"
        )

    def metrics(self) -> Iterator[Sample]:
        """Counts of events, money saved, and whether the store is down."""
        for event in ("hit", "stale", "miss", "bypass", "coalesced", "refresh", "kept", "not_kept"):
            yield Sample(
                "gwcore_cache_events", self.counts[event], {"event": event}, "Cache events by type.", kind="counter"
            )
        saved = self.counts["saved_nano_usd"] / DOLLAR  # a float, for display only
        yield Sample(
            "gwcore_cache_spared_usd",
            saved,
            help="Dollars that calls answered from the cache would have cost.",
            kind="counter",
        )
        down = isinstance(self.shelf, Guard) and self.shelf.down_since is not None
        yield Sample(
            "gwcore_cache_degraded",
            int(down),
            help="1 while the store of the cache is unreachable, else 0.",
            merge="max",
        )

    def health(self) -> dict[str, Any]:
        """Counts of this worker, and whether the store is down."""
        down = isinstance(self.shelf, Guard) and self.shelf.down_since is not None
        return {
            "store": self.store.scheme,
            "degraded": down,
            "under_way": len(self.flights),
            **self.home.health(),
            **self.counts,
        }


async def _nowhere(_message: MutableMapping[str, Any]) -> None:
    return None
