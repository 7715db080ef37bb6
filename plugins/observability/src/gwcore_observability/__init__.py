"""Records, Prometheus, Langfuse, Helicone, OpenTelemetry, logs and alerts for gwcore."""

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_observability.prometheus.plugin import Prometheus
from gwcore_observability.webhook import Webhook


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """What this distribution offers."""
    return [Prometheus, Webhook]
