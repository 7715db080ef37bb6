"""structlog, set up once by the process that serves. JSON lines; values are encoded, so nothing can forge a line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any

import orjson
import structlog

from gwcore.redact import PATTERN, REDACTED


# The second line of defence: nothing should pass a secret to the log; what looks like one does not leave.
def _redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and PATTERN.search(value):
            event[key] = PATTERN.sub(REDACTED, value)
    return event


def _render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> bytes:
    return orjson.dumps(event, default=lambda value: type(value).__name__)


def setup(level: str | None = None) -> None:
    """Configure structlog: to stderr, at ``GWCORE_LOG_LEVEL`` (``info`` by default)."""
    name = (level or os.environ.get("GWCORE_LOG_LEVEL") or "info").upper()
    number = logging.getLevelNamesMapping().get(name, logging.INFO)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(file=sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
