"""Pydantic models of ``upstreams.<name>.prices``, and their conversion to price sheets."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gwcore.prices import FREE, Override, Sheet
from gwcore.units import Price
from gwcore.usage import BUCKETS


class PriceSheet(BaseModel):
    """Prices; omitted ones are inherited. Token prices are per million (``$2.50/M``)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    input: Price | None = Field(default=None, description="uncached input tokens")
    cache_read: Price | None = Field(default=None, description="input tokens read from the vendor's cache")
    cache_write_5m: Price | None = Field(default=None, description="input tokens written to the cache for minutes")
    cache_write_1h: Price | None = Field(default=None, description="input tokens written to the cache for an hour")
    output: Price | None = Field(default=None, description="visible output tokens")
    reasoning: Price | None = Field(default=None, description="reasoning tokens; as output by default")
    audio_in: Price | None = Field(default=None, description="audio input tokens; as input by default")
    audio_out: Price | None = Field(default=None, description="audio output tokens; as output by default")
    image_in: Price | None = Field(default=None, description="image input tokens; as input by default")
    image_out: Price | None = Field(default=None, description="image output tokens; as output by default")
    audio_cache_read: Price | None = Field(default=None, description="cached audio input tokens")
    image_cache_read: Price | None = Field(default=None, description="cached image input tokens")
    fees: dict[str, Price] = Field(
        default={},
        description="what is counted in other units: web_search: $10/k, image/hd: $0.08/1, audio_seconds: $0.36/h, request",
    )

    def priced(self) -> dict[str, int]:
        """Bucket or fee → nano-USD per million units, for the prices given."""
        found = {name: price for name in BUCKETS if (price := getattr(self, name)) is not None}
        return {**found, **self.fees}


class PriceTier(PriceSheet):
    """Prices for requests whose input exceeds a limit."""

    above: int = Field(ge=1, description="for requests with more input tokens than this, cached ones included")

    def sheet(self) -> Sheet:
        """Convert to a price card's sheet."""
        return Sheet(self.above, self.priced())


class ServicePrices(PriceSheet):
    """Prices of one service tier."""

    tiers: list[PriceTier] = Field(default=[], description="prices of long input, in this service tier")


def _free(value: Any) -> Any:
    return {"free": True} if value == "free" else value


class PriceConfig(ServicePrices):
    """Prices and limits of one model at one upstream."""

    free: bool = Field(default=False, description="everything costs 0, but for what is written beside it")
    base_model: str | None = Field(
        default=None, min_length=1, description="take the catalogue's prices of this model, for a name of your own"
    )
    service_tiers: dict[str, ServicePrices] = Field(
        default={}, description="name of a service tier, as replies state it, to the prices that differ there"
    )
    context_window: int | None = Field(default=None, ge=1, description="most input tokens")
    max_output: int | None = Field(default=None, ge=1, description="most output tokens")
    capabilities: frozenset[str] | None = Field(default=None, description="what it can do: vision, tools, reasoning …")

    def override(self) -> Override:
        """Convert for :class:`gwcore.prices.Prices`."""
        free = dict.fromkeys(FREE, 0) if self.free else {}
        return Override(
            prices={**free, **self.priced()},
            tiers=[tier.sheet() for tier in self.tiers],
            service_tiers={
                name: (tier.priced(), [step.sheet() for step in tier.tiers])
                for name, tier in self.service_tiers.items()
            },
            inherits=not self.free,
            base_model=self.base_model,
            context_window=self.context_window,
            max_output=self.max_output,
            capabilities=self.capabilities,
        )


ModelPrices = Annotated[PriceConfig, BeforeValidator(_free, json_schema_input_type=PriceConfig | str)]
"""A mapping, or the word ``free``."""
