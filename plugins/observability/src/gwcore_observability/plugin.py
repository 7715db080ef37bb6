"""``SinkPlugin``: the plugin base class of all sinks. A sink's own plugin only creates its sink."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from gwcore.call import Attempt, Call, Outcome
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Demand, Plugin, Setup
from gwcore.ports import Sample
from gwcore.redact import Redactor
from gwcore_observability.content import Reader, capture, level_for
from gwcore_observability.outbox import Outbox
from gwcore_observability.pseudonyms import Pseudonyms
from gwcore_observability.record import record_of
from gwcore_observability.settings import ContentPolicy, SinkConfig
from gwcore_observability.sink import Sink


class SinkPlugin(Plugin):
    """Feeds one sink with a record of every call. Override :meth:`sink`, and ``Config`` with a :class:`SinkConfig`.

    Attributes:
        where: the destination in the sink's settings (a URL); two entries of the same sink with different destinations
            have separate queues, and records that one left on disk are never sent to the other.
    """

    Config: ClassVar[type[BaseModel]] = SinkConfig
    Policy: ClassVar[type[BaseModel] | None] = ContentPolicy
    demand = Demand.USAGE
    priced: ClassVar[bool] = True
    _open = False

    def __init__(self, config: SinkConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.redactor = Redactor(setup.secrets)
        self._default = config.content
        self._limit = config.content_limit
        self.outbox = setup.once(("outbox", self.where, config.outbox), self._outbox)

    @property
    def where(self) -> str:
        """The destination in the settings."""
        return ""

    def sink(self) -> Sink:
        """Create the sink for these settings. Must have no side effects."""
        raise NotImplementedError

    def _outbox(self) -> Outbox:
        config: SinkConfig = self.config
        folder = config.outbox.folder
        return Outbox(self.name, config.outbox, self._folder(folder) if folder else None)

    def _folder(self, folder: Path) -> Path:
        mark = blake2b(self.where.encode(), digest_size=4).hexdigest()
        return folder.absolute() / f"{self.name}-{mark}"

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open the disk and send; flush at the end."""
        config: SinkConfig = self.config
        reader = Reader(self.redactor, config.patterns, config.content_limit)
        sink = self.sink()
        if config.hash_users is not None:
            sink = Pseudonyms(sink, config.hash_users.get_secret_value())
        await self.outbox.start(sink, reader)
        self._open = True
        try:
            yield
        finally:
            await self.settle()

    async def settle(self) -> None:
        """Flush, concurrently with the other sinks."""
        if self._open:
            self._open = False
            await self.outbox.stop()

    @hookimpl
    def call_started(self, call: Call) -> None:
        """If the sink gets content by default, keep the response from its first byte on."""
        if self._default != "off":
            call.reply.keep(self._limit)

    @hookimpl
    def attempt_started(self, attempt: Attempt) -> None:
        """The caller is known now: if its policies require content, keep the response."""
        call = attempt.call
        if call.reply.copy is None and level_for(call.principal, self.name, self._default) != "off":
            call.reply.keep(self._limit)

    @hookimpl
    def call_ended(self, call: Call, outcome: Outcome) -> None:
        """Queue the call's record; local routes have none."""
        if not call.route.local:
            level = level_for(call.principal, self.name, self._default)
            self.outbox.put(record_of(call, outcome, self.redactor), capture(call, level))

    def metrics(self) -> Iterable[Sample]:
        """Metrics of the outbox."""
        return self.outbox.samples()

    def health(self) -> dict[str, Any]:
        """State of the outbox."""
        return self.outbox.health()
