"""Input of one destination: filters kinds, limits the rate, and sends alerts beyond the limit later in one summary."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path

import orjson

from gwcore_observability.alerts.findings import Alert, moment
from gwcore_observability.alerts.settings import DestinationConfig
from gwcore_observability.ids import event_id
from gwcore_observability.outbox import Outbox
from gwcore_observability.settings import OutboxConfig
from gwcore_observability.spill import Item

SHOWN = 30
"""Titles kept of alerts held back."""


class Mailbox:
    """One per destination and process; survives a reload that does not change the destination.

    Attributes:
        told, held: alerts passed to the outbox, and held back, since the process started.
    """

    def __init__(self, name: str, config: DestinationConfig, outbox: OutboxConfig, folder: Path | None) -> None:
        self.name = name
        self.outbox = Outbox(f"alerts.{name}", outbox, folder)
        self.told = self.held = 0
        self._kinds = frozenset(config.kinds)
        self._limit = config.limit
        self._times: deque[float] = deque()
        self._back: list[str] = []
        self._count = 0

    def tell(self, alert: Alert, now: float) -> None:
        """Take an alert. ``now`` in seconds since the epoch."""
        if alert.kind not in self._kinds:
            return
        if self._room(now):
            self._put(alert, now)
            return
        self.held += 1
        self._count += 1
        if len(self._back) < SHOWN:
            self._back.append(f"{alert.state}: {alert.title}")

    def catch_up(self, now: float) -> None:
        """Send a summary of the alerts held back, as soon as the limit allows."""
        if not self._count or not self._room(now):
            return
        lines = self._back + ([f"and {self._count - len(self._back)} more"] if self._count > len(self._back) else [])
        title = f"{self._count} alerts were held back"
        limit = f"{self._limit.amount} in {self._limit.per:g} s"
        note = Alert("digest", "note", "digest", title, moment(now), moment(now), {"limit": limit}, "\n".join(lines))
        self._back, self._count = [], 0
        self._put(note, now)

    def _room(self, now: float) -> bool:
        while self._times and now - self._times[0] >= self._limit.per:
            self._times.popleft()
        return len(self._times) < self._limit.amount

    def _put(self, alert: Alert, now: float) -> None:
        self._times.append(now)
        self.told += 1
        alert = replace(alert, at=moment(now))
        id_ = event_id(f"{alert.subject}|{alert.state}|{now!r}", f"alert.{self.name}")
        self.outbox.put_item(Item(id_, orjson.dumps({"id": id_, **alert.document()})))

    async def aclose(self) -> None:
        """For :meth:`gwcore.plugin.Setup.once`."""
        await self.outbox.aclose()
