"""Which limits apply to a call, and under which key each counts it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import translate
from hashlib import blake2b
from re import compile as compile_
from typing import Any, Final
from weakref import WeakKeyDictionary

import orjson

from gwcore.call import Call, Principal
from gwcore.config import When
from gwcore.errors import BadConfig, UnknownModel
from gwcore.models import Models
from gwcore.provider import Target
from gwcore.units import Rate
from gwcore.when import Condition
from gwcore_ratelimit.config import RateLimitConfig, RateLimitPolicy, Rule, Scope
from gwcore_ratelimit.gcra import BUCKETS, PARALLEL, REQUESTS, SECOND, TOKENS, Charge, Kind, Limit
from gwcore_ratelimit.headers import tellings

ANONYMOUS: Final = "anonymous"
"""Scope value of callers without a principal, who share their limits."""
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
"""Owner of a policy to the scopes of its limits."""
_REMEMBERED: Final = 1000
_LONGEST: Final = 120

_MINUTE: Final = 60
_DAY: Final = 86_400


class Bound:
    """The limits that apply to a caller's calls of one sort, computed once.

    Attributes:
        charges: one unit of each limit, in the order of the rules.
        tokens: indices of the token limits among them, up to ``never``.
        places: indices of the parallel limits.
        counted: format string of the header with the counted tokens.
        who: the id of the caller's credential.
        never: charge of the first limit of 0, which refuses every call; ``None`` if there is none.
        told: the headers for clients; ``alone``: whether at most one limit of each kind has headers.
    """

    __slots__ = ("alone", "charges", "counted", "never", "places", "tokens", "told", "who")

    def __init__(self, charges: tuple[Charge, ...], who: str | None, dialect: str) -> None:
        self.who = who
        self.charges = charges
        limits = [limit for limit, _, _ in charges]
        none = next((n for n, limit in enumerate(limits) if not limit.amount), None)
        self.never = None if none is None else charges[none]
        self.tokens = [n for n, limit in enumerate(limits[:none]) if limit.kind == TOKENS]
        self.places = [n for n, limit in enumerate(limits) if limit.kind == PARALLEL]
        self.counted = ", ".join(dict.fromkeys(f"{limits[n].manner}=%d" for n in self.tokens)).encode()
        self.told = tellings(limits, dialect)
        self.alone = len({kind for _, kind, *_ in self.told}) == len(self.told)


@dataclass(slots=True, frozen=True, eq=False)
class _Line:
    """One limit and the conditions under which it applies."""

    limit: Limit
    rule: Rule
    condition: Condition | None
    model: ModelName | None = None


class ModelName:
    """The model of a policy's limit, under any of its names: its own, an alias, ``upstream/model``.

    A call is for it if the client requested it by that name, or if all targets of the call are this model. Any other
    call that reaches one of its targets, as one choice among several or as a fallback, is for it in that attempt only.
    """

    __slots__ = ("_match", "_means")

    def __init__(self, wanted: str, models: Models) -> None:
        self._match = compile_(translate(wanted.replace("[", "[[]").replace("?", "[?]"))).match
        known = [models.known().get(wanted, ())] if "*" not in wanted else [
            targets for name, targets in models.known().items() if self._match(name)
        ]  # fmt: skip
        if "*" not in wanted:
            try:
                known.append(models.means(wanted))
            except UnknownModel:
                pass  # a policy may name a model before the stack file defines it
        self._means = frozenset(str(target) for targets in known for target in targets)

    def covers(self, target: Target) -> bool:
        """Whether a target is the model, or one of those that its name stands for."""
        here = str(target)
        return here in self._means or any(map(self._match, (here, target.model)))

    def names(self, call: Call) -> bool:
        """Whether the call as a whole is for the model."""
        if any(self._match(name) for name in (call.asked, call.model) if name is not None):
            return True
        return bool(call.targets) and all(map(self.covers, call.targets))


class Rules:
    """The rules of one ring of one stack; the limits of each caller's calls are computed once and cached."""

    def __init__(self, rules: Iterable[Rule], *, name: str, models: Models) -> None:
        self._name = name
        self._models = models
        self._lines = [line for rule in rules for line in _lines(rule)]
        self._known: WeakKeyDictionary[Principal, dict[Any, Bound | None]] = WeakKeyDictionary()
        self._anybody: dict[Any, Bound | None] = {}
        first: dict[str, Limit] = {}
        for line in self._lines:
            if line.limit.id in first:
                per = ", ".join(line.limit.scopes)
                raise BadConfig(f"ratelimit: two rules count the same {line.limit.kind} per {per}; write them as one")
            first[line.limit.id] = line.limit

    @property
    def limits(self) -> list[Limit]:
        """The limits of the stack file."""
        return [line.limit for line in self._lines]

    def bind(self, call: Call, target: Target | None = None) -> Bound | None:
        """The limits that apply to a call, or to its attempt at ``target``; ``None`` if there are none."""
        principal = call.principal
        known = self._anybody if principal is None else self._known.get(principal)
        if known is None:
            assert principal is not None
            known = self._known[principal] = {}
        where = None if target is None else (target.upstream.name, target.model)
        route, dialect = call.route, call.dialect.name
        asked = (call.model, call.asked, route.operation, route.local, dialect, call.tags, where)
        try:
            return known[asked]
        except KeyError:
            if len(known) >= _REMEMBERED:  # clients choose the names, so there is no bound on them
                known.clear()
            charges = tuple(self._bind(call, principal, target))
            who = principal.id if principal is not None else None
            bound = known[asked] = Bound(charges, who, dialect) if charges else None
            return bound

    def _bind(self, call: Call, principal: Principal | None, target: Target | None) -> Iterable[Charge]:
        upstream = target.upstream.name if target is not None else None
        for line in self._of(principal):
            if call.route.local and line.limit.kind == TOKENS:
                continue  # a call that a plugin answers itself uses no tokens
            if line.condition is not None and not line.condition(call):
                continue
            if line.model is not None and not self._meant(line.model, call, target):
                continue
            if line.rule.upstreams and upstream not in line.rule.upstreams:
                continue
            values = [_value(scope, principal, call, upstream) for scope in line.rule.per]
            if None not in values:
                yield line.limit, _key(line.limit, values), 1

    def _meant(self, model: ModelName, call: Call, _target: Target | None) -> bool:
        return model.names(call)

    def _of(self, principal: Principal | None) -> list[_Line]:
        """The lines for a caller: the stack file's, with those that the caller's policies add or replace."""
        lines = self._lines
        policies = principal.policies.get(self._name, {}) if principal is not None else {}
        for name, policy in policies.items():
            scopes = _SCOPES_OF.get(name)
            if scopes is not None:
                said = policy if isinstance(policy, RateLimitPolicy) else RateLimitPolicy.model_validate(policy)
                lines = _with(said, scopes, lines, self._models)
        return lines


