"""Records, Prometheus, Langfuse, Helicone, OpenTelemetry, logs and alerts for gwcore.

Each sink is an entry point of its own: a stack that names one imports the libraries of that one only.
"""
