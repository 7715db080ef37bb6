"""Capabilities of Anthropic's models, as data. Source: Anthropic's model overview and feature pages (2026)."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class Traits:
    """Capabilities of one model family.

    Attributes:
        thinks: accepts a ``thinking`` object.
        adaptive: also accepts ``{type: adaptive}`` with an effort.
        schema: accepts ``output_config.format``.
        efforts: accepted values of ``output_config.effort``.
        max_output: limit of output tokens.
    """

    thinks: bool = True
    adaptive: bool = False
    schema: bool = False
    efforts: tuple[str, ...] = ()
    max_output: int = 32_000


_OLD = Traits(thinks=False, max_output=4096)
_FAMILIES = (
    (re.compile(r"claude-(?:instant|2|3-(?:opus|sonnet|haiku))"), _OLD),
    (re.compile(r"claude-3-5"), Traits(thinks=False, max_output=8192)),
    (re.compile(r"claude-3-7"), Traits(max_output=64_000)),
    (re.compile(r"claude-(?:opus-4(?:-0|-2025|@|$))"), Traits()),
    (re.compile(r"claude-(?:sonnet-4(?:-0|-2025|@|$))"), Traits(max_output=64_000)),
    (re.compile(r"claude-opus-4-1"), Traits(schema=True)),
    (re.compile(r"claude-opus-4-5"), Traits(schema=True, efforts=("low", "medium", "high"), max_output=64_000)),
    (re.compile(r"claude-(?:sonnet|haiku)-4-5"), Traits(schema=True, max_output=64_000)),
    (
        re.compile(r"claude"),  # 4.6 and later
        Traits(adaptive=True, schema=True, efforts=("low", "medium", "high", "xhigh", "max"), max_output=64_000),
    ),
)


def traits_of(model: str) -> Traits:
    """Returns the traits for a model's name on any host; an unknown name gets ``thinking`` with a budget only."""
    return next((traits for pattern, traits in _FAMILIES if pattern.search(model)), Traits(max_output=8192))