class AttemptRules(Rules):
    """Rules that depend on the target, and policies' limits of models other than the one the call itself is for."""

    def __init__(self, rules: Iterable[Rule], calls: Rules, *, name: str, models: Models) -> None:
        super().__init__(rules, name=name, models=models)
        self._calls = calls

    def _meant(self, model: ModelName, call: Call, target: Target | None) -> bool:
        return target is not None and model.covers(target) and not model.names(call)

    def _of(self, principal: Principal | None) -> list[_Line]:
        policies = self._calls._of(principal)  # noqa: SLF001 - one class in two rings
        return [*self._lines, *(line for line in policies if line.model is not None)]


def rings(config: RateLimitConfig, name: str, models: Models) -> tuple[Rules, AttemptRules]:
    """The rules of the call ring, and those of the attempt ring. Raises ``BadConfig``."""
    calls = Rules([rule for rule in config.rules if not rule.per_attempt], name=name, models=models)
    inner = [rule for rule in config.rules if rule.per_attempt]
    return calls, AttemptRules(inner, calls, name=name, models=models)


def _with(policy: RateLimitPolicy, scopes: list[Scope], lines: list[_Line], models: Models) -> list[_Line]:
    """The lines and the policy's, which replace those per ``scopes`` alone of the same kind and period.

    A policy's limit of one model replaces none.
    """
    own = list(_own(policy, scopes, models))
    whole = {(line.limit.kind, line.limit.period) for line in own if line.model is None}
    kept = [line for line in lines if line.rule.per != scopes or (line.limit.kind, line.limit.period) not in whole]
    # keep the rule's other settings: shadow, handling of store errors, which tokens count
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


def _own(policy: RateLimitPolicy, scopes: list[Scope], models: Models) -> Iterable[_Line]:
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
            # a rule for the same model applies too, so the two must not share a count
            id=_identity(rule, kind, period * SECOND, *(["policy"] if model is not None else [])),
            kind=kind,
            amount=amount,
            period=period * SECOND,
            burst=amount,
            scopes=tuple(scopes),
        )
        yield _Line(limit, rule, None, ModelName(model, models) if model is not None else None)


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


def _identity(rule: Rule, kind: str, period: int = 0, *more: str) -> str:
    """Digest of what is counted, for whom and over which period; a changed amount keeps the digest and the count."""
    when = rule.when.model_dump() if rule.when else None
    counted = (rule.count, rule.count_cached) if kind == TOKENS else ()
    said = [rule.per, when, rule.upstreams, kind, period, rule.strict, *counted, rule.shadow, *more]
    return blake2b(orjson.dumps(said), digest_size=6).hexdigest()


def _value(scope: Scope, principal: Principal | None, call: Call, upstream: str | None) -> str | None:
    """The scope's value for this call; ``None`` if it has none: the rule then does not apply."""
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
