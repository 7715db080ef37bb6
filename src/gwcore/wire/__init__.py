"""Bytes on wires: HTTP to upstreams, server-sent events, JSON bodies. Knows no dialect and no vendor."""
