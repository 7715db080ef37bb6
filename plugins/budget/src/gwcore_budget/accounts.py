"""The budgets that apply to a call, from the stack file's rules and the principal's policies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from operator import attrgetter
from typing import Any
from weakref import WeakKeyDictionary

from gwcore.call import Attempt, Principal, words
from gwcore.errors import BadRequest
from gwcore_budget.config import BudgetConfig, BudgetPolicy, Rule
from gwcore_budget.ledger.ops import Budget
from gwcore_budget.window import Window

MOST_ACCOUNTS = 16
"""Most budgets that can apply to one call."""
_NAME = 200
_ID_BYTES = 2_600
"""PostgreSQL's index accepts about 2,700; a longer id, as of a rule for a hundred models, ends in a digest instead."""
_CACHED = 1024
Names = dict[str, str]
"""Scope → its id in this call."""

Key = tuple[str | None, str, str]
"""A call's model: its name in the request, its upstream, and its name there."""


_NOBODY = (None, None, None, None, None)
_who = attrgetter("organisation", "team", "user", "end_user", "id")


@dataclass(slots=True, frozen=True)
class Budgets:
    """The distinct budgets that apply to an attempt, and their settings taken together.

    Attributes:
        limited: at least one of them has a limit; without a limit, spend is only watched.
        clamps: all of them allow an answer to be cut if too little is left. ``waits``: none of them rejects at once.
        unmetered: all of them allow attempts without a price, unmetered. ``denies``: at least one rejects these.
            ``default``: nano-USD to hold for these, the largest of the amounts set; ``None`` if none is.
        who: the caller's organisation, team, user, end user and key. ``what``: the requested model, the upstream's name
            for it, the upstream and its provider. Both as in the row of a hold.
    """

    all: tuple[Budget, ...]
    who: tuple[str | None, str | None, str | None, str | None, str | None]
    what: tuple[str | None, str, str, str]
    limited: bool
    clamps: bool
    waits: bool
    unmetered: bool
    denies: bool
    default: int | None

    @classmethod
    def of(cls, budgets: tuple[Budget, ...], attempt: Attempt) -> Budgets:
        """Combine these budgets for an attempt."""
        target, principal = attempt.target, attempt.call.principal
        on_short = {budget.on_short for budget in budgets}
        unpriced = {budget.unpriced for budget in budgets}
        defaults = [amount for amount in unpriced if isinstance(amount, int)]
        return cls(
            budgets,
            _NOBODY if principal is None else _who(principal),
            (attempt.call.model, target.model, target.upstream.name, target.upstream.provider.name),
            any(budget.limit is not None for budget in budgets),
            on_short <= {"clamp"},
            "reject" not in on_short,
            unpriced <= {"allow_unmetered"},
            "deny" in unpriced,
            max(defaults, default=None),
        )


class UnknownPlan(LookupError):
    """A policy names a budget of ``/budget/new`` that does not exist. Its limit is unknown, so nothing may be spent."""


