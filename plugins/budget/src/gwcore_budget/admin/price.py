"""What something would cost, by the price cards of the stack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from gwcore.errors import BadRequest, GatewayError
from gwcore.estimate import FIRST_RATIO
from gwcore.plugin import Setup
from gwcore.prices import PriceCard
from gwcore.usage import Usage


def price_of(
    setup: Setup, model: str, messages: Iterable[Mapping[str, Any]] | None, answer: Mapping[str, Any] | None
) -> int:
    """Nano-USD of an answer's usage, or else of the messages as input, whose tokens are estimated from their bytes.

    Raises ``BadRequest`` where the model, its price or the answer's usage is not known.
    """
    card = _card(setup, model)
    if answer is None:
        text = orjson.dumps(list(messages or ()))
        return card.cost(Usage(input=round(len(text) / FIRST_RATIO)))
    raw = orjson.dumps(answer)
    for dialect in setup.dialects.values():
        meter = dialect.meter("chat", None, stream=False)
        if meter is None:
            continue
        meter.whole(raw)
        usage = meter.usage
        if usage is not None and usage.billable:
            return card.cost(usage)
    raise BadRequest("completion_response holds no usage that any dialect knows")


def _card(setup: Setup, model: str) -> PriceCard:
    try:
        targets = setup.models.resolve(model)
    except GatewayError as error:
        raise BadRequest(error.message) from None
    card = next((card for target in targets if (card := setup.prices.card(target)) is not None), None)
    if card is None:
        raise BadRequest(f"{model} has no price")
    return card
