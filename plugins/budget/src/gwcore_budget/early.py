"""Shrinks holds early: if a stream reports its input at the start, only that and the longest answer stay held.

Until then every byte of the request is held as a token at the highest price that may apply to input.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import structlog

from gwcore.call import Attempt
from gwcore.prices import MILLION, PriceCard
from gwcore.usage import IN, REQUEST, Usage
from gwcore_budget.bound import Bound, Scale, scaled, sent
from gwcore_budget.ledger.ledger import Ledger
from gwcore_budget.ledger.ops import Hold

_log = structlog.get_logger("gwcore.budget")
EVERY = 0.5
"""Seconds between two checks, and the minimum age of a stream to be checked."""
_PLAIN = frozenset({
    "model", "messages", "system", "contents", "systemInstruction", "system_instruction", "stream", "stream_options",
    "metadata", "user", "thinking", "max_tokens", "max_completion_tokens", "generationConfig", "generation_config", "n",
    "temperature", "top_p", "top_k", "seed", "stop", "stop_sequences", "presence_penalty", "frequency_penalty",
    "reasoning_effort", "response_format", "safetySettings", "safety_settings", "tools", "tool_choice", "toolConfig",
    "tool_config", "parallel_tool_calls",
})  # fmt: skip
"""Members of a request that cause no further input after the start of the answer. A missing one costs a larger hold; a wrong
one costs money."""
_DECLARED = frozenset({"functionDeclarations", "function_declarations"})
_MEDIA = ("audio", "image", "inline", "file", "\\u00")


class Streams:
    """Running streams whose holds may shrink.

    Attributes:
        under: by the id of the hold.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self.under: dict[str, tuple[Hold, Attempt, Bound, Scale]] = {}
        self._counts = counts

    async def looking(self, ledger: Ledger) -> None:
        """Check the streams until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                self.look(ledger)
            except Exception as error:  # one stream must not end the loop
                _log.error("a stream's hold could not be lowered", error=type(error).__name__)

    def look(self, ledger: Ledger) -> None:
        """Shrink, once, the hold of each stream whose upstream has reported its input."""
        before = time.monotonic() - EVERY
        for hold, attempt, terms, scale in list(self.under.values()):
            meter = attempt.meter
            if hold.began > before or meter is None or not meter.heard:
                continue
            usage = meter.usage
            if usage is None or not usage.total_in:
                continue
            del self.under[hold.id]
            fixed = _read(attempt, usage) if exact(attempt) else None
            if fixed is not None:
                amount = scaled(-(-(fixed + terms.per_token * terms.tokens) // MILLION), scale)
                self._counts["tightened"] += ledger.shrink(hold, amount)


def exact(attempt: Attempt) -> bool:
    """Whether the input reported at the start is complete: nothing is read later, as by vendors' own tools."""
    document: dict[str, Any] = {**(attempt.call.document or {}), **(attempt.fields or {})}
    tools = document.get("tools") or []
    return (
        attempt.call.operation == "chat"
        and _PLAIN.issuperset(document)
        and isinstance(tools, list)
        and all(isinstance(tool, dict) and _clients_own(tool) for tool in tools)
    )


def _clients_own(tool: Mapping[str, object]) -> bool:
    """Whether it is a function that the client itself runs after the answer."""
    if "input_schema" in tool:
        return tool.get("type", "custom") == "custom"
    return tool.get("type") == "function" or (bool(tool) and _DECLARED.issuperset(tool))


def _read(attempt: Attempt, usage: Usage) -> int | None:
    """Millionths of a nano-USD for the input, each bucket at the highest price for that length; ``None`` if not bounded by it."""
    card: PriceCard | None = attempt.card
    # an upstream that reports its own cost, or fees, bills more than tokens, such as unrequested searches
    if card is None or usage.reported is not None or usage.mismatch or usage.fees:
        return None
    prices = dict(card.dearest(usage.total_in))
    _, text = sent(attempt.call)
    if "input" in prices and any(mark in text for mark in _MEDIA):
        # the kinds of tokens may be reported only at the end
        prices["input"] = max(prices.get(name, 0) for name in ("input", "audio_in", "image_in"))
    total = prices.get(REQUEST, 0)
    for bucket in IN:
        if count := getattr(usage, bucket):
            if bucket not in prices:
                return None
            total += count * prices[bucket]
    return total
