"""The plugin: whose an id is, and where it is kept, before a call goes anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from gwcore.call import Call, Outcome, Target
from gwcore.errors import BadRequest, ClientError
from gwcore.plugin import Plugin, Setup
from gwcore.ports import Ownership, Sample
from gwcore.provider import Upstream
from gwcore.service import Service
from gwcore.tenancy import sharers
from gwcore.translate import CHAT
from gwcore.wire.transport import Headers
from gwcore_objects.book import Book, Home, Kept, owner_key
from gwcore_objects.config import ObjectsConfig
from gwcore_objects.ids import KINDS, addressed, named, parsed, response_of, told
from gwcore_objects.lists import filtered

RESPONSES = "openai.responses"
_HEAD = 16 << 10
"""Bytes of an answer in which a response says its id."""
_DOCUMENT = 1 << 20
_PINNED = 1024


class NotKept(ClientError):
    """404: the id is nobody's here, or another's: the two look the same."""

    code = "not_found"
    status = 404


class Seen:
    """The first bytes of an answer, as :meth:`gwcore.reply.Reply.record` shows it."""

    __slots__ = ("_left", "_most", "_parts", "status")

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._parts: list[bytes] = []
        self.status = 0

    def commit(self, status: int, _headers: Headers) -> None:
        """An answer begins, perhaps in place of another."""
        self.status, self._left = status, self._most
        self._parts.clear()

    def write(self, chunk: bytes) -> None:
        """A piece of it."""
        if self._left > 0:
            self._parts.append(chunk[: self._left])
            self._left -= len(chunk)

    @property
    def body(self) -> bytes:
        """What came; nothing of an answer that failed."""
        return b"".join(self._parts) if 200 <= self.status < 300 else b""


class Objects(Plugin):
    """Files, batches, stored responses and caches: each caller reaches its own, at the upstream and with the credential that has it."""

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
        self._pins: dict[tuple[int, frozenset[Home]], tuple[tuple[Target, ...], tuple[Target, ...]]] = {}

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open the book."""
        async with self.book.open():
            yield

    def call_layer(self, inner: Service[Call]) -> Service[Call]:
        """See whose what the call names is; note what it makes."""

        def objects(call: Call) -> Coroutine[Any, Any, Outcome]:
            if call.operation in KINDS:
                return self._kept(call, inner)
            ids = named(call)
            if ids or self._stores(call):
                return self._asked(call, inner, ids)
            return inner(call)

        return objects

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _kept(self, call: Call, inner: Service[Call]) -> Outcome:
        """A call about what is kept: one thing by its id, a list, or a new one."""
        kind, id_ = KINDS[call.operation], addressed(call)
        await self._aim(call, named(call))
        if id_ is None and call.method == "GET":
            owner = self._owner(call)
            return await (inner(call) if owner is None else filtered(call, inner, self._whose(owner)))
        homes: list[Home] = []
        if id_ is not None:
            homes = await self._homes(call, id_)
            self._there(call, id_, homes)
        seen = Seen(_DOCUMENT)
        with call.reply.record(seen):
            outcome = await inner(call)
        if id_ is None or kind == "batch":
            self._note(call, told(parsed(seen.body), kind))
        elif call.method == "DELETE" and seen.status < 300:
            self.book.forget(id_, homes)
        return outcome

    async def _asked(self, call: Call, inner: Service[Call], ids: Sequence[str]) -> Outcome:
        """A call that names what is kept, or whose answer is."""
        await self._aim(call, ids)
        if not self._stores(call):
            return await inner(call)
        seen = Seen(_HEAD)
        try:
            with call.reply.record(seen):
                outcome = await inner(call)
        finally:  # one that its client left is kept, too
            id_ = response_of(seen.body)
            if id_ is not None:
                self._note(call, [("response", id_)])
        if id_ is not None and call.served is None:  # a cache's: whoever got the answer may go on with it
            homes, _ = await self.book.find(id_, None, patient=False)
            self._write_down(call, [("response", id_)], homes)
        return outcome

    @staticmethod
    def _stores(call: Call) -> bool:
        """Whether the vendor keeps the answer, unless told otherwise."""
        document = call.document
        return (
            call.operation == CHAT
            and call.dialect.name == RESPONSES
            and document is not None
            and document.get("store") is not False
        )

    # ── whose ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _owner(self, call: Call) -> str | None:
        """Whose what the call makes is, and what it reaches; ``None`` reaches everything: the operator, or nobody who could be told apart."""
        principal = call.principal
        if principal is None or principal.admin:
            return None
        return owner_key(sharers(principal, self.config.shared_by))

    def _note(self, call: Call, found: Sequence[tuple[str, str]]) -> None:
        """Note what an upstream handed out. The id of a translated answer is the gateway's own, and kept nowhere."""
        if call.served is None:
            return
        target = call.served.target
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

    def _whose(self, owner: str) -> Any:
        """Which ids of a list an owner sees."""

        async def own(ids: Sequence[str]) -> frozenset[str]:
            known = await self.book.look(ids)
            return frozenset(
                id_
                for id_ in ids
                if any(line.owner == owner for line in known.get(id_, ())) or (not self._strict and id_ not in known)
            )

        return own

    # ── where ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _homes(self, call: Call, id_: str) -> list[Home]:
        """Where it is kept; nothing where it was not made here and may pass. Raises ``NotKept``, ``StoreUnavailable``."""
        owner = self._owner(call)
        patient = self._strict and owner is not None
        homes, anybodys = await self.book.find(id_, owner, patient=patient)
        if not homes and owner is not None and (self._strict or anybodys):
            self.counts["refused"] += 1
            raise NotKept(f"no {id_[:200]!r} that this credential's {self.config.shared_by} made through this gateway")
        return homes

    def _there(self, call: Call, id_: str, homes: Sequence[Home]) -> None:
        """Send a call without a model to where something is kept. Raises ``NotKept``."""
        if not homes:
            return
        upstreams = self.setup.models.upstreams
        targets = tuple(
            Target(_credential(upstreams[home.upstream], home), "") for home in homes if home.upstream in upstreams
        )
        if not targets:
            raise NotKept(f"{id_[:200]!r} is kept at {homes[0].upstream!r}, an upstream that is no longer here")
        call.targets = targets

    async def _aim(self, call: Call, ids: Sequence[str]) -> None:
        """Leave of a call's targets those that have everything it names.

        Raises:
            NotKept: the caller may not name it.
            BadRequest: no target of the call has it.
            StoreUnavailable: nobody can tell.
        """
        places: frozenset[Home] | None = None
        for id_ in ids:
            homes = frozenset(await self._homes(call, id_))
            if homes:
                places = homes if places is None else places & homes
        if places is None:
            return
        if call.model is None:
            self._there(call, ids[0], sorted(places, key=lambda home: (home.upstream, home.key)))
            return
        targets = self._pinned(call.targets, places)
        if not targets:
            where = ", ".join(sorted({home.upstream for home in places})) or "different upstreams"
            raise BadRequest(
                f"{', '.join(ids)[:300]}: kept at {where}, and {call.model[:200]} leads elsewhere; "
                "ask for a model there"
            )
        call.targets = targets

    def _pinned(self, targets: tuple[Target, ...], places: frozenset[Home]) -> tuple[Target, ...]:
        """Those of the targets that are at one of the places: the same tuple every time, by which routers know it."""
        known = self._pins.get((id(targets), places))
        if known is not None and known[0] is targets:
            return known[1]
        made = tuple(
            Target(_credential(target.upstream, home), target.model)
            for target in targets
            for home in places
            if home.upstream == target.upstream.name
        )
        if len(self._pins) >= _PINNED:
            self._pins.clear()
        self._pins[id(targets), places] = targets, made
        return made

    # ── for operators ────────────────────────────────────────────────────────────────────────────────────────────

    def metrics(self) -> Iterator[Sample]:
        """What was refused, and whether the book is written."""
        yield Sample(
            "gwcore_objects_refused", self.counts["refused"], help="Ids that were not the caller's.", kind="counter"
        )
        yield Sample("gwcore_objects_waiting", self.book.waiting, help="Ids that the store does not have yet.")
        yield Sample("gwcore_objects_lost", self.book.lost, help="Ids that it never will have.", kind="counter")

    def health(self) -> dict[str, Any]:
        """What waits for the store."""
        return {"waiting": self.book.waiting, "lost": self.book.lost}


def _credential(upstream: Upstream, home: Home) -> Upstream:
    """The upstream with the credential that something was made with; as it is where it no longer has that one."""
    return next((one for one in upstream.keys if one.key == home.key), upstream)
