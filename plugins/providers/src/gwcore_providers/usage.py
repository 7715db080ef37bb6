"""Usage objects of the vendors → disjoint buckets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gwcore.usage import Usage


def count(document: Mapping[str, Any], *path: str) -> int:
    """The integer at ``path``, or 0."""
    value: Any = document
    for key in path:
        if not isinstance(value, Mapping):
            return 0
        value = value.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def openai_usage(usage: Mapping[str, Any]) -> Usage:
    """Chat, completions, embeddings, rerank and responses: cached is inside the input, reasoning inside the output."""
    total_in = count(usage, "prompt_tokens") or count(usage, "input_tokens")
    total_out = count(usage, "completion_tokens") or count(usage, "output_tokens")
    if not total_in and not total_out:
        total_in = count(usage, "total_tokens")
    cached = (
        count(usage, "prompt_tokens_details", "cached_tokens")
        or count(usage, "input_tokens_details", "cached_tokens")
        or count(usage, "prompt_cache_hit_tokens")
    )
    reasoning = count(usage, "completion_tokens_details", "reasoning_tokens") or count(
        usage, "output_tokens_details", "reasoning_tokens"
    )
    cached = min(cached, total_in)  # a vendor was recorded that reports more cached than there was
    # some vendors count reasoning beside the completion: then the total says so
    beside = count(usage, "total_tokens") == total_in + total_out + reasoning and reasoning > 0
    visible = total_out if beside or reasoning > total_out else total_out - reasoning
    return Usage(input=max(0, total_in - cached), cache_read=cached, output=visible, reasoning=reasoning)


def anthropic_usage(usage: Mapping[str, Any]) -> Usage:
    """Messages: cached tokens stand beside the input."""
    return Usage(
        input=count(usage, "input_tokens"),
        cache_read=count(usage, "cache_read_input_tokens"),
        cache_write_5m=count(usage, "cache_creation_input_tokens"),
        output=count(usage, "output_tokens"),
    )


def gemini_usage(usage: Mapping[str, Any]) -> Usage:
    """generateContent: cached is inside the prompt, thoughts stand beside the candidates."""
    cached = count(usage, "cachedContentTokenCount")
    prompt = count(usage, "promptTokenCount") + count(usage, "toolUsePromptTokenCount")
    return Usage(
        input=max(0, prompt - cached),
        cache_read=cached,
        output=count(usage, "candidatesTokenCount"),
        reasoning=count(usage, "thoughtsTokenCount"),
    )
