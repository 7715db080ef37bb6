"""Output limits of widely used models, which the price catalogue lacks.

Sources: the vendors' model pages, November 2026. The limit of a family not listed is unknown, never guessed; set it in
the stack file with ``upstreams.<name>.prices.<model>.max_output``.
"""

from __future__ import annotations

import re
from typing import Final

# searched in the catalogue's model id, in this order; 0: no known limit
_MOST: Final[tuple[tuple[re.Pattern[str], int], ...]] = tuple(
    (re.compile(pattern), tokens)
    for pattern, tokens in (
        (r"claude-(?:opus|sonnet)-(?:4[-.][6-9]|5)|claude-(?:fable|mythos)", 128_000),
        (r"claude-(?:opus|sonnet|haiku)-4[-.]5|claude-sonnet-4|claude-3[-.]7", 64_000),
        (r"claude-opus-4", 32_000),
        (r"claude-3[-.]5", 8_192),
        (r"claude-3", 4_096),
        (r"gpt-5(?:\.\d)?-chat", 16_384),
        (r"gpt-5", 128_000),
        (r"gpt-4\.1", 32_768),
        (r"gpt-4o-(?:mini-)?(?:audio|realtime|transcribe|tts|search)", 0),
        (r"gpt-4o", 16_384),
        (r"gpt-4-turbo|gpt-3\.5", 4_096),
        (r"(?:^|/)o[34]|(?:^|/)o1(?!-mini|-preview)", 100_000),
        (r"gemini-(?:2\.5|3).*(?:image|tts|live|audio|embed)", 0),
        (r"gemini-(?:2\.5|3)", 65_536),
        (r"gemini-2\.0", 8_192),
    )
)


def max_output(model: str) -> int | None:
    """Maximum output tokens of one answer, including reasoning; ``None`` if unknown."""
    return next((tokens or None for pattern, tokens in _MOST if pattern.search(model)), None)
