"""``Window``: the period over which spend is summed. Pure functions of (window, time zone, now): no job resets anything.

========================== ============================================================================================
written as                 means
========================== ============================================================================================
``total``                  forever
``hour`` ``day`` ``week``  calendar periods in the budget's time zone: from the full hour, midnight, Monday, the first
``month`` ``year``
``1h`` ``24h`` ``7d``      the same: ``1d`` and ``24h`` are a day, ``7d`` and ``1w`` a week, ``30d`` and ``1mo`` a month,
``30d`` ``1mo``            as LiteLLM snaps them
``15m`` ``6h`` ``3d``      other durations: from midnight (below a day), or by whole days since 1970-01-01; ``36h``, which
                           is not a whole number of days, in hours since then
``rolling 24h``            always the last 24 hours; in slices of a 60th, of which 61 are counted: never less
========================== ============================================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

FOREVER = 1 << 53
"""Millisecond at which ``total`` ends; exact in a double."""
SLICES = 60
"""Slices of a rolling window; one more is counted."""
_DAY_MS = 86_400_000
_CALENDAR = {"hour", "day", "week", "month", "year"}
_SNAPPED = {"1h": "hour", "60m": "hour", "1d": "day", "24h": "day", "7d": "week", "1w": "week", "30d": "month",
            "1mo": "month", "365d": "year", "1y": "year"}  # fmt: skip
_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": _DAY_MS, "w": 7 * _DAY_MS}
_MONTHS_OR_MINUTES = re.compile(r".*\d\s*M\s*")
_DURATION = re.compile(r"(\d+)\s*(s|m|h|d|w)")


class Period(NamedTuple):
    """Milliseconds since 1970, UTC: from ``start`` (included) to ``end`` (excluded).

    ``since`` is the earliest start of all periods that count with this one: the other slices of a rolling window.
    """

    start: int
    end: int
    since: int


@dataclass(slots=True, frozen=True)
class Window:
    """A parsed window.

    Attributes:
        name: canonical text; part of an account's identity.
        zone: IANA time zone of calendar periods.
        calendar: ``hour`` … ``year``, or ``None``.
        length: milliseconds of an aligned or rolling window; 0 for ``total`` and calendar ones.
    """

    name: str
    zone: str = "UTC"
    calendar: str | None = None
    length: int = 0
    rolling: bool = False

    @classmethod
    def parse(cls, text: str, zone: str = "UTC") -> Window:
        """Parse a window. Raises ``ValueError`` if it is none, ``zoneinfo.ZoneInfoNotFoundError`` for an unknown time zone."""
        ZoneInfo(zone)
        if _MONTHS_OR_MINUTES.fullmatch(text):
            raise ValueError("write 1mo for a month, 1m for a minute")
        words = text.strip().lower()
        if words == "total":
            return cls("total")
        rolling = words.startswith("rolling ")
        words = words.removeprefix("rolling ").strip()
        snapped = _SNAPPED.get(words, words)
        if not rolling and snapped in _CALENDAR:
            return cls(snapped, zone, calendar=snapped)
        match = _DURATION.fullmatch({"hour": "1h", "day": "1d", "week": "7d", "month": "30d"}.get(words, words))
        length = int(match[1]) * _UNITS[match[2]] if match else 0
        if not length or length > 3660 * _DAY_MS:
            raise ValueError("write total, hour, day, week, month, year, a duration such as 6h or 3d, or rolling 24h")
        if rolling:
            if length < SLICES * 1_000:
                raise ValueError("a rolling window is at least a minute long")
            return cls(f"rolling {words}", calendar=None, length=length, rolling=True)
        return cls(words, zone, length=length)

    def period(self, now: int) -> Period:
        """The period that contains the millisecond ``now``."""
        if self.rolling:
            slice_ = -(-self.length // SLICES)
            start = now // slice_ * slice_
            return Period(start, start + slice_, start - SLICES * slice_)
        if not self.calendar and not self.length:
            return Period(0, FOREVER, 0)
        return _aligned(self.calendar, self.length, self.zone, now)


@lru_cache(maxsize=512)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _ms(day: date, zone: ZoneInfo) -> int:
    """Local midnight. If the clock skips midnight, the moment of the change; if it occurs twice, the first."""
    local = datetime(day.year, day.month, day.day, tzinfo=zone)
    return round(local.timestamp() * 1000)


def _aligned(calendar: str | None, length: int, zone_name: str, now: int) -> Period:
    zone = _zone(zone_name)
    local = datetime.fromtimestamp(now / 1000, UTC).astimezone(zone)
    day = local.date()
    if length > _DAY_MS and length % _DAY_MS:
        start = now // length * length
        return _fixed(start, start + length)
    if calendar == "hour" or (not calendar and length < _DAY_MS):
        step = length or _UNITS["h"]
        midnight, next_midnight = _ms(day, zone), _ms(day + timedelta(days=1), zone)
        start = midnight + (now - midnight) // step * step
        return _fixed(start, min(start + step, next_midnight))
    if calendar == "day":
        first, after = day, day + timedelta(days=1)
    elif calendar == "week":
        first = day - timedelta(days=day.weekday())
        after = first + timedelta(days=7)
    elif calendar == "month":
        first = day.replace(day=1)
        after = (first + timedelta(days=32)).replace(day=1)
    elif calendar == "year":
        first = day.replace(month=1, day=1)
        after = first.replace(year=first.year + 1)
    else:
        days = length // _DAY_MS
        first = day - timedelta(days=(day - date(1970, 1, 1)).days % days)
        after = first + timedelta(days=days)
    return _fixed(_ms(first, zone), _ms(after, zone))


def _fixed(start: int, end: int) -> Period:
    return Period(start, end, start)
