"""The ``genai-prices`` catalogue as price cards.

Importing the catalogue takes half a second and tens of megabytes, so it is done at the first price look-up. It works
offline: prices are those of the installed version, which every card names. Unknown models are unpriced.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_FLOOR, Decimal
from functools import cache
from importlib.metadata import version
from typing import Any, Final

from gwcore.hookspecs import hookimpl
from gwcore.prices import FREE, MILLION, STANDARD, PriceCard, Steps
from gwcore.provider import Upstream
from gwcore.units import DOLLAR
from gwcore.usage import BUCKETS
from gwcore_providers.compatible import ROWS
from gwcore_providers.limits import max_output

CATALOGUE: Final = "genai-prices"
_MTOK, _THOUSAND, _HOUR = Decimal(DOLLAR), Decimal(DOLLAR) * 1000, Decimal(DOLLAR) * MILLION / 3600

# catalogue key → bucket or fee, and the factor from its price in dollars to nano-USD per million units
KEYS: Mapping[str, tuple[str, Decimal]] = {
    "input_mtok": ("input", _MTOK),
    "output_mtok": ("output", _MTOK),
    "cache_read_mtok": ("cache_read", _MTOK),
    "cache_write_mtok": ("cache_write_5m", _MTOK),
    "cache_write_5m_mtok": ("cache_write_5m", _MTOK),
    "cache_write_1h_mtok": ("cache_write_1h", _MTOK),
    "output_reasoning_mtok": ("reasoning", _MTOK),
    "input_audio_mtok": ("audio_in", _MTOK),
    "output_audio_mtok": ("audio_out", _MTOK),
    "cache_audio_read_mtok": ("audio_cache_read", _MTOK),
    "input_image_mtok": ("image_in", _MTOK),
    "output_image_mtok": ("image_out", _MTOK),
    "cache_image_read_mtok": ("image_cache_read", _MTOK),
    "output_citation_mtok": ("citation", _MTOK),
    "input_mchars": ("characters", _MTOK),
    "web_searches_kcount": ("web_search", _THOUSAND),
    "social_searches_kcount": ("social_search", _THOUSAND),
    "storage_searches_kcount": ("file_search", _THOUSAND),
    "code_executions_kcount": ("code_execution", _THOUSAND),
    "rerank_searches_kcount": ("rerank", _THOUSAND),
    "requests_kcount": ("request", _THOUSAND),
    "input_document_kpages": ("pages", _THOUSAND),
    "audio_hours": ("audio_seconds", _HOUR),
    "input_audio_hours": ("audio_seconds", _HOUR),
}
# our name of a provider → the catalogue's, if different
_IDS = {
    "gemini": "google",
    "vertex": "google",
    "bedrock": "aws",
    "bedrock-mantle": "aws",
    "xai": "x-ai",
    "voyage": "voyageai",
    "moonshot": "moonshotai",
}
# conditions of the catalogue's price variants that correspond to a reply's service tier
_TIER_KEYS = frozenset({"service_tier", "processing", "speed"})
# vendors whose replies contain the billed amount, by our name and by the catalogue's
_BILLED = frozenset({"openrouter", "xai", "x-ai", "perplexity", "vercel-gateway"})
_DEMO = "demo"
# prices of an operator's own server. Cache and reasoning have none of their own: if the stack file prices input and
# output, they are charged like those
_OWN = {name: steps for name, steps in FREE.items() if name not in BUCKETS or name in {"input", "output"}}
_HOSTED = ("-cloud", ":cloud")  # suffixes of Ollama's models that run in Ollama's cloud


@hookimpl
def gwcore_price(upstream: Upstream, model: str) -> PriceCard | None:
    """The price card of a model at an upstream, found by the upstream's address, else by its provider."""
    provider = upstream.provider.name
    row = ROWS.get(provider)
    if (row is not None and row.local) or provider == _DEMO:
        return None if model.endswith(_HOSTED) else PriceCard(model, _OWN, source="local")
    found = _catalogued(upstream, model)
    if found is None and provider in _BILLED:
        # the price is unknown in advance, but the reply states the cost
        return PriceCard(model, {}, source="reply", billed=True)
    return found


@hookimpl
def gwcore_models(upstream: Upstream) -> list[str] | None:
    """The catalogue's models of an upstream's vendor, without deprecated ones and families (ids ending in ``-``)."""
    provider = _provider(upstream, "")
    if provider is None:
        return None
    return [model.id for model in provider.models if not model.deprecated and not model.id.endswith("-")]


@cache
def _snapshot() -> Any:
    return importlib.import_module("genai_prices.data_snapshot").get_snapshot()


@cache
def _version() -> str:
    return version(CATALOGUE)


