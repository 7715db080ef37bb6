"""Taps: synchronous event callbacks. One that raises is counted and logged, and the call goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

Tap = tuple[str, Callable[..., None]]
faults: Counter[str] = Counter()
"""Exceptions swallowed, by plugin name, since the process started."""

_log = structlog.get_logger("gwcore")


@dataclass(slots=True, frozen=True)
class Taps:
    """The taps of one stack by event, in stack order, each with its plugin's name; see :class:`gwcore.hookspecs.Watching`."""

    call_started: tuple[Tap, ...] = ()
    attempt_started: tuple[Tap, ...] = ()
    attempt_failed: tuple[Tap, ...] = ()
    call_ended: tuple[Tap, ...] = ()


def tell(taps: tuple[Tap, ...], *event: Any) -> None:
    """Call every tap, whatever the earlier ones did."""
    for name, tap in taps:
        try:
            tap(*event)
        except Exception as error:  # a watcher must not break what it watches
            faults[name] += 1
            # the type alone: a message could quote the prompt
            _log.error("tap failed", plugin=name, tap=tap.__name__, error=type(error).__name__)
