"""Usage objects of the vendors → disjoint buckets.

Sources: each vendor's API reference, and recorded replies where they differ from it. Amounts of money in a reply are
read as decimal numbers, never computed as binary fractions of a dollar.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any, Final

from gwcore.units import DOLLAR
from gwcore.usage import NO_FEES, Usage

Document = Mapping[str, Any]
_EMPTY: Final[Document] = {}

_NAME = re.compile(r"[a-z0-9_.\-]{1,40}")
# vendors' names for the tier of a request that did not choose one
_STANDARD = frozenset({"", "default", "auto", "standard", "standard_only", "on_demand", "unspecified"})


MOST = 10**9
"""Limit of tokens, characters or seconds per answer: excludes a -1 written as unsigned, too large for the ledger."""


def number(document: Document, *names: str) -> int:
    """The first of these keys with a count above 0, rounded up; else 0. Counts above :data:`MOST` are ignored."""
    for name in names:
        value: Any = document.get(name)
        if value and (type(value) is int or type(value) is float) and 0 < value <= MOST:
            return value if type(value) is int else math.ceil(value)
    return 0


def part(document: Document, *names: str) -> Document:
    """The first of these keys whose value is an object; else an empty one."""
    for name in names:
        value = document.get(name)
        if isinstance(value, dict):
            return value
    return _EMPTY


def tier(value: Any) -> str | None:
    """A service tier as a reply states it; ``None`` for the vendor's standard tier, ``unknown`` if it is not a name."""
    if value is None:
        return None
    name = value.lower() if isinstance(value, str) else ""
    if name in _STANDARD:
        return None
    return name if _NAME.fullmatch(name) else "unknown"


def counted(fees: Mapping[str, int]) -> Mapping[str, int]:
    """The fees with a count above 0."""
    used = {name: count for name, count in fees.items() if count}
    return used or NO_FEES


