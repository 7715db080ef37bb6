"""Metrics for Prometheus: names, registry, ``/metrics``, a dashboard and alert rules."""

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_observability.prometheus.plugin import Prometheus


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """For the stack file."""
    return [Prometheus]
