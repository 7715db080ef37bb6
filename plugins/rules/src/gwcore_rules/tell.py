"""Output of a choice: for ``gwcore explain``, and as the answer of ``POST /estimate``."""

from __future__ import annotations

from typing import Any

import orjson

from gwcore.knobs import said
from gwcore.units import exact_usd
from gwcore_rules.choose import Candidate, Choice, Chooser


def reason(choice: Choice) -> str:
    """Why this model was chosen, in one sentence."""
    if choice.rule is None:
        return choice.reason or "as asked: no rule is for this request"
    named = "as asked" if not choice.rule.rule.model else f"rule {choice.rule.rule.name}"
    return f"{named}: {choice.reason}" if choice.reason else f"{named}"


def lines(choice: Choice) -> list[str]:
    """The choice as lines of text, for ``gwcore explain``."""
    told = [f"  {choice.model}: {reason(choice)}"]
    for one in choice.candidates:
        what = "chosen" if one.model == choice.model else f"not chosen: {one.excluded}"
        told.append(f"  {one.model}  {one.about}  {what}" if one.targets else f"  {one.model}  {what}")
    return told


def _usd(nano: int | None) -> Any:
    """An exact JSON number."""
    if nano is None:
        return None
    return orjson.Fragment(exact_usd(nano).encode())


def estimated(choice: Choice, chooser: Chooser) -> dict[str, Any]:
    """The answer of ``POST /estimate``. Omits models that the caller may not use."""
    chosen = choice.chosen
    assert chosen is not None
    call = choice.facts.call
    defaults = chooser.sampling(choice)
    knobs = call.dialect.knobs(call.operation, call.document or {}, chosen.targets[0].model)

    def effective(name: str) -> Any:
        return next(iter(said(call.document or {}, knobs.get(name, ()))), defaults.get(name))

    return {
        "model": choice.model,
        "temperature": effective("temperature"),
        "max_tokens": effective("max_tokens"),
        "estimated_cost_usd": _usd(chosen.nano),
        "reason": reason(choice),
        "rule": choice.rule.rule.name if choice.rule is not None else None,
        "task": choice.facts.task or None,
        "input_tokens": chosen.tokens[0],
        "output_tokens": chosen.tokens[1],
        "max_cost_usd": _usd(choice.cap),
        "sampling": defaults,
        "candidates": [_candidate(one, choice, chooser) for one in choice.candidates if one.targets],
    }


def _candidate(one: Candidate, choice: Choice, chooser: Chooser) -> dict[str, Any]:
    cards = [chooser.prices.card(target) for target in one.targets]
    windows = [card.context_window for card in cards if card is not None and card.context_window is not None]
    able = [card.capabilities for card in cards if card is not None]
    return {
        "model": one.model,
        "chosen": one.model == choice.model,
        "excluded": None if one.model == choice.model else one.excluded,
        "estimated_cost_usd": _usd(one.nano),
        "unpriced": one.unpriced or None,
        "input_tokens": one.tokens[0],
        "output_tokens": one.tokens[1],
        "context_window": min(windows, default=None),
        "capabilities": sorted(frozenset.intersection(*able)) if able else [],
        "targets": [str(target) for target in one.targets],
    }
