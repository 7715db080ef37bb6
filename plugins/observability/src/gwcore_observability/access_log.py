"""``access_log``: one JSON line per call, in the format of the gateway's own log.

``GWCORE_LOG_LEVEL`` filters calls: successful and cancelled ones are ``info``, refused ``warning``, failed ``error``.
A thread writes the lines, so a slow or stuck reader delays no call.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from gwcore import log
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore.units import exact_usd
from gwcore_observability.content import Content
from gwcore_observability.plugin import SinkPlugin
from gwcore_observability.record import CANCELLED, FAILED, OK, REFUSED, Record
from gwcore_observability.settings import NearConfig, SinkConfig
from gwcore_observability.sink import Delivery, Sink, Verdict
from gwcore_observability.spill import Item

LEVELS = {OK: "info", CANCELLED: "info", REFUSED: "warning", FAILED: "error"}
PIPE = 4096
"""Bytes that a pipe takes atomically, even with several writers (POSIX: PIPE_BUF)."""


class LinesConfig(NearConfig):
    """For one line per call: in memory only by default."""

    folder: Path | None = Field(
        default=None,
        description="Folder for lines that could not be written; a restart writes them. `null` keeps them in memory "
        "only, and they are lost with the process.",
    )


class AccessLogConfig(SinkConfig):
    """Settings of ``access_log``."""

    to: str = Field(
        default="stdout", description="`stdout`, `stderr`, or the path of a file to which lines are appended."
    )
    outbox: LinesConfig = Field(
        default=LinesConfig(), description="How lines are queued; in memory only unless `folder` is set."
    )


class AccessLogSink:
    """The sink."""

    def __init__(self, to: str) -> None:
        self._to = to
        self._begun = b""
        numbers, least = logging.getLevelNamesMapping(), log.threshold()
        self._levels = {level for level in LEVELS.values() if numbers[level.upper()] >= least}

    def encode(self, record: Record, content: Content | None) -> Item | None:
        """One line."""
        level = LEVELS[record.state]
        if level not in self._levels:
            return None
        ended = datetime.fromtimestamp(record.ended_ns / 1e9, UTC)
        timestamp = ended.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        said = {"event": "call", "level": level, "timestamp": timestamp, **_fields(record), "content": content}
        # leave out fields without a value to keep lines short
        return Item(record.event, log.line({k: v for k, v in said.items() if v is not None}) + b"\n")

    def pack(self, items: Sequence[Item]) -> Sequence[Delivery]:
        """All lines at once."""
        return [Delivery(items)]

    async def send(self, delivery: Delivery) -> Verdict:
        """Write the lines, in a thread. If the disk fills up, only lines not fully written are written again."""
        whole = await asyncio.to_thread(self._write, [item.body for item in delivery.items])
        return Verdict("accepted", "OSError", again=frozenset(item.id for item in delivery.items[whole:]))

    def _write(self, lines: list[bytes]) -> int:
        """Return how many lines were fully written; raises ``OSError`` if nothing was written."""
        if self._to in {"stdout", "stderr"}:
            stream = sys.stdout if self._to == "stdout" else sys.stderr
            return self._put(stream.fileno(), _pieces(lines))
        descriptor = os.open(self._to, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o640)
        try:
            return self._put(descriptor, [b"".join(lines)])
        finally:
            os.close(descriptor)  # so that log rotation need not notify us

    def _put(self, descriptor: int, pieces: Iterable[bytes]) -> int:
        whole = 0
        for piece in pieces:
            # after an incomplete write begin with a line break, so that the torn line spoils no other
            begun, self._begun = self._begun, b"\n"
            data = begun + piece
            try:
                done = _all(descriptor, data)
            except OSError:
                if not whole:
                    raise
                break
            whole += data.count(b"\n", 0, done) - len(begun)
            if done < len(data):
                break
            self._begun = b""
        return whole


def _pieces(lines: list[bytes]) -> Iterator[bytes]:
    """Group lines into pieces that a pipe takes atomically, so that workers sharing it never mix their lines."""
    piece = b""
    for one in lines:
        if piece and len(piece) + len(one) > PIPE:
            yield piece
            piece = b""
        piece += one
    yield piece


def _all(descriptor: int, data: bytes) -> int:
    """Write until done or an error; return the number of bytes written. Raises ``OSError`` if it is 0."""
    done = 0
    while done < len(data):
        try:
            done += os.write(descriptor, data[done:])
        except BlockingIOError:  # the descriptor was set to non-blocking elsewhere; in a thread we can wait
            time.sleep(0.01)
        except OSError:
            if not done:
                raise
            break
    return done


def _fields(record: Record) -> dict[str, Any]:
    """The fields of a line."""
    return {
        "id": record.id,
        "state": record.state,
        "status": record.status,
        "operation": record.operation,
        "method": record.method,
        "route": record.route,
        "stream": record.stream or None,
        "model": record.model,
        "served_model": record.served_model or None,
        "upstream": record.upstream,
        "upstream_id": record.last.upstream_id if record.last is not None else None,
        "error": record.error,
        "reason": record.reason,
        "key": record.key,
        "key_name": record.key_name,
        "team": record.team,
        "user": record.user,
        "organisation": record.organisation,
        "end_user": record.end_user,
        "tags": record.tags or None,
        "session": record.session,
        "ms": round(record.seconds * 1000, 1),
        "first_token_ms": None if record.first_token_s is None else round(record.first_token_s * 1000, 1),
        "overhead_ms": None if record.overhead_s is None else round(record.overhead_s * 1000, 3),
        "tokens": record.tokens or None,
        "cost_usd": None if record.cost_nano is None else exact_usd(record.cost_nano),
        "unpriced": record.unpriced or None,
        "facts": record.facts or None,
        "cache": record.cache,
        "failed": [f"{a.upstream}/{a.model} {a.status or a.reason}" for a in record.attempts if a.error] or None,
        "received": record.received,
        "sent": record.sent,
        "client": record.client,
        "user_agent": record.user_agent,
        "trace": record.trace,
    }


class AccessLog(SinkPlugin):
    """Writes one JSON line per call."""

    name = "access_log"
    Config: ClassVar[type[BaseModel]] = AccessLogConfig

    @property
    def where(self) -> str:
        """Where lines are written."""
        to: str = self.config.to
        return to if to in {"stdout", "stderr"} else str(Path(to).absolute())

    def sink(self) -> Sink:
        """The sink."""
        return AccessLogSink(self.where)


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """For the stack file."""
    return [AccessLog]
