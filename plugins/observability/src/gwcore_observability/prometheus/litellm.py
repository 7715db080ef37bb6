"""Metrics with LiteLLM's names and labels, for dashboards made for LiteLLM, from the same records.

Labels filled only by clients (``end_user``, ``client_ip``, ``user_agent``, ``user_email``) are present but empty.
``hashed_api_key`` is the key's id. A ``model_id`` is ``upstream/model``; ``api_base`` is the upstream's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from gwcore.ports import Sample
from gwcore.units import DOLLAR
from gwcore_observability.prometheus.bounds import OTHER, Children, Names
from gwcore_observability.prometheus.meters import FIRST, SECONDS, Labels
from gwcore_observability.record import OK, AttemptRecord, Record

_KEY = ("hashed_api_key", "api_key_alias", "team", "team_alias", "user")
_ORG = ("org_id", "org_alias")
_CLIENT = ("end_user", "user_email", "client_ip", "user_agent")
_TARGET = ("model_id", "api_provider")
_MILLISECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1000.0, 5000.0)

_SPENT = (*_KEY, *_ORG, *_CLIENT, *_TARGET, "requested_model", "model")
_TOKENS = (*_KEY, *_ORG, "end_user", "user_email", *_TARGET, "requested_model", "model")
_PROXY = (*_KEY, *_ORG, *_CLIENT, *_TARGET, "requested_model", "route")
_TIMED = (*_KEY, *_ORG, "end_user", *_TARGET, "requested_model", "model", "model_group")
_DEPLOYED = (
    *_KEY,
    *_TARGET,
    "client_ip",
    "user_agent",
    "model_group",
    "requested_model",
    "litellm_model_name",
    "api_base",
)
_REST = ("model_group", "api_provider", "api_base", "litellm_model_name", "hashed_api_key", "api_key_alias", "model_id")
_CACHE = (*_KEY, "end_user", *_TARGET, "model")
_FALLBACK = (
    "requested_model", "fallback_model", *_KEY[:-1], "exception_status", "exception_class", "model_id",
)  # fmt: skip

COUNTERS: Final = {
    # short names of this project's own
    "litellm_requests": ("model", "status"),
    "litellm_tokens": ("model", "type"),
    "litellm_cost_usd": ("model",),
    # LiteLLM's
    "litellm_proxy_total_requests_metric": (*_PROXY, "status_code"),
    "litellm_proxy_failed_requests_metric": (*_PROXY, "exception_status", "exception_class"),
    "litellm_requests_metric": _SPENT,
    "litellm_llm_api_failed_requests_metric": (*_KEY, "end_user", "model", "model_id"),
    "litellm_spend_metric": (*_SPENT, "service_tier"),
    "litellm_total_tokens_metric": _TOKENS,
    "litellm_input_tokens_metric": _TOKENS,
    "litellm_output_tokens_metric": _TOKENS,
    "litellm_input_cached_tokens_metric": _TOKENS,
    "litellm_input_cache_creation_tokens_metric": _TOKENS,
    "litellm_input_audio_tokens_metric": _TOKENS,
    "litellm_output_reasoning_tokens_metric": _TOKENS,
    "litellm_output_audio_tokens_metric": _TOKENS,
    "litellm_cached_tokens_metric": _CACHE,
    "litellm_provider_cache_read_input_tokens_metric": _CACHE,
    "litellm_provider_cache_creation_input_tokens_metric": _CACHE,
    "litellm_cache_hits_metric": _CACHE,
    "litellm_cache_misses_metric": _CACHE,
    "litellm_deployment_total_requests": _DEPLOYED,
    "litellm_deployment_success_responses": _DEPLOYED,
    "litellm_deployment_failure_responses": (*_DEPLOYED, "exception_status", "exception_class"),
    "litellm_deployment_successful_fallbacks": _FALLBACK,
    "litellm_deployment_failed_fallbacks": _FALLBACK,
}
HISTOGRAMS: Final = {
    "litellm_request_duration_seconds": (("model",), SECONDS),
    "litellm_request_total_latency_metric": (_TIMED, SECONDS),
    "litellm_llm_api_latency_metric": (_TIMED, SECONDS),
    "litellm_llm_api_time_to_first_token_metric": (_TIMED, FIRST),
    "litellm_overhead_latency_metric": (_REST, _MILLISECONDS),
    "litellm_deployment_latency_per_output_token": ((*_KEY, *_ORG, *_REST[:4], "model_id"), FIRST),
}
TIMED = 4
"""Histograms have a limit of label sets lower by this factor, because each set has some fifteen series."""
_READ = ("cache_read", "audio_cache_read", "image_cache_read")
_WRITTEN = ("cache_write_5m", "cache_write_1h")


class LiteLLM:
    """The second set of names."""

    def __init__(self, registry: CollectorRegistry, labels: Labels) -> None:
        self._model = Names(labels.models, labels.most_models)
        self._upstream = Names(labels.upstreams)
        self._named = {field: Names(most=labels.most) for field in ("key", "key_name", "team", "user", "organisation")}
        most, timed = max(10 * labels.most, 10_000), max(labels.most // TIMED, 100)
        self._counters = {
            name: (names, Children(Counter(name, _HELP, names, registry=registry), _inc, most, _collapsed(names)))
            for name, names in COUNTERS.items()
        }
        self._histograms = {
            name: (
                names,
                Children(
                    Histogram(name, _HELP, names, registry=registry, buckets=buckets),
                    _observe,
                    timed,
                    _collapsed(names),
                ),
            )
            for name, (names, buckets) in HISTOGRAMS.items()
        }

    def know(self, labels: Labels) -> None:
        """Update models and upstreams after a reload."""
        self._model.know(labels.models)
        self._upstream.know(labels.upstreams)

    def _count(self, name: str, values: dict[str, str], amount: float = 1) -> None:
        if amount:
            names, children = self._counters[name]
            children[tuple([values[label] for label in names])](amount)

    def _time(self, name: str, values: dict[str, str], amount: float | None) -> None:
        if amount is not None:
            names, children = self._histograms[name]
            children[tuple([values[label] for label in names])](amount)

    def tell(self, record: Record) -> None:
        """Count a call."""
        values = self._values(record)
        tokens = record.tokens
        self._count("litellm_requests", values)
        self._time("litellm_request_duration_seconds", values, record.seconds)
        for bucket, count in tokens.items():
            self._count("litellm_tokens", {**values, "type": bucket}, count)
        self._count("litellm_proxy_total_requests_metric", values)
        if record.state != OK:
            self._count("litellm_proxy_failed_requests_metric", values)
        if record.cache is not None:
            hit = record.cache.startswith("hit")
            self._count("litellm_cache_hits_metric" if hit else "litellm_cache_misses_metric", values)
            self._count("litellm_cached_tokens_metric", values, record.saved_tokens)
        if record.last is not None:
            self._of_upstream(record, record.last, values)
        self._time("litellm_request_total_latency_metric", values, record.seconds)
        if record.overhead_s is not None:
            self._time("litellm_overhead_latency_metric", values, record.overhead_s * 1000)
        self._time("litellm_llm_api_time_to_first_token_metric", values, record.first_token_s)

    def _of_upstream(self, record: Record, last: AttemptRecord, values: dict[str, str]) -> None:
        tokens = record.tokens
        read, written = (sum(tokens.get(b, 0) for b in buckets) for buckets in (_READ, _WRITTEN))
        self._count("litellm_requests_metric", values)
        if record.state != OK:
            self._count("litellm_llm_api_failed_requests_metric", values)
        self._count("litellm_spend_metric", values, (record.cost_nano or 0) / DOLLAR)
        self._count("litellm_cost_usd", values, (record.cost_nano or 0) / DOLLAR)
        counts = {
            "total_tokens": record.total_in + record.total_out,
            "input_tokens": record.total_in,
            "output_tokens": record.total_out,
            "input_cached_tokens": read,
            "input_cache_creation_tokens": written,
            "input_audio_tokens": tokens.get("audio_in", 0),
            "output_reasoning_tokens": tokens.get("reasoning", 0),
            "output_audio_tokens": tokens.get("audio_out", 0),
            "provider_cache_read_input_tokens": read,
            "provider_cache_creation_input_tokens": written,
        }
        for name, count in counts.items():
            self._count(f"litellm_{name}_metric", values, count)
        for attempt in record.attempts:
            # refusals by the gateway before sending, and abandoned attempts, say nothing about a deployment
            if attempt.reason != "left" and (attempt.status is not None or attempt.reason not in _OURS):
                self._attempt(attempt, values)
        seconds = (last.ended_ns - last.started_ns) / 1e9
        self._time("litellm_llm_api_latency_metric", values, seconds)
        if record.state == OK and record.total_out:
            self._time("litellm_deployment_latency_per_output_token", values, seconds / record.total_out)
        first = record.attempts[0]
        if len(record.attempts) > 1 and first.error is not None:
            name = "successful" if record.state == OK else "failed"
            failed = {"exception_status": str(first.status or ""), "exception_class": first.error_class or ""}
            self._count(f"litellm_deployment_{name}_fallbacks", {**values, **failed})

    def _attempt(self, attempt: AttemptRecord, values: dict[str, str]) -> None:
        of = {
            **values,
            **self._target(attempt.upstream, attempt.provider, attempt.model, real=attempt.error is None),
            "exception_status": str(attempt.status or ""),
            "exception_class": attempt.error_class or "",
        }
        self._count("litellm_deployment_total_requests", of)
        kind = "success" if attempt.error is None else "failure"
        self._count(f"litellm_deployment_{kind}_responses", of)

    def _target(self, upstream: str, provider: str, model: str, *, real: bool) -> dict[str, str]:
        where, name = self._upstream(upstream), self._model(model, real=real)
        return {
            "model": name,
            "litellm_model_name": name,
            "fallback_model": name,
            "model_id": f"{where}/{name}",
            "api_provider": provider,
            "api_base": where,
        }

    def _values(self, record: Record) -> dict[str, str]:
        """All labels that the metrics of a call use."""

        def named(field: str) -> str:
            value = getattr(record, field)
            return "" if value is None else self._named[field](value)

        good = record.state == OK
        asked = self._model(record.model, real=good)
        target = (
            self._target(record.upstream, record.provider or "", record.served_model or "", real=good)
            if record.upstream is not None
            else {**_NO_TARGET, "model": asked}
        )
        status = str(record.status or 499)
        team, organisation = named("team"), named("organisation")
        return {
            **_EMPTY,
            **target,
            "hashed_api_key": named("key"),
            "api_key_alias": named("key_name"),
            "team": team,
            "team_alias": team,
            "user": named("user"),
            "org_id": organisation,
            "org_alias": organisation,
            "requested_model": asked,
            "model_group": asked,
            "route": record.route,
            "status": status,
            "status_code": status,
            "exception_status": status,
            "exception_class": record.error_class or "",
            "service_tier": (record.service_tier or "") if (record.service_tier or "") in _TIERS else OTHER,
        }


Aliases = Mapping[tuple[str, str], str]
"""Aliases by scope and id, see :class:`gwcore.ports.Directory`."""


def ids_of(samples: Iterable[Sample]) -> dict[str, set[str]]:
    """Ids by scope whose aliases are labels of LiteLLM's metrics for these samples."""
    found: dict[str, set[str]] = {}
    for sample in samples:
        scope = sample.labels.get("scope", "")
        if sample.name in _BUDGETS and len(_SCOPES.get(scope, ("", ()))[1]) > 1:
            found.setdefault(scope, set()).add(sample.labels["id"])
    return found


