"""Converts callbacks and alerts: those that only observe become entries of ``watch``."""

from __future__ import annotations

from typing import Any, Final

from gwcore_litellm.draft import Draft
from gwcore_litellm.findings import Status
from gwcore_litellm.source import Config, Section

_LISTS: Final = ("callbacks", "success_callback", "failure_callback", "service_callback", "audit_log_callbacks")

_SINKS: Final[dict[str, tuple[str, dict[str, Any], Status, str]]] = {
    "prometheus": (
        "prometheus",
        {"litellm_names": True},
        Status.EXACT,
        "watch: prometheus, under LiteLLM's names, too",
    ),
    "langfuse": (
        "langfuse",
        {
            "public_key": "${LANGFUSE_PUBLIC_KEY}",
            "secret_key": "${LANGFUSE_SECRET_KEY}",
            "base_url": "${LANGFUSE_HOST:-https://cloud.langfuse.com}",
        },
        Status.EXACT,
        "watch: langfuse",
    ),
    "helicone": ("helicone", {"api_key": "${HELICONE_API_KEY}"}, Status.EXACT, "watch: helicone"),
    "otel": (
        "otel",
        {"endpoint": "${OTEL_ENDPOINT:-http://127.0.0.1:4318}"},
        Status.APPROXIMATE,
        "watch: otel; the endpoint is OTLP over HTTP, without /v1/traces, and its headers are `headers`",
    ),
    "generic_api": (
        "webhook",
        {"url": "${GENERIC_LOGGER_ENDPOINT}"},
        Status.APPROXIMATE,
        "watch: webhook; records are gwcore's own",
    ),
}
_SAME: Final = {"langfuse_otel": "langfuse", "webhook": "generic_api", "opentelemetry": "otel"}
_TRACES: Final = {
    "arize", "arize_phoenix", "braintrust", "logfire", "langtrace", "weave_otel", "signoz", "traceloop", "langsmith", "opik",
    "datadog", "datadog_llm_observability", "datadog_metrics", "newrelic", "galileo", "mlflow", "agentops", "lunary", "levo",
    "deepeval", "humanloop", "athina", "promptlayer", "posthog",
}  # fmt: skip
_FILES: Final = {
    "s3", "s3_v2", "gcs_bucket", "gcs_pubsub", "azure_storage", "azure_sentinel", "aws_sqs", "dynamodb", "clickhouse",
    "supabase", "lago", "openmeter", "cloudzero", "vantage", "focus",
}  # fmt: skip
_LIMITERS: Final = {
    "dynamic_rate_limiter",
    "dynamic_rate_limiter_v3",
    "parallel_request_limiter",
    "max_parallel_request_limiter",
    "max_budget_limiter",
}


def read_callbacks(config: Config, draft: Draft, settings: Section) -> None:
    """Convert the lists of callbacks in ``litellm_settings``, and whether they record content."""
    silent = settings.flag("turn_off_message_logging", "content of sinks: off, as it is by default")
    found: dict[str, None] = {}
    for kind in _LISTS:
        listed = settings.peek(kind)
        if listed is None:
            continue
        settings.say(Status.EXACT, kind, "entries of watch; each is told of success and failure alike")
        for at, name in enumerate(listed if isinstance(listed, list) else [listed]):
            loc = (*settings.loc, kind, at) if isinstance(listed, list) else (*settings.loc, kind)
            word = _SAME.get(str(name), str(name))
            _callback(config, loc, word, known=word in found)
            found[word] = None
    for word in found:
        if word in _SINKS:
            name, options, _, _ = _SINKS[word]
            keeps = {} if silent or name == "prometheus" else {"content": "full"}
            draft.watch[name] = {**options, **keeps}
    if "service_callbacks" in settings:
        settings.say(Status.ERROR, "service_callbacks", "LiteLLM's key is service_callback")


def _callback(config: Config, loc: tuple[str | int, ...], word: str, *, known: bool) -> None:
    if known:
        config.add(Status.EXACT, loc, "stands there once")
    elif word in _SINKS:
        config.add(_SINKS[word][2], loc, _SINKS[word][3])
    elif word in _TRACES:
        config.add(Status.MANUAL, loc, "watch: otel, to the OTLP endpoint of that product or of a collector before it")
    elif word in _FILES:
        config.add(Status.MANUAL, loc, "watch: webhook (JSON, to any address), or request_log (a table in SQL)")
    elif word in _LIMITERS:
        config.add(Status.EXACT, loc, "ratelimit and budget are layers of the stack")
    elif "slack" in word or "email" in word or word in {"pagerduty", "sentry"}:
        config.add(Status.MANUAL, loc, "watch: alerts, to a chat, mail or webhook")
    elif "." in word:
        config.add(Status.MANUAL, loc, "code of your own: write a layer or a tap (gwcore new plugin)")
    else:
        config.add(Status.UNSUPPORTED, loc, "nothing here has that name; guardrails and sinks can be plugins")


def read_alerts(config: Config, draft: Draft, general: Section) -> None:
    """Convert ``alerting`` and the keys about it in ``general_settings``."""
    listed = general.peek("alerting")
    to: dict[str, Any] = {}
    for word in listed if isinstance(listed, list) else [listed] if listed else ():
        if word == "slack":
            to["slack"] = {"slack": "${SLACK_WEBHOOK_URL}"}
        elif word == "webhook":
            to["webhook"] = {"webhook": "${WEBHOOK_URL}"}
        else:
            config.add(
                Status.MANUAL, (*general.loc, "alerting"), "watch: alerts: to: write where it goes, such as email"
            )
    if listed is not None:
        general.say(Status.EXACT if to else Status.MANUAL, "alerting", "watch: alerts")
    urls = general.peek("alert_to_webhook_url")
    if isinstance(urls, dict):
        general.say(Status.MANUAL, "alert_to_webhook_url", "alerts.to: one destination per address, and its `kinds`")
    slow = general.number("alerting_threshold", "alerts.slow.after")
    if to:
        draft.watch["alerts"] = {"to": to, **({"slow": {"after": f"{slow}s"}} if slow else {})}
