"""``prometheus``: metrics of all calls and plugins for Prometheus."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field

from gwcore.call import Call, Outcome
from gwcore.errors import StoreUnavailable
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Demand, Plugin, Setup
from gwcore.ports import AdminCall, AdminRoute, Authority, Directory, Page, Sample
from gwcore.redact import Redactor
from gwcore.taps import faults
from gwcore_observability.prometheus import registry
from gwcore_observability.prometheus.litellm import Aliases, LiteLLM, ids_of, translated
from gwcore_observability.prometheus.meters import By, Labels, Meters
from gwcore_observability.prometheus.registry import Registry
from gwcore_observability.prometheus.server import PATHS, Exposition
from gwcore_observability.record import record_of

EVERY = 1.0
"""Seconds between publishing plugins' samples if there are several workers, any of which may be scraped."""

NAMED = 30.0
"""Seconds for which aliases of ids are cached."""


_log = structlog.get_logger("gwcore")


class PrometheusConfig(BaseModel):
    """Settings of ``prometheus``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Additional port that serves `GET /metrics` without credentials. Without it, metrics are served "
        "only beside the admin API, to admins and viewers.",
    )
    host: str = Field(
        default="127.0.0.1", description="Address on which `port` listens; whoever reaches it can read the metrics."
    )
    by: list[By] = Field(
        default=[],
        description="Additional labels of requests, errors, tokens and cost: `organisation`, `team`, `user`, `key`. "
        "Each multiplies the number of time series.",
    )
    models: int = Field(
        default=100,
        ge=0,
        description="Maximum number of model names in labels besides those of the stack file; the rest is `other`.",
    )
    names: int = Field(
        default=1000, ge=0, description="Maximum number of values of each label in `by`; the rest is `other`."
    )
    litellm_names: bool = Field(
        default=False, description="`true`: also export the metrics under LiteLLM's names, for existing dashboards."
    )


class Numbers:
    """State that survives a reload: the registry and its metrics.

    Attributes:
        calls: in flight, of all stacks.
        stacks: number of stacks that have started to count here; ``teller`` is the newest that has published its
            plugins' samples.
    """

    def __init__(self, where: Registry, labels: Labels, *, litellm: bool) -> None:
        self.calls = self.stacks = 0
        self.teller: Prometheus | None = None
        self.registry = where
        self.meters = Meters(where.here, labels)
        self.litellm = LiteLLM(where.here, labels) if litellm else None

    def know(self, labels: Labels) -> Self:
        """Update models and upstreams after a reload."""
        self.meters.know(labels)
        if self.litellm is not None:
            self.litellm.know(labels)
        return self

    def publish(self, samples: Iterable[Sample], providers: Mapping[str, str], aliases: Aliases) -> None:
        """Publish plugins' current samples; see :func:`gwcore_observability.prometheus.litellm.translated`."""
        listed = list(samples)
        if self.litellm is not None:
            listed += translated(listed, providers, aliases)
        self.registry.publish(listed)

    async def aclose(self) -> None:
        """Nothing to close."""


