"""Limits, capabilities and prices in model lists."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from gwcore.dialect import Deployment, ModelInfo
from gwcore.prices import MILLION, PriceCard
from gwcore.units import DOLLAR

# our bucket or fee → LiteLLM's key in model_info; dollars per unit
_LITELLM = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write_5m": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
    "reasoning": "output_cost_per_reasoning_token",
    "audio_in": "input_cost_per_audio_token",
    "audio_out": "output_cost_per_audio_token",
    "audio_seconds": "input_cost_per_second",
    "characters": "input_cost_per_character",
    "image": "output_cost_per_image",
    "rerank": "input_cost_per_query",
}
_SUPPORTS = {
    "vision": "supports_vision",
    "tools": "supports_function_calling",
    "reasoning": "supports_reasoning",
    "prompt_caching": "supports_prompt_caching",
    "audio_input": "supports_audio_input",
    "audio_output": "supports_audio_output",
    "web_search": "supports_web_search",
}


def dollars(price: int) -> str:
    """Nano-USD per million units → dollars per unit, as an exact decimal."""
    return f"{(Decimal(price) / (DOLLAR * MILLION)).normalize():f}"


def limits(card: PriceCard | None, most_in: str, most_out: str) -> dict[str, int]:
    """The known limits, under a dialect's own keys."""
    found = {most_in: card.context_window, most_out: card.max_output} if card else {}
    return {key: value for key, value in found.items() if value is not None}


def described(card: PriceCard | None) -> dict[str, Any]:
    """Further keys of an entry of ``GET /v1/models``; prices in dollars per unit, as strings to stay exact."""
    if card is None:
        return {"pricing": None}
    return {
        **limits(card, "context_window", "max_output_tokens"),
        "capabilities": sorted(card.capabilities),
        "pricing": {name: dollars(steps[0][1]) for name, steps in card.prices.items()} or None,
        "pricing_source": f"{card.source} {card.version}".strip(),
    }


def model_info(models: Sequence[ModelInfo]) -> list[dict[str, Any]]:
    """``data`` of LiteLLM's ``GET /model/info``: one entry per deployment behind a name."""
    return [_entry(model.id, deployment) for model in models for deployment in model.deployments]


def model_groups(models: Sequence[ModelInfo]) -> list[dict[str, Any]]:
    """``data`` of LiteLLM's ``GET /model_group/info``: one entry per name, limits and prices of its first deployment."""
    return [
        {
            "model_group": model.id,
            "providers": sorted({deployment.provider for deployment in model.deployments}),
            "mode": None,
            **dict.fromkeys(("max_input_tokens", "max_output_tokens", "input_cost_per_token", "output_cost_per_token")),
            **dict.fromkeys(
                _SUPPORTS.values()
            ),  # null: a price catalogue often does not know, and false would make clients stop using it
            **_known(model.card),
        }
        for model in models
    ]


def _known(card: PriceCard | None) -> dict[str, Any]:
    if card is None:
        return {}
    # clients that calculate expect numbers here; the exact prices are in /v1/models
    priced = {key: float(dollars(card.prices[own][0][1])) for own, key in _LITELLM.items() if own in card.prices}
    abilities = {key: True for own, key in _SUPPORTS.items() if own in card.capabilities}
    return {**limits(card, "max_input_tokens", "max_output_tokens"), **priced, **abilities}


def _entry(name: str, deployment: Deployment) -> dict[str, Any]:
    info: dict[str, Any] = {
        "id": deployment.id,
        "db_model": False,
        "key": deployment.model,
        "litellm_provider": deployment.provider,
        **_known(deployment.card),
    }
    if "max_output_tokens" in info:
        info["max_tokens"] = info["max_output_tokens"]
    return {
        "model_name": name,
        "litellm_params": {"model": f"{deployment.provider}/{deployment.model}"},
        "model_info": info,
    }