class Accounts:
    """Finds the budgets of an attempt; those that do not depend on tags or a session are cached by principal and model.

    Args:
        config: the plugin's settings.
        plan: ``budget_id`` → the policy of ``/budget/new``, or ``None``.
        names: upstream and its model → the names in the stack file that may refer to it.
    """

    def __init__(
        self,
        config: BudgetConfig,
        plan: Callable[[str], BudgetPolicy | None],
        names: Callable[[str, str], Sequence[str]],
    ) -> None:
        self._config = config
        self._plan = plan
        self._names = names
        self._rules = [(rule, Window.parse(rule.window, rule.zone or config.zone)) for rule in config.rules]
        changing = {"tag", "session"}
        self._loose = [pair for pair in self._rules if pair[0].per in changing]
        self._fixed = [pair for pair in self._rules if pair[0].per not in changing]
        self._session = config.session_header.encode() if config.session_header else None
        self._found: WeakKeyDictionary[Principal, dict[Key, Budgets]] = WeakKeyDictionary()
        self._open: dict[Key, Budgets] = {}

    def forget(self) -> None:
        """Clear the cache after a change of plans. Callers without a principal have no policies, so no plans."""
        self._found.clear()

    def of(self, attempt: Attempt) -> Budgets:
        """The distinct budgets that apply to the attempt. Raises ``UnknownPlan``, ``BadRequest`` for too many."""
        call, target = attempt.call, attempt.target
        principal = call.principal
        cache = self._open if principal is None else self._found.get(principal)
        if cache is None:
            assert principal is not None
            cache = self._found[principal] = {}
        key = (call.model, target.upstream.name, target.model)
        found = cache.get(key)
        if found is None:
            if len(cache) >= _CACHED:  # clients choose the names of models
                cache.clear()
            found = cache[key] = self._merged(self._of_principal(principal, key), attempt)
        if not self._loose:
            return found
        session = self.session_of(attempt)
        names = {"session": [session] if session else [], "tag": self.tags_of(attempt)}
        more = [
            self._by_rule(rule, window, name)
            for rule, window in self._loose
            for name in names[rule.per]
            if (rule.of is None or rule.of == name) and _fits(rule.models, key)
        ]
        return self._merged([*found.all, *more], attempt) if more else found

    def session_of(self, attempt: Attempt) -> str | None:
        """The session named by the client, or ``None``."""
        call = attempt.call
        value = call.session if self._session is None else call.header(self._session)
        return words(value)[:_NAME] if value else None

    @staticmethod
    def tags_of(attempt: Attempt) -> list[str]:
        """The tags of the call and of its credential."""
        tags, principal = attempt.call.tags, attempt.call.principal
        if principal is not None and principal.tags:
            tags = tags | principal.tags
        return sorted({tag[:_NAME] for tag in tags}) if tags else []

    def _of_principal(self, principal: Principal | None, key: Key) -> Iterable[Budget]:
        names: dict[str, str | None] = {"global": "", "model": key[0], "upstream": key[1]}
        policies: Mapping[str, Any] = {}
        if principal is not None:
            member = f"{principal.team}/{principal.user}" if principal.team and principal.user else None
            names |= {
                "organisation": principal.organisation,
                "team": principal.team,
                "member": member,
                "user": principal.user,
                "end_user": principal.end_user,
                "key": principal.id,
            }
            policies = principal.policies.get("budget", {})
        for rule, window in self._fixed:
            name = names.get(rule.per)
            if name is not None and (rule.of is None or rule.of == name) and _fits(rule.models, key):
                yield self._by_rule(rule, window, name[:_NAME])
        for scope, said in policies.items():
            name = names.get(scope)
            if name is not None:
                policy = said if isinstance(said, BudgetPolicy) else BudgetPolicy.model_validate(said)
                yield from self._by_policy(policy, scope, name[:_NAME], key)

    def _by_rule(self, rule: Rule, window: Window, name: str) -> Budget:
        some = ":" + ",".join(sorted(rule.models)) if rule.models else ""
        return Budget(
            _id(rule.per, name, window, some),
            rule.per,
            name,
            window,
            rule.limit,
            rule.soft,
            on_short=rule.on_short or self._config.on_short,
            unpriced=self._config.unpriced if rule.unpriced is None else rule.unpriced,
            origin="part" if rule.models else "rule",
        )

    def main(self, scope: str, name: str, policy: BudgetPolicy) -> frozenset[str]:
        """Ids of the budgets that :func:`gwcore_budget.reports.running` may report for an id with this policy. Raises ``UnknownPlan``."""
        name, policy = name[:_NAME], self.planned(policy)
        if policy.max_budget is None and policy.soft_budget is None:
            rules = (pair for pair in self._fixed if pair[0].per == scope and not pair[0].models)
            return frozenset(_id(scope, name, window) for rule, window in rules if rule.of in {None, name})
        return frozenset({_id(scope, name, Window.parse(policy.budget_duration or "total", self._config.zone))})

    def ids(self, scope: str, name: str, policy: BudgetPolicy) -> frozenset[str]:
        """Ids of all budgets of an id with this policy, for any request."""
        name, found = name[:_NAME], set[str]()
        for rule, window in self._rules:
            if rule.per == scope and rule.of in {None, name}:
                found.add(self._by_rule(rule, window, name).id)
        with suppress(UnknownPlan):
            found |= {budget.id for budget in self._by_policy(policy, scope, name, None)}
        return frozenset(found)

    def planned(self, policy: BudgetPolicy) -> BudgetPolicy:
        """The policy, with its plan's values for settings of its own that are unset. Raises ``UnknownPlan``."""
        if policy.budget_id is None:
            return policy
        plan = self._plan(policy.budget_id)
        if plan is None:
            raise UnknownPlan(policy.budget_id)
        said = {name: value for name in BudgetPolicy.model_fields if (value := getattr(policy, name)) is not None}
        return plan.model_copy(update=said)

    def _binds(self, wanted: str, key: Key) -> bool:
        """Whether the limit of model ``wanted`` applies to this target, also if it is reached by another name, as by a fallback."""
        asked, *target = key
        known = self._names(*target)
        return _fits([wanted], key) or (asked not in known and any(_matches(wanted, name) for name in known))

    def _by_policy(self, policy: BudgetPolicy, scope: str, name: str, key: Key | None) -> Iterable[Budget]:
        policy = self.planned(policy)
        zone = self._config.zone

        def budget(window: str, limit: int | None, soft: int | None = None, origin: str = "part") -> Budget:
            # an increase raises only max_budget, as in LiteLLM, not limits of models or of further windows
            bonus, until = policy.bonus if origin == "policy" else (0, 0)
            parsed = Window.parse(window, zone)
            return Budget(_id(scope, name, parsed), scope, name, parsed, limit, soft, bonus, until,
                          self._config.on_short, self._config.unpriced, origin)  # fmt: skip

        if policy.max_budget is not None or policy.soft_budget is not None:
            yield budget(policy.budget_duration or "total", policy.max_budget, policy.soft_budget, "policy")
        for one in policy.budget_limits or ():
            yield budget(one.window, one.limit)
        for wanted, one in (policy.model_max_budget or {}).items():
            if one.limit is not None and (key is None or self._binds(wanted, key)):
                made = budget(one.window, one.limit)
                yield replace(made, id=_id(scope, name, made.window, f":{wanted}"))

    @staticmethod
    def _merged(budgets: Iterable[Budget], attempt: Attempt) -> Budgets:
        """Merge budgets that count the same money in the same window: they are one account, with the lower limit."""
        found: dict[str, Budget] = {}
        for budget in budgets:
            other = found.get(budget.id)
            if other is not None:
                limits = [b.limit for b in (other, budget) if b.limit is not None]
                softs = [b.soft for b in (other, budget) if b.soft is not None]
                first = budget.limit is not None and budget.limit == min(limits, default=None)
                lower = budget if first else other
                # an increase of the lower limit stops at the higher one
                bonus = lower.bonus if len(limits) < 2 else min(lower.bonus, max(limits) - min(limits))
                budget = replace(lower, soft=min(softs, default=None), bonus=bonus)  # noqa: PLW2901 - the two are one
            found[budget.id] = budget
        if len(found) > MOST_ACCOUNTS:  # leaving one out would let a call bypass it
            raise BadRequest(
                f"{len(found)} budgets apply to this call, and at most {MOST_ACCOUNTS} may: send fewer tags"
            )
        return Budgets.of(tuple(found[id_] for id_ in sorted(found)), attempt)


def _id(scope: str, name: str, window: Window, some: str = "") -> str:
    zone = "" if window.zone == "UTC" or not (window.calendar or window.length) else f"@{window.zone}"
    id_ = f"{scope}:{name}:{window.name}{zone}"
    if 4 * (len(id_) + len(some)) > _ID_BYTES and len(id_.encode()) + len(some.encode()) > _ID_BYTES:
        return f"{id_}:{sha256(some.encode()).hexdigest()}"
    return id_ + some


def _fits(models: list[str], key: Key) -> bool:
    asked, upstream, model = key
    names = {name for name in (asked, model, f"{upstream}/{model}") if name is not None}
    return not models or any(_matches(wanted, name) for wanted in models for name in names)


def _matches(wanted: str, name: str) -> bool:
    prefix, star, suffix = wanted.partition("*")
    if not star:
        return name == wanted
    return len(name) >= len(prefix) + len(suffix) and name.startswith(prefix) and name.endswith(suffix)
