"""Metrics for Prometheus: names, registry, ``/metrics``, a dashboard and alert rules."""
