"""``alerts``: checks for problems every few seconds, and notifies people once of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import blake2b
from typing import Any, ClassVar

import structlog
from pydantic import BaseModel

from gwcore.call import Call, Outcome
from gwcore.errors import GatewayError
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin, Setup
from gwcore.ports import Directory, Sample
from gwcore.redact import Redactor
from gwcore.sql import migrate
from gwcore_observability.alerts.board import Board
from gwcore_observability.alerts.claims import Claims, FileClaims, RedisClaims
from gwcore_observability.alerts.destinations import sink_of
from gwcore_observability.alerts.findings import KINDS, Alert, Fact, Finding
from gwcore_observability.alerts.mailbox import Mailbox
from gwcore_observability.alerts.reporting import Calendar, told
from gwcore_observability.alerts.seen import Seen
from gwcore_observability.alerts.settings import AlertsConfig, DestinationConfig
from gwcore_observability.alerts.shown import budgets, exhausted, upstreams
from gwcore_observability.call_table import MIGRATIONS
from gwcore_observability.content import Reader
from gwcore_observability.names import plain
from gwcore_observability.outbox import Outbox

NAMED = frozenset({"key", "user", "team", "organisation", "end_user"})
_log = structlog.get_logger("gwcore.observability")


class Alerts(Plugin):
    """Notifies people of spent budgets, errors, slow and hanging calls and upstreams that are down, and sends spend reports."""

    name = "alerts"
    Config: ClassVar[type[BaseModel]] = AlertsConfig

    def __init__(self, config: AlertsConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.redactor = Redactor(setup.secrets)
        settings = (config.errors, config.slow, config.hanging)
        self.seen = setup.once(("seen", *settings), lambda: Seen(config))
        self._store = setup.store(config.store) if config.store is not None else None
        self._book = setup.store(config.reports.store) if config.reports is not None else None
        group = ",".join(sorted(config.to))
        self.board = setup.once(("board", config.store, group), lambda: Board(self._claims(group)))
        self._reported: dict[str, str] = {}
        self.mailboxes = {name: self._mailbox(name, one) for name, one in config.to.items()}
        self._opened: list[Outbox] = []
        self._looks: asyncio.Task[None] | None = None

    def _claims(self, group: str) -> Claims:
        """``group`` separates entries of ``watch`` with different destinations: each sends all its alerts."""
        if self._store is not None and self._store.scheme == "redis":
            return RedisClaims(self._store.url, group)
        workers, folder = self.setup.workers, self.config.outbox.folder
        if workers.count == 1:
            return Claims()
        if workers.folder is not None:
            return FileClaims(workers.folder / "alerts", group)
        return FileClaims(folder.absolute() / "alerts.claims", group) if folder is not None else Claims()

    def _mailbox(self, name: str, config: DestinationConfig) -> Mailbox:
        outbox, url = self.config.outbox, config.slack or config.webhook
        said = url.get_secret_value() if url is not None else config.model_dump_json(include={"email"})
        mark = blake2b(said.encode(), digest_size=8).hexdigest()
        folder = outbox.folder.absolute() / f"alerts-{name}-{mark[:8]}" if outbox.folder else None
        key = ("to", name, mark, tuple(config.kinds), config.limit, outbox)
        return self.setup.once(key, lambda: Mailbox(name, config, outbox, folder))

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open the outboxes and check periodically until the end."""
        config: AlertsConfig = self.config
        if self._book is not None:
            await migrate(self._book, MIGRATIONS)
        reader = Reader(self.redactor)
        try:
            for name, box in self.mailboxes.items():
                await box.outbox.start(sink_of(config.to[name], config.outbox, self.setup), reader)
                self._opened.append(box.outbox)
            self._looks = asyncio.create_task(self._looking())
            yield
        finally:
            await self.settle()

    async def settle(self) -> None:
        """Stop checking, and flush all destinations concurrently."""
        if self._looks is not None:
            self._looks.cancel()
            await asyncio.wait({self._looks})
        opened, self._opened = self._opened, []
        await asyncio.gather(*[outbox.stop() for outbox in opened])

    # ── taps ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @hookimpl
    def call_started(self, call: Call) -> None:
        """Track the call as in flight."""
        if not call.route.local:
            self.seen.started(call)

    @hookimpl
    def call_ended(self, call: Call, outcome: Outcome) -> None:
        """Count the call's attempts."""
        if not call.route.local:
            self.seen.ended(call, outcome.error)

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _looking(self) -> None:
        calendar = Calendar(self.config.reports, time.time()) if self.config.reports is not None else None
        while True:
            try:
                await self.look(time.time())
                if calendar is not None:
                    await self._report(calendar, time.time())
            except Exception as error:  # readings are other plugins' code, and the next check may succeed
                _log.error("alerts could not look", error=type(error).__name__)
            await asyncio.sleep(self.config.every)

    async def look(self, now: float) -> None:
        """Send new alerts. ``now`` in seconds since the epoch."""
        config: AlertsConfig = self.config
        found = list(self.findings())  # a snapshot: calls go on while the board waits for claims
        for alert in await self.board.look(found, now, config.remind, config.settle):
            await self._tell(alert, now)
        for box in self.mailboxes.values():
            box.catch_up(now)

    def findings(self) -> Iterator[Finding]:
        """All current findings."""
        config: AlertsConfig = self.config
        samples = list(self.setup.readings())
        yield from self.seen.findings()
        if config.budgets is not None:
            yield from budgets(samples, config.budgets)
            yield from exhausted(self.seen.exhausted())
        if config.upstreams is not None:
            yield from upstreams(samples, self.seen.failing(), config.upstreams)

    async def _report(self, calendar: Calendar, now: float) -> None:
        assert self._book is not None
        for span in calendar.due(now):
            subject = calendar.subject(span)
            if await self.board.claims.take(subject):
                try:
                    await self._tell(await told(self._book, span, self.config.reports, now), now)
                except GatewayError as error:
                    if not calendar.late(span, now):
                        continue
                    _log.error("no spend report", span=span, error=error.code)
            # keep the claim until the next report: other workers reach this point a little later
            before, self._reported[span] = self._reported.get(span), subject
            if before is not None and before != subject:
                await self.board.claims.free(before)
            calendar.done(span, now)

    async def _tell(self, alert: Alert, now: float) -> None:
        alert = self._clean(await self._named(alert))
        _log.info("alert", kind=alert.kind, state=alert.state, subject=alert.subject)
        for box in self.mailboxes.values():
            box.tell(alert, now)

    async def _named(self, alert: Alert) -> Alert:
        """The alert with the alias of the budget's owner, if it has one."""
        scope, id_ = alert.facts.get("scope"), alert.facts.get("id")
        directory = self.setup.offered(Directory)
        if alert.kind != "budget" or scope not in NAMED or not id_ or directory is None:
            return alert
        try:
            names = await directory.aliases(str(scope), [str(id_)])
        except GatewayError:
            return alert
        name = names.get(str(id_))
        return replace(alert, facts={**alert.facts, "name": plain(name)}) if name else alert

    def _clean(self, alert: Alert) -> Alert:
        """The alert without secrets: a client may have sent one as a model's name."""
        text = self.redactor.text
        facts: dict[str, Fact] = {k: text(v) if isinstance(v, str) else v for k, v in alert.facts.items()}
        return replace(alert, subject=text(alert.subject), title=text(alert.title), text=text(alert.text), facts=facts)

    # ── shown ────────────────────────────────────────────────────────────────────────────────────────────────────

    def metrics(self) -> Iterable[Sample]:
        """Active subjects by kind, alerts sent and held back by destination, and the outboxes' metrics."""
        active = self.board.active()
        for kind in KINDS:
            yield Sample(
                "gwcore_alerts_active", active.get(kind, 0), {"kind": kind}, "Problems that last, by kind.", merge="max"
            )
        for name, box in self.mailboxes.items():
            to = {"destination": name}
            yield Sample("gwcore_alerts_told", box.told, to, "Alerts queued for a destination.", kind="counter")
            yield Sample(
                "gwcore_alerts_held",
                box.held,
                to,
                "Alerts held back by a destination's limit, to be sent as a summary.",
                kind="counter",
            )
            yield from box.outbox.samples()

    def health(self) -> dict[str, Any]:
        """Active subjects by kind, and the state of the destinations."""
        return {
            "active": self.board.active(),
            "to": {name: box.outbox.health() for name, box in self.mailboxes.items()},
        }
