"""``when`` of a rule, compiled: each condition tests the facts, and explains why it does not hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import translate
from zoneinfo import ZoneInfo

from gwcore_rules.config import DAYS, Conditions, Span
from gwcore_rules.facts import Facts

_DAY = 24 * 60


@dataclass(slots=True, frozen=True)
class Check:
    """One condition. ``why`` describes why it does not hold; called only by ``gwcore explain``."""

    holds: Callable[[Facts], bool]
    why: Callable[[Facts], str]


def compiled(when: Conditions, zone: ZoneInfo) -> tuple[Check, ...]:
    """The conditions that are given, the cheap ones first."""
    checks = [
        *_word("task", when.task, lambda facts: facts.task),
        *_word("model", when.models, lambda facts: facts.call.model or ""),
        *_word("operation", when.operations, lambda facts: facts.call.operation),
        *_word("dialect", when.dialects, lambda facts: facts.call.dialect.name),
        *_any("key", when.keys, lambda facts: (facts.principal.id, facts.principal.alias or "")),
        *_word("team", when.teams, lambda facts: facts.principal.team or ""),
        *_word("user", when.users, lambda facts: facts.principal.user or ""),
        *_word("organisation", when.organisations, lambda facts: facts.principal.organisation or ""),
        *_any("tags", when.tags, lambda facts: facts.call.tags),
        *_flag("stream", when.stream, lambda facts: facts.call.stream),
        *_flag("tools", when.tools, lambda facts: facts.tools),
        *_times(when, zone),
        *_tokens(when),
        *_flag("vision", when.vision, lambda facts: facts.vision),
    ]
    return tuple(checks)


def _word(what: str, wanted: list[str], found: Callable[[Facts], str]) -> list[Check]:
    if not wanted:
        return []
    exact, wild = _matching(wanted)
    listed = ", ".join(wanted)

    def holds(facts: Facts) -> bool:
        word = found(facts)
        return word in exact or (wild is not None and wild.match(word) is not None and bool(word))

    return [Check(holds, lambda facts: f"{what} is {found(facts) or 'not said'}, not {listed}")]


def _any(what: str, wanted: list[str], found: Callable[[Facts], Iterable[str]]) -> list[Check]:
    if not wanted:
        return []
    exact, wild = _matching(wanted)
    listed = ", ".join(wanted)

    def holds(facts: Facts) -> bool:
        words = found(facts)
        return not exact.isdisjoint(words) or (wild is not None and any(word and wild.match(word) for word in words))

    def why(facts: Facts) -> str:
        return f"{what} is {', '.join(sorted(filter(None, found(facts)))) or 'not said'}, not {listed}"

    return [Check(holds, why)]


def _matching(wanted: list[str]) -> tuple[frozenset[str], re.Pattern[str] | None]:
    """The words without ``*``, and one pattern for those in which ``*`` stands for any text."""
    wild = [translate(word.replace("[", "[[]").replace("?", "[?]")) for word in wanted if "*" in word]
    return frozenset(word for word in wanted if "*" not in word), re.compile("|".join(wild)) if wild else None


def _flag(what: str, wanted: bool | None, found: Callable[[Facts], bool]) -> list[Check]:
    if wanted is None:
        return []
    return [Check(lambda facts: found(facts) is wanted, lambda _: f"it has {'no ' if wanted else ''}{what}")]


def _tokens(when: Conditions) -> list[Check]:
    wanted = when.input_tokens
    if wanted is None:
        return []

    def holds(facts: Facts) -> bool:
        tokens = facts.input_tokens
        return tokens > wanted.over and (wanted.up_to is None or tokens <= wanted.up_to)

    return [Check(holds, lambda facts: f"about {facts.input_tokens} tokens of input, not {wanted}")]


def _times(when: Conditions, zone: ZoneInfo) -> list[Check]:
    if not (when.hours or when.days):
        return []
    days = frozenset(DAYS.index(day) for day in when.days) or frozenset(range(7))
    spans = when.hours or [(0, _DAY)]

    def holds(facts: Facts) -> bool:
        now = facts.local(zone)
        minute, day = now.hour * 60 + now.minute, now.weekday()
        return any(_within(span, minute, day, days) for span in spans)

    return [Check(holds, lambda facts: f"it is {facts.local(zone):%a %H:%M} in {zone.key}")]


def _within(span: Span, minute: int, day: int, days: frozenset[int]) -> bool:
    first, last = span
    if first < last:
        return first <= minute < last and day in days
    # past midnight, the span still belongs to the day on which it began
    return (minute >= first and day in days) or (minute < last and (day - 1) % 7 in days)


def reasons(checks: Iterable[Check], facts: Facts) -> list[str]:
    """Why a rule does not apply to this request; empty if it does."""
    return [check.why(facts) for check in checks if not check.holds(facts)]
