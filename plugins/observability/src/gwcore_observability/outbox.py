"""``Outbox``: the buffer between calls and one sink. A bounded queue, overflow to disk, batches with a breaker.

::

    put(record)        O(1), never waits: appends to a queue bounded by count and bytes; drops content or record if full
    every tick         encodes the queue, record by record, and yields to the event loop in between
      sink healthy     → sent in batches from memory
      else             → disk (:mod:`gwcore_observability.spill`), sent from there, oldest first, once it is healthy
    a batch not settled within ``TICK`` is also written to disk: a killed process loses at most its last second
    stop()             stops intake, writes all to disk, sends for ``flush`` seconds; the next start sends the rest

Delivery is at least once: after a crash some records arrive twice, with the same ids. Without a folder, records that
the sink does not accept wait in memory, and are lost with the process.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import orjson
import structlog

from gwcore.ports import Sample
from gwcore.whole import whole
from gwcore_observability.content import Captured, Content, Reader
from gwcore_observability.record import Record
from gwcore_observability.settings import OutboxConfig
from gwcore_observability.sink import Delivery, Sink, Verdict, later
from gwcore_observability.slices import Slices
from gwcore_observability.spill import Item, Spill

TICK = 0.4
"""Seconds that a record may stay only in memory."""
RECORD_SIZE = 4096
"""Bytes assumed for a record without content."""
BIG = 16 * 1024
"""Bytes of content above which it is read in a thread."""
OPEN_AFTER = 3
"""Consecutive failures that open the breaker."""
ADOPT_EVERY = 30.0
REMEMBERED = 10_000
DEAD_CAP = 64 << 20

_log = structlog.get_logger("gwcore.observability")
Pending = tuple[Record, Captured | None]
T = TypeVar("T")


class Outbox:
    """One sink's queue, disk and sender.

    Attributes:
        name: of the sink, in metrics and logs.
        sent, rejected, dropped, failed, bare: records accepted by the sink, permanently rejected, lost for lack of
            space, not encodable, and stripped of their content for lack of space, since the process started.
    """

    def __init__(self, name: str, config: OutboxConfig, folder: Path | None) -> None:
        self.name = name
        self.config = config
        self.sent = self.rejected = self.dropped = self.failed = self.bare = 0
        self.last = Verdict("accepted")
        self._spill = Spill(folder, config.disk) if folder is not None else None
        self._fresh: deque[Pending] = deque()
        self._fresh_bytes = 0
        self._ready: deque[tuple[float, Item]] = deque()  # with the time since which it waits (monotonic)
        self._ready_bytes = 0
        self._settled: set[str] = set()
        self._failures = 0
        self._open_until = 0.0
        self._users = 0
        self._wake = asyncio.Event()
        self._work = asyncio.Event()
        self._disk = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._told = 0.0

    # ── intake ───────────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, record: Record, captured: Captured | None = None) -> None:
        """Queue a record. Never waits, never raises for lack of space.

        If its content does not fit, it is dropped and counted as bare; if the record does not fit, as dropped.
        """
        if not self._room(RECORD_SIZE) or not self._users:
            self.dropped += 1
            return
        if captured is not None and not self._room(RECORD_SIZE + captured.size):
            captured = None
            self.bare += 1
        if self.config.durable and self._spill is not None:
            self._put_durably(record, captured)
            return
        self._fresh.append((record, captured))
        self._fresh_bytes += RECORD_SIZE + (captured.size if captured is not None else 0)
        if len(self._fresh) >= self.config.batch:
            self._wake.set()

    def put_item(self, item: Item) -> None:
        """Queue an encoded item that is not a call's record; bounded and counted like :meth:`put`."""
        if not self._users:
            self.dropped += 1
            return
        self._wait(item)
        self._work.set()

    def _room(self, size: int) -> bool:
        memory = self._fresh_bytes + self._ready_bytes + size
        return len(self._fresh) + len(self._ready) < self.config.queue and memory <= self.config.memory

    def _put_durably(self, record: Record, captured: Captured | None) -> None:
        """Write to disk before the call ends: a killed process loses nothing, but each call pays for a write."""
        item = self._encode(record, self._reader.read(captured) if captured is not None else None)
        if item is not None:
            assert self._spill is not None
            try:
                self._spill.append([item])
            except OSError as error:
                self._complain("spill", error)
                self._wait(item)
            self._work.set()

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, sink: Sink, reader: Reader) -> None:
        """Open the disk and start sending. After a reload, the new stack's sink and reader use the same outbox."""
        self._sink, self._reader = sink, reader
        self._users += 1
        if self._users > 1:
            return
        if self._spill is not None:
            try:
                await asyncio.to_thread(self._spill.open)
            except OSError as error:
                if self.config.durable:
                    self._users = 0
                    raise
                _log.warning("spill cannot be written; what a sink does not take waits in memory", sink=self.name,
                             error=error.strerror)  # fmt: skip
                self._spill = None
        self._tasks = [asyncio.create_task(self._ticking()), asyncio.create_task(self._sending())]

    async def stop(self) -> None:
        """Release one user; after the last, flush: to disk at once, then to the sink for ``flush`` seconds."""
        self._users -= 1
        if self._users:
            return
        ticking, sending = self._tasks
        self._wake.set()  # let it end by itself: records that it is encoding or writing exist nowhere else
        await asyncio.wait({ticking})
        await self._encode_fresh()
        await self._store(self._take_ready() if self._spill is not None else (), under_way=False)
        self._failures, self._open_until = 0, 0.0
        self._work.set()
        deadline = time.monotonic() + self.config.flush
        while self.waiting and time.monotonic() < deadline and self._failures < OPEN_AFTER:
            await asyncio.wait({sending}, timeout=0.02)
        sending.cancel()
        await asyncio.wait({sending})
        left = self.waiting
        lost = left if self._spill is None else len(self._fresh) + len(self._ready)  # writing to disk failed
        self.dropped += lost
        if left:
            _log.warning("sink did not take everything", sink=self.name, left=left, kept=not lost, lost=lost)
        if self._spill is not None:
            await self._on_disk(self._spill.close)

    async def aclose(self) -> None:
        """For :meth:`gwcore.plugin.Setup.once`; :meth:`stop` does all the work."""

    @property
    def waiting(self) -> int:
        """Records not yet settled with the sink."""
        return len(self._fresh) + len(self._ready) + self._under_way + (self._spill.count if self._spill else 0)

    _under_way = 0
    _under_way_since = 0.0

    # ── from the queue to items ──────────────────────────────────────────────────────────────────────────────────

    async def _ticking(self) -> None:
        adopted, dropped = time.monotonic(), 0
        while self._users:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TICK / 2)
            self._wake.clear()
            try:
                if self.dropped > dropped:
                    dropped = self.dropped
                    self._complain("dropped", None, dropped=dropped)
                await self._encode_fresh()
                if self._spill is not None:
                    if self._failures or self._spill.oldest is not None or self._behind:
                        await self._store(self._take_ready(), under_way=False)
                    await self._on_disk(self._spill.sync, 1.0)
                    if time.monotonic() - adopted > ADOPT_EVERY:
                        adopted = time.monotonic()
                        await self._on_disk(self._spill.adopt)
            except Exception as error:  # the next tick tries again
                self._complain("outbox", error)
            self._work.set()

    async def _encode_fresh(self) -> None:
        slices = Slices()
        while self._fresh:
            record, captured = self._fresh.popleft()
            content = None
            if captured is not None:
                self._fresh_bytes -= captured.size
                content = await self._content(captured)
            self._fresh_bytes -= RECORD_SIZE
            item = self._encode(record, content)
            if item is not None:
                self._wait(item)
            if self._spill is not None and self._half_full:
                await self._store(self._take_ready(), under_way=False)
            await slices.breathe()

    async def _content(self, captured: Captured) -> Content | None:
        try:
            if captured.size > BIG:
                return await asyncio.to_thread(self._reader.read, captured)
            return self._reader.read(captured)
        except Exception as error:  # content is untrusted: continue without it
            self._complain("content", error)
            return None

    def _encode(self, record: Record, content: Content | None) -> Item | None:
        try:
            return self._sink.encode(record, content)
        except Exception as error:  # a sink is foreign code
            self.failed += 1
            self._complain("encode", error)
            return None

    def _wait(self, item: Item, since: float | None = None) -> None:
        """Queue an item in memory for sending; drop it if full. With ``since``, its arrival time, it goes in front."""
        if not self._room(len(item.body)):
            self.dropped += 1
            return
        (self._ready.append if since is None else self._ready.appendleft)((since or time.monotonic(), item))
        self._ready_bytes += len(item.body)

    @property
    def _half_full(self) -> bool:
        return len(self._ready) * 2 >= self.config.queue or self._ready_bytes * 2 >= self.config.memory

    @property
    def _behind(self) -> bool:
        """Whether items have been only in memory for longer than allowed."""
        return bool(self._ready) and time.monotonic() - self._ready[0][0] > TICK

    def _take_ready(self) -> list[Item]:
        items = [item for _, item in self._ready]
        self._ready.clear()
        self._ready_bytes = 0
        return items

    async def _store(self, items: Sequence[Item], *, under_way: bool) -> bool:
        """Write to disk; if that fails, put back into memory up to its bounds. Returns whether they are on disk."""
        try:
            if self._spill is not None and items:
                await self._on_disk(self._spill.append, items)
                return True
        except OSError as error:
            self._complain("spill", error)
        for item in () if under_way else reversed(items):
            self._wait(item, time.monotonic() if self._spill else self._under_way_since)
        return False

    async def _on_disk(self, work: Callable[..., T], *args: Any) -> T:
        """Run in a thread, one at a time. It completes even if the caller is cancelled, so that no items are lost."""

        async def alone() -> T:
            async with self._disk:
                return await asyncio.to_thread(work, *args)

        return await whole(alone())

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _sending(self) -> None:
        while True:
            try:
                if not await self._turn():
                    self._work.clear()
                    await self._work.wait()
            except Exception as error:  # the next turn tries again
                self._complain("send", error)
                await asyncio.sleep(TICK)

    async def _turn(self) -> bool:
        """Send one batch; ``False`` if there is nothing to do."""
        if (wait := self._open_until - time.monotonic()) > 0:
            self._work.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing(), wait)
            return True
        if self._spill is not None and self._spill.oldest is not None:
            items = await self._on_disk(self._spill.read, self.config.batch, self.config.batch_bytes)
            news = [item for item in items if item.id not in self._settled]
            if await self._deliver(news, stored=True):
                self._settled.difference_update(item.id for item in items)
                await self._on_disk(self._spill.ack, items)
            return True
        since = self._ready[0][0] if self._ready else 0.0
        items = self._batch()
        if not items:
            return False
        self._under_way_since = since
        self._under_way = len(items)
        try:
            await self._deliver(items, stored=False)
        finally:
            self._under_way = 0
        return True

    async def _closing(self) -> None:
        """Wait until the breaker closes, or :meth:`stop` resets it for a last try."""
        while self._open_until > time.monotonic():
            await self._work.wait()
            self._work.clear()
            await asyncio.sleep(0.05)

    def _batch(self) -> list[Item]:
        items: list[Item] = []
        size = 0
        while self._ready and len(items) < self.config.batch and size < self.config.batch_bytes:
            items.append(self._ready.popleft()[1])
            size += len(items[-1].body)
        self._ready_bytes -= size
        return items

    async def _deliver(self, items: list[Item], *, stored: bool) -> bool:
        """Send a batch; ``False`` if some items are not settled because the sink is failing: they are stored."""
        if not items:
            return True
        task = asyncio.create_task(self._send_all(items))
        try:
            if not stored:
                await asyncio.wait({task}, timeout=TICK)
                if not task.done():
                    stored = self._spill is not None  # also if cancelled in the next line, which then has stored them
                    stored = await self._store(items, under_way=True)
                    self._under_way = 0 if stored else len(items)  # else they would count twice
            left = await task
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            if not stored:
                await self._store(items, under_way=False)
            raise
        done = {item.id for item in items} - {item.id for item in left}
        if left and not stored:
            await self._store(left, under_way=False)
        elif stored and self._spill is not None and len(self._settled) < REMEMBERED:
            self._settled |= done
        return not left

    async def _send_all(self, items: Sequence[Item]) -> list[Item]:
        """Send concurrently until the sink is found to be failing; returns the items that are not settled."""
        slots, row = asyncio.Semaphore(self.config.parallel), 0
        deliveries = list(self._sink.pack(items))
        if self._failures:  # so that a few that always fail do not block the others
            random.shuffle(deliveries)

        async def one(delivery: Delivery) -> list[Item]:
            nonlocal row
            async with slots:
                left = list(delivery.items) if row >= OPEN_AFTER else await self._send(delivery)
                row = 0 if not left else OPEN_AFTER if self.last.after else row + 1
                return left

        left = [item for result in await asyncio.gather(*map(one, deliveries)) for item in result]
        if left:
            self._failures += 1
            pause = min(self.config.backoff, 0.25 * 2 ** min(self._failures, 20))
            pause = random.uniform(0, pause)  # noqa: S311 - full jitter, no secret
            self._open_until = time.monotonic() + max(pause, min(self.last.after or 0, self.config.backoff * 6))
            if self._failures == OPEN_AFTER:
                _log.warning("sink is not well; what it misses waits", sink=self.name, reason=self.last.reason)
        else:
            if self._failures >= OPEN_AFTER:
                _log.info("sink is well again", sink=self.name, waiting=self.waiting)
            self._failures = 0
        return left

    async def _send(self, delivery: Delivery) -> list[Item]:
        """Send one delivery; returns its items that are not settled."""
        try:
            async with asyncio.timeout(self.config.timeout):
                verdict = await self._sink.send(delivery)
        except Exception as error:  # a sink is foreign code
            verdict = later(error) or Verdict("refused", type(error).__name__)
        self.last = verdict
        items = delivery.items
        if verdict.kind == "later":
            return list(items)
        if verdict.kind == "accepted":
            for item in items:
                if item.id in verdict.refused:
                    self._bury(item, verdict.refused[item.id])
            again = [item for item in items if item.id in verdict.again]
            self.sent += len(items) - len(verdict.refused) - len(again)
            return again
        if len(items) == 1:
            self._bury(items[0], verdict.reason)
            return []
        half = len(items) // 2
        left: list[Item] = []
        for part in (items[:half], items[half:]):
            for smaller in self._sink.pack(part):
                left += await self._send(smaller)
        return left

    def _bury(self, item: Item, reason: str) -> None:
        """Write to the dead letters: a file of JSON lines beside the spill."""
        self.rejected += 1
        self._complain("refused", None, reason=reason)
        if self._spill is not None:
            body = item.body.decode("utf-8", "backslashreplace")
            line = orjson.dumps({"id": item.id, "reason": reason, "at": time.time(), "body": body})
            with suppress(OSError):
                self._spill.bury(line + b"\n", DEAD_CAP)

    # ── reporting ────────────────────────────────────────────────────────────────────────────────────────────────

    def _complain(self, what: str, error: BaseException | None, **fields: Any) -> None:
        """Log at most once in ten seconds; counters count all."""
        now = time.monotonic()
        if now - self._told > 10:
            self._told = now
            kind = type(error).__name__ if error is not None else None
            _log.error("sink trouble", sink=self.name, what=what, error=kind, **fields)

    @property
    def state(self) -> str:
        """``closed`` while the sink is healthy, ``open`` after ``OPEN_AFTER`` consecutive failures."""
        return "open" if self._failures >= OPEN_AFTER else "closed"

    @property
    def lag(self) -> float:
        """Age of the oldest waiting record in seconds; 0 if none waits."""
        waits = []
        if self._spill is not None and self._spill.oldest is not None:
            waits.append(time.time() - self._spill.oldest)
        if self._under_way:
            waits.append(time.monotonic() - self._under_way_since)
        if self._ready:
            waits.append(time.monotonic() - self._ready[0][0])
        if self._fresh:
            waits.append(time.time() - self._fresh[0][0].ended_ns / 1e9)
        return max(0.0, *waits) if waits else 0.0

    def samples(self) -> Iterable[Sample]:
        """Queue lengths and counts for ``/metrics``."""
        label = {"sink": self.name}
        spill = self._spill
        memory = len(self._fresh) + len(self._ready) + self._under_way
        yield Sample("gwcore_sink_queue_length", memory, label, "Records waiting in memory.")
        yield Sample("gwcore_sink_disk_records", spill.count if spill else 0, label, "Records waiting on disk.")
        yield Sample("gwcore_sink_disk_bytes", spill.size if spill else 0, label, "Bytes of the records on disk.")
        yield Sample("gwcore_sink_lag_seconds", self.lag, label, "Age of the oldest waiting record.", merge="max")
        yield Sample("gwcore_sink_open", self.state == "open", label, "1 while deliveries fail, else 0.", merge="max")
        lost = self.dropped + (spill.lost if spill else 0)
        counts = {
            "sent": (self.sent, "Records accepted by the sink."),
            "spilled": (spill.written if spill else 0, "Records written to disk to wait for the sink."),
            "dropped": (lost, "Records lost because memory or disk was full."),
            "rejected": (self.rejected, "Records permanently rejected by the sink."),
            "damaged": (spill.damaged if spill else 0, "Damaged places found in the files on disk."),
            "failed": (self.failed, "Records that could not be encoded, and were not sent."),
            "bare": (self.bare, "Records sent without their content because memory was full."),
        }
        for what, (value, help_) in counts.items():
            yield Sample(f"gwcore_sink_{what}", value, label, help_, kind="counter")

    def health(self) -> dict[str, Any]:
        """For ``GET /health``."""
        lost = self.dropped + (self._spill.lost if self._spill else 0)
        return {
            "state": self.state,
            "reason": self.last.reason if self._failures else "",
            "waiting": self.waiting,
            "lag": round(self.lag, 1),
            "sent": self.sent,
            "dropped": lost,
            "rejected": self.rejected,
            "disk": self._spill is not None,
        }
