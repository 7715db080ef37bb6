"""Health shared by replicas: each one reports what it observes to the others at once, through Redis.

Open breakers and their end, in the server's time, are kept in a hash for workers that start later; events are
published, and arrive within milliseconds. Only the claim of a probe waits for the store, for at most ``TIMEOUT``.
Without the store, every worker uses its own observations only.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

from gwcore.errors import BadConfig
from gwcore.patience import patience
from gwcore.resources import Store, redis_client
from gwcore_fallback.health import Breaker
from gwcore_fallback.plan import Fleet

TIMEOUT = 0.25  # limit of seconds for a command
COUNT_EVERY = 0.1  # seconds between two exchanges of used limits
_PAUSE = 1.0  # seconds before the store is tried again
_UNBORN = 4096
_KEPT = 3600  # seconds for which the state is kept after the last event

_log = structlog.get_logger("gwcore.fallback")

# One event: store what is open, publish it. Workers send durations, so that only the server's clock counts.
_TELL = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local event, id, opens, left, reason = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
if event == 'close' then
  redis.call('HDEL', KEYS[1], id)
elseif (event == 'open' or event == 'cool') and redis.call('HLEN', KEYS[1]) < 5000 then
  redis.call('HSET', KEYS[1], id, event .. '|' .. opens .. '|' .. (now + left) .. '|' .. reason)
  redis.call('EXPIRE', KEYS[1], ARGV[8])
end
redis.call('PUBLISH', ARGV[1], table.concat({ARGV[2], event, id, opens, now + left, reason}, '|'))
return 1
"""
# One limit: add the local usage, return the total of all workers in the period. Slices follow the server's clock.
_COUNT = """
local t = redis.call('TIME')
local turn = math.floor((t[1] * 1000 + math.floor(t[2] / 1000)) / tonumber(ARGV[2]))
local slices, total = tonumber(ARGV[3]), 0
if ARGV[1] ~= '0' then
  redis.call('HINCRBY', KEYS[1], turn, ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[2] * (slices + 2))
end
local used = redis.call('HGETALL', KEYS[1])
for i = 1, #used, 2 do
  if turn - used[i] > slices then redis.call('HDEL', KEYS[1], used[i]) else total = total + used[i + 1] end
end
return total
"""
_LEAD = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0
"""
_FREE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Alone:
    """Health of one process that shares nothing."""

    state = "memory"

    def __init__(self) -> None:
        self.fleet: Fleet

    def report(self, event: str, breaker: Breaker) -> None:
        """Does nothing: there are no others."""

    def born(self, breaker: Breaker) -> Breaker:
        """Returns a new breaker, with anything already known about it."""
        return breaker

    async def claim(self, breaker: Breaker) -> bool:
        """Whether the caller may probe."""
        if breaker.probing:
            return False
        breaker.probing = True
        return True

    def release(self, breaker: Breaker) -> None:
        """End the probe, whatever its result."""
        breaker.probing = False

    async def leads(self, interval: float) -> bool:  # noqa: ARG002 - for overriding
        """Whether this process is the leader of the fleet for the next ``interval`` seconds."""
        return True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs nothing."""
        yield


