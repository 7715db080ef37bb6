"""Which limits bind a call, and under which key each of them counts it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final

import orjson

from gwcore.call import Call, Principal
from gwcore.config import When
from gwcore.errors import BadConfig
from gwcore.units import Rate
from gwcore.when import Condition
from gwcore_ratelimit.config import Amounts, RateLimitConfig, RateLimitPolicy, Rule, Scope
from gwcore_ratelimit.gcra import BUCKETS, PARALLEL, REQUESTS, SECOND, TOKENS, Limit

ANONYMOUS: Final = "anonymous"
"""Who calls where no plugin says who does: all of them together."""
_IDENTITY: Final[Mapping[Scope, str]] = {
    "key": "id",
    "user": "user",
    "team": "team",
    "organisation": "organisation",
    "end_user": "end_user",
}
"""Scope to attribute of the principal. Read with a default: not every principal has all of them."""
_REMEMBERED: Final = 20_000
_LONGEST: Final = 120

Bound = tuple[tuple[Limit, str], ...]
"""Limits and their keys, in the order of the rules."""


@dataclass(slots=True, frozen=True, eq=False)
class _Line:
    """One limit and what decides whether it binds."""

    limit: Limit
    rule: Rule
    condition: Condition | None


class Rules:
    """The rules of one ring of one stack; what binds whom is worked out once and remembered."""

    def __init__(self, rules: Iterable[Rule], *, name: str) -> None:
        self._name = name
        self._lines = [line for rule in rules for line in _lines(rule)]
        self._lines_of: dict[str, tuple[object, list[_Line]]] = {}
        self._bound: dict[tuple[Any, ...], tuple[Principal | None, Bound]] = {}
        first: dict[str, Limit] = {}
        for line in self._lines:
            if line.limit.id in first:
                per = ", ".join(line.limit.scopes)
                raise BadConfig(f"ratelimit: two rules count the same {line.limit.kind} per {per}; write them as one")
            first[line.limit.id] = line.limit

    @property
    def limits(self) -> list[Limit]:
        """All of them."""
        return [line.limit for line in self._lines]

    def bind(self, call: Call, upstream: str | None = None) -> Bound:
        """The limits that bind a call, or an attempt of it at ``upstream``."""
        principal = call.principal
        who = principal.id if principal is not None else None
        asked = (who, call.model, call.operation, call.dialect.name, call.tags, upstream)
        found = self._bound.get(asked)
        if found is not None and (found[0] is principal or found[0] == principal):
            return found[1]
        bound = tuple(self._bind(call, principal, upstream))
        if len(self._bound) >= _REMEMBERED:
            self._bound.clear()
        self._bound[asked] = (principal, bound)
        return bound

    def _bind(self, call: Call, principal: Principal | None, upstream: str | None) -> Iterable[tuple[Limit, str]]:
        for line in self._of(principal):
            if line.condition is not None and not line.condition(call):
                continue
            if line.rule.upstreams and upstream not in line.rule.upstreams:
                continue
            values = [_value(scope, principal, call, upstream) for scope in line.rule.per]
            if None not in values:
                yield line.limit, _key(line.limit, values)

    def _of(self, principal: Principal | None) -> list[_Line]:
        said = principal.policies.get(self._name) if principal is not None else None
        if principal is None or not said:
            return self._lines
        known = self._lines_of.get(principal.id)
        if known is None or known[0] != said:
            if len(self._lines_of) >= _REMEMBERED:
                self._lines_of.clear()
            known = self._lines_of[principal.id] = (said, self._overridden(RateLimitPolicy.model_validate(said)))
        return known[1]

    def _overridden(self, policy: RateLimitPolicy) -> list[_Line]:
        given = {
            kind
            for kind, value in ((REQUESTS, policy.requests), (TOKENS, policy.tokens), (PARALLEL, policy.parallel))
            if value is not None
        }
        lines: list[_Line] = []
        replaced: dict[str, Limit] = {}
        for line in self._lines:
            if line.rule.per == ["key"] and not line.rule.per_attempt:
                replaced.setdefault(line.limit.kind, line.limit)
                if policy.unlimited or line.limit.kind in given:
                    continue
            lines.append(line)
        if not policy.unlimited:
            for line in _own(policy, None):
                like = replaced.get(line.limit.kind)
                if like is not None:
                    own = replace(line.limit, shadow=like.shadow, on_store_error=like.on_store_error)
                    line = replace(line, limit=own)  # noqa: PLW2901 - the line as it binds
                lines.append(line)
        for pattern, amounts in policy.models.items():
            lines.extend(_own(amounts, When(models=[pattern])))
        return lines


class AttemptRules(Rules):
    """Rules that depend on the target; a key's policies do not change them."""

    def _of(self, principal: Principal | None) -> list[_Line]:  # noqa: ARG002 - for everybody the same
        return self._lines


