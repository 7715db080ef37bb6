"""``Ledger``: the layer's interface to the books: direct, escrow or ``auto`` mode; heartbeats; burying dead workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from gwcore_budget.ledger.escrow import Escrow, Within
from gwcore_budget.ledger.group import BATCH, Group, Jumped, Unavailable, Unbooked
from gwcore_budget.ledger.home import Conflict, Home, StoreDown, Unfit, places
from gwcore_budget.ledger.journal import LOST, Journal, recover
from gwcore_budget.ledger.ops import (
    NOTHING_METERED,
    PENDING,
    REAPED,
    VOIDED,
    Admitted,
    Budget,
    Bury,
    Charge,
    ClockJump,
    Done,
    Event,
    Facts,
    Hold,
    Metered,
    Op,
    Recall,
    Reserve,
    Result,
    Settle,
    Short,
    Shrink,
    Spent,
    Stale,
)
from gwcore_budget.ledger.refused import AGAIN
from gwcore_budget.ledger.worker import BEAT, KINDS, SILENT, Corpse, Other, Worker
from gwcore_budget.window import Period, Window

PUMP = 0.05
"""Seconds between two flushes of escrow."""
TRIES, BETWEEN = 6, 0.03
"""Retries, and seconds between them, after a refusal that other workers' idle grants may have caused."""
_AUDIT_AGE = 5_000
_log = structlog.get_logger("gwcore.budget")


class Refused(Exception):
    """Not enough money is free; ``short`` says in which budget."""

    def __init__(self, short: Short) -> None:
        super().__init__(short.budget.id)
        self.short = short