def nano(value: Any) -> int | None:
    """Nano-USD of a JSON number of dollars, rounded up; ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        dollars = Decimal(str(value))
    except InvalidOperation:
        return None
    if not dollars.is_finite() or dollars < 0:
        return None
    return int((dollars * DOLLAR).to_integral_value(ROUND_CEILING))


def _split(total: int, *parts: int) -> list[int]:
    """Cap each of ``parts``, in order, to what is left of ``total``; the final remainder comes first."""
    kept = []
    for one in parts:
        kept.append(min(one, total))
        total -= kept[-1]
    return [total, *kept]


# ── OpenAI and compatible vendors ────────────────────────────────────────────────────────────────────────────────────


_DETAILS = frozenset(
    {"prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details"}
)
_OF_CHAT = ("prompt_tokens", "completion_tokens", "total_tokens")
_OF_RESPONSES = ("input_tokens", "output_tokens", "total_tokens")
_TOKENS = _DETAILS | {*_OF_CHAT, *_OF_RESPONSES}


def openai_usage(usage: Document, service_tier: Any = None, fees: Mapping[str, int] | None = None) -> Usage:
    """Usage of chat, completions, embeddings, rerank, images, audio and responses, of OpenAI and compatible vendors.

    The input includes cached and written tokens, the output includes reasoning; vendors that count reasoning separately
    are detected by their total. A total above the sum of the parts is output that is not itemised (hidden reasoning).

    Args:
        usage: the usage object.
        service_tier: as the reply states it.
        fees: what the caller counted elsewhere.
    """
    found = None if fees else _plain(usage)
    if found is not None:
        found.service_tier = tier(service_tier)
        return found
    inputs = part(usage, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    outputs = part(usage, "completion_tokens_details", "output_tokens_details", "output_token_details")
    reasoning = number(outputs, "reasoning_tokens") or number(usage, "reasoning_tokens")
    total_in, all_out, reasoning, left = _openai_totals(usage, reasoning)
    cached = number(inputs, "cached_tokens") or number(
        usage, "prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens"
    )
    written = number(inputs, "cache_write_tokens") or number(usage, "cache_creation_input_tokens")
    mismatch = left != 0 or cached + written > total_in or reasoning > all_out
    cached_parts = part(inputs, "cached_tokens_details")
    audio_cached, image_cached = number(cached_parts, "audio_tokens"), number(cached_parts, "image_tokens")
    audio_in = max(0, number(inputs, "audio_tokens") - audio_cached)
    image_in = max(0, number(inputs, "image_tokens") - image_cached)
    text_in, cached, written, audio_in, image_in = _split(total_in, cached, written, audio_in, image_in)
    cache_read, audio_cached, image_cached = _split(cached, audio_cached, image_cached)
    written_5m, written_1h = _split(written, number(part(usage, "cache_creation"), "ephemeral_1h_input_tokens"))
    audio_out, image_out = number(outputs, "audio_tokens"), number(outputs, "image_tokens")
    text_out, reasoning, audio_out, image_out = _split(all_out, reasoning, audio_out, image_out)
    more = not _TOKENS.issuperset(usage)  # it reports more than tokens
    # at Mistral only the total counts audio and text added by moderation; elsewhere the difference is hidden reasoning
    hidden_in, hidden_out = (max(0, left), 0) if "prompt_audio_seconds" in usage else (0, max(0, left))
    return Usage(
        input=text_in + hidden_in,
        cache_read=cache_read,
        cache_write_5m=written_5m,
        cache_write_1h=written_1h,
        output=text_out,
        reasoning=reasoning + hidden_out,
        audio_in=audio_in,
        audio_out=audio_out,
        image_in=image_in,
        image_out=image_out,
        audio_cache_read=audio_cached,
        image_cache_read=image_cached,
        fees=counted({**(openai_fees(usage) if more else {}), **(fees or {})}),
        service_tier=tier(service_tier),
        reported=reported(usage) if more else None,
        mismatch=mismatch,
    )


def _plain(usage: Document) -> Usage | None:
    """Fast path for most answers: totals that add up, and all details zero. ``None`` for any other."""
    into, out, total = names = _OF_CHAT if "prompt_tokens" in usage else _OF_RESPONSES
    read, written = usage.get(into), usage.get(out, 0)
    if type(read) is not int or type(written) is not int or read < 0 or written < 0:
        return None
    if usage.get(total) != read + written or read + written > MOST:
        return None
    for name in usage.keys() - names:
        value = usage[name]
        if name not in _DETAILS or not isinstance(value, dict) or any(value.values()):
            return None
    found = Usage(read)
    found.output = written
    return found


def _openai_totals(usage: Document, reasoning: int) -> tuple[int, int, int, int]:
    """All input, all output with reasoning, reasoning, and the vendor's total minus input and output."""
    total_in = number(usage, "prompt_tokens", "input_tokens")
    total_out = number(usage, "completion_tokens", "output_tokens")
    total = number(usage, "total_tokens")
    if "citation_tokens" in usage:  # Perplexity's deep research: neither output nor total includes reasoning
        return total_in, total_out + reasoning, reasoning, 0
    if not total_in and not total_out:
        return total, 0, 0, 0
    beside = total == total_in + total_out + reasoning if total else reasoning > total_out
    all_out = total_out + reasoning if beside else total_out
    return total_in, all_out, reasoning, total - total_in - all_out if total else 0


def openai_fees(usage: Document) -> dict[str, int]:
    """Billable units other than tokens in a usage object."""
    tools = part(usage, "server_tool_use_details", "server_side_tool_usage_details", "server_tool_use")
    seconds = number(usage, "prompt_audio_seconds")
    if not seconds and usage.get("type") == "duration":
        seconds = number(usage, "seconds")
    return {
        "web_search": number(tools, "web_search_requests", "web_search_calls") or number(usage, "num_search_queries"),
        "social_search": number(tools, "x_search_calls"),
        "code_execution": number(tools, "code_interpreter_calls"),
        "file_search": number(tools, "file_search_calls") + number(tools, "document_search_calls"),
        "image": number(tools, "image_generation_calls"),
        "citation": number(usage, "citation_tokens"),
        "audio_seconds": seconds,
    }