def translated(samples: Iterable[Sample], providers: Mapping[str, str], aliases: Aliases) -> Iterator[Sample]:
    """Plugins' samples under LiteLLM's names.

    Args:
        samples: of all plugins.
        providers: of each upstream.
        aliases: those known; without one, teams and organisations are labelled with their id, as in counters.
    """
    for sample in samples:
        labels = sample.labels
        if sample.name == "gwcore_requests_in_flight":
            yield replace(sample, name="litellm_in_flight_requests")
        elif sample.name == "gwcore_deployment_state":
            upstream, model = labels["upstream"], labels["model"]
            told = {
                "litellm_model_name": model,
                "model_id": f"{upstream}/{model}",
                "api_base": upstream,
                "api_provider": providers.get(upstream, ""),
            }
            yield replace(sample, name="litellm_deployment_state", labels=told)
        elif (found := _BUDGETS.get(sample.name)) is not None and labels.get("scope") in _SCOPES:
            word, names = _SCOPES[labels["scope"]]
            value = sample.value / 3600 if found.endswith("hours_metric") else sample.value
            scope, id_ = labels["scope"], labels["id"]
            shown = (id_, aliases.get((scope, id_), "" if scope == "key" else id_))
            told = dict(zip(names, shown, strict=False))
            yield replace(sample, name=found.format(word), labels=told, value=value)


