"""The ``objects`` plugin: looks up the owner and place of each id before a call is sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from gwcore.call import Attempt, Call, Outcome, Target
from gwcore.errors import BadRequest, ClientError, StoreUnavailable, Untranslatable
from gwcore.plugin import Plugin, Setup
from gwcore.ports import Ownership, Sample
from gwcore.provider import Upstream
from gwcore.service import Service
from gwcore.tenancy import sharers
from gwcore.translate import CHAT
from gwcore_objects.book import Book, Home, Kept, owner_key
from gwcore_objects.config import ObjectsConfig
from gwcore_objects.ids import KINDS, MESSAGES, RESPONSES, addressed, carried, id_of, named, runs_code, told
from gwcore_objects.lists import cursor, filtered
from gwcore_objects.seen import Seen

_PINNED = 1024
_TELLING = frozenset({"batches", "batch_cancel"})
"""Operations whose answer about one object names others. A batch's results are not read: they may be hundreds of megabytes."""
_LONG = 1 << 20
"""Bytes above which an upload is parsed in a thread: other calls continue meanwhile."""
_MISSED = frozenset({"miss", "bypass"})
"""Cache statuses of an answer that came from the upstream."""
_TOLD_OF = {RESPONSES: "response", MESSAGES: "message"}
"""Dialect → kind of object that its answers name."""
Pin = tuple[tuple[Target, ...], frozenset[Home]]
"""A call's targets that have the objects it names, and the upstreams and credentials it may use."""


class NotKept(ClientError):
    """404: the id is unknown, or another owner's: the client cannot distinguish these."""

    code = "not_found"
    status = 404


