"""Records, Prometheus, Langfuse, Helicone, OpenTelemetry, logs and alerts for gwcore."""
