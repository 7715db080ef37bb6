"""The rules in force: read, checked against the stack, compiled. A book is immutable; a change creates a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from gwcore.dialect import Dialect
from gwcore.errors import BadConfig, UnknownModel
from gwcore.models import Models
from gwcore.stackfile import Explainer, Loc, StackErrors, load
from gwcore.units import suggest
from gwcore_rules.conditions import Check, compiled
from gwcore_rules.config import Rule, RuleFile
from gwcore_rules.facts import Facts


@dataclass(slots=True, frozen=True)
class Compiled:
    """A compiled rule. ``sampling`` has its sampling defaults by canonical name."""

    rule: Rule
    checks: tuple[Check, ...]
    sampling: dict[str, Any]

    def fits(self, facts: Facts) -> bool:
        """Whether it applies to this request. One without a model does not if the requested name asks for a choice."""
        for check in self.checks:
            if not check.holds(facts):
                return False
        return bool(self.rule.model) or not facts.auto


@dataclass(slots=True, frozen=True)
class Book:
    """Rules in order.

    Attributes:
        digest: of the rule file's text, so equal on all workers that have read the same file; else empty.
        models: all model names in the rules.
    """

    rules: tuple[Compiled, ...] = ()
    digest: str = ""
    models: frozenset[str] = field(default=frozenset(), repr=False)

    def first(self, facts: Facts) -> Compiled | None:
        """The rule that decides; ``None`` if none applies."""
        for rule in self.rules:
            if rule.fits(facts):
                return rule
        return None

    def tasks(self) -> dict[str, list[str]]:
        """Every task that a rule names without ``*`` → the models of the first such rule that has any."""
        found: dict[str, list[str]] = {}
        for one in self.rules:
            for task in one.rule.when.task:
                if one.rule.model and "*" not in task:
                    found.setdefault(task, [*one.rule.model, *one.rule.cheaper])
        return found


def bound(rules: RuleFile, digest: str = "") -> Book:
    """Compile valid rules."""
    zone = ZoneInfo(rules.timezone)
    made = tuple(
        Compiled(rule, compiled(rule.when, zone), rule.sampling.model_dump(exclude_none=True)) for rule in rules.rules
    )
    named = frozenset(name for one in rules.rules for name in (*one.model, *one.cheaper))
    return Book(made, digest, named)


def read(path: str, models: Models, dialects: Mapping[str, Dialect]) -> Book:
    """Read the book of a rule file.

    Raises:
        StackErrors: with every problem, each with its place and fix.
    """
    source = load(path)
    problems = list(source.problems)
    rules = None
    if not problems:
        data = {} if source.data is None else source.data
        try:
            rules = RuleFile.model_validate(data)
        except ValidationError as error:
            problems = Explainer(source, (), RuleFile, data).explain(error)
    if rules is not None:
        problems = [source.problem(*found) for found in unknown(rules, models, dialects)]
    if rules is None or problems:
        raise StackErrors(problems)
    return bound(rules, sha256(source.text.encode()).hexdigest()[:12])


def inline(rules: RuleFile, models: Models, dialects: Mapping[str, Dialect]) -> Book:
    """The book of rules in the stack file. Raises ``BadConfig``."""
    found = [f"{'.'.join(map(str, loc))} {message}; {mend}" for loc, message, mend in unknown(rules, models, dialects)]
    if found:
        raise BadConfig("rules: " + "\n".join(found))
    return bound(rules)


def unknown(rules: RuleFile, models: Models, dialects: Mapping[str, Dialect]) -> list[tuple[Loc, str, str]]:
    """Models, dialects and operations that this stack does not have: place, problem, fix."""
    spoken = list(dialects)
    operations = sorted(
        {route.operation for dialect in dialects.values() for route in dialect.routes if not route.local}
    )
    found: list[tuple[Loc, str, str]] = []
    for at, rule in enumerate(rules.rules):
        for key, names in (("model", rule.model), ("cheaper", rule.cheaper)):
            for place, name in enumerate(names):
                try:
                    models.resolve(name)
                except UnknownModel as error:
                    mend = suggest(name, models.known(), "name one of models, or upstream/model")
                    found.append((("rules", at, key, place), error.message.partition(";")[0], mend))
        for key, words, known in (
            ("dialects", rule.when.dialects, spoken),
            ("operations", rule.when.operations, operations),
        ):
            for place, word in enumerate(words):
                if "*" not in word and known and word not in known:
                    mend = suggest(word, known, f"known here: {', '.join(known)}")
                    found.append((("rules", at, "when", key, place), f"{word} is not known", mend))
    return found