def _catalogued(upstream: Upstream, model: str) -> PriceCard | None:
    provider = _provider(upstream, model)
    if provider is None:
        return None
    name, separator, where = model.rpartition(":")
    if separator and provider.id == f"huggingface_{where}":
        model = name
    if upstream.provider.name == "vertex":  # its OpenAI-compatible endpoint names the publisher
        model = model.removeprefix("google/")
    found = provider.find_model(model, all_providers=_snapshot().providers)
    return None if found is None else _card(provider, found, datetime.now(UTC))


def _provider(upstream: Upstream, model: str) -> Any:
    """The catalogue's provider for an upstream's address (whatever its ``provider``), else for its provider's name."""
    snapshot, name = _snapshot(), upstream.provider.name
    if name == "huggingface":
        return _named(f"huggingface_{model.rpartition(':')[2]}")
    address = f"{upstream.origin.scheme}://{upstream.origin.host}{upstream.base_path}"
    try:
        return snapshot.find_provider(None, None, address)
    except LookupError:
        return _named(_IDS.get(name, name))


def _named(wanted: str) -> Any:
    return next((provider for provider in _snapshot().providers if provider.id == wanted), None)


def _card(provider: Any, model: Any, now: datetime) -> PriceCard | None:
    standard = _prices(model.get_prices(now))
    if not standard:
        return None
    variants = model.price_variants or () if any(model is own for own in provider.models) else ()
    tiers: dict[str, dict[str, Steps]] = {}
    for variant in variants:
        name = "+".join(value for _, value in sorted(variant.when.items()))
        if set(variant.when) <= _TIER_KEYS and name != "default":
            found = _prices(model.get_prices(now, variant.when))
            tiers[name] = {key: steps for key, steps in found.items() if steps != standard.get(key)}
    if provider.id == "anthropic":
        tiers.update(dict(_in_one_country(standard, tiers)))
    return PriceCard(
        model.id,
        standard,
        tiers,
        source=CATALOGUE,
        version=_version(),
        until=_until(model, now),
        billed=provider.id in _BILLED,
        context_window=model.context_window,
        max_output=max_output(model.id) if "output" in standard else None,
        capabilities=_capabilities(standard),
    )


def _prices(prices: Any) -> dict[str, Steps]:
    """The catalogue's prices by bucket and fee. As in a price card, a step applies above its number of tokens."""
    found: dict[str, Steps] = {}
    for key, value in vars(prices).items():
        if value is None or key not in KEYS:
            continue
        name, scale = KEYS[key]
        steps = [(tier.start, tier.price) for tier in getattr(value, "tiers", ())]
        base = getattr(value, "base", value)
        found[name] = tuple((above, _integer(price * scale)) for above, price in [(0, base), *steps])
    return found


def _integer(amount: Decimal) -> int:
    """Rounded down: a price per hour is rarely whole per second; this loses under a nano-dollar per million seconds."""
    return int(amount.to_integral_value(ROUND_FLOOR))


def _in_one_country(
    standard: Mapping[str, Steps], tiers: Mapping[str, Mapping[str, Steps]]
) -> Iterator[tuple[str, dict[str, Steps]]]:
    """Anthropic: in every tier, tokens cost 10 % more if the reply says ``inference_geo: us``."""
    for name, own in [(STANDARD, {}), *tiers.items()]:
        dearer = {
            key: tuple((above, -(-price * 11 // 10)) for above, price in steps)
            for key, steps in {**standard, **own}.items()
            if key in BUCKETS
        }
        yield f"{name}+us" if name else "us", dearer


def _until(model: Any, now: datetime) -> float | None:
    """Unix time of the next price change in the catalogue; ``None`` if there is none."""
    conditional = model.prices if isinstance(model.prices, list) else []
    rules = [entry.constraint for entry in (*conditional, *(model.price_variants or ())) if entry.constraint]
    moments = []
    for rule in rules:
        if hasattr(rule, "start_date"):
            moments.append(datetime.combine(rule.start_date, time(), UTC))
        else:
            for at in (rule.start_time, rule.end_time):
                today = datetime.combine(now.date(), at if at.tzinfo else at.replace(tzinfo=UTC))
                moments += [today + timedelta(days=days) for days in (-1, 0, 1, 2)]
    return min((moment.timestamp() for moment in moments if moment > now), default=None)


def _capabilities(prices: Mapping[str, Steps]) -> frozenset[str]:
    """Capabilities implied by a price list: what has a price is supported."""
    told = {
        "cache_read": "prompt_caching",
        "audio_in": "audio_input",
        "audio_out": "audio_output",
        "image_in": "vision",
        "image_out": "image_output",
        "web_search": "web_search",
        "reasoning": "reasoning",
    }
    return frozenset(word for key, word in told.items() if key in prices)
