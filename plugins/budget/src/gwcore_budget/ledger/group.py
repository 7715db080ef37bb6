"""Group commit: operations that arrive during one commit go into the next one.

One queue and one task per worker. An operation is sent again, with the same ids, until the store reports its outcome; a
waiter gives up after ``patience`` (its reserve is then undone).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from gwcore.patience import Patience
from gwcore.sql import TOLD_EVERY
from gwcore_budget.ledger.clock import BOOT
from gwcore_budget.ledger.home import Conflict, Home, StoreDown, Unapplied, Unfit
from gwcore_budget.ledger.ops import (
    VOIDED,
    Admitted,
    Done,
    Event,
    Hold,
    Op,
    Reserve,
    Result,
    Settle,
    Spent,
)
from gwcore_budget.ledger.refused import held_by, lessened

BATCH = 512
"""Holds that one :class:`Spent` may end, and about as many that one transaction may begin or end."""
_CONFLICTS = 8
_log = structlog.get_logger("gwcore.budget")


class Unavailable(Exception):
    """The store did not answer in time; a hold that it may have made is undone."""


class Jumped(Unavailable):
    """The store's clock has jumped, so no new period may begin."""


class Unbooked(Unavailable):
    """The store refuses an operation for good, even with fewer details; ``holds`` are not ended."""

    def __init__(self, holds: tuple[str, ...]) -> None:
        super().__init__(*holds)
        self.holds = holds


class _Entry:
    """A queued operation: ``op`` is the ``whole`` with ``less`` (a level) left out; ``part``: of a split operation.

    ``known``: the store may have applied it.
    """

    __slots__ = ("done", "future", "known", "less", "op", "part", "refused", "tries", "whole")

    def __init__(
        self,
        op: Op,
        future: asyncio.Future[Result] | None,
        done: Callable[[Result], None] | None = None,
        *,
        part: bool = False,
    ) -> None:
        self.op = self.whole = op
        self.future = future
        self.done = done
        self.tries = self.less = 0
        self.known = False
        self.part = part
        self.refused: Exception | None = None

    @property
    def weight(self) -> int:
        return len(self.op.holds) if isinstance(self.op, Spent) else 1

    @property
    def urgent(self) -> bool:
        """Whether a call waits for it."""
        return isinstance(self.op, Reserve) and self.future is not None and not self.future.done()

    @property
    def moot(self) -> bool:
        """Whether the call has given up, and there is nothing to undo."""
        return isinstance(self.op, Reserve) and self.op.abandoned and not self.known


