"""Deviations of vendors from the owner of the dialect they speak: words that rows declare and codecs act on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

WORDS = {
    # openai.chat: keys
    "max_completion_tokens": "takes that key; without it, max_tokens",
    "no_stream_options": "refuses stream_options; usage comes unasked",
    "random_seed": "the key of seed",
    "auto_tools": "tool_choice is auto or none: forcing a call is refused by name",
    "one_answer": "refuses n",
    "no_schema": "has no structured output: a JSON Schema for the answer is refused by name",
    # openai.chat: how hard to think
    "thinking_switch": "takes thinking: {type: enabled | disabled}",
    "enable_thinking": "takes enable_thinking and thinking_budget",
    "reasoning_object": "takes reasoning: {effort | max_tokens, exclude, enabled}",
    # openai.chat: messages
    "developer": "knows that role; without it, system",
    "custom_tools": "has tools of free text; without it, a function of one string stands for each",
    "cache_control": "takes Anthropic's marks",
    "ids9": "tool call ids are nine letters and digits",
    "thought_signature": "takes Google's in extra_content",
    "reasoning_content": "takes thoughts of earlier turns in that key",
    "reasoning": "takes thoughts of earlier turns in that key",
    "reasoning_details": "takes thoughts of earlier turns in that list, signatures and all",
    "thinking": "takes thoughts of earlier turns as parts of the content",
    "thoughts_required": "refuses turns that called tools without the key of their thoughts",
    # openai.chat: parts
    "video": "takes video_url",
    "file_url": "takes documents by address",
    "document_url": "takes documents as document_url",
    "wav_mp3": "refuses sounds of any other form",
    "bare_audio": "the value of input_audio is the base64 text",
    "no_image": "refuses images",
    "no_audio": "refuses sounds",
    "no_file": "refuses documents",
    # embeddings and rerank
    "output_dimension": "the key of dimensions",
    "input_type": "takes query and document in that key",
    "no_tokens": "refuses lists of token ids",
    "top_k": "the key of top_n",
    # anthropic.messages
    "no_urls": "images and documents come as bytes alone (openai.chat, too)",
    # gemini.generate
    "no_ids": "functionCall and functionResponse have no id",
}
PREFIXES = {
    "no:": "the knob of that canonical name is left out, by name",
    "effort:": "a word that reasoning_effort takes",
    "batch:": "texts of one request for embeddings",
    "batch_tokens:": "tokens of one request, as estimated",
    "rerank_batch:": "documents of one request",
    "num_ctx:": "tokens of the context window to ask for",
    "keep_alive:": "how long the model stays loaded",
}
_KNOWN = re.compile("|".join([*map(re.escape, WORDS), *(f"{prefix}.+" for prefix in PREFIXES)]))


def words(*given: str | Iterable[str]) -> frozenset[str]:
    """A set of quirks. Raises ``ValueError`` for one that no codec knows."""
    found: set[str] = set()
    for one in given:
        found.update([one] if isinstance(one, str) else one)
    if unknown := sorted(word for word in found if not _KNOWN.fullmatch(word)):
        raise ValueError(f"no codec knows {', '.join(unknown)}")
    return frozenset(found)


def efforts(*levels: str) -> frozenset[str]:
    """Quirks for the values that ``reasoning_effort`` accepts."""
    return frozenset(f"effort:{level}" for level in levels)


def without(*knobs: str) -> frozenset[str]:
    """Quirks for knobs to leave out."""
    return frozenset(f"no:{knob}" for knob in knobs)


def value(quirks: frozenset[str], prefix: str) -> str | None:
    """The value after a prefix such as ``num_ctx:``."""
    return next((word[len(prefix) :] for word in quirks if word.startswith(prefix)), None)


def found(models: Mapping[str, frozenset[str]], model: str) -> frozenset[str]:
    """The quirks of every pattern that matches in a model's name."""
    return frozenset().union(*(words for pattern, words in models.items() if re.search(pattern, model)))


OWN_SAMPLING = ("top_k", "min_p", "repetition_penalty")
"""Sampling knobs that only inference servers of open models have."""
# OpenAI's own, also where its models are served in the same way (Azure)
OPENAI_CHAT = words("max_completion_tokens", "developer", "wav_mp3", without(*OWN_SAMPLING))
OPENAI_MODELS = {r"gpt-[5-9]": words("custom_tools")}