_BUDGETS = {
    "gwcore_budget_remaining_usd": "litellm_remaining_{}_budget_metric",
    "gwcore_budget_limit_usd": "litellm_{}_max_budget_metric",
    "gwcore_budget_resets_seconds": "litellm_{}_budget_remaining_hours_metric",
}
_SCOPES = {
    "team": ("team", ("team", "team_alias")),
    "organisation": ("org", ("org_id", "org_alias")),
    "key": ("api_key", ("hashed_api_key", "api_key_alias")),
    "user": ("user", ("user",)),
    "end_user": ("customer", ("end_user",)),
}
_OURS = frozenset({"budget", "denied", "unserved", "request"})
"""Rows of :mod:`gwcore.outcomes` that are the gateway's own refusals if no upstream answered."""
_HELP = "Defined as in LiteLLM; see its documentation."
_EMPTY = dict.fromkeys(_CLIENT, "")
_NO_TARGET = dict.fromkeys(("litellm_model_name", "fallback_model", "model_id", "api_provider", "api_base"), "")
_TIERS = {"", "default", "standard", "flex", "priority", "batch", "scale", "auto", "on_demand", "standard_only"}
_FREE = frozenset((*_KEY, *_ORG))


def _inc(child: Any) -> Callable[[float], None]:
    return child.inc  # type: ignore[no-any-return]  # a metric of the library


def _observe(child: Any) -> Callable[[float], None]:
    return child.observe  # type: ignore[no-any-return]  # a metric of the library


def _collapsed(names: tuple[str, ...]) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """Replaces the caller's labels by ``other``, for when there are too many of them."""
    return lambda values: tuple([OTHER if name in _FREE else v for name, v in zip(names, values, strict=True)])
