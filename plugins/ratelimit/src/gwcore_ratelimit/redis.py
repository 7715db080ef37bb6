"""Limits shared by many machines: a script in Redis or Valkey, called once per batch of operations.

Operations that arrive while a batch is in flight form the next: one round trip at a time, so under load a request
costs a fraction of one. Corrections wait some milliseconds to join a batch. ``EVALSHA`` selects the script by its
digest, so versions do not mix; a server that has lost it (restart, fail-over, ``SCRIPT FLUSH``) is sent it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final

import orjson
import structlog

from gwcore.patience import PROLONGED, patience
from gwcore.resources import redis_client
from gwcore_ratelimit.gcra import PARALLEL, SECOND, Change, Charge, Limit, Reading, Verdict, reading_of, refunds
from gwcore_ratelimit.table import StoreDown

CLOCK: Final = (
    "local function now_us() local t = redis.call('TIME') return tonumber(t[1]) * 1000000 + tonumber(t[2]) end\n"
)
LINGER: Final = 0.005
"""Seconds that a correction may wait to join a batch."""
PREFIX: Final = "{gwcore}:"
_BATCH: Final = 100
"""Operations of one call of the script, during which the server answers nobody else."""
_log = structlog.get_logger("gwcore")


@dataclass(slots=True, eq=False)
class _Operation:
    keys: list[bytes]
    said: list[Any]
    done: asyncio.Future[list[int]] | None = None
    since: float = 0.0
    answer: list[int] | None = None
    undo: Callable[[list[int]], None] | None = None


class RedisHome:
    """One per store and process; :meth:`enter` and :meth:`leave` count its users.

    Args:
        url: of the server.
        timeout: maximum seconds of an admission.
        lease: seconds after which the calls of a dead worker no longer count.
        least: minimum number of workers to assume.
        clock: the line of Lua that defines ``now_us``; tests use their own.
    """

    def __init__(
        self, url: str, *, timeout: float, lease: float, least: int = 1, prefix: str = PREFIX, clock: str = CLOCK
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._ttl = int(lease * SECOND)
        self._prefix = prefix.encode()
        self._script = clock + files("gwcore_ratelimit").joinpath("limiter.lua").read_text("utf-8")
        self._sha = sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._least = least
        self._queue: list[_Operation] = []
        self._sending: asyncio.Task[None] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._beating: asyncio.Task[None] | None = None
        self._client: Any = None
        self._users = 0
        self.leases: dict[tuple[bytes, str], None] = {}
        self.workers, self.rank = least, 0

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def enter(self) -> None:
        """Connect and register this worker. An unreachable server is only logged: the guard limits without it."""
        self._users += 1
        if self._users > 1:
            return
        self._client = redis_client(self._url, self._timeout, most=2)
        try:
            await self.beat()
        except StoreDown as error:
            _log.warning("ratelimit store is unreachable; limits are shared out among workers", problem=str(error))
        self._beating = asyncio.create_task(self._beat())

    async def leave(self) -> None:
        """Send what is queued and disconnect, once the last user leaves."""
        self._users -= 1
        if self._users:
            return
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait({self._beating})
        await self.flush()
        client, self._client = self._client, None
        with contextlib.suppress(OSError):
            await client.aclose()

    async def _beat(self) -> None:
        """Send heartbeats; often at first, so that workers that start together soon count one another."""
        pause = 0.25
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._ttl / SECOND / 3)
            with contextlib.suppress(StoreDown):
                await self.beat()

    async def beat(self) -> None:
        """Renew the leases of calls under way, and learn how many workers there are. Raises ``StoreDown``."""
        held = list(self.leases)
        parts = [held[n : n + _BATCH] for n in range(0, len(held), _BATCH)] or [[]]
        for part in parts:
            keys = [self._prefix + b"workers", *(key for key, _ in part)]
            counted = await self._ask(keys, ["h", self._name, self._ttl, [lease for _, lease in part]])
            self.workers, self.rank = max(counted[0], self._least), counted[1]

    async def look(self) -> None:
        """Raises ``StoreDown`` if the store cannot be written to. Does nothing after the last user has left."""
        if self._users:
            await self.beat()

    # ── operations ───────────────────────────────────────────────────────────────────────────────────────────────

    async def admit(self, charges: Sequence[Charge], lease: str, floors: Mapping[str, int]) -> Verdict:
        """Apply all charges atomically, or none. Raises ``StoreDown``.

        Args:
            charges: of one call.
            lease: id of the call among those under way.
            floors: per key, minimum lead of its TAT in microseconds: what was charged while the store was unreachable.
        """
        keys: list[bytes] = []
        said: list[list[int]] = []
        places: list[int] = []
        for limit, key, cost in charges:
            if limit.kind == PARALLEL:
                places.append(len(keys))
            keys.append(self._prefix + key.encode())
            said.append(_said(limit, cost, floors.get(key, 0) if floors else 0))
        undo = partial(self._undo, charges, lease)
        verdict = _verdict(charges, await self._ask(keys, ["a", lease, self._ttl, said], undo))
        if verdict.refused < 0:
            for n in places:
                if n not in verdict.shadowed:
                    self.leases[keys[n], lease] = None
        return verdict

    def settle(
        self,
        changes: Sequence[Change],
        lease: str,
        *,
        local: bool = False,  # noqa: ARG002 - an admission that timed out may still have been executed
    ) -> None:
        """Queue corrections of earlier charges; see :meth:`gwcore_ratelimit.memory.Memory.settle`."""
        keys, entries = [], []
        for limit, key, more, stamp in changes:
            named = self._prefix + key.encode()
            if limit.kind == PARALLEL:
                self.leases.pop((named, lease), None)
                entries.append([3])
            elif limit.width:
                entries.append([2, more, stamp, limit.width])
            else:
                entries.append([1, limit.amount, *divmod(more * limit.period, limit.amount), *limit.debt])
            keys.append(named)
        self._queue.append(_Operation(keys, ["s", lease, entries]))
        if self._sending is None and self._lingering is None and self._client is not None:
            self._lingering = asyncio.get_running_loop().call_later(LINGER, self._flush)

    def _undo(self, charges: Sequence[Charge], lease: str, answer: list[int]) -> None:
        """Refund what was granted to a call that has been cancelled."""
        verdict = _verdict(charges, answer)
        if verdict.refused < 0:
            self.settle(refunds(charges, verdict), lease)

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _ask(
        self, keys: list[bytes], said: list[Any], undo: Callable[[list[int]], None] | None = None
    ) -> list[int]:
        if self._client is None:
            raise StoreDown("not connected")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[int]] = loop.create_future()
        operation = _Operation(keys, said, done, loop.time())
        self._queue.append(operation)
        if self._sending is None:
            self._flush()
        try:
            return await done
        except asyncio.CancelledError:
            if operation in self._queue:
                self._queue.remove(operation)
            elif undo is not None and operation.answer is not None:
                undo(operation.answer)  # the answer and the cancellation came in one loop iteration
            else:
                operation.undo = undo
            raise

    async def flush(self) -> None:
        """Send what is queued, and wait until it has been sent."""
        self._flush()
        if self._sending is not None:
            await asyncio.wait({self._sending})

    def _flush(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if self._sending is None and self._queue:
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        """Send batch after batch until the queue is empty."""
        loop = asyncio.get_running_loop()
        answered = 0.0
        try:
            while self._queue:
                batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
                first = min((o.since for o in batch if o.done is not None), default=loop.time())
                # while the store answers others, the wait for one's turn is no outage, unless it takes too long altogether
                since = max(first, min(answered, first + PROLONGED * self._timeout))
                try:
                    async with patience(max(0.0, since + self._timeout - loop.time())):
                        answers = await self._run([key for o in batch for key in o.keys], [o.said for o in batch])
                except Exception as error:
                    # drivers raise various errors if a server is gone, hangs, is read-only or out of memory
                    down = StoreDown(type(error).__name__)
                    for operation in batch:
                        if operation.done is not None and not operation.done.done():
                            operation.done.set_exception(down)
                    continue
                answered = loop.time()
                for operation, answer in zip(batch, answers, strict=True):
                    operation.answer = answer
                    if operation.undo is not None:
                        operation.undo(answer)
                    elif operation.done is not None and not operation.done.done():
                        operation.done.set_result(answer)
        finally:
            self._sending = None

    async def _run(self, keys: list[bytes], said: list[list[Any]]) -> list[Any]:
        from redis.exceptions import NoScriptError  # noqa: PLC0415 - an optional driver

        run, text = self._client.execute_command, orjson.dumps(said)
        try:
            answers: list[Any] = await run("EVALSHA", self._sha, len(keys), *keys, text)
        except NoScriptError:
            answers = await run("EVAL", self._script, len(keys), *keys, text)
        return answers


def _said(limit: Limit, cost: int, floor: int) -> list[int]:
    if limit.kind == PARALLEL:
        return [3, int(limit.shadow), limit.amount]
    if limit.width:
        return [2, int(limit.shadow), limit.amount, cost, limit.width]
    span = limit.unit if cost == 1 else divmod(cost * limit.period, limit.amount)
    return [1, int(limit.shadow), limit.amount, *span, *limit.room, floor]


def _verdict(charges: Sequence[Charge], answer: list[int]) -> Verdict:
    readings: list[Reading | None] = []
    shadowed: tuple[int, ...] = ()
    for (limit, _, _), a, b, c in zip(charges, answer[2::3], answer[3::3], answer[4::3], strict=True):
        if a < 0:
            shadowed = (*shadowed, len(readings))
            readings.append(None)
        else:
            readings.append(reading_of(limit, a, b) if limit.gcra else (a, b, c))
    return Verdict(answer[0], answer[1], readings, shadowed)