class Shared(Alone):
    """Health shared by several processes through one Redis.

    Attributes:
        state: ``shared``, or ``alone`` while the store cannot be reached.
    """

    def __init__(self, store: Store, namespace: str) -> None:
        super().__init__()
        self.state = "alone"
        self._client = store.once("gwcore_fallback", lambda: redis_client(store.url, TIMEOUT))
        self._url = store.url
        self._hash = f"{namespace}:open"
        self._channel = f"{namespace}:events"
        self._probe = f"{namespace}:probe:"
        self._used = f"{namespace}:used:"
        self._worker = os.urandom(6).hex()
        self._outbox: deque[tuple[str, Breaker]] = deque(maxlen=10_000)
        self._wake = asyncio.Event()
        self._unborn: dict[str, tuple[str, int, float, str]] = {}
        self._offset = 0.0  # server's clock minus ours, in seconds

    def report(self, event: str, breaker: Breaker) -> None:
        """Report to the others in the background."""
        self._outbox.append((event, breaker))
        self._wake.set()

    def born(self, breaker: Breaker) -> Breaker:
        """Returns a new breaker, after applying what others reported about it earlier."""
        told = self._unborn.pop(breaker.id, None)
        if told is not None:
            event, opens, until, reason = told
            breaker.heard(event, opens=opens, until=until, reason=reason)
        return breaker

    async def claim(self, breaker: Breaker) -> bool:
        """Whether the caller may probe: only one worker of the fleet may. Without the store, one of each process."""
        if not await super().claim(breaker):
            return False
        if self.state != "shared":
            return True
        try:
            async with patience(TIMEOUT):
                won = await self._client.set(
                    self._probe + breaker.id, self._worker, nx=True, px=int(breaker.limits.cooldown * 1000)
                )
        except asyncio.CancelledError:
            breaker.probing = False
            raise
        except Exception as error:  # anything a driver raises if the store is down, hangs or rejects the command
            self._lost(error)
            return True
        if not won:
            breaker.probing = False
        return bool(won)

    async def leads(self, interval: float) -> bool:
        """Whether this process holds or obtains the lease; without the store, every process is a leader."""
        if self.state != "shared":
            return True
        lease = int(interval * 1500)
        try:
            async with patience(TIMEOUT):
                return bool(await self._client.eval(_LEAD, 1, f"{self._probe}lease", self._worker, lease))
        except Exception as error:  # as in claim
            self._lost(error)
            return True

    def release(self, breaker: Breaker) -> None:
        """End the probe; if it decided nothing, any worker may claim the next one."""
        super().release(breaker)
        if breaker.half_open(time.monotonic()):
            self.report("free", breaker)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen and report until the block ends; then send the remaining reports."""
        ready = asyncio.Event()
        tasks = [asyncio.create_task(work) for work in (self._listen(ready), self._tell(), self._count())]
        with suppress(TimeoutError):  # open breakers are known before the first call, if the store answers
            await asyncio.wait_for(ready.wait(), 2 * TIMEOUT)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            with suppress(Exception):
                await self._flush()

    # ── out ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _tell(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._flush()
            except Exception as error:  # as in claim
                self._lost(error)
                await asyncio.sleep(_PAUSE)
                self._wake.set()

    async def _flush(self) -> None:
        while self._outbox:
            batch = list(self._outbox)
            pipe = self._client.pipeline(transaction=False)
            for event, breaker in batch:
                if event == "free":
                    pipe.eval(_FREE, 1, self._probe + breaker.id, self._worker)
                    continue
                left = max(int((breaker.until - time.monotonic()) * 1000), 0)
                said = (self._channel, self._worker, event, breaker.id, breaker.opens, left, breaker.reason, _KEPT)
                pipe.eval(_TELL, 1, self._hash, *said)
            async with patience(TIMEOUT):
                await pipe.execute()
            for _ in batch:
                self._outbox.popleft()

    async def _count(self) -> None:
        """Share the usage of limits, ten times a second; does nothing without limits."""
        while True:
            await asyncio.sleep(COUNT_EVERY)
            limited = [
                one for one in self.fleet.deployments.values() if one.requests is not None or one.tokens is not None
            ]
            windows = [
                (f"{self._used}{one.id}:{word}", window)
                for one in limited
                for word, window in (("requests", one.requests), ("tokens", one.tokens))
                if window is not None
            ]
            if not windows or self.state != "shared":
                continue
            pipe = self._client.pipeline(transaction=False)
            sent = []
            for key, window in windows:
                sent.append(window.pending)
                pipe.eval(_COUNT, 1, key, window.pending, int(window.per * 1000 / window.SLICES), window.SLICES)
            try:
                async with patience(TIMEOUT):
                    totals = await pipe.execute()
            except Exception as error:  # as in claim
                self._lost(error)
                continue
            for (_, window), counted, total in zip(windows, sent, totals, strict=True):
                window.pending -= counted
                window.others = max(0, total - (window.own() - window.pending))

    def _lost(self, error: Exception) -> None:
        if self.state == "shared":
            self.state = "alone"
            _log.warning("health is not shared: the store does not answer", error=type(error).__name__)

    # ── in ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _listen(self, ready: asyncio.Event) -> None:
        while True:
            client = redis_client(self._url, None, within=TIMEOUT)
            try:
                async with client.pubsub() as events:
                    await events.subscribe(self._channel)
                    await self._catch_up()
                    ready.set()
                    await self._hear(events)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # as in claim
                self._lost(error)
                await asyncio.sleep(_PAUSE)
            finally:
                await client.aclose()

    async def _hear(self, events: Any) -> None:
        """Apply the reports of others, until the store is lost.

        A connection whose other end is gone, as after a failover, is silent and does not break: so silence is answered
        with a ping.
        """
        asked = False
        while True:
            message = await events.get_message(timeout=_PAUSE)
            if self.state == "alone":  # a command failed, but this connection still works
                await self._catch_up()
            if message is not None:
                asked = False
                if message["type"] == "message":
                    self._heard(message["data"].decode())
            elif asked:
                raise TimeoutError
            else:
                await events.ping()
                asked = True

    async def _catch_up(self) -> None:
        """Load what is open now. Runs after subscribing, so that no event is missed."""
        before = time.monotonic()
        async with patience(2 * TIMEOUT):
            seconds, micros = await self._client.time()
            self._offset = seconds + micros / 1e6 - (before + time.monotonic()) / 2
            told = await self._client.hgetall(self._hash)
        for name, entry in told.items():
            event, opens, until, reason = entry.decode().split("|", 3)
            self._apply(event, name.decode(), int(opens), float(until), reason)
        self.state = "shared"

    def _heard(self, said: str) -> None:
        worker, event, rest = said.split("|", 2)
        name, opens, until, reason = rest.rsplit("|", 3)
        if worker != self._worker:
            self._apply(event, name, int(opens), float(until), reason)

    def _apply(self, event: str, name: str, opens: int, until: float, reason: str) -> None:
        breaker, at = self.fleet.guard(name), until / 1000 - self._offset
        if breaker is not None:
            breaker.heard(event, opens=opens, until=at, reason=reason)
        elif event in {"open", "cool"} and len(self._unborn) < _UNBORN:
            self._unborn[name] = event, opens, at, reason
        else:
            self._unborn.pop(name, None)


def shared_for(store: Store, namespace: str) -> Alone:
    """Returns the implementation for the store. Raises ``BadConfig`` for a store without publish and subscribe."""
    if store.scheme == "redis":
        return Shared(store, namespace)
    if store.scheme == "memory":
        return Alone()
    raise BadConfig(f"fallback.store: a {store.scheme} store cannot share health; name a redis store, or memory")