class Objects(Plugin):
    """Files, batches, stored responses and caches at vendors: each caller reaches only its own, and calls go to the account that has them."""

    name = "objects"
    Config = ObjectsConfig
    inside = ("auth", "ratelimit")
    offers = (Ownership,)
    unconditional = True
    operations = frozenset(KINDS)

    def __init__(self, config: ObjectsConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.book = Book(setup.store(config.store), config.responses)
        self.counts: Counter[str] = Counter()
        self._strict = config.unknown == "refuse"
        self._places = setup.key("places", frozenset[Home])
        self._pins: dict[tuple[int, frozenset[Home]], tuple[tuple[Target, ...], Pin]] = {}

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open the book."""
        async with self.book.open():
            yield

    def call_layer(self, inner: Service[Call]) -> Service[Call]:
        """Check the owners of the objects that the call names; record those it creates."""

        def objects(call: Call) -> Coroutine[Any, Any, Outcome]:
            if call.operation in KINDS:
                return self._kept(call, inner)
            ids, kind = named(call), self._tells_of(call)
            if ids or kind is not None:
                return self._asked(call, inner, ids, kind)
            return inner(call)

        return objects

    def attempt_layer(self, inner: Service[Attempt]) -> Service[Attempt]:
        """Limit a router's further choices, such as a fallback to another model, to those with what the call names."""

        def objects(attempt: Attempt) -> Coroutine[Any, Any, Outcome]:
            places = attempt.call.get(self._places)
            upstream = attempt.target.upstream
            if places is not None and Home(upstream.name, upstream.key) not in places:
                raise Untranslatable(f"upstream {upstream.name!r} does not have what the request names by its id")
            return inner(attempt)

        return objects

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _kept(self, call: Call, inner: Service[Call]) -> Outcome:
        """A call about stored objects: one by its id, a list, or a new one."""
        kind, id_ = KINDS[call.operation], addressed(call)
        if id_ is None and call.method == "GET":
            return await self._listed(call, inner, kind)
        homes: list[Home] = []
        if id_ is not None:
            homes = await self._homes(call, id_)
            self._there(call, id_, homes)
        names = named(call)
        if kind == "file" and call.method == "POST":
            names = await asyncio.to_thread(carried, call.raw) if len(call.raw) > _LONG else carried(call.raw)
        await self._aim(call, names)
        seen = Seen(call, kind if id_ is None or call.operation in _TELLING else None)
        with call.reply.record(seen):
            outcome = await inner(call)
        self._tell(call, seen.found(), seen.served)
        if call.method == "DELETE" and id_ is not None and seen.status < 300:
            self.book.forget(id_, homes)
        return outcome

    async def _listed(self, call: Call, inner: Service[Call], kind: str) -> Outcome:
        """A list of the caller's objects, from its cursor on."""
        owner = self._owner(call)
        after = cursor(call)
        if after is not None:
            homes, _ = await self.book.find(after, owner, patient=False)
            self._there(call, after, homes)
        if owner is None:
            return await inner(call)

        async def own(listed: Sequence[Any]) -> list[Any]:
            items = {id_: item for item in listed if (id_ := id_of(item)) is not None}
            known = await self.book.look(list(items))
            for id_ in [*items]:
                if any(line.owner == owner for line in known.get(id_, ())):
                    self._tell(call, told(items[id_], kind)[1:], call.served)  # a batch names its files here, too
                elif self._strict or id_ in known:
                    del items[id_]
            return list(items.values())

        return await filtered(call, inner, own)

    async def _asked(self, call: Call, inner: Service[Call], ids: Mapping[str, bool], kind: str | None) -> Outcome:
        """A call that names stored objects, or whose answer may."""
        await self._aim(call, ids)
        if kind is None:
            return await inner(call)
        seen = Seen(call, kind)
        try:
            with call.reply.record(seen):
                outcome = await inner(call)
        finally:  # the vendor stores it even if the client has left
            found = seen.found()
            ours = call.cache is None or call.cache.status in _MISSED
            if ours:
                self._tell(call, found, seen.served)
        if found and not ours:  # from a cache: the caller may continue it, too
            with suppress(StoreUnavailable):  # the answer is already sent
                homes, _ = await self.book.find(found[0][1], None, patient=True)
                self._write_down(call, found, homes)
        return outcome

    @staticmethod
    def _tells_of(call: Call) -> str | None:
        """Kind of object that the answer may name: a response, stored by default, or what code execution created."""
        document, dialect = call.document, call.dialect.name
        if call.operation != CHAT or document is None or dialect not in _TOLD_OF:
            return None
        kept = dialect == RESPONSES and document.get("store") is not False
        return _TOLD_OF[dialect] if kept or runs_code(document) else None

    # ── whose ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _owner(self, call: Call) -> str | None:
        """The owner whose objects the call reaches; ``None`` reaches all: an admin, or a caller without a principal."""
        principal = call.principal
        if principal is None or principal.admin:
            return None
        return owner_key(sharers(principal, self.config.shared_by))

    def _tell(self, call: Call, found: Sequence[tuple[str, str]], served: Attempt | None) -> None:
        """Record ids that an upstream issued. The id of a translated answer is the gateway's own: no upstream has it."""
        if served is None or not found:
            return
        target = served.target
        upstream = target.upstream
        if upstream.dialect in {None, call.dialect.name} and upstream.provider.address(
            upstream, call.dialect.name, call.operation, target.model, call.params, stream=call.stream
        ):
            self._write_down(call, found, [Home(upstream.name, upstream.key)])

    def _write_down(self, call: Call, found: Sequence[tuple[str, str]], homes: Sequence[Home]) -> None:
        owner = owner_key(sharers(call.principal, self.config.shared_by))
        for kind, id_ in found:
            for home in homes:
                self.book.note(Kept(id_, owner, home, kind))

    # ── where ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _homes(self, call: Call, id_: str, *, needed: bool = True) -> list[Home]:
        """Where an object is stored; empty if it is unknown and may pass. Raises ``NotKept``, ``StoreUnavailable``."""
        owner = self._owner(call)
        strict = needed and self._strict
        homes, anybodys = await self.book.find(id_, owner, patient=strict and owner is not None)
        if not homes and owner is not None and (strict or anybodys):
            self.counts["refused"] += 1
            raise NotKept(
                f"no object {id_[:200]!r} was created by this credential's {self.config.shared_by} through this gateway"
            )
        return homes

    def _there(self, call: Call, id_: str, homes: Sequence[Home]) -> None:
        """Route a call without a model to where an object is stored. Raises ``NotKept``."""
        if not homes:
            return
        upstreams = self.setup.models.upstreams
        targets = tuple(
            Target(_credential(upstreams[home.upstream], home), "") for home in homes if home.upstream in upstreams
        )
        if not targets:
            raise NotKept(f"{id_[:200]!r} is stored at upstream {homes[0].upstream!r}, which is no longer configured")
        call.targets = targets

    async def _aim(self, call: Call, ids: Mapping[str, bool]) -> None:
        """Limit a call's targets to those that have all objects it names.

        Raises:
            NotKept: the caller may not name one of them.
            BadRequest: no target of the call has them all.
            StoreUnavailable: the owners are unknown.
        """
        places: frozenset[Home] | None = None
        labels = [id_ for id_, needed in ids.items() if not needed]
        known = await self.book.look(labels) if labels else {}  # in one query: an agent's history may have many
        for id_, needed in ids.items():
            if not (needed or id_ in known):
                continue
            homes = frozenset(await self._homes(call, id_, needed=needed))
            if homes:
                places = homes if places is None else places & homes
        if places is None:
            return
        if call.model is None and places:
            self._there(call, next(iter(ids)), sorted(places, key=lambda home: (home.upstream, home.key)))
            return
        targets, allowed = self._pinned(call.targets, places)
        if not targets:
            where = (
                ", ".join(sorted({home.upstream for home in places}))
                or "different upstreams, which one request cannot combine"
            )
            raise BadRequest(
                f"{', '.join(ids)[:300]}: stored at {where}"
                + (f", where {call.model[:200]} is not served; request a model of that upstream" if call.model else "")
            )
        call.targets = targets
        call[self._places] = allowed

    def _pinned(self, targets: tuple[Target, ...], places: frozenset[Home]) -> Pin:
        """The targets that are at one of the places: always the same tuple, because routers identify it by that."""
        known = self._pins.get((id(targets), places))
        if known is not None and known[0] is targets:
            return known[1]
        made = tuple(
            Target(_credential(target.upstream, home), target.model)
            for target in targets
            for home in places
            if home.upstream == target.upstream.name
        )
        allowed = frozenset(Home(u.name, u.key) for one in made for u in (one.upstream, *one.upstream.keys))
        if len(self._pins) >= _PINNED:
            self._pins.clear()
        self._pins[id(targets), places] = targets, (made, allowed)
        return made, allowed

    # ── for operators ────────────────────────────────────────────────────────────────────────────────────────────

    def metrics(self) -> Iterator[Sample]:
        """Counts of ids rejected, not yet written, and lost."""
        yield Sample(
            "gwcore_objects_refused",
            self.counts["refused"],
            help="Requests that named the id of another caller's, or of an unknown, object.",
            kind="counter",
        )
        yield Sample(
            "gwcore_objects_waiting", self.book.waiting, help="Ids of objects that wait to be written to the store."
        )
        yield Sample(
            "gwcore_objects_lost",
            self.book.lost,
            help="Ids of objects that could not be written to the store; they will be rejected.",
            kind="counter",
        )

    def health(self) -> dict[str, Any]:
        """Numbers of rows that wait for the store, and that were lost."""
        return {"waiting": self.book.waiting, "lost": self.book.lost}


def _credential(upstream: Upstream, home: Home) -> Upstream:
    """The upstream with an object's credential: the first if it had only one then; unchanged if the credential is gone."""
    return next((one for one in upstream.keys if one.key == (home.key or 1)), upstream)