class Prometheus(Plugin):
    """Counts and measures calls; serves ``/metrics``."""

    name = "prometheus"
    Config: ClassVar[type[BaseModel]] = PrometheusConfig
    demand = Demand.USAGE
    priced: ClassVar[bool] = True

    def __init__(self, config: PrometheusConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.redactor = Redactor(setup.secrets)
        self.numbers: Numbers | None = None
        self.port: Exposition | None = None
        self.turn = 0
        self._aliases: Aliases = {}
        self._looked_up: dict[str, set[str]] = {}
        self._look_again = 0.0
        self._under_way = setup.key("under_way", bool, own=True)

    def _numbers(self) -> Numbers:
        config: PrometheusConfig = self.config
        models = self.setup.models
        labels = Labels(
            frozenset(models.known()) | {target.model for target in models.targets()},
            frozenset(models.upstreams),
            tuple(config.by),
            config.models,
            config.names,
        )
        # other labels need other metrics
        mark = blake2b(repr((labels.only_by, config.litellm_names)).encode(), digest_size=4).hexdigest()
        folder = registry.folder_of(self.setup.workers, mark)
        if folder is not None:
            return _of_process(folder, os.getpid(), labels.only_by, config.litellm_names).know(labels)
        made = self.setup.once(("numbers", mark), lambda: Numbers(Registry(None), labels, litellm=config.litellm_names))
        return made.know(labels)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Start counting, and listen on the separate port if configured."""
        config: PrometheusConfig = self.config
        self.numbers = numbers = self._numbers()
        self.turn = numbers.stacks = numbers.stacks + 1
        if config.port is None and self.setup.offered(Authority) is None:
            _log.warning("nobody can read /metrics", mend="set prometheus.port; without one it needs auth in the stack")
        several = self.setup.workers.count > 1
        publishing = asyncio.create_task(self._publishing()) if several else None
        if config.port is not None:
            self.port = self.setup.once(
                ("port", config.host, config.port), lambda: Exposition(config.host, config.port or 0, shared=several)
            )
            await self.port.start(self.text)
        try:
            yield
        finally:
            if publishing is not None:
                publishing.cancel()
                await asyncio.wait({publishing})
            if self.port is not None:
                await self.port.stop(self.text)
            if numbers.teller is self:
                self.tell(self.setup.readings())
                numbers.teller = None

    async def _publishing(self) -> None:
        """Publish periodically, so that any worker that is scraped includes this one's samples."""
        while True:
            await asyncio.sleep(EVERY)
            await self._publish()

    async def _publish(self) -> None:
        numbers = self.numbers
        assert numbers is not None
        before = numbers.teller
        if before is not None and before.turn > self.turn:
            return  # draining: alternating with the newer stack, its counts would be added again and again
        samples = list(self.setup.readings())
        if self.config.litellm_names:
            await self._look_up(samples)
        if before is not None and before is not self and before is numbers.teller:
            before.tell(before.setup.readings())  # its final samples
        numbers.teller = self
        self.tell(samples)

    def tell(self, samples: Iterable[Sample]) -> None:
        """Publish the samples of this stack's plugins."""
        assert self.numbers is not None
        providers = {upstream.name: upstream.provider.name for upstream in self.setup.models.upstreams.values()}
        self.numbers.publish(samples, providers, self._aliases)

    async def _look_up(self, samples: Iterable[Sample]) -> None:
        """Look up aliases of ids; keep the previous ones while the store is unavailable."""
        ids_by_scope, now = ids_of(samples), time.monotonic()
        if ids_by_scope == self._looked_up and now < self._look_again:
            return
        found: dict[tuple[str, str], str] = {}
        directory = self.setup.offered(Directory)
        if directory is None:
            return
        try:
            for scope, ids in ids_by_scope.items():
                found |= {(scope, id_): alias for id_, alias in (await directory.aliases(scope, ids)).items()}
        except StoreUnavailable:
            return
        self._aliases, self._looked_up, self._look_again = found, ids_by_scope, now + NAMED

    async def text(self, accept: str) -> tuple[bytes, str]:
        """The exposition for Prometheus, and its media type."""
        await self._publish()
        assert self.numbers is not None
        return await asyncio.to_thread(self.numbers.registry.text, accept)

    @hookimpl
    def call_started(self, call: Call) -> None:
        """Count a call in flight."""
        if self.numbers is not None:
            call[self._under_way] = True
            self.numbers.calls += 1

    @hookimpl
    def call_ended(self, call: Call, outcome: Outcome) -> None:
        """Count a finished call."""
        if self.numbers is None:
            return
        if self._under_way in call:  # absent if the request could not be read
            self.numbers.calls -= 1
        if call.route.local:
            return
        record = record_of(call, outcome, self.redactor)
        self.numbers.meters.tell(record)
        if self.numbers.litellm is not None:
            self.numbers.litellm.tell(record)

    def admin_routes(self) -> Sequence[AdminRoute]:
        """``/metrics``, for callers permitted by the stack's authority."""
        said = "Metrics in Prometheus' text format."
        return tuple(
            AdminRoute("GET", path, "metrics:read", self._page, said, media_type="text/plain") for path in PATHS
        )

    async def _page(self, _call: AdminCall) -> Any:
        body, media_type = await self.text("text/plain")
        return Page(body, media_type)

    def metrics(self) -> Iterable[Sample]:
        """Calls in flight, and taps that failed."""
        calls = self.numbers.calls if self.numbers is not None else 0
        yield Sample("gwcore_requests_in_flight", calls, help="Calls in flight.")
        for name, count in faults.items():
            yield Sample(
                "gwcore_tap_faults",
                count,
                {"plugin": name},
                "Exceptions of plugins that observe calls, by plugin; the calls were not affected.",
                kind="counter",
            )


@cache
def _of_process(folder: Path, pid: int, labels: Labels, litellm: bool) -> Numbers:
    """The single instance of this process for a shared folder: two would overwrite each other's counts."""
    return Numbers(registry.shared(folder, pid), labels, litellm=litellm)
