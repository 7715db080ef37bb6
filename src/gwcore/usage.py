"""Tokens in disjoint buckets. Prices and money build on them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Usage:
    """What one attempt consumed, in tokens. Every token stands in exactly one bucket.

    Vendors differ: OpenAI and Gemini count cached tokens inside the prompt, Anthropic beside it; OpenAI counts
    reasoning inside the completion, Gemini beside it. Readers normalise to these buckets.
    """

    input: int = 0
    """Uncached input."""
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    """Visible output."""
    reasoning: int = 0

    @property
    def total(self) -> int:
        """The sum of all buckets."""
        return self.input + self.cache_read + self.cache_write + self.output + self.reasoning
