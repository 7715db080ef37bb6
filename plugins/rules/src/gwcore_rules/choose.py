"""Which model a request gets: the rule's, or a cheaper one if the estimate exceeds the cap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gwcore.call import Call
from gwcore.errors import BadRequest, Forbidden, UnknownModel
from gwcore.estimate import BY_TOKENS, Estimator
from gwcore.knobs import said
from gwcore.models import Models
from gwcore.prices import Prices
from gwcore.provider import Target
from gwcore.units import DOLLAR
from gwcore.usage import Usage
from gwcore_rules.book import Compiled
from gwcore_rules.facts import Facts


class CostCapExceeded(BadRequest):
    """400: no model that this request may use is estimated within its cap; nothing was sent."""

    code = "cost_cap_exceeded"


@dataclass(slots=True)
class Candidate:
    """A model that a request could get.

    Attributes:
        tokens: estimated input and output.
        nano: their cost in nano-USD at the most expensive of its targets; ``None`` if unknown.
        unpriced: why unknown: a target without a price, or an operation that is not charged by tokens alone.
        room: whether the input is estimated to fit into the context window of one of its targets.
        excluded: why it was not chosen; empty if it was.
    """

    model: str
    targets: tuple[Target, ...]
    tokens: tuple[int, int] = (0, 0)
    nano: int | None = None
    unpriced: str = ""
    room: bool = True
    excluded: str = ""

    @property
    def about(self) -> str:
        """Its estimated cost as text."""
        return f"unpriced ({self.unpriced})" if self.nano is None else f"about {dollars(self.nano)}"


@dataclass(slots=True)
class Choice:
    """The chosen model, its candidates, and the reason.

    Attributes:
        rule: the one that decided, or ``None``.
        cap: limit of the estimated cost in nano-USD, or ``None``.
    """

    facts: Facts
    rule: Compiled | None
    model: str
    candidates: list[Candidate] = field(default_factory=list)
    cap: int | None = None
    reason: str = ""

    @property
    def chosen(self) -> Candidate | None:
        """The candidate of the chosen model, if candidates were estimated."""
        return next((one for one in self.candidates if one.model == self.model), None)


@dataclass(slots=True)
class Chooser:
    """Chooses models.

    Attributes:
        permits: whether the caller may use a model.
    """

    models: Models
    prices: Prices
    estimator: Estimator
    permits: Callable[[Call, str], bool]

    def choose(self, rule: Compiled | None, facts: Facts, *, priced: bool = False) -> Choice:
        """Choose the model for a request.

        Args:
            rule: the rule that applies, if any.
            facts: of the request.
            priced: estimate every candidate, even without a cap.

        Raises:
            UnknownModel: the requested name asks for a choice, and no rule applies.
            Forbidden: the caller may use none of the rule's models.
            CostCapExceeded: no estimate is within the cap, and it is the client's or the rule has ``over: refuse``.
        """
        call = facts.call
        asked = call.model or ""
        if rule is None and facts.auto:
            raise UnknownModel(f"no rule matches {f'the task {facts.task!r}' if facts.task else 'this request'}")
        names = [asked] if rule is None or not rule.rule.model else rule.rule.model
        choice = Choice(facts, rule, names[0], cap=_cap(rule, facts))
        if choice.cap is None and not priced and len(names) == 1:
            if names[0] != asked and not self.permits(call, names[0]):
                raise _forbidden(rule)
            return choice
        cheaper = rule.rule.cheaper if rule is not None and rule.rule.max_cost is not None else []
        names = list(dict.fromkeys(names))
        choice.candidates = [self._candidate(name, choice) for name in names]
        if priced or not self._settled(choice):
            choice.candidates += [self._candidate(name, choice) for name in cheaper if name not in names]
        self._within(choice, len(names))
        return choice

    @staticmethod
    def _settled(choice: Choice) -> bool:
        """Whether the first permitted candidate suffices, so that cheaper ones need no estimate."""
        first = next((one for one in choice.candidates if one.targets), None)
        return first is not None and first.room and (choice.cap is None or _fits(first, choice.cap))

    def sampling(self, choice: Choice) -> dict[str, Any]:
        """The rule's sampling defaults by name, as far as the client does not send them and the model accepts them."""
        call, rule = choice.facts.call, choice.rule
        if rule is None or not rule.sampling or call.document is None:
            return {}
        target = self.models.resolve(choice.model)[0]
        knobs = call.dialect.knobs(call.operation, call.document, target.model)
        found = {
            name: value
            for name, value in rule.sampling.items()
            if name in knobs and not said(call.document, knobs[name])
        }
        card = self.prices.card(target)
        if "max_tokens" in found and card is not None and card.max_output is not None:
            found["max_tokens"] = min(found["max_tokens"], card.max_output)
        return found

    def _within(self, choice: Choice, preferred: int) -> None:
        """Choose the first candidate that is permitted and has room; over the cap, the first cheaper one within it."""
        able = [one for one in choice.candidates if one.targets]
        if not any(one in able for one in choice.candidates[:preferred]):
            raise _forbidden(choice.rule)
        # an estimate may be wrong: if none seems to have room, exclude none for it
        able = [one for one in able if one.room] or able
        first, cap = able[0], choice.cap
        cheaper = [one for one in able[1:] if one in choice.candidates[preferred:]]
        chosen = first
        if cap is not None and _fits(first, cap):
            choice.reason = f"{first.about}, within the cap of {dollars(cap)}"
        elif cap is not None:
            fitting = next((one for one in cheaper if _fits(one, cap)), None)
            chosen = fitting or self._none_fits(choice, [first, *cheaper])
            over = f"{first.model} is {first.about}, over the cap of {dollars(cap)}"
            choice.reason = over if fitting else f"{over}, and so is every other; this is the cheapest"
        choice.model = chosen.model
        for one in choice.candidates:
            if one is chosen or one.excluded:
                continue
            if one not in able:
                one.excluded = f"about {one.tokens[0]} tokens have no room in its window"
            elif cap is not None and not _fits(one, cap):
                one.excluded = f"over the cap: {one.about}"
            else:
                one.excluded = f"{chosen.model} comes first"

    @staticmethod
    def _none_fits(choice: Choice, able: list[Candidate]) -> Candidate:
        """The cheapest; if no price is known, the first in the rule's ``cheaper``.

        Raises ``CostCapExceeded`` over the client's cap, or over any if the rule has ``over: refuse``.
        """
        rule, own = choice.rule, choice.facts.cap
        first, *others = able
        known = [one for one in able if one.nano is not None]
        found = min(known, key=lambda one: one.nano or 0, default=first)
        if found is first and others and all(one.nano is None for one in others):
            found = others[0]
        firm = own if rule is None or rule.rule.over == "cheapest" else choice.cap
        if firm is not None and not _fits(found, firm):
            told = ", ".join(f"{one.model} {one.about}" for one in able)
            raise CostCapExceeded(f"no model is estimated within {dollars(firm)}: {told}")
        return found

    def _candidate(self, name: str, choice: Choice) -> Candidate:
        facts, rule = choice.facts, choice.rule
        call = facts.call
        if name != call.model and not self.permits(call, name):
            return Candidate(name, (), excluded="the caller may not use it")
        one = Candidate(name, self.models.resolve(name))
        who = call.principal.id if call.principal is not None else None
        read, written = self.estimator.estimate(call, who, facts.size, model=name)
        if written and rule is not None and (limit := rule.sampling.get("max_tokens")) is not None:
            own, times = facts.ceiling
            written = min(written, limit * times) if own is None else written
        one.tokens = (read, written)
        cards = [self.prices.card(target) for target in one.targets]
        one.room = any(card is None or card.context_window is None or read <= card.context_window for card in cards)
        usage = Usage(input=read, output=written)
        if call.operation not in BY_TOKENS:
            one.unpriced = f"{call.operation} is not charged by tokens alone"
            return one
        for target, card in zip(one.targets, cards, strict=True):
            cost = card.charge(usage) if card is not None and card.prices else None
            if cost is None or cost.unpriced:
                one.nano, one.unpriced = None, str(target)
                break
            one.nano = max(one.nano or 0, cost.nano)
        return one


def _fits(one: Candidate, cap: int) -> bool:
    # without a price, it may exceed the cap
    return one.nano is not None and one.nano <= cap


def _cap(rule: Compiled | None, facts: Facts) -> int | None:
    caps = [cap for cap in (facts.cap, rule.rule.max_cost if rule is not None else None) if cap is not None]
    return min(caps, default=None)


def _forbidden(rule: Compiled | None) -> Forbidden:
    # names no models: the caller may not know them either
    return Forbidden(f"this credential may use no model of the rule {rule.rule.name if rule is not None else ''}")


def dollars(nano: int) -> str:
    """``$0.004200``: exact to the nano-dollar, without trailing zeros after the sixth decimal."""
    whole, rest = divmod(nano, DOLLAR)
    text = f"{rest:09d}"
    return f"${whole}.{text[:6]}{text[6:].rstrip('0')}"
