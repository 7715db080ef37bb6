"""What OpenAI's models accept, by family. Source: the vendor's model pages."""

from __future__ import annotations

import re
from functools import lru_cache

from gwcore.knobs import Knobs

_USUAL = ("low", "medium", "high")
# accepted reasoning efforts, weakest first; the first family that matches counts
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


@lru_cache(maxsize=1000)  # used by every call; bounded because clients choose the names
def accepted_efforts(model: str) -> tuple[str, ...] | None:
    """Reasoning efforts that an OpenAI model accepts: none if it does not reason; ``None`` for an unknown model."""
    return next((words for pattern, words in _EFFORTS if pattern.search(model)), None)


def reasons(model: str) -> bool:
    """Whether this is an OpenAI model that reasons and so accepts no sampling knobs; ``gpt-oss`` accepts them."""
    return bool(accepted_efforts(model)) and "gpt-oss" not in model


_RESPONSES: Knobs = {
    "max_tokens": (("max_output_tokens",),),
    "verbosity": (("text", "verbosity"),),
    **{name: ((name,),) for name in ("temperature", "top_p", "user", "service_tier")},
}
# these models accept no sampling parameters
_RESPONSES_REASONING: Knobs = {
    name: places for name, places in _RESPONSES.items() if name not in {"temperature", "top_p"}
}


def responses_knobs(model: str) -> Knobs:
    """Places of knobs in the Responses API: top-level members, except ``text``."""
    return _RESPONSES_REASONING if reasons(model) else _RESPONSES
