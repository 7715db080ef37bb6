"""Which limits bind a call, and under which key each of them counts it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final
from weakref import WeakKeyDictionary

import orjson

from gwcore.call import Call, Principal
from gwcore.config import When
from gwcore.errors import BadConfig
from gwcore.units import Rate
from gwcore.when import Condition
from gwcore_ratelimit.config import RateLimitConfig, RateLimitPolicy, Rule, Scope
from gwcore_ratelimit.gcra import BUCKETS, PARALLEL, REQUESTS, SECOND, TOKENS, Kind, Limit

ANONYMOUS: Final = "anonymous"
"""Who calls where no plugin says who does: all of them together."""
_IDENTITY: Final[Mapping[Scope, str]] = {
    "key": "id",
    "user": "user",
    "team": "team",
    "organisation": "organisation",
    "end_user": "end_user",
}
"""Scope to attribute of the principal."""
_SCOPES_OF: Final[Mapping[str, list[Scope]]] = {
    **{scope: [scope] for scope in _IDENTITY},
    "member": ["team", "user"],
}
"""Scope of a policy to what its limits are per."""
_REMEMBERED: Final = 1000
_LONGEST: Final = 120

Bound = tuple[tuple[Limit, str], ...]
"""Limits and their keys, in the order of the rules."""

_MINUTE: Final = 60
_DAY: Final = 86_400


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
        self._known: WeakKeyDictionary[Principal, dict[Any, Bound]] = WeakKeyDictionary()
        self._anybody: dict[Any, Bound] = {}
        first: dict[str, Limit] = {}
        for line in self._lines:
            if line.limit.id in first:
                per = ", ".join(line.limit.scopes)
                raise BadConfig(f"ratelimit: two rules count the same {line.limit.kind} per {per}; write them as one")
            first[line.limit.id] = line.limit

    @property
    def limits(self) -> list[Limit]:
        """Those of the stack file."""
        return [line.limit for line in self._lines]

    def bind(self, call: Call, upstream: str | None = None) -> Bound:
        """The limits that bind a call, or an attempt of it at ``upstream``."""
        principal = call.principal
        known = self._anybody if principal is None else self._known.get(principal)
        if known is None:
            assert principal is not None
            known = self._known[principal] = {}
        asked = (call.model, call.operation, call.dialect.name, call.tags, upstream)
        bound = known.get(asked)
        if bound is None:
            if len(known) >= _REMEMBERED:  # names are typed by clients
                known.clear()
            bound = known[asked] = tuple(self._bind(call, principal, upstream))
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
        """The lines for a caller: those of the stack file, with what policies put in their place."""
        lines = self._lines
        policies = principal.policies.get(self._name, {}) if principal is not None else {}
        for name, policy in policies.items():
            scopes = _SCOPES_OF.get(name)
            if scopes is not None and isinstance(policy, RateLimitPolicy):
                lines = _with(policy, scopes, lines)
        return lines


class AttemptRules(Rules):
    """Rules that depend on the target; policies do not change them."""

    def _of(self, principal: Principal | None) -> list[_Line]:  # noqa: ARG002 - for everybody the same
        return self._lines


def rings(config: RateLimitConfig, name: str) -> tuple[Rules, AttemptRules]:
    """The rules of the outer ring, and those of the inner one. Raises ``BadConfig``."""
    return (
        Rules([rule for rule in config.rules if not rule.per_attempt], name=name),
        AttemptRules([rule for rule in config.rules if rule.per_attempt], name=name),
    )


def _with(policy: RateLimitPolicy, scopes: list[Scope], lines: list[_Line]) -> list[_Line]:
    """The lines, those that are per ``scopes`` alone replaced by the policy's of their kind."""
    own = list(_own(policy, scopes))
    whole = {(line.limit.kind, line.limit.period) for line in own if line.condition is None}
    kept = [line for line in lines if line.rule.per != scopes or (line.limit.kind, line.limit.period) not in whole]
    # what else the rule said still holds: how its store's absence is borne, which tokens count
    like = {line.limit.kind: line.limit for line in lines if line.rule.per == scopes}
    for line in own:
        old = like.get(line.limit.kind, line.limit)
        as_before = replace(
            line.limit,
            shadow=old.shadow,
            on_store_error=old.on_store_error,
            count=old.count,
            count_cached=old.count_cached,
        )
        kept.append(replace(line, limit=as_before))
    return kept


def _own(policy: RateLimitPolicy, scopes: list[Scope]) -> Iterable[_Line]:
    amounts: tuple[tuple[Kind, int | None, int, str | None], ...] = (
        (REQUESTS, policy.rpm_limit, _MINUTE, None),
        (TOKENS, policy.tpm_limit, _MINUTE, None),
        (TOKENS, policy.tpd_limit, _DAY, None),
        (PARALLEL, policy.max_parallel_requests, 0, None),
        *((REQUESTS, amount, _MINUTE, model) for model, amount in (policy.model_rpm_limit or {}).items()),
        *((TOKENS, amount, _MINUTE, model) for model, amount in (policy.model_tpm_limit or {}).items()),
    )
    for kind, amount, period, model in amounts:
        if amount is None:
            continue
        when = When(models=[model]) if model is not None else None
        rule = Rule.model_construct(per=scopes, when=when)
        limit = Limit(
            id=_identity(rule, kind, period * SECOND),
            kind=kind,
            amount=amount,
            period=period * SECOND,
            burst=amount,
            scopes=tuple(scopes),
        )
        yield _Line(limit, rule, Condition(when.models) if when else None)


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
    value: str | None = getattr(principal, _IDENTITY[scope])
    return value


def _key(limit: Limit, values: list[str | None]) -> str:
    """Injective: no two combinations share a key, whatever clients put into names."""
    said = orjson.dumps(values).decode()
    if len(said) > _LONGEST:
        said = blake2b(said.encode(), digest_size=16).hexdigest()
    return f"{limit.id}:{said}"
