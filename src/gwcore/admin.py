"""Probes: liveness, readiness, health. They report what is served and whether the last reload succeeded; no secrets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import orjson

from gwcore.stack import Stack
from gwcore.taps import faults

STATUS_ENV = "GWCORE_STATUS_FILE"


_ALIVE = b'{"status":"alive"}'
_STATIC = {
    "/": b'{"service":"gwcore"}',  # Anthropic's clients ask `HEAD /`
    "/health/liveliness": _ALIVE,
    "/health/liveness": _ALIVE,
    "/livez": _ALIVE,
}


class State:
    """What the probes report besides the stack itself."""

    def __init__(self) -> None:
        self.draining = False
        self.generation = 0
        self.reload_error: str | None = None

    def failed_elsewhere(self) -> str | None:
        """A reload that the supervisor of several workers refused; it writes a status file, see ``gwcore.server``."""
        path = os.environ.get(STATUS_ENV)
        if not path:
            return None
        try:
            said = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        found = said.get("reload_failed")
        return str(found) if found else None


def answer(method: str, path: str, stack: Stack | None, state: State, *, full: bool = True) -> tuple[int, bytes] | None:
    """Status and JSON body of a probe; ``None`` when the path is none of ours. ``/health`` says what only if ``full``."""
    if method not in {"GET", "HEAD"}:
        return None
    if path in _STATIC:
        return 200, _STATIC[path]
    if path in {"/health/readiness", "/readyz"}:
        if state.draining or stack is None:
            return 503, b'{"status":"draining"}' if state.draining else b'{"status":"starting"}'
        return 200, b'{"status":"ready"}'
    if path == "/health":
        return _health(stack, state, full)
    return None


def _health(stack: Stack | None, state: State, full: bool) -> tuple[int, bytes]:
    if stack is None:
        return 503, b'{"status":"starting","models":[]}'
    plugins = stack.health()
    # still 200: the other replicas use the same store, so taking this one out of service would not help
    away = any(isinstance(said, dict) and said.get("degraded") for said in plugins.values())
    status = "draining" if state.draining else "degraded" if away else "healthy"
    code = 503 if state.draining else 200
    if not full:
        return code, orjson.dumps({"status": status})
    failed = state.reload_error or state.failed_elsewhere()
    document: dict[str, Any] = {
        "status": status,
        "models": [model.id for model in stack.models.listing()],
        "config": {
            "generation": state.generation,
            "digest": stack.digest,
            "config_reload_failed": int(failed is not None),
        },
    }
    if failed:
        document["config"]["reload_error"] = failed
    if plugins:
        document["plugins"] = plugins
    if stack.prices.unmetered:
        document["unmetered"] = dict(stack.prices.unmetered)
    if faults:
        document["tap_faults"] = dict(faults)
    return code, orjson.dumps(document)
