"""What something would cost, by the price cards of the stack."""

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
    """Nano-USD of an answer's usage, or else of the messages as input, whose tokens are estimated from their bytes.

    Args:
        setup: of the plugin.
        model: as a call would name it; by default the one that the answer names, which is the vendor's name.
        messages: what would be sent.
        answer: what came back.

    Raises:
        BadRequest: the model, its price or the answer's usage is not known.
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
    """About how many tokens a part of a request has, from its bytes as JSON."""
    return round(len(orjson.dumps(said)) / FIRST_RATIO)


def counted(setup: Setup, model: str, said: Any) -> dict[str, Any]:
    """The same in the shape of LiteLLM's ``/utils/token_counter``. Raises ``BadRequest`` for a model that nobody knows."""
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
    """Of the name as a call would write it, or ``else_`` the one on which all of those agree."""
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
    """The targets whose answers may say this name: an answer names the vendor's model, often with its date."""
    known = models.targets()
    return (
        [target for target in known if target.model == name]
        or [target for target in known if target.model == _DATE.sub("", name)]
        or [Target(upstream, name) for upstream in models.upstreams.values()]
    )
