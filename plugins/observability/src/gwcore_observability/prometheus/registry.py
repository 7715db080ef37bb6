"""Where the numbers of one gateway live: in this process, or in files that all its workers map.

Several workers: ``prometheus_client``'s multiprocess mode. Each worker adds to files of its own in a folder that all share,
whoever is asked sums them up; a worker that is killed leaves its counts behind, so counters never go back. Gauges of workers
that are gone are left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, PlatformCollector, ProcessCollector, values
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import disable_created_metrics
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from gwcore.errors import BadConfig
from gwcore.ports import Sample
from gwcore.workers import Workers

_log = structlog.get_logger("gwcore.observability")
FOLDER_ENV = "PROMETHEUS_MULTIPROC_DIR"
_MODES = {"sum": "livesum", "max": "livemax", "recent": "livemostrecent"}

# _created: a second series for every counter that nobody reads; several workers have none anyway
disable_created_metrics()  # type: ignore[no-untyped-call]


class Registry:
    """Metrics of one gateway.

    Attributes:
        here: where metrics are made.
    """

    def __init__(self, folder: Path | None) -> None:
        self.here = CollectorRegistry()
        self._folder = folder
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, Counter] = {}
        self._refused: set[str] = set()
        self._told: dict[tuple[str, tuple[str, ...]], float] = {}
        if folder is None:
            ProcessCollector(registry=self.here)
            PlatformCollector(registry=self.here)

    def publish(self, samples: Iterable[Sample]) -> None:
        """Take what plugins show. Labels of one name are always the same; what is no longer shown goes, in one process."""
        shown: set[str] = set()
        for sample in samples:
            try:
                self._publish(sample, shown)
            except ValueError:  # a name that stands for something else, or other labels than before
                if sample.name not in self._refused:
                    self._refused.add(sample.name)
                    _log.error("a plugin's metric is left out: its name or its labels clash", metric=sample.name)
        if self._folder is None:
            for name in self._gauges.keys() - shown:  # nothing at all of this name
                self._gauges[name].clear()

    def _publish(self, sample: Sample, shown: set[str]) -> None:
        names, labels = tuple(sample.labels), tuple(sample.labels.values())
        if sample.kind == "counter":
            counter = self._counters.get(sample.name)
            if counter is None:
                counter = Counter(sample.name, sample.help or sample.name, names, registry=self.here)
                self._counters[sample.name] = counter
            before = self._told.get((sample.name, labels), 0.0)
            self._told[sample.name, labels] = sample.value
            # less than before: it was begun anew, as a counter may
            (counter.labels(*labels) if labels else counter).inc(
                sample.value - before if sample.value >= before else sample.value
            )
            return
        gauge = self._gauges.get(sample.name)
        if gauge is None:
            gauge = self._gauges[sample.name] = Gauge(
                sample.name,
                sample.help or sample.name,
                names,
                registry=self.here,
                multiprocess_mode=_MODES[sample.merge],  # type: ignore[arg-type]  # one of the library's words
            )
        if sample.name not in shown:
            shown.add(sample.name)
            if names and self._folder is None:
                gauge.clear()
        (gauge.labels(*labels) if labels else gauge).set(sample.value)

    def text(self, accept: str) -> tuple[bytes, str]:
        """The numbers of all workers as Prometheus reads them, and their media type."""
        encode, media_type = choose_encoder(accept)
        if self._folder is None:
            return encode(self.here), media_type
        self._forget_the_dead(self._folder)
        collected = CollectorRegistry()
        MultiProcessCollector(collected, str(self._folder))  # type: ignore[no-untyped-call]
        return encode(collected), media_type

    @staticmethod
    def _forget_the_dead(folder: Path) -> None:
        """Of workers that are gone only what adds up stays."""
        for pid in {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*_*.db")}:
            if pid.isdigit() and not _alive(int(pid)):
                mark_process_dead(int(pid), str(folder))  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        """Nothing: files go with the folder that the workers share."""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def folder_of(workers: Workers, mark: str) -> Path | None:
    """The folder that the workers share; ``None`` for a single process.

    Raises ``BadConfig`` where there are several and nobody provides a folder: each would answer for itself alone.
    """
    given = os.environ.get(FOLDER_ENV)
    if given:
        return Path(given)
    if workers.count == 1:
        return None
    if workers.folder is None:
        raise BadConfig(
            f"prometheus: {workers.count} workers need a common folder; set {FOLDER_ENV} to an empty one for the server, "
            "or use gwcore run --workers"
        )
    return workers.folder / f"prometheus-{mark}"


@cache
def shared(folder: Path, _pid: int) -> Registry:
    """The one registry of this process on this folder: two would write over each other's counts."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.environ.get(FOLDER_ENV) != str(folder):
        # the library decides at import, which was before the fork: tell it now
        os.environ[FOLDER_ENV] = str(folder)
        values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
    return Registry(folder)