def reported(usage: Document) -> int | None:
    """The vendor's own figure in nano-USD: OpenRouter, Vercel, Perplexity (``cost``), xAI (ticks of 1e-10 USD)."""
    ticks = usage.get("cost_in_usd_ticks")
    if isinstance(ticks, int) and ticks > 0 and ticks is not True:  # resellers of xAI's models send 0
        return -(-ticks // 10)
    cost = usage.get("cost")
    if isinstance(cost, dict):
        return nano(cost.get("total_cost"))
    found = nano(cost)
    if found is not None and usage.get("is_byok") is True:
        # with the client's own key ``cost`` is the broker's fee; the vendor bills the rest
        found += nano(part(usage, "cost_details").get("upstream_inference_cost")) or 0
    return found


_CALLS = {"file_search_call": "file_search", "image_generation_call": "image", "x_search_call": "social_search"}


def output_fees(output: Any) -> dict[str, int]:
    """Server tools used, counted in a Responses reply's ``output``; its usage object does not count them."""
    fees: dict[str, int] = {}
    containers = set()
    for item in output if isinstance(output, list) else ():
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "web_search_call":
            # opening a page or searching in it is not another search
            if part(item, "action").get("type") in {None, "search"}:
                fees["web_search"] = fees.get("web_search", 0) + 1
        elif kind == "code_interpreter_call":
            containers.add(item.get("container_id"))
        elif kind in _CALLS:
            fees[_CALLS[kind]] = fees.get(_CALLS[kind], 0) + 1
    if containers:
        fees["code_execution"] = len(containers)
    return fees


# ── others ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def anthropic_usage(usage: Document) -> Usage:
    """Usage of Messages: the input excludes cached tokens, the output includes thinking.

    ``iterations`` lists usage that the top level omits: a compaction of the context, or another model's advice.
    """
    rounds = usage.get("iterations")
    others = (
        [i for i in rounds if isinstance(i, dict) and i.get("type") != "message"] if isinstance(rounds, list) else []
    )
    found = _anthropic_part(usage)
    for other in others:
        more = _anthropic_part(other)
        found.input += more.input
        found.cache_read += more.cache_read
        found.cache_write_5m += more.cache_write_5m
        found.cache_write_1h += more.cache_write_1h
        found.output += more.output
        found.reasoning += more.reasoning
        # advice comes from another model, at that model's price
        found.mismatch |= more.mismatch or other.get("type") != "compaction"
    tools = part(usage, "server_tool_use")
    if tools:
        # fetching pages is free
        searches, runs = number(tools, "web_search_requests"), number(tools, "code_execution_requests")
        found.fees = counted({"web_search": searches, "code_execution": runs})
    special = [
        tier(usage.get("service_tier")),
        tier(usage.get("speed")),
        "us" if usage.get("inference_geo") == "us" else None,
    ]
    found.service_tier = "+".join(name for name in special if name) or None
    return found


def _anthropic_part(usage: Document) -> Usage:
    by_life = part(usage, "cache_creation")
    written, hour = number(usage, "cache_creation_input_tokens"), number(by_life, "ephemeral_1h_input_tokens")
    minutes = number(by_life, "ephemeral_5m_input_tokens")
    out = number(usage, "output_tokens")
    thinking = min(number(part(usage, "output_tokens_details"), "thinking_tokens"), out)
    return Usage(
        input=number(usage, "input_tokens"),
        cache_read=number(usage, "cache_read_input_tokens"),
        cache_write_5m=max(written - hour, minutes),
        cache_write_1h=hour,
        output=out - thinking,
        reasoning=thinking,
        mismatch=bool(by_life) and written != minutes + hour,
    )


def gemini_usage(usage: Document, searches: int = 0) -> Usage:
    """Usage of generateContent: the prompt includes cached tokens; thoughts and tool input are counted separately.

    Args:
        usage: ``usageMetadata``.
        searches: billable Google searches of the reply.
    """
    cached = number(usage, "cachedContentTokenCount")
    prompt, tools = number(usage, "promptTokenCount"), number(usage, "toolUsePromptTokenCount")
    out, thoughts = number(usage, "candidatesTokenCount"), number(usage, "thoughtsTokenCount")
    total = number(usage, "totalTokenCount")
    left = total - prompt - tools - out - thoughts if total and (out or thoughts) else 0
    mismatch = left != 0 or cached > prompt + tools
    if left > 0 and not prompt:  # the prompt was not itemised
        prompt, left = left, 0
    ins = [
        *_details(usage, "promptTokensDetails", "promptTokenDetails"),
        *_details(usage, "toolUsePromptTokensDetails"),
    ]
    stored, outs = _details(usage, "cacheTokensDetails"), _details(usage, "candidatesTokensDetails")
    audio_cached, image_cached = _modality(stored, "AUDIO"), _modality(stored, "IMAGE", "DOCUMENT")
    text_in, in_cache, audio_in, image_in = _split(
        prompt + tools,
        cached,
        max(0, _modality(ins, "AUDIO") - audio_cached),
        max(0, _modality(ins, "IMAGE", "DOCUMENT") - image_cached),
    )
    cache_read, audio_cached, image_cached = _split(in_cache, audio_cached, image_cached)
    text_out, audio_out, image_out = _split(out, _modality(outs, "AUDIO"), _modality(outs, "IMAGE"))
    return Usage(
        input=text_in,
        cache_read=cache_read,
        output=text_out,
        reasoning=thoughts + max(0, left),
        audio_in=audio_in,
        audio_out=audio_out,
        image_in=image_in,
        image_out=image_out,
        audio_cache_read=audio_cached,
        image_cache_read=image_cached,
        fees=counted({"web_search": searches}),
        service_tier=tier(usage.get("serviceTier")),
        mismatch=mismatch,
    )


def _details(usage: Document, *names: str) -> Sequence[Document]:
    for name in names:
        listed = usage.get(name)
        if isinstance(listed, list):
            return [one for one in listed if isinstance(one, dict)]
    return ()


def _modality(details: Iterable[Document], *modalities: str) -> int:
    return sum(number(one, "tokenCount") for one in details if one.get("modality") in modalities)


def bedrock_usage(usage: Document, service_tier: Any = None) -> Usage:
    """Usage of Converse: the input excludes cached tokens."""
    read, written = number(usage, "cacheReadInputTokens"), number(usage, "cacheWriteInputTokens")
    hour = sum(number(one, "inputTokens") for one in _details(usage, "cacheDetails") if one.get("ttl") == "1h")
    found = Usage(
        input=number(usage, "inputTokens"),
        cache_read=read,
        cache_write_5m=max(0, written - hour),
        cache_write_1h=hour,
        output=number(usage, "outputTokens"),
        service_tier=tier(service_tier),
    )
    total = number(usage, "totalTokens")
    # some models' total excludes cached tokens
    found.mismatch = hour > written or (total > 0 and total not in {found.total, found.total - read - written})
    return found


def cohere_usage(usage: Document) -> Usage:
    """Usage in Cohere's ``usage`` (chat) and ``meta`` (embed, rerank): billed units, fewer than what it processed."""
    billed = part(usage, "billed_units")
    counts = billed or part(usage, "tokens")
    return Usage(
        input=number(counts, "input_tokens"),
        output=number(counts, "output_tokens"),
        image_in=number(counts, "image_tokens"),
        fees=counted({"rerank": number(billed, "search_units"), "image": number(billed, "images")}),
    )


def ollama_usage(document: Document) -> Usage:
    """Usage of Ollama's own API: the counts are at the top level of the reply."""
    return Usage(input=number(document, "prompt_eval_count"), output=number(document, "eval_count"))
