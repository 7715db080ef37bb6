"""structlog, configured once by the serving process. JSON lines; values are encoded, so none can forge a line."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import MutableMapping
from traceback import extract_tb
from typing import Any

import orjson
import structlog

from gwcore.redact import cleaned

# Not escaped by JSON, but interpreted by terminals or line readers: DEL, C1 controls, line and paragraph separators.
_ACTIVE = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")


# A second line of defence: no code should log a secret, but text that looks like one is removed.
def _redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = cleaned(value)
    return event


def _render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> bytes:
    return line(event)


def line(event: MutableMapping[str, Any]) -> bytes:
    """An event as one line of JSON, without the line break; contains no other line breaks or control characters."""
    said = orjson.dumps(event, default=lambda value: type(value).__name__)
    if said.isascii() and said.find(b"\x7f") < 0:
        return said
    return _ACTIVE.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), said)


def threshold(level: str | None = None) -> int:
    """The lowest level logged: ``level``, else ``GWCORE_LOG_LEVEL``, else ``info``."""
    name = (level or os.environ.get("GWCORE_LOG_LEVEL") or "info").upper()
    return logging.getLevelNamesMapping().get(name, logging.INFO)


def places(error: BaseException) -> list[str]:
    """Where it was raised, innermost last: of an exception, its type and this are all that is logged."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in extract_tb(error.__traceback__)[-4:]]


class _Libraries(logging.Handler):
    """Warnings and errors that libraries log, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Called by :mod:`logging`."""
        said: dict[str, Any] = {"logger": record.name}
        message = record.getMessage().strip()
        if record.exc_info and (error := record.exc_info[1]) is not None:
            said |= {"error": type(error).__name__, "at": places(error)}
        if record.exc_info or record.name == "asyncio":
            message = message.partition("\n")[0]  # then come values: of futures, of the exception
        log = structlog.get_logger("gwcore")
        (log.error if record.levelno >= logging.ERROR else log.warning)(message, **said)


def setup(level: str | None = None) -> None:
    """Configure structlog to write to stderr, at the level of :func:`threshold`; and :mod:`logging` to write to structlog."""
    logging.basicConfig(handlers=[_Libraries(logging.WARNING)])
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold(level)),
        logger_factory=structlog.BytesLoggerFactory(file=sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