class Ledger:
    """One worker's access to the ledger.

    Attributes:
        open: holds that are admitted and not settled, by id.
        lasting: moving average of the duration of holds, in seconds.
        workers: how many workers use the store, this one included.
    """

    def __init__(
        self,
        home: Home,
        folder: Path,
        *,
        mode: str = "auto",
        chunk: int = 1_000_000_000,
        patience: float = 0.25,
        on_event: Callable[[Event], None] = lambda _event: None,
        on_over: Callable[[Hold], None] = lambda _hold: None,
    ) -> None:
        self.home = home
        self.mode = mode
        self.chunk = chunk
        self.group = Group(home, patience=patience, on_event=on_event)
        self.group.on_grants = self._granted
        self.worker = Worker(folder)
        self.escrow = Escrow(self.group, self.worker.id, Journal(self.worker.path("journal")))
        self.open = self.escrow.open
        self.lasting = 1.0
        self.workers = 1
        self._largest = 0
        self._on_over = on_over
        self._periods: dict[Window, Period] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._told: set[str] = set()  # refused holds that are listed in the store
        self._unburied: dict[str, float] = {}  # workers whose end the store refuses, and when to retry
        self._pumping = self._jumped = False
        self._settled: asyncio.Event | None = None  # set by the next settlement, if anyone waits for it
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Connect, register, start. Raises ``StoreDown``, ``BadConfig``; ``OSError`` if the folder is not writable."""
        try:
            await self.group.open()
            await self.worker.enter(self.home, self.group.now())
        except BaseException:
            await self.group.aclose(0.1)
            self.worker.close()
            raise
        self._tasks = [asyncio.create_task(self._beats()), asyncio.create_task(self._recalls())]

    async def stop(self, within: float = 5.0) -> None:
        """Reap open holds (nothing will settle them any more), return grants, write everything, deregister."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for hold in list(self.open.values()):
            self.settle(hold, REAPED, basis="stopped")
        self.escrow.retire(self.group.now(), everything=True)
        try:
            async with asyncio.timeout(within):
                written = await self.group.flushed()
                await self._own_up()
                if written and not (self.escrow.unwritten or self.group.refused):  # else the journal is needed
                    # this also returns grants whose answer was lost
                    await self.group.ask(Bury(self.worker.id), within)
                    await self.worker.leave(self.home)
        except (StoreDown, Unbooked, Unavailable, TimeoutError, Unfit, Conflict) as error:
            _log.error(
                "the ledger's store does not answer: another worker will settle what is left",
                error=type(error).__name__,
            )
        self.escrow.journal.close()
        await self.group.aclose(0.1 if self.group.down else within)
        self.worker.close()

    # ── holding ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def hold(
        self,
        hold: str,
        amount: int | None,
        budgets: Sequence[Budget],
        facts: Facts,
        *,
        least: int | None = None,
        wait: float = 0.0,
        expires: int = 60_000,
    ) -> Hold:
        """Hold ``amount`` on every budget, or at least ``least``.

        Args:
            hold: ``request:attempt``; unique.
            amount: nano-USD; ``None`` writes a row and holds nothing. The result says how much was held.
            budgets: the budgets that apply.
            facts: for the row.
            least: the smallest amount that suffices; ``None``: ``amount``.
            wait: seconds to wait for other holds to be settled, if only they prevent this one.
            expires: milliseconds after which a silent worker's hold may be considered lost.

        Raises:
            Refused: not enough is free.
            Unavailable: the store did not answer in time; nothing is held.
        """
        until = time.monotonic() + wait
        ask = partial(self._held, hold, amount, budgets, facts, least, expires=expires)
        found = await ask()
        for _ in range(0 if self.mode == "direct" else TRIES):
            if not (isinstance(found, Short) and found.held_only):
                break
            self._recall(budgets)
            await asyncio.sleep(BETWEEN)
            found = await ask()
        if wait and isinstance(found, Short) and found.held_only:
            found = await self._in_turn(found, ask, budgets, until)
        if isinstance(found, Short):
            raise Refused(found)
        return found

    async def _held(
        self, hold: str, amount: int | None, budgets: Sequence[Budget], facts: Facts, least: int | None, *, expires: int
    ) -> Hold | Short:
        while True:
            # another request may have spent the grant that was made for this one: check each time
            held = self.admit(hold, amount, budgets, facts)
            if held is not None:
                return held
            result = await self._ask(hold, amount, budgets, facts, least, expires=expires)
            if isinstance(result, Short):
                return result
            if isinstance(result, ClockJump):
                self._tell_jump(result)
                raise Jumped
            if not isinstance(result, Admitted):
                raise Unavailable(type(result).__name__)
            if result.grants:
                continue
            self._jumped = False
            now, ours = self.group.now(), self.worker.id
            held = Hold(hold, ours, PENDING, result.amount, None, result.accounts, now, now + expires, facts)
            held.began = time.monotonic()
            self.open[hold] = held
            return held

    def _tell_jump(self, jump: ClockJump) -> None:
        """Log the jump once, for the operator who can set the clock or restart this process."""
        if not self._jumped:
            self._jumped = True
            told = (
                "the host's clock has jumped: no budget period begins until it is set back or this worker is restarted"
            )
            _log.error(told, seconds=round(jump.seconds))

    async def _in_turn(
        self, short: Short, ask: Callable[[], Awaitable[Hold | Short]], budgets: Sequence[Budget], until: float
    ) -> Hold | Short:
        """Wait for other holds to end.

        Only the first waiter per budget asks the store: otherwise every settlement would make all of them ask.
        """
        turn = self._turns.setdefault(short.budget.id, asyncio.Lock())
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await turn.acquire()
        except TimeoutError:
            return await ask()  # the first waiter may need more than is free, and this one less
        try:
            while True:
                found = await ask()
                left = until - time.monotonic()
                if isinstance(found, Hold) or not found.held_only or left <= 0:
                    return found
                if self.mode != "direct":
                    self._recall(budgets)
                await self._somebody_settles(min(0.1, left))
        finally:
            turn.release()

    def _recall(self, budgets: Sequence[Budget]) -> None:
        """Have unused grants returned, here and by other workers: they may hold all that is left."""
        self.group.send(Recall(tuple(budget.id for budget in budgets)))
        self.escrow.retire(self.group.now(), everything=not self.escrow.used)
        self.escrow.pump()  # ended holds free what they held

    async def _somebody_settles(self, within: float) -> None:
        settled = self._settled = self._settled or asyncio.Event()
        try:
            async with asyncio.timeout(max(0.0, within)):
                await settled.wait()
        except TimeoutError:
            pass  # another worker may have settled

    def admit(self, hold: str, amount: int | None, budgets: Sequence[Budget], facts: Facts) -> Hold | None:
        """Like :meth:`hold`, but within this worker's grants; ``None`` if the store must be asked."""
        if amount and amount > self._largest:
            self._largest = amount
        if not self._local():
            return None
        try:
            return self.escrow.admit(hold, amount, budgets, facts)
        except OSError as error:
            _log.error("journal cannot be written; asking the store for each hold", error=type(error).__name__)
            self.mode = "direct"
            return None

    def _local(self) -> bool:
        """Whether this worker may spend its grants, and need not wait for the store."""
        return self.mode != "direct" and not self.escrow.behind and not self.worker.fenced()

    async def _ask(
        self, hold: str, amount: int | None, budgets: Sequence[Budget], facts: Facts, least: int | None, *, expires: int
    ) -> Result:
        result: Result = Stale(0)
        for _ in range(4):
            now = self.group.now()
            op = Reserve(
                hold,
                self.worker.id,
                amount,
                tuple([Charge(budget, self._period(budget.window, now)) for budget in budgets]),
                facts,
                least,
                expires=expires,
            )
            if self._local():
                op.chunk = max(self.chunk, amount or 0)
                op.floor = 50 * self.workers * self._largest if self.mode == "auto" else 0
            result = await self.group.ask(op)
            if not isinstance(result, Stale):
                break
            self.group.heard(result.now)
        return result

    def _period(self, window: Window, now: int) -> Period:
        period = self._periods.get(window)
        if period is None or not period.start <= now < period.end:
            period = self._periods[window] = window.period(now)
        return period

    def _granted(self, op: Reserve, admitted: Admitted) -> None:
        limits = {charge.budget.id: charge.budget.limit_at(admitted.now) for charge in op.charges}
        self.escrow.receive(admitted.grants, limits)

    # ── settling ─────────────────────────────────────────────────────────────────────────────────────────────────

    def settle(
        self, hold: Hold, state: int, amount: int = 0, basis: str = "", metered: Metered = NOTHING_METERED
    ) -> None:
        """End a hold, as :class:`~gwcore_budget.ledger.ops.Settle`. Never waits or fails; a repeat changes nothing."""
        if self.open.pop(hold.id, None) is None:
            return
        self.lasting += 0.1 * (time.monotonic() - hold.began - self.lasting)
        if hold.amount and hold.amount < self._largest:
            self._largest -= (self._largest - hold.amount) // 256
        if self._settled is not None:
            self._stir()
        hold.end(state, amount, basis, metered)
        if not isinstance(hold, Within):
            op = Settle(hold.id, state, amount, basis, metered, self.worker.id)
            self.group.send(op, lambda result: self._seen(hold, result))
            return
        self.escrow.settle(hold)
        if hold.over and hold.amount is not None:
            self._on_over(hold)
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_later(PUMP, self._pump)

    def _stir(self) -> None:
        """Wake the waiters: some money is free again."""
        if self._settled is not None:
            self._settled.set()
            self._settled = None

    def _seen(self, hold: Hold, result: Result) -> None:
        if isinstance(result, Done) and result.over:
            self._on_over(hold)

    def shrink(self, hold: Hold, amount: int) -> bool:
        """Lower a hold, once the provider has reported the exact input. Returns whether it was lowered."""
        if hold.amount is None or amount >= hold.amount or hold.id not in self.open:
            return False
        if isinstance(hold, Within):
            if not self.escrow.shrink(hold, amount):
                return False
        else:
            hold.amount = amount
            self.group.send(Shrink(hold.id, amount))
        self._stir()
        return True

    def _pump(self) -> None:
        self._pumping = False
        self.escrow.pump()

    # ── in the background ────────────────────────────────────────────────────────────────────────────────────────

    async def _recalls(self) -> None:
        """Return grants that are recalled, expired or idle."""
        asked = 0.0
        while True:
            await asyncio.sleep(0.05)
            names = list(self.escrow.grants)
            if not names:
                continue
            # at least every second: the recalling worker may have died before it could signal
            if not self.home.stirred() and time.monotonic() - asked < 1.0:
                self.escrow.retire(self.group.now())
                continue
            query = f"SELECT id, recall, generation FROM budget_budget WHERE id IN ({places(len(names))})"
            try:
                rows = {row[0]: (row[1], row[2]) for row in await self.home.rows(query, *names)}
            except StoreDown:
                asked = 0.0
                continue
            asked = time.monotonic()
            self.escrow.retire(self.group.now(), rows)

    async def _beats(self) -> None:
        beat = well = asked = time.monotonic()
        while True:
            try:
                if time.monotonic() - beat >= BEAT:
                    beat = time.monotonic()
                    if not await self.worker.beat(self.home, self.group.now()):
                        # our grants are gone, and with them the right to spend locally
                        _log.error(
                            "this worker was taken for dead by others; it asks the store for each hold from now on"
                        )
                        self.mode = "direct"
                        self.escrow.forget()
                    await self._own_up()
                    await self._audit()
                if self.group.refused and time.monotonic() - asked >= AGAIN:
                    asked = time.monotonic()
                    self.group.again()
                # an outage of the store silences all workers: the living ones get a few beats to report
                await self.bury_the_dead(silent=time.monotonic() - well > 3 * BEAT)
            except (StoreDown, Unavailable):
                well = time.monotonic()  # restarts the grace period above
            except Exception as error:  # whatever the store refuses, this worker is alive and must keep beating
                _log.error("the ledger's store refuses", error=type(error).__name__)
            await asyncio.sleep(1.0)

    async def _audit(self) -> None:
        """Void holds that only the store has as ours: the reserve's answer was lost, so they were never dispatched."""
        query = "SELECT id FROM budget_hold WHERE worker=$1 AND state=0 AND created < $2"
        for (hold,) in await self.home.rows(query, self.worker.id, self.group.now() - _AUDIT_AGE):
            if hold not in self.open and hold not in self.group.refused and not self.group.backlog:
                self.group.send(Settle(hold, VOIDED, basis="never dispatched", worker=self.worker.id))

    async def bury_the_dead(self, *, silent: bool = True) -> None:
        """Settle what dead workers left; with ``silent``, also long-silent ones whose lock cannot be checked here.

        Raises ``StoreDown``, ``Unavailable``.
        """
        others = await self.worker.others(self.home)
        self.workers = 1 + len(others)
        for other in others:
            if time.monotonic() < self._unburied.get(other.id, 0.0):
                continue
            corpse = Corpse.of(other)
            try:
                if corpse is not None:
                    await self._bury(other, here=True)
                    for kind in KINDS:
                        other.file(kind).unlink(missing_ok=True)
                elif silent and self.group.now() - other.seen > SILENT:
                    await self._bury(other, here=False)
            except Unbooked as refused:
                # keep its journal and grants: they are the only record of that money
                self._unburied[other.id] = time.monotonic() + AGAIN
                await self._tell_refused(other.id, refused.holds or [f"grants of {other.id}"])
            finally:
                if corpse is not None:
                    corpse.close()

    async def _own_up(self) -> None:
        """List the refused holds in the store, for ``gwcore ledger verify``."""
        refused = set(self.group.refused)
        await self._tell_refused(self.worker.id, refused - self._told)
        for hold in self._told - refused:
            await self.home.rows("DELETE FROM budget_refused WHERE hold = $1 RETURNING hold", hold)
        self._told = refused

    async def _tell_refused(self, worker: str, holds: Iterable[str]) -> None:
        insert = "INSERT INTO budget_refused (hold, worker, at) VALUES ($1,$2,$3) ON CONFLICT DO NOTHING RETURNING hold"
        for hold in holds:
            await self.home.rows(insert, hold, worker, self.group.now())

    async def _end_all(self, ops: Iterable[Op]) -> None:
        """Run all; then raise ``Unbooked`` for what the store refuses."""
        done = await asyncio.gather(*[self.group.ask(op, 30) for op in ops], return_exceptions=True)
        failed = [one for one in done if isinstance(one, BaseException)]
        for error in failed:
            if not isinstance(error, Unbooked):
                raise error
        if failed:
            raise Unbooked(tuple(chain.from_iterable(one.holds for one in failed if isinstance(one, Unbooked))))

    async def _bury(self, other: Other, *, here: bool) -> None:
        burn = not here
        spent = []
        if here:
            try:
                spent = recover(other.file("journal"), other.id)
            except FileNotFoundError:
                # no journal was ever written, or it is lost: then burn the grants, if there are any
                burn = True
        query = "SELECT id FROM budget_hold WHERE worker=$1 AND state=0 AND ($3 = 1 OR expires < $2)"
        rows = await self.home.rows(query, other.id, self.group.now(), 1 if here else 0)
        told = [Spent(other.id, tuple(spent[at : at + BATCH]), found=True) for at in range(0, len(spent), BATCH)]
        await self._end_all([*told, *(Settle(hold, REAPED, basis=LOST) for (hold,) in rows)])
        done = await self.group.ask(Bury(other.id, burn=burn), 30)
        gone = []
        if not await self.home.rows("SELECT id FROM budget_hold WHERE worker=$1 AND state=0", other.id):
            gone = await self.home.rows("DELETE FROM budget_worker WHERE id=$1 RETURNING id", other.id)
            await self.home.rows("DELETE FROM budget_refused WHERE worker=$1 RETURNING hold", other.id)
            self._unburied.pop(other.id, None)
        lost = done.amount if isinstance(done, Done) else 0
        if not (spent or rows or lost or gone):
            return  # nothing new: this is repeated until its last hold expires
        known = sum(one.basis != LOST for one in spent)
        reaped = len(spent) - known + len(rows)
        _log.warning("buried a dead worker", settled=known, reaped=reaped, lost_nano=lost, worker=other.id)
