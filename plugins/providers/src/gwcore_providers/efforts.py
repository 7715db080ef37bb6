"""Reasoning effort: words and token budgets, and the nearest one that a model accepts."""

from __future__ import annotations

from gwcore.chat import Thinking

SCALE = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# words ↔ tokens: a compromise between the vendors' published values
_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 24_576, "xhigh": 32_768, "max": 64_000}


def effort_of(thinking: Thinking) -> str | None:
    """The effort as a word of :data:`SCALE`; ``None`` if the request leaves it to the model."""
    if thinking.effort is not None:
        return thinking.effort
    if thinking.mode == "off" or thinking.budget == 0:
        return "none"
    if thinking.budget is not None and thinking.budget > 0:
        budget = thinking.budget
        return next((effort for effort, limit in _BUDGETS.items() if budget <= limit), "max")
    return None


def budget_of(effort: str) -> int:
    """The effort in tokens; an unknown word counts as ``medium``."""
    return 0 if effort == "none" else _BUDGETS.get(effort, _BUDGETS["medium"])


def nearest(effort: str, allowed: tuple[str, ...]) -> str:
    """The allowed word closest to ``effort`` on the scale; of two equally close, the stronger."""
    if effort in allowed:
        return effort
    at = SCALE.index(effort) if effort in SCALE else SCALE.index("medium")
    return min(allowed, key=lambda word: (abs(SCALE.index(word) - at), -SCALE.index(word)))
