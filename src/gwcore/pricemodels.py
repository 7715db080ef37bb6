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

    input: Price | None = Field(default=None, description="Input tokens that are not in one of the buckets below.")
    cache_read: Price | None = Field(default=None, description="Input tokens read from the vendor's prompt cache.")
    cache_write_5m: Price | None = Field(
        default=None, description="Input tokens written to the prompt cache for minutes."
    )
    cache_write_1h: Price | None = Field(
        default=None, description="Input tokens written to the prompt cache for an hour."
    )
    output: Price | None = Field(default=None, description="Text output tokens, without reasoning.")
    reasoning: Price | None = Field(
        default=None, description="Reasoning (thinking) tokens; `output` if no price is known."
    )
    audio_in: Price | None = Field(default=None, description="Audio input tokens; `input` if no price is known.")
    audio_out: Price | None = Field(default=None, description="Audio output tokens; `output` if no price is known.")
    image_in: Price | None = Field(default=None, description="Image input tokens; `input` if no price is known.")
    image_out: Price | None = Field(default=None, description="Image output tokens; `output` if no price is known.")
    audio_cache_read: Price | None = Field(default=None, description="Audio input tokens read from the prompt cache.")
    image_cache_read: Price | None = Field(default=None, description="Image input tokens read from the prompt cache.")
    fees: dict[str, Price] = Field(
        default={},
        description="Prices of what is not counted in tokens, by name: `web_search: $10/k`, `image/hd: $0.08/1`, "
        "`audio_seconds: $0.36/h`, `request: $0.001/1`.",
    )

    def priced(self) -> dict[str, int]:
        """Bucket or fee → nano-USD per million units, for the prices given."""
        found = {name: price for name in BUCKETS if (price := getattr(self, name)) is not None}
        return {**found, **self.fees}


class PriceTier(PriceSheet):
    """Prices for requests with a long input; those not given are the same as for short ones."""

    above: int = Field(
        ge=1,
        description="The prices apply to a whole request whose input, cached tokens included, is longer than this "
        "many tokens.",
    )

    def sheet(self) -> Sheet:
        """Convert to a price card's sheet."""
        return Sheet(self.above, self.priced())


class ServicePrices(PriceSheet):
    """Prices of one service tier; those not given are the standard tier's."""

    tiers: list[PriceTier] = Field(
        default=[], description="Prices of long requests (long context), by the length of the input."
    )


def _free(value: Any) -> Any:
    return {"free": True} if value == "free" else value


class PriceConfig(ServicePrices):
    """Prices and limits of one model at one upstream; those not given are the price catalogue's.

    A price states its unit: ``$2.50/M`` (per million tokens), ``$10/k``, ``$0.04/1``; seconds also ``/s``, ``/min``, ``/h``.
    Only 0 needs none. Kinds of tokens for which no price is known cost what ``input`` or ``output`` does.
    """

    free: bool = Field(
        default=False,
        description="`true`: tokens and fees cost 0, except those priced beside it. No budget limits a model that is "
        "marked free.",
    )
    base_model: str | None = Field(
        default=None,
        min_length=1,
        description="Model of the price catalogue whose prices and limits apply, for a name of your own, such as a "
        "fine-tuned model.",
    )
    service_tiers: dict[str, ServicePrices] = Field(
        default={},
        description="Prices by service tier, as the reply states it (`flex`, `priority` …); the rest is inherited.",
    )
    context_window: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of input tokens that the model takes. Budgets reserve for no more input than "
        "this: a value below the model's true limit makes reservations too small.",
    )
    max_output: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of output tokens of one answer. Budgets reserve for no longer answers: a value "
        "below the model's true limit makes reservations too small.",
    )
    capabilities: frozenset[str] | None = Field(
        default=None,
        description="What the model can do, such as `vision`, `tools` or `reasoning`; shown in model lists, and "
        "nothing else depends on it.",
    )

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
