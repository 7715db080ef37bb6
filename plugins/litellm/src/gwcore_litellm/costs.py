"""Converts LiteLLM's prices, per token, to those of a stack file, per million."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from gwcore_litellm.findings import Status
from gwcore_litellm.source import Section

_TOKENS: Final = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write_5m",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_in",
    "output_cost_per_audio_token": "audio_out",
}
_FEES: Final = {
    "input_cost_per_request": "request",
    "output_cost_per_image": "image",
}
_LIMITS: Final = {"max_input_tokens": "context_window", "max_output_tokens": "max_output"}
_ABOVE: Final = (128, 200)


def prices(params: Section, info: Section) -> dict[str, Any] | str:
    """The value of ``upstreams.<name>.prices.<model>`` for a deployment; empty if the catalogue's prices apply."""
    found: dict[str, Any] = {}
    base = info.take("base_model", "prices.base_model") or params.take("base_model", "prices.base_model")
    if isinstance(base, str):
        found["base_model"] = base.rpartition("/")[2]
    for part in (params, info):
        for theirs, ours in _TOKENS.items():
            cost = _cost(part, theirs, f"prices.{ours}")
            if cost is not None:
                found.setdefault(ours, cost)
        for theirs, ours in _FEES.items():
            cost = part.number(theirs, f"prices.fees.{ours}")
            if cost is not None:
                found.setdefault("fees", {})[ours] = f"{dollars(cost)}/1"
        _tiers(part, found)
    for theirs, ours in _LIMITS.items():
        most = info.number(theirs, f"prices.{ours}")
        if most:
            found[ours] = int(most)
    free = {"input": "$0/M", "output": "$0/M"}
    return "free" if found == free else found


def _tiers(part: Section, found: dict[str, Any]) -> None:
    for thousand in _ABOVE:
        tier: dict[str, Any] = {}
        for theirs, ours in _TOKENS.items():
            cost = _cost(part, f"{theirs}_above_{thousand}k_tokens", f"prices.tiers, above {thousand}000")
            if cost is not None:
                tier[ours] = cost
        if tier:
            found.setdefault("tiers", []).append({"above": thousand * 1000, **tier})


def _cost(part: Section, key: str, said: str) -> str | None:
    cost = part.number(key, said)
    if isinstance(cost, str):
        part.say(Status.MANUAL, key, f"{said} is per million tokens, such as $2.50/M: a reference cannot be reckoned")
        return None
    return None if cost is None else f"${_plain(Decimal(str(cost)) * 1_000_000)}/M"


def _plain(number: Decimal) -> str:
    text = f"{number.normalize():f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def dollars(amount: Any) -> str:
    """An amount of money as a stack file writes it."""
    return amount if isinstance(amount, str) else f"${_plain(Decimal(str(amount)))}"


def limited(section: Section, limit: str, window: str | None, **about: Any) -> dict[str, Any] | None:
    """A rule of ``budget`` from two keys, its limit and its window; ``about``: its scope. ``None`` without a limit."""
    money = section.number(limit, f"budget.rules: per {about['per']}")
    time = section.text(window, "the window of that rule") if window else None
    return None if money is None else {**about, "limit": dollars(money), "window": time or "total"}