def rings(config: RateLimitConfig, name: str) -> tuple[Rules, AttemptRules]:
    """The rules of the outer ring, and those of the inner one. Raises ``BadConfig``."""
    return (
        Rules([rule for rule in config.rules if not rule.per_attempt], name=name),
        AttemptRules([rule for rule in config.rules if rule.per_attempt], name=name),
    )


def _own(amounts: Amounts, when: When | None) -> Iterable[_Line]:
    if amounts.requests is None and amounts.tokens is None and amounts.parallel is None:
        return ()
    given = amounts.model_dump(include={"requests", "tokens", "parallel"})
    return _lines(Rule.model_validate({"per": "key", "when": when, **given}))


def _lines(rule: Rule) -> list[_Line]:
    when = rule.when
    condition = Condition(when.models, when.operations, when.dialects, when.tags) if when else None
    limits = []
    if rule.requests is not None:
        limits.append(_rate(rule, rule.requests, REQUESTS))
    if rule.tokens is not None:
        limits.append(_rate(rule, rule.tokens, TOKENS))
    if rule.parallel is not None:
        limits.append(
            Limit(
                id=_identity(rule, PARALLEL),
                kind=PARALLEL,
                amount=rule.parallel,
                period=0,
                burst=rule.parallel,
                scopes=tuple(rule.per),
                shadow=rule.shadow,
                on_store_error=rule.on_store_error,
            )
        )
    return [_Line(limit, rule, condition) for limit in limits]


def _rate(rule: Rule, rate: Rate, kind: Any) -> Limit:
    period = int(rate.per * SECOND)
    return Limit(
        id=_identity(rule, kind, period),
        kind=kind,
        amount=rate.amount,
        period=period,
        burst=rule.burst or rate.amount,
        width=-(-period // BUCKETS) if rule.strict else 0,
        scopes=tuple(rule.per),
        shadow=rule.shadow,
        on_store_error=rule.on_store_error,
        count=rule.count,
        count_cached=rule.count_cached,
    )


def _identity(rule: Rule, kind: str, period: int = 0) -> str:
    """What is counted, by whom, over which time; not how much, so that a changed amount keeps the count."""
    when = rule.when.model_dump() if rule.when else None
    counted = (rule.count, rule.count_cached) if kind == TOKENS else ()
    said = [rule.per, when, rule.upstreams, kind, period, rule.strict, *counted, rule.shadow]
    return blake2b(orjson.dumps(said), digest_size=6).hexdigest()


def _value(scope: Scope, principal: Principal | None, call: Call, upstream: str | None) -> str | None:
    """What the scope is for this call; ``None`` where it has none, which binds nothing."""
    if scope == "global":
        return ""
    if scope == "model":
        return call.model
    if scope == "upstream":
        return upstream
    if principal is None:
        return ANONYMOUS if scope != "end_user" else None
    value = getattr(principal, _IDENTITY[scope], None)
    return str(value) if value is not None else None


def _key(limit: Limit, values: list[str | None]) -> str:
    """Injective: no two combinations share a key, whatever clients put into names."""
    said = orjson.dumps(values).decode()
    if len(said) > _LONGEST:
        said = blake2b(said.encode(), digest_size=16).hexdigest()
    return f"{limit.id}:{said}"
