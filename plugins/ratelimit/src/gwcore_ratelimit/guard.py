"""A store of the limits that can fail, and limiting without it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from gwcore.errors import StoreUnavailable
from gwcore_ratelimit.gcra import PARALLEL, REQUESTS, SECOND, Change, Charge, Limit, Reading, Verdict, refunds
from gwcore_ratelimit.memory import Memory, monotonic
from gwcore_ratelimit.table import StoreDown

FAILURES: Final = 3
PAUSE: Final = SECOND
"""Microseconds between two tries of an unreachable store."""
_AWARE: Final = PAUSE + SECOND // 4
"""Microseconds after which every worker with calls has tried the store and noticed that it is back."""
_MOST: Final = 50_000
_PART: Final = 100
"""Keys of one operation."""
_log = structlog.get_logger("gwcore")


class Home(Protocol):
    """Interface of a store of limits."""

    async def admit(self, charges: Sequence[Charge], lease: str, floors: Mapping[str, int]) -> Verdict:
        """Apply all charges atomically, or none. Raises ``StoreDown``."""
        ...

    def settle(self, changes: Sequence[Change], lease: str, *, local: bool) -> None:
        """Correct earlier charges; ``local``: they were made without the store."""
        ...

    async def look(self) -> None:
        """Raises ``StoreDown`` if the store cannot be written to."""
        ...


class Guard:
    """Lets the store decide; after three failures in a row, only one call per second tries it.

    Without the store each worker enforces its own share of every limit, starting from the store's last reading of a
    key, which is kept here. Once the store is back, it is sent what was used meanwhile: of a strict window at once, of
    a rate with a key's next charge. Until every other worker must have noticed too, a call needs room both in the share
    and in the store.

    Attributes:
        degraded_since: monotonic time in microseconds; ``None`` while the store is in use.
    """

    def __init__(
        self, home: Home, crew: Callable[[], tuple[int, int]], *, clock: Callable[[], int] = monotonic
    ) -> None:
        self._home = home
        self._crew = crew
        self._now = clock
        self._local = Memory(clock=clock)
        self._heard: dict[str, tuple[Limit, Reading, int]] = {}
        self._shares: dict[tuple[Limit, int, int], Limit] = {}
        self._touched: dict[str, Limit] = {}
        self._owed: dict[str, tuple[Limit, int, int]] = {}  # strict windows: used without the store, until when
        self._refused: dict[str, tuple[Limit, int]] = {}
        self._ended: list[tuple[list[Change], str]] = []
        self._looking: asyncio.Task[None] | None = None
        self._failures = 0
        self._next_look = 0
        self._settled_at = 0
        self.degraded_since: int | None = None

    @property
    def held(self) -> int:
        """Places taken by this worker's calls under parallel limits."""
        return self._local.held

    async def admit(self, charges: Sequence[Charge], lease: str) -> Verdict:
        """Apply all charges atomically, or none.

        Raises:
            StoreUnavailable: the store is unreachable, and a rule has ``on_store_error: closed``.
        """
        now = self._now()
        if self._failures >= FAILURES:
            if now < self._next_look:
                return self._alone(charges)
            self._next_look = now + PAUSE
        elif self._refused and (verdict := self._still_refused(charges, now)) is not None:
            return verdict
        floors = self._floors(charges) if self._touched else {}
        try:
            if now < self._settled_at:
                return await self._both(charges, lease, floors)
            verdict = await self._home.admit(charges, lease, floors)
        except StoreDown as error:
            self._failed(error)
            return self._alone(charges)
        if verdict.refused >= 0:
            self._well({})  # a refused call leaves nothing in the store, floors included
            self._remember(charges, verdict)
        else:
            self._well(floors)
            self._mirror(charges, verdict, lease)
        return verdict

    async def _both(self, charges: Sequence[Charge], lease: str, floors: Mapping[str, int]) -> Verdict:
        """The store is back, but some worker may not know yet: admit within this worker's share, and charge both."""
        ours = [n for n, (limit, _, _) in enumerate(charges) if limit.on_store_error == "local"]
        shares = self._shares_of(charges, ours)
        own = self._local.decide(shares)
        if own.refused >= 0:
            return _of_all(charges, ours, own)
        admitted = False
        try:
            verdict = await self._home.admit(charges, lease, floors)
            self._well(floors if verdict.refused < 0 else {})
            if verdict.refused < 0:
                taken = [n for at, n in enumerate(ours) if at not in own.shadowed]
                self._mirror(charges, verdict, lease, besides=taken)
                admitted = True
                # nothing later settles a charge that the store's shadow limit would have refused: refund it here
                shadowed = {charges[n][1] for n in verdict.shadowed}
                self._local.settle([change for change in refunds(shares, own) if change[1] in shadowed])
        finally:
            if not admitted:
                self._local.settle(refunds(shares, own))
        return verdict

    def settle(self, changes: Sequence[Change], lease: str, *, local: bool) -> None:
        """Correct earlier charges. An unreachable store later receives only the ends of its parallel calls."""
        places = []
        for change in changes:
            limit, key, _, _ = change
            if limit.kind == PARALLEL:
                places.append(change)
            elif self._refused and limit.kind == REQUESTS:
                self._refused.pop(key, None)  # a void call refunds its request
        here, there = (changes, places) if local else (places, changes)
        if here:
            for _, key, _, _ in here:
                self._take_over(key)
            self._local.settle([(self._share(limit), key, more, stamp) for limit, key, more, stamp in here])
            self._owe(here)
        if there:
            self._tell(there, lease, local=local)

    def _tell(self, changes: Sequence[Change], lease: str, *, local: bool) -> None:
        told = local
        try:
            if self._failures < FAILURES:
                self._home.settle(changes, lease, local=local)
                told = True
        finally:
            if not told and (places := [change for change in changes if change[0].kind == PARALLEL]):
                self._ended.append((places, lease))  # at most the calls under way when the store failed
                if self._looking is None:
                    self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        """Try the store until the ends are sent: until then places stay taken, and no call here may come to try it."""
        try:
            while self._ended:
                await asyncio.sleep(PAUSE / SECOND)
                with contextlib.suppress(StoreDown):
                    await self._home.look()
                    self._well({})
        finally:
            self._looking = None

    # ── without the store ────────────────────────────────────────────────────────────────────────────────────────

    def _share(self, limit: Limit) -> Limit:
        workers, rank = self._crew()
        found = self._shares.get((limit, workers, rank))
        if found is None:
            if len(self._shares) > _MOST:
                self._shares.clear()
            found = self._shares[limit, workers, rank] = limit.share(workers, rank)
        return found

    def _alone(self, charges: Sequence[Charge]) -> Verdict:
        ours = [n for n, (limit, _, _) in enumerate(charges) if limit.on_store_error != "open"]
        if any(limit.on_store_error == "closed" for limit, _, _ in charges):
            raise StoreUnavailable("limits cannot be checked: their store is unreachable", retry_after=PAUSE / SECOND)
        shares = self._shares_of(charges, ours)
        verdict = self._local.decide(shares)
        if verdict.refused < 0:
            # charge what exceeded the share as debt, because the settlement corrects the full charge
            owed = []
            for at, (n, (limit, key, cost), reading) in enumerate(zip(ours, shares, verdict.readings, strict=True)):
                if cost < charges[n][2] and reading is not None and at not in verdict.shadowed:
                    owed.append((limit, key, charges[n][2] - cost, reading[2]))
            self._local.settle(owed)
            self._owe([(*charges[n], 0) for at, n in enumerate(ours) if at not in verdict.shadowed])
            self._touched.update((key, limit) for limit, key, _ in shares if limit.gcra)
            if len(self._touched) > _MOST:
                self._touched.clear()
        return _of_all(charges, ours, verdict)

    def _shares_of(self, charges: Sequence[Charge], ours: list[int]) -> list[Charge]:
        shares = [(self._share(limit), key, cost) for limit, key, cost in [charges[n] for n in ours]]
        for _, key, _ in shares:
            self._take_over(key)
        # a cost above the share's largest takes all of the share; a share of 0 keeps the cost, and so refuses it
        return [(limit, key, min(cost, limit.largest or cost)) for limit, key, cost in shares]

    def _failed(self, error: StoreDown) -> None:
        self._failures += 1
        if self._failures == FAILURES:
            self.degraded_since = self._now()
            self._next_look = self._now() + PAUSE
            _log.warning("ratelimit store is unreachable; limits are shared out among workers", problem=str(error))

    def _well(self, floors: Mapping[str, int]) -> None:
        if self._failures >= FAILURES:
            self.degraded_since = None
            self._settled_at = self._now() + _AWARE
            _log.info("ratelimit store is back")
        self._failures = 0
        if self._ended:
            ended, self._ended = self._ended, []
            for changes, lease in ended:
                with contextlib.suppress(StoreDown):
                    self._tell(changes, lease, local=False)
        if self._owed:
            self._repay()
        for key in floors:
            self._touched.pop(key, None)

    def _owe(self, changes: Sequence[Change]) -> None:
        """Remember what was used of strict windows without the store, as long as it is within the window."""
        now = self._now()
        for limit, key, more, _ in changes:
            if limit.width:
                _, owed, until = self._owed.get(key, (limit, 0, now))
                self._owed[key] = limit, (owed if now < until else 0) + more, now + limit.period
        if len(self._owed) > _MOST:
            self._owed.clear()

    def _repay(self) -> None:
        """Send what was used of strict windows without the store; refunds come too late to be placed in a bucket."""
        owed, self._owed, now = self._owed, {}, self._now()
        used = [(limit, key, more, 0) for key, (limit, more, until) in owed.items() if more > 0 and now < until]
        with contextlib.suppress(StoreDown):
            for n in range(0, len(used), _PART):
                self._tell(used[n : n + _PART], "", local=False)

    # ── with the store ───────────────────────────────────────────────────────────────────────────────────────────

    def _floors(self, charges: Sequence[Charge]) -> dict[str, int]:
        touched = [key for _, key, _ in charges if key in self._touched]
        for key in touched:
            self._take_over(key)
        return {key: self._local.lead(self._touched[key], key) for key in touched}

    def _mirror(self, charges: Sequence[Charge], verdict: Verdict, lease: str, besides: Sequence[int] = ()) -> None:
        """Keep the store's readings here. If there is no room, refunds all in the store and raises ``StoreDown``."""
        now = self._now()
        held: list[Change] = []
        for n, (limit, key, _) in enumerate(charges):
            reading = verdict.readings[n]
            if reading is None or n in besides or n in verdict.shadowed:
                continue
            if limit.gcra:
                self._heard[key] = limit, reading, now
                continue
            if limit.width:  # this worker gets its share of what is left
                reading = reading[0] // self._crew()[0], *reading[1:]
            try:
                self._local.seed(self._share(limit), key, reading)
            except StoreDown:
                self._local.settle(held)
                self._home.settle(refunds(charges, verdict), lease, local=False)
                raise
            if limit.kind == PARALLEL:
                held.append((limit, key, -1, 0))
        while len(self._heard) > _MOST:
            self._take_over(next(iter(self._heard)))

    def _take_over(self, key: str) -> None:
        """Seed the local limiter with the store's last reading of a rate. Lazy: it is needed only without the store."""
        heard = self._heard.pop(key, None)
        if heard is not None:
            limit, reading, since = heard
            self._local.seed(limit, key, reading, since)

    def _remember(self, charges: Sequence[Charge], verdict: Verdict) -> None:
        """Refuse the key here until the store could admit it; for requests only, which only void calls refund."""
        limit, key, _ = charges[verdict.refused]
        if limit.kind == REQUESTS and not limit.width:
            if len(self._refused) > _MOST:
                self._refused.clear()
            self._refused[key] = limit, self._now() + verdict.wait

    def _still_refused(self, charges: Sequence[Charge], now: int) -> Verdict | None:
        for index, (limit, key, _) in enumerate(charges):
            refused = self._refused.get(key)
            if refused is not None:
                of, until = refused
                if now < until and of == limit:  # a changed amount keeps the key
                    readings: list[Reading | None] = [None] * len(charges)
                    readings[index] = 0, until - now, 0
                    return Verdict(index, until - now, readings)
                del self._refused[key]
        return None


def _of_all(charges: Sequence[Charge], ours: list[int], verdict: Verdict) -> Verdict:
    """The local verdict on the charges at ``ours``, with the indices of all charges."""
    readings: list[Reading | None] = [None] * len(charges)
    for n, reading in zip(ours, verdict.readings, strict=True):
        readings[n] = reading
    refused = ours[verdict.refused] if verdict.refused >= 0 else -1
    return Verdict(refused, verdict.wait, readings, tuple(ours[n] for n in verdict.shadowed), local=True)
