"""How hard a model is to think, in words and in tokens; and which words each of OpenAI's models takes."""

from __future__ import annotations

import re

from gwcore.chat import Thinking

SCALE = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# tokens ↔ effort, both ways: the middle of what vendors publish
_BUDGETS = ((1024, "minimal"), (2048, "low"), (8192, "medium"), (24576, "high"), (1 << 62, "xhigh"))
_USUAL = ("low", "medium", "high")
# what each family takes, weakest first; the first that matches counts. Source: OpenAI's model pages
_EFFORTS = tuple(
    (re.compile(rf"(?:^|[/.]){pattern}"), words)
    for pattern, words in (
        (r"(?:gpt-[34]|chatgpt|gpt-5(?:\.\d+)?-chat|o1-(?:mini|preview)|computer-use)", ()),
        (r"gpt-5-pro", ("high",)),
        (r"gpt-5(?:\.\d+)-pro", ("medium", "high", "xhigh")),
        (r"gpt-5-codex", _USUAL),
        (r"gpt-5(?!\.)", ("minimal", *_USUAL)),
        (r"gpt-5\.1-codex-max", (*_USUAL, "xhigh")),
        (r"gpt-5\.1-codex", _USUAL),
        (r"gpt-5\.1", ("none", *_USUAL)),
        (r"gpt-5\.\d+-codex", (*_USUAL, "xhigh")),
        (r"gpt-[5-9]", ("none", *_USUAL, "xhigh")),
        (r"(?:o\d|gpt-oss)", _USUAL),
    )
)


def effort_of(thinking: Thinking) -> str | None:
    """How hard to think, in words."""
    if thinking.effort is not None:
        return thinking.effort
    if thinking.mode == "off" or thinking.budget == 0:
        return "none"
    if thinking.budget is not None and thinking.budget > 0:
        return next(effort for limit, effort in _BUDGETS if thinking.budget <= limit)
    return None


def nearest(effort: str, allowed: tuple[str, ...]) -> str:
    """The allowed word next to ``effort`` on the scale; of two equally near, the stronger."""
    if effort in allowed or effort not in SCALE:
        return effort if effort in allowed else allowed[-1]
    at = SCALE.index(effort)
    return min(allowed, key=lambda word: (abs(SCALE.index(word) - at), -SCALE.index(word)))


def accepted_efforts(model: str) -> tuple[str, ...] | None:
    """What an OpenAI model takes: nothing if it does not reason; ``None`` for a model that nobody knows."""
    return next((words for pattern, words in _EFFORTS if pattern.search(model)), None)


def reasons(model: str) -> bool:
    """Whether it is an OpenAI model that reasons, and so takes no sampling knobs."""
    return bool(accepted_efforts(model)) and "gpt-oss" not in model
