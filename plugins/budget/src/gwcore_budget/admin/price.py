"""What a request or an answer would cost, by the stack's price cards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from gwcore.errors import BadRequest, GatewayError
from gwcore.estimate import FIRST_RATIO
from gwcore.models import Models
from gwcore.plugin import Setup
from gwcore.prices import PriceCard
from gwcore.provider import Target
from gwcore.usage import Usage

_DATE = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{3,4})\Z")


def price_of(
    setup: Setup,
    model: str | None,
    messages: Iterable[Mapping[str, Any]] | None,
    answer: Mapping[str, Any] | None,
) -> int:
    """Nano-USD for an answer's usage; without an answer, for the messages as input, their tokens estimated from bytes.

    Args:
        setup: of the plugin.
        model: as named in a call; by default as named in the answer, which is the vendor's name.
        messages: would be sent.
        answer: was received.

    Raises:
        BadRequest: the model, its price or the answer's usage is unknown.
    """
    named = model or str((answer or {}).get("model") or "")
    if not named:
        raise BadRequest("name a model")
    card = _card(setup, named, _answering(setup.models, named) if model is None else [])
    if answer is None:
        return card.cost(Usage(input=tokens_of(list(messages or ()))))
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


def tokens_of(said: Any) -> int:
    """Estimated tokens of a part of a request, from its bytes as JSON."""
    return round(len(orjson.dumps(said)) / FIRST_RATIO)


def counted(setup: Setup, model: str, said: Any) -> dict[str, Any]:
    """The same in the format of LiteLLM's ``/utils/token_counter``. Raises ``BadRequest`` for an unknown model."""
    try:
        used = setup.models.resolve(model)[0]
    except GatewayError as error:
        raise BadRequest(error.message) from None
    return {
        "total_tokens": tokens_of(said),
        "request_model": model,
        "model_used": used.model,
        "tokenizer_type": "estimate",
        "original_response": None,
        "error": False,
        "error_message": None,
        "status_code": None,
    }


def _card(setup: Setup, model: str, else_: Sequence[Target]) -> PriceCard:
    """The card of a model as named in a call; if there is no such model, of ``else_``, whose prices must all agree."""
    card_of = setup.prices.card
    try:
        card = next((card for target in setup.models.resolve(model) if (card := card_of(target)) is not None), None)
    except GatewayError as error:
        cards = [card for target in else_ if (card := card_of(target)) is not None]
        if not cards:
            raise BadRequest(error.message) from None
        card = cards[0]
        if any(other.prices != card.prices for other in cards):
            raise BadRequest(
                f"{model} has several prices here; name the upstream too, as model: upstream/model"
            ) from None
    if card is None:
        raise BadRequest(f"{model} has no price")
    return card


def _answering(models: Models, name: str) -> list[Target]:
    """The targets whose answers may contain this name: an answer names the vendor's model, often with a date."""
    known = models.targets()
    return (
        [target for target in known if target.model == name]
        or [target for target in known if target.model == _DATE.sub("", name)]
        or [Target(upstream, name) for upstream in models.upstreams.values()]
    )
