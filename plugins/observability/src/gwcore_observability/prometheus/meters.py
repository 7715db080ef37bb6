"""Metrics of calls. Names and labels are a stable interface: dashboards and alerts use them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Histogram

from gwcore.units import DOLLAR
from gwcore_observability.prometheus.bounds import NONE, OTHER, Children, Names
from gwcore_observability.record import CANCELLED, OK, AttemptRecord, Record

By = Literal["organisation", "team", "user", "key"]
SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
FIRST: Final = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 60.0)
OVERHEAD: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_inc = attrgetter("inc")
_observe = attrgetter("observe")


@dataclass(slots=True, frozen=True)
class Labels:
    """Allowed label values.

    Attributes:
        models: those that clients may request. ``upstreams``: those configured.
        by: additional labels of counters. ``most``: limit of values of each of them; ``most_models``: limit of models
            not in the settings.
    """

    models: frozenset[str]
    upstreams: frozenset[str]
    by: tuple[By, ...] = ()
    most_models: int = 100
    most: int = 1000

    @property
    def only_by(self) -> Labels:
        """The parts that determine the labels of metrics, without the names."""
        return replace(self, models=frozenset(), upstreams=frozenset())


class Who:
    """Values of the labels that ``by`` adds."""

    __slots__ = ("_fields", "_names")

    def __init__(self, by: Iterable[By], most: int) -> None:
        self._fields = tuple(by)
        self._names = {field: Names(most=most) for field in self._fields}

    def of(self, record: Record) -> tuple[str, ...]:
        """The values for one call."""
        return tuple([self._names[field](getattr(record, field)) for field in self._fields])


class Meters:
    """The numbers of calls."""

    def __init__(self, registry: CollectorRegistry, labels: Labels) -> None:
        self._model = Names(labels.models, labels.most_models)
        self._upstream = Names(labels.upstreams)
        self._who = Who(labels.by, labels.most)
        by = labels.by
        most = max(10 * labels.most, 10_000)

        def collapsed(count: int) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
            return lambda values: (
                (*values[: len(values) - count], *[OTHER] * count) if count else (OTHER,) * len(values)
            )

        def counter(name: str, help_: str, *names: str) -> Children[Callable[[float], None]]:
            extra = by if name in _BY else ()
            made = Counter(name, help_, (*names, *extra), registry=registry)
            return Children(made, _inc, most, collapsed(len(extra)))

        def histogram(
            name: str, help_: str, buckets: tuple[float, ...], *names: str
        ) -> Children[Callable[[float], None]]:
            made = Histogram(name, help_, names, registry=registry, buckets=buckets)
            return Children(made, _observe, most, collapsed(0))

        pair = ("model", "upstream")
        self.requests = counter("gwcore_requests", "Calls by HTTP status; 499: client disconnected.", *pair, "status")
        self.errors = counter("gwcore_errors", "Calls that failed or were rejected, by reason.", *pair, "reason")
        self.tokens = counter("gwcore_tokens", "Tokens by type; each is counted in exactly one type.", "model", "type")
        self.cost = counter("gwcore_cost_usd", "Cost in dollars, of all attempts.", *pair)
        self.unpriced = counter("gwcore_unpriced_requests", "Calls of unknown cost: no price, or no usage.", *pair)
        self.attempts = counter("gwcore_attempts", "Upstream attempts by outcome: ok, or why not.", *pair, "outcome")
        self.fallbacks = counter("gwcore_fallbacks", "Calls answered after the first attempt had failed.", *pair)
        self.cached = counter("gwcore_cache_requests", "Calls by cache status: hit, miss, stale …", "model", "status")
        self.saved = counter("gwcore_cache_saved_usd", "Dollars saved by answers from the cache.", "model")
        self.saved_tokens = counter("gwcore_cache_saved_tokens", "Tokens saved by answers from the cache.", "model")
        self.seconds = histogram("gwcore_request_duration_seconds", "Seconds until the last byte.", SECONDS, *pair)
        self.first = histogram("gwcore_time_to_first_token_seconds", "Seconds until the first content.", FIRST, *pair)
        self.overhead = histogram(
            "gwcore_overhead_seconds",
            "Seconds spent by the gateway itself: total, until the response head without waiting for upstreams; admission, until the first attempt.",
            OVERHEAD,
            "phase",
        )
        self.upstream_seconds = histogram(
            "gwcore_upstream_duration_seconds", "Seconds per attempt.", SECONDS, "upstream"
        )
        self._total, self._admission = self.overhead[("total",)], self.overhead[("admission",)]

    def know(self, labels: Labels) -> None:
        """Update models and upstreams after a reload."""
        self._model.know(labels.models)
        self._upstream.know(labels.upstreams)

    def tell(self, record: Record) -> None:
        """Count a call."""
        model = self._model(record.model, real=record.state == OK)
        upstream = NONE if record.upstream is None else self._upstream(record.upstream)
        who = self._who.of(record)
        pair = (model, upstream)
        status = str(record.status or 499) if record.state != CANCELLED else "499"
        self.requests[(*pair, status, *who)](1)
        self.seconds[pair](record.seconds)
        first = record.first_token_s
        if first is not None:
            self.first[pair](first)
        if record.overhead_s is not None:
            self._total(record.overhead_s)
        if record.admission_s is not None:
            self._admission(record.admission_s)
        if record.state != OK:
            reason = record.reason or record.error or record.state
            self.errors[(*pair, reason, *who)](1)
        for bucket, count in record.tokens.items():
            self.tokens[(model, bucket, *who)](count)
        self._money(record, pair, who)
        attempts = record.attempts
        for attempt in attempts:
            self._attempt(attempt, model)
        if len(attempts) > 1 and record.state == OK and attempts[0].error is not None:
            self.fallbacks[pair](1)

    def _money(self, record: Record, pair: tuple[str, str], who: tuple[str, ...]) -> None:
        if record.cost_nano:
            self.cost[(*pair, *who)](record.cost_nano / DOLLAR)
        used = record.tokens or (record.operation != "moderations" and record.fees)  # OpenAI's are free, but unpriced
        if record.unpriced or (record.cost_nano is None and used):
            self.unpriced[pair](1)
        if record.cache is not None:
            self.cached[(pair[0], record.cache)](1)
            if record.saved_nano:
                self.saved[(pair[0],)](record.saved_nano / DOLLAR)
            if record.saved_tokens:
                self.saved_tokens[(pair[0],)](record.saved_tokens)

    def _attempt(self, attempt: AttemptRecord, model: str) -> None:
        upstream = self._upstream(attempt.upstream)
        self.attempts[(model, upstream, attempt.reason or "ok")](1)
        self.upstream_seconds[(upstream,)]((attempt.ended_ns - attempt.started_ns) / 1e9)


_BY = frozenset(("gwcore_requests", "gwcore_errors", "gwcore_tokens", "gwcore_cost_usd"))
