"""Tokens in disjoint buckets, other units a vendor counts, and the resulting cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

IN: Final = (
    "input", "cache_read", "cache_write_5m", "cache_write_1h",
    "audio_in", "audio_cache_read", "image_in", "image_cache_read",
)  # fmt: skip
OUT: Final = ("output", "reasoning", "audio_out", "image_out")
BUCKETS: Final = IN + OUT
"""Names of the buckets: fields of :class:`Usage` and keys of a price card."""

REQUEST: Final = "request"
"""The fee for the request itself; counted once per attempt, whichever meter reads its usage."""
FEES: Final = (
    "web_search", "social_search", "file_search", "code_execution", "rerank",
    "image", "audio_seconds", "characters", "pages", "citation", "moderation", REQUEST,
)  # fmt: skip
"""Counted in other units (pieces, seconds, calls): keys of ``Usage.fees`` and of a price card. A plugin may add its
own.

A fee may be qualified after slashes (``image/hd/1792x1024``): a card without a price for it falls back to ``image/hd``,
then to ``image``.
"""

NO_FEES: Mapping[str, int] = MappingProxyType({})


@dataclass(slots=True)
class Usage:
    """What one attempt consumed, in tokens. Every token is in exactly one bucket.

    Vendors differ: OpenAI and Gemini count cached tokens inside the prompt, Anthropic beside it; OpenAI counts
    reasoning inside the completion, Gemini beside it. Readers normalise to these buckets.
    """

    input: int = 0
    """Uncached text, and anything without a bucket of its own (video, documents)."""
    cache_read: int = 0
    cache_write_5m: int = 0
    """Written to the vendor's prompt cache; also used for vendors that name no lifetime."""
    cache_write_1h: int = 0
    output: int = 0
    """Visible text and tool calls."""
    reasoning: int = 0
    audio_in: int = 0
    audio_out: int = 0
    image_in: int = 0
    image_out: int = 0
    audio_cache_read: int = 0
    image_cache_read: int = 0
    fees: Mapping[str, int] = field(default_factory=lambda: NO_FEES)
    """What is counted in other units, by the key of its price; see :data:`FEES`."""
    service_tier: str | None = None
    """As stated in the reply (``flex``, ``priority``, ``batch`` …); ``None`` is the vendor's standard tier."""
    reported: int | None = None
    """The vendor's own figure for this attempt's cost in nano-USD, if its reply has one."""
    mismatch: bool = False
    """The vendor's parts do not add up to its own total. The buckets then hold the more expensive reading."""

    @property
    def billable(self) -> bool:
        """Whether anything was counted at all."""
        return bool(self.output or self.input or self.total or self.fees or self.reported is not None)

    @property
    def total_in(self) -> int:
        """Every input token, cached or not: the basis of long-context prices."""
        return (
            self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h
            + self.audio_in + self.audio_cache_read + self.image_in + self.image_cache_read
        )  # fmt: skip

    def times(self, row: Sequence[int]) -> int:
        """Dot product of the buckets, in :data:`BUCKETS` order, with ``row``."""
        total = self.input * row[0] + self.output * row[8]
        if (
            self.cache_read or self.cache_write_5m or self.cache_write_1h or self.audio_in or self.audio_cache_read
            or self.image_in or self.image_cache_read or self.reasoning or self.audio_out or self.image_out
        ):  # fmt: skip
            total += (
                self.cache_read * row[1] + self.cache_write_5m * row[2] + self.cache_write_1h * row[3]
                + self.audio_in * row[4] + self.audio_cache_read * row[5] + self.image_in * row[6] + self.image_cache_read * row[7]
                + self.reasoning * row[9] + self.audio_out * row[10] + self.image_out * row[11]
            )  # fmt: skip
        return total

    @property
    def cached(self) -> int:
        """Input tokens read from the vendor's cache, of any kind."""
        return self.cache_read + self.audio_cache_read + self.image_cache_read

    @property
    def cache_write(self) -> int:
        """Input tokens written to the vendor's cache, of any lifetime."""
        return self.cache_write_5m + self.cache_write_1h

    @property
    def total_out(self) -> int:
        """Every output token, reasoning included."""
        return self.output + self.reasoning + self.audio_out + self.image_out

    @property
    def total(self) -> int:
        """The sum of all buckets."""
        return self.total_in + self.total_out


def added(parts: Iterable[Usage]) -> Usage:
    """The total usage of several requests of one attempt."""
    whole = Usage(reported=0)
    fees: dict[str, int] = {}
    for part in parts:
        for name in BUCKETS:
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
        for name, count in part.fees.items():
            fees[name] = fees.get(name, 0) + count
        known = whole.reported is not None and part.reported is not None
        whole.reported = (whole.reported or 0) + (part.reported or 0) if known else None
        whole.mismatch |= part.mismatch
        whole.service_tier = part.service_tier
    whole.fees = fees or NO_FEES
    return whole


@dataclass(slots=True)
class Cost:
    """What an attempt cost.

    Attributes:
        nano: nano-USD, for everything that has a price.
        source: origin of the prices: ``stack``, the name of a catalogue, or ``reply`` for the vendor's own figure.
        version: of the catalogue, or the digest of the stack file's section.
        unpriced: used buckets and fees without a price, and an unknown service tier: the true cost is higher.
    """

    nano: int
    source: str
    version: str
    unpriced: tuple[str, ...] = ()
