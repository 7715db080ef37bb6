"""Records, Prometheus, Langfuse, Helicone, OpenTelemetry, logs and alerts for gwcore.

Each sink is a separate entry point: a stack imports only the libraries of the sinks that it names.
"""
