"""Storage of a gateway's metrics: in this process, or in memory-mapped files that all its workers share.

With several workers, ``prometheus_client``'s multiprocess mode is used: each worker writes its own files in a shared
folder, and the scraped worker sums all of them. Files of dead workers stay, so counters never decrease; gauges of dead
workers are left out.
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

# _created would be a second, unused series for every counter; multiprocess mode has none anyway
disable_created_metrics()  # type: ignore[no-untyped-call]


class Registry:
    """Metrics of one gateway.

    Attributes:
        here: the registry in which to create metrics.
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
        """Publish plugins' samples. A name always has the same labels; in one process, absent gauges are removed."""
        shown: set[str] = set()
        for sample in samples:
            try:
                self._publish(sample, shown)
            except ValueError:  # the name is used for another metric, or the labels differ from before
                if sample.name not in self._refused:
                    self._refused.add(sample.name)
                    _log.error("a plugin's metric is left out: its name or its labels clash", metric=sample.name)
        if self._folder is None:
            for name in self._gauges.keys() - shown:  # no sample has this name any more
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
            # less than before: the counter was reset
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
        """The exposition of all workers' metrics, and its media type."""
        encode, media_type = choose_encoder(accept)
        if self._folder is None:
            return encode(self.here), media_type
        self._forget_the_dead(self._folder)
        collected = CollectorRegistry()
        MultiProcessCollector(collected, str(self._folder))  # type: ignore[no-untyped-call]
        return encode(collected), media_type

    @staticmethod
    def _forget_the_dead(folder: Path) -> None:
        """Remove the gauges of dead workers; their counters stay."""
        for pid in {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*_*.db")}:
            if pid.isdigit() and not _alive(int(pid)):
                mark_process_dead(int(pid), str(folder))  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        """Nothing to do: files are removed with the shared folder."""


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

    Raises ``BadConfig`` if there are several workers but no folder: each would expose only its own metrics.
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
    """The single registry of this process for this folder: two would overwrite each other's counts."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.environ.get(FOLDER_ENV) != str(folder):
        # the library reads the variable at import, which was before the fork
        os.environ[FOLDER_ENV] = str(folder)
        values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
    return Registry(folder)
