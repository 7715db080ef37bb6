"""Answers in Redis or Valkey. One worker of the fleet asks the upstream: a lease per key, renewed while its call runs.

All keys are in one hash slot, since a script reads an entry, its lease and the number of purges together. Commands of
one turn of the event loop are sent as one batch. A command that may have run is never sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha1
from typing import Any, Final

from gwcore.patience import patience
from gwcore.resources import Store, redis_client
from gwcore_cache.entry import Entry
from gwcore_cache.seal import Envelope
from gwcore_cache.shelf import ShelfDown, ShelfFull, Turn, Turned, Wanted
from gwcore_cache.shelf.sql import opened

PASS: Final = 1000
"""Milliseconds during which calls do not wait for each other after an answer that may not be stored."""
WRITE_WITHIN: Final = 2.0
WARM_WITHIN: Final = 1.0
_BATCH: Final = 500
_LARGEST: Final = 1000  # limit of keys for one delete command

# a full store can still be read: then there are no turns, and every call asks the upstream itself
_TURN = """
local v, held = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
local epoch = redis.call('GET', KEYS[3]) or '0'
if held == 'alone' then return {2, epoch, v} end
if held then return {1, epoch, v} end
if redis.pcall('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]).err then return {2, epoch, v} end
return {0, epoch, v}
"""
# KEYS: purges, the lease (purges again: none), then per entry its key and indexes; ARGV: token, epoch, then per entry
# its data, milliseconds to keep it, its name in indexes and the number of indexes
_PUT = """
local kept = 0
if (redis.call('GET', KEYS[1]) or '0') == ARGV[2] then
  local t = redis.call('TIME')
  local now = t[1] * 1000 + math.floor(t[2] / 1000)
  local k, a = 3, 3
  while k <= #KEYS do
    local px = tonumber(ARGV[a + 1])
    redis.call('SET', KEYS[k], ARGV[a], 'PX', px)
    for i = 1, tonumber(ARGV[a + 3]) do
      local index = KEYS[k + i]
      redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
      redis.call('ZADD', index, now + px, ARGV[a + 2])
      if redis.call('PTTL', index) < px then redis.call('PEXPIRE', index, px) end
    end
    k, a = k + 1 + tonumber(ARGV[a + 3]), a + 4
  end
  kept = 1
end
if KEYS[2] ~= KEYS[1] and redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return kept
"""
_LEAVE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], 'alone', 'PX', ARGV[2])
return 1
"""
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"


class _Script:
    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


TURN, PUT, LEAVE, RENEW = map(_Script, (_TURN, _PUT, _LEAVE, _RENEW))


class Pipe:
    """Sends commands in batches: those that arrive while a batch is in flight form the next one."""

    def __init__(self, client: Any, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._queue: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._sending: asyncio.Task[None] | None = None

    async def warm(self) -> None:
        """Connect in advance, so that the first call need not wait for it."""
        with contextlib.suppress(Exception):  # as in _send; the next command reports it
            async with asyncio.timeout(WARM_WITHIN):
                await self._client.ping()

    async def ask(self, *command: Any) -> Any:
        """Returns the answer of one command; an error reply is returned, too. Raises ``ShelfDown``."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((command, done))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await done

    async def run(self, script: _Script, keys: Sequence[Any], *args: Any) -> Any:
        """Returns a script's answer; loads the script if the server does not have it. Raises ``ShelfDown``."""
        from redis.exceptions import NoScriptError, OutOfMemoryError  # noqa: PLC0415 - an optional driver

        answer = await self.ask("EVALSHA", script.sha, len(keys), *keys, *args)
        if isinstance(answer, NoScriptError):
            answer = await self.ask("EVAL", script.text, len(keys), *keys, *args)
        if isinstance(answer, Exception):
            raise (ShelfFull if isinstance(answer, OutOfMemoryError) else ShelfDown)(type(answer).__name__)
        return answer

    async def _send(self) -> None:
        try:
            while self._queue:
                batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
                try:
                    pipe = self._client.pipeline(transaction=False)
                    for command, _ in batch:
                        pipe.execute_command(*command)
                    async with patience(self._timeout):
                        answers = await pipe.execute(raise_on_error=False)
                except Exception as error:  # anything a driver raises if the server is down, hangs or is full
                    down = ShelfDown(type(error).__name__)
                    for _, done in batch:
                        if not done.done():
                            done.set_exception(down)
                    continue
                for (_, done), answer in zip(batch, answers, strict=True):
                    if not done.done():
                        done.set_result(answer)
        finally:
            self._sending = None

    async def aclose(self) -> None:
        """Wait for commands in flight, then disconnect."""
        if self._sending is not None:
            await asyncio.wait({self._sending})
        with contextlib.suppress(OSError):
            await self._client.aclose()


class RedisShelf:
    """Redis or Valkey; one per plugin and process.

    Args:
        store: the Redis store.
        envelope: encrypts entries, or adds a checksum.
        namespace: prefix of all keys.
        timeout: limit of seconds for a look-up.
        lease: seconds after which a dead worker's turn ends.
    """

    leases = True

    def __init__(self, store: Store, envelope: Envelope, *, namespace: str, timeout: float, lease: float) -> None:
        self._url = store.url
        self._envelope = envelope
        self._prefix = f"{{{namespace}}}:"
        self._timeout = timeout
        self._lease = lease
        self._token = secrets.token_hex(12)
        self._turns: set[bytes] = set()
        self._reads: Pipe
        self._writes: Pipe

    def _name(self, kind: str, key: bytes) -> str:
        return f"{self._prefix}{kind}:{key.hex()}"

    @property
    def _epoch(self) -> str:
        return self._prefix + "purges"

    async def get(self, keys: Sequence[bytes], scope: str) -> list[Entry | None]:
        """See :class:`gwcore_cache.shelf.Shelf`."""
        kept = await self._reads.ask("MGET", *(self._name("e", key) for key in keys))
        if isinstance(kept, Exception):
            raise ShelfDown(type(kept).__name__)
        return [self._opened(data, key, scope) for data, key in zip(kept, keys, strict=True)]

    def _opened(self, data: bytes | None, key: bytes, scope: str) -> Entry | None:
        if data is None:
            return None
        entry = opened(self._envelope, data, key, scope)
        if entry is None:
            task = asyncio.ensure_future(self._writes.ask("UNLINK", self._name("e", key)))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return entry

    async def turn(self, key: bytes, scope: str) -> Turned:
        """See :class:`gwcore_cache.shelf.Shelf`."""
        names = (self._name("e", key), self._name("l", key), self._epoch)
        try:
            said = await self._reads.run(TURN, names, self._token, int(self._lease * 1000))
        except asyncio.CancelledError:
            # the turn may have been granted: end it, so that no other worker waits for its expiry
            self._spawn_leave(key)
            raise
        turn = (Turn.OURS, Turn.OTHERS, Turn.ALONE)[said[0]]
        if turn is Turn.OURS:
            self._turns.add(key)
        return Turned(turn, self._opened(said[2] if len(said) > 2 else None, key, scope), int(said[1]))

    def _spawn_leave(self, key: bytes) -> None:
        task = asyncio.ensure_future(self.leave(key, alone=False))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def put(self, entries: Sequence[tuple[bytes, Entry]], turn: bytes | None, epoch: int) -> bool:
        """See :class:`gwcore_cache.shelf.Shelf`."""
        keys: list[str] = [self._epoch, self._epoch if turn is None else self._name("l", turn)]
        args: list[Any] = [self._token, str(epoch)]
        for key, entry in entries:
            indexes = self._indexes(entry)
            keys += [self._name("e", key), *indexes]
            kept = max(1, entry.kept - entry.made)
            args += [self._envelope.close(entry.pack(), key, entry.scope), kept, key.hex(), len(indexes)]
        if turn is not None:
            self._turns.discard(turn)
        return bool(await self._writes.run(PUT, keys, *args))

    def _indexes(self, entry: Entry) -> list[str]:
        named = [("model", entry.model), ("scope", entry.scope), *(("tag", tag) for tag in entry.tags)]
        return [f"{self._prefix}i:{kind}:{name}" for kind, name in named]

    async def leave(self, turn: bytes, *, alone: bool) -> None:
        """See :class:`gwcore_cache.shelf.Shelf`."""
        self._turns.discard(turn)
        await self._writes.run(LEAVE, (self._name("l", turn),), self._token, PASS if alone else 0)

    async def purge(self, wanted: Wanted) -> int:
        """See :class:`gwcore_cache.shelf.Shelf`."""
        ask = self._writes.ask
        await ask("INCR", self._epoch)
        narrowed = [
            {key.decode() for key in _said(await ask("ZRANGE", f"{self._prefix}i:{kind}:{value}", 0, -1))}
            for kind, value in (("model", wanted.model), ("scope", wanted.scope), ("tag", wanted.tag))
            if value is not None
        ]
        if wanted.keys:
            narrowed.append({key.hex() for key in wanted.keys})
        if not narrowed:
            return await self._purge_all()
        names = [f"{self._prefix}e:{key}" for key in set.intersection(*narrowed)]
        return await self._unlink(names)

    async def _purge_all(self) -> int:
        gone, cursor = 0, 0
        while True:
            cursor, names = _said(
                await self._writes.ask("SCAN", cursor, "MATCH", _literal(self._prefix) + "[ei]:*", "COUNT", _LARGEST)
            )
            await self._unlink(indexes := [name for name in names if name.startswith(f"{self._prefix}i:".encode())])
            gone += await self._unlink([name for name in names if name not in indexes])
            if not int(cursor):
                return gone

    async def _unlink(self, names: Sequence[Any]) -> int:
        gone = 0
        for at in range(0, len(names), _LARGEST):
            gone += _said(await self._writes.ask("UNLINK", *names[at : at + _LARGEST]))
        return gone

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Connect, waiting a second at most; renew the turns of this worker until the block ends."""
        self._reads, self._writes = (
            Pipe(redis_client(self._url, within, within=max(within, WARM_WITHIN), most=2), within)
            for within in (self._timeout, WRITE_WITHIN)
        )
        await asyncio.gather(self._reads.warm(), self._writes.warm())
        task = asyncio.create_task(self._renewing())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            await self._reads.aclose()
            await self._writes.aclose()

    async def _renewing(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            with contextlib.suppress(ShelfDown):
                names = [self._name("l", key) for key in self._turns]
                await asyncio.gather(
                    *(self._writes.run(RENEW, (name,), self._token, int(self._lease * 1000)) for name in names),
                    return_exceptions=True,
                )

    def health(self) -> dict[str, Any]:
        """Number of turns of this worker."""
        return {"asking": len(self._turns)}


def _said(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise ShelfDown(type(answer).__name__)
    return answer


def _literal(text: str) -> str:
    """Escapes the wildcards of MATCH."""
    return "".join("\\" + c if c in "*?[]\\^-" else c for c in text)