class Group:
    """The worker's queue to its home.

    Attributes:
        on_grants: called with every grant, in the same turn of the event loop in which it arrives.
        behind: milliseconds by which the machine's boot clock is behind the store's clock.
        down: the store did not answer the last time.
        refused: ids of holds whose end the store refuses.
    """

    def __init__(
        self, home: Home, *, patience: float = 0.25, on_event: Callable[[Event], None] = lambda _event: None
    ) -> None:
        self.home = home
        self.patience = patience
        self.behind = 0
        self.down = False
        self.commits = 0
        self.refused: dict[str, None] = {}
        self.on_grants: Callable[[Reserve, Admitted], None] = lambda _op, _admitted: None
        self._on_event = on_event
        self._queue: deque[_Entry] = deque()
        self._wake = asyncio.Event()
        self._still = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._inflight = 0
        self._told_at = -TOLD_EVERY
        self._parked: list[_Entry] = []  # refused by the store

    async def open(self) -> None:
        """Connect and start. Raises ``StoreDown``, ``BadConfig``."""
        await self.home.open()
        self.heard((await self.home.transact(())).now)
        self._task = asyncio.create_task(self._run())

    async def aclose(self, within: float = 5.0) -> None:
        """Write what is queued, for at most ``within`` seconds, and disconnect."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            done, _ = await asyncio.wait({self._task}, timeout=within)
            if not done:
                _log.error("ledger closed with unwritten operations", count=self.backlog)
                self._task.cancel()
                await asyncio.wait({self._task})
        await self.home.aclose()

    # ── the clock ────────────────────────────────────────────────────────────────────────────────────────────────

    def now(self) -> int:
        """The store's clock: its last reading, advanced by the boot clock."""
        return time.clock_gettime_ns(BOOT) // 1_000_000 + self.behind

    def heard(self, now: int) -> None:
        """Adopt the store's time."""
        self.behind = now - time.clock_gettime_ns(BOOT) // 1_000_000

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def backlog(self) -> int:
        """Number of operations not yet durable; a :class:`Spent` counts once per hold."""
        return sum(entry.weight for entry in self._queue) + self._inflight

    async def flushed(self) -> bool:
        """Wait until everything sent is durable: ``True``; or until the store is found down: ``False``."""
        while self.backlog and not self.down:
            self._still.clear()
            await self._still.wait()
        return not self.backlog

    def send(self, op: Op, done: Callable[[Result], None] | None = None) -> None:
        """Queue an operation; only the end of the process can stop it. ``done`` is called when it is durable."""
        self._queue.append(_Entry(op, None, done))
        self._wake.set()

    async def ask(self, op: Op, patience: float | None = None) -> Result:
        """Queue an operation and wait for its result.

        Raises:
            Unavailable: no result within ``patience`` seconds, in which our own loop's lateness does not count. A reserve is undone; anything else will still be done.
            Unbooked: the store refuses it; nothing is done.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        entry = _Entry(op, future)
        self._queue.append(entry)
        self._wake.set()
        patience = self.patience if patience is None else patience
        wait = Patience(patience, partial(_fail, future), lambda: not self.down)
        try:
            return await future
        except BaseException as error:
            if type(error) is Unavailable:
                self._slow(patience)
            if isinstance(op, Reserve):
                self._abandon(op, future)
                entry.future = None
            raise
        finally:
            wait.cancel()
            del future, wait  # its error has this frame, and so the call with its prompt: a cycle

    def _slow(self, patience: float) -> None:
        """Log now and then that the store answers too late; an outage is logged where it is detected."""
        if not self.down and time.monotonic() - self._told_at >= TOLD_EVERY:
            self._told_at = time.monotonic()
            _log.error("ledger store is slower than the patience of calls", patience=patience, backlog=self.backlog)

    def _abandon(self, op: Reserve, future: asyncio.Future[Result]) -> None:
        """The waiter timed out or was cancelled, perhaps in the turn of the event loop in which the answer came."""
        op.abandoned = True
        if future.done() and not future.cancelled() and future.exception() is None:
            self._undo(op, future.result())

    def _undo(self, op: Reserve, result: Result) -> None:
        if isinstance(result, Admitted) and not result.grants:
            self.send(Settle(op.hold, VOIDED, basis="abandoned", worker=op.worker))

    # ── the task ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        pause = 0.0
        while not (self._closing and not self._queue):
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._next()
            if not batch:
                continue
            self._inflight = sum(entry.weight for entry in batch)
            try:
                await self._commit(batch)
                if self.down:
                    _log.info("ledger store answers again")
                self.down, pause = False, 0.0
            except StoreDown as error:
                if not self.down:
                    _log.error("ledger store unavailable", error=str(error))
                self.down = True
                self._again(batch, known=not isinstance(error, Unapplied))
                pause = min(1.0, pause * 2 or 0.02)
            finally:
                self._inflight = 0
                self._still.set()
            if pause:
                await asyncio.sleep(pause)

    def _next(self) -> list[_Entry]:
        """Take the queued operations of one transaction: up to about :data:`BATCH` holds, and as many that calls wait for.

        Those go before what nobody waits for: a reserve that is seen before an earlier end finds less money, never more.
        """
        batch: list[_Entry] = []
        urgent: list[_Entry] = []
        rest: deque[_Entry] = deque()
        weight = 0
        for entry in self._queue:
            if entry.moot:
                continue
            if weight < BATCH:
                weight += entry.weight
                batch.append(entry)
            else:
                (urgent if entry.urgent and len(urgent) < BATCH else rest).append(entry)
        self._queue = rest
        return batch + urgent

    async def _commit(self, batch: list[_Entry]) -> None:
        ops = [entry.op for entry in batch]
        try:
            answer = await self.home.transact(ops)
        except StoreDown:
            raise
        except Conflict as error:
            if any(entry.tries for entry in batch):
                await self._apart(batch, error)
                return
            for entry in batch:  # usually another worker interfered and has finished
                entry.tries = 1
            await self._commit(batch)
            return
        except Exception as error:  # a bug must not stop the ledger either: find the operation that causes it
            await self._apart(batch, error)
            return
        self.commits += 1
        self.heard(answer.now)
        for entry, result in zip(batch, answer.results, strict=True):
            self._resolve(entry, result)
        for event in answer.events:
            self._on_event(event)
        if self.refused:
            for id_ in [id_ for op in ops for id_ in held_by(op)]:
                self.refused.pop(id_, None)

    # ── what the store refuses ───────────────────────────────────────────────────────────────────────────────────

    async def _apart(self, batch: list[_Entry], error: Exception) -> None:
        """Halve a failed batch until each refused operation is alone, so that it does not affect the others."""
        if len(batch) == 1:
            (entry,) = batch
            if isinstance(entry.op, Spent) and len(entry.op.holds) > 1:
                await self._parts(entry, entry.op)
            else:
                await self._alone(entry, error)
            return
        half = len(batch) // 2
        first, second = batch[:half], batch[half:]
        try:
            await self._commit(first)
            first = []
            await self._commit(second)
        except StoreDown:
            batch[:] = first + second  # the others are done
            raise

    async def _parts(self, entry: _Entry, op: Spent) -> None:
        half = len(op.holds) // 2
        refused: list[Hold] = []
        error: Exception | None = None
        for some in (op.holds[:half], op.holds[half:]):
            part = _Entry(replace(op, holds=some), None, part=True)
            part.tries = entry.tries
            await self._commit([part])
            if part.refused is not None and isinstance(part.whole, Spent):
                refused += part.whole.holds
                error = part.refused
        if error is not None:
            op.holds = tuple(refused)  # they stay in the journal
            self._refuse(entry, error)
        else:
            self._resolve(entry, Done(VOIDED))

    async def _alone(self, entry: _Entry, error: Exception) -> None:
        """Retry, then leave out details."""
        entry.tries += 1
        if entry.tries < (_CONFLICTS if isinstance(error, Conflict) else 2):
            await asyncio.sleep(0.001 * 2**entry.tries)
            await self._commit([entry])
            return
        less = entry.less = entry.less + 1
        op = lessened(entry.whole, less)
        if op is None:
            self._refuse(entry, error)
            return
        entry.op, entry.tries = op, _CONFLICTS - 1
        await self._commit([entry])
        if entry.less == less and entry.refused is None:
            self._tell("budget.lessened", entry, error)

    def _refuse(self, entry: _Entry, error: Exception) -> None:
        """Keep its holds and park it for a later retry; if a caller waits, fail it at once instead."""
        entry.op, entry.less, entry.tries, entry.refused = entry.whole, 0, 0, error
        if entry.part:
            return
        self._tell("budget.refused", entry, error)
        holds = held_by(entry.whole)
        if entry.future is None and holds:
            self._parked.append(entry)
            self.refused.update(dict.fromkeys(holds))
        elif entry.future is not None and not entry.future.done():
            entry.future.set_exception(Unbooked(holds))

    def _tell(self, topic: str, entry: _Entry, error: Exception) -> None:
        holds = held_by(entry.whole)
        body = {
            "op": type(entry.whole).__name__,
            "holds": len(holds),
            "first": holds[:1],
            "error": str(error)[:200] if isinstance(error, Unfit | Conflict) else type(error).__name__,
        }
        self._on_event(Event(f"{topic}:{''.join(holds[:1])}", topic, body))

    def again(self) -> None:
        """Retry what the store has refused."""
        for entry in self._parked:
            entry.refused = None
            self._queue.append(entry)
        self._parked.clear()
        self._wake.set()

    def _resolve(self, entry: _Entry, result: Result) -> None:
        op = entry.op
        if isinstance(op, Reserve) and isinstance(result, Admitted) and result.grants:
            self.on_grants(op, result)  # ours from now on, even if the caller gave up
        if entry.done is not None:
            entry.done(result)
        if isinstance(op, Reserve) and (op.abandoned or entry.future is None or entry.future.done()):
            self._undo(op, result)
        elif entry.future is not None and not entry.future.done():
            entry.future.set_result(result)

    def _again(self, batch: list[_Entry], *, known: bool) -> None:
        """Queue a batch again, in the same order. Reserves nobody waits for are undone if their outcome is unknown."""
        keep = []
        for entry in batch:
            entry.known |= known
            if entry.moot:
                continue
            if isinstance(entry.op, Reserve) and entry.op.abandoned:
                void = Settle(entry.op.hold, VOIDED, basis="abandoned", worker=entry.op.worker)
                keep.append(_Entry(void, None))
            else:
                keep.append(entry)
        self._queue.extendleft(reversed(keep))


def _fail(future: asyncio.Future[Result]) -> None:
    if not future.done():
        future.set_exception(Unavailable())
