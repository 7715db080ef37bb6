"""``PriceCard``: a model's prices and limits. ``Prices``: where a stack's cards come from.

Integers only: a price is nano-USD per **million** units, so ``$0.0375`` per million tokens is ``37_500_000``; a cost is
``ceil(sum(units * price) / 1_000_000)`` nano-USD, rounded up once. An unknown price is ``None``, never 0.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Final

import structlog

from gwcore.provider import Target, Upstream
from gwcore.usage import BUCKETS, FEES, REQUEST, Cost, Usage

MILLION: Final = 1_000_000
STANDARD: Final = ""
"""The service tier of a request that asks for none."""
STACK: Final = "stack"
"""``source`` of prices given in the stack file."""

Steps = tuple[tuple[int, int], ...]
"""A price by length of the input: ``(above, price)``, ascending, the first from 0. It applies to all units of a request
whose input has more than ``above`` tokens."""

_CACHED = 4096
_log = structlog.get_logger("gwcore")
_counts: Callable[[Usage], tuple[int, ...]] = attrgetter(*BUCKETS)
# fallbacks for a bucket without a price on the card: cached tokens are charged as plain input, never for free
_ELSE: Mapping[str, tuple[str, ...]] = {
    "cache_read": ("input",),
    "cache_write_5m": ("input",),
    "cache_write_1h": ("cache_write_5m", "input"),
    "reasoning": ("output",),
    "audio_in": ("input",),
    "audio_out": ("output",),
    "audio_cache_read": ("audio_in", "cache_read", "input"),
    "image_in": ("input",),
    "image_out": ("output",),
    "image_cache_read": ("image_in", "cache_read", "input"),
}
FREE: Mapping[str, Steps] = dict.fromkeys((*BUCKETS, *FEES), ((0, 0),))
"""Prices of a model explicitly declared free."""


@dataclass(slots=True, frozen=True)
class Sheet:
    """Complete prices of a request with more than ``above`` input tokens: bucket or fee → nano-USD per million units.

    Attributes:
        row: the buckets' prices in the order of :data:`gwcore.usage.BUCKETS`, 0 for those without one; derived.
        gaps: the buckets without one; derived.
    """

    above: int
    prices: Mapping[str, int]
    row: tuple[int, ...] = field(init=False, repr=False, compare=False)
    gaps: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "row", tuple(self.prices.get(bucket, 0) for bucket in BUCKETS))
        object.__setattr__(self, "gaps", tuple(bucket for bucket in BUCKETS if bucket not in self.prices))

    def fee(self, name: str) -> int | None:
        """The price of a bucket or fee, else of the nearest more general kind."""
        return next((self.prices[kind] for kind in _kinds(name) if kind in self.prices), None)


@dataclass(slots=True, frozen=True)
class PriceCard:
    """What one model costs at one vendor. Frozen; shared by all calls.

    Attributes:
        prices: bucket (see :data:`gwcore.usage.BUCKETS`) or fee → its price by length of the input.
        service_tiers: name of a service tier → the prices that differ there.
        source: :data:`STACK` or the name of a catalogue; ``version`` is its version.
        until: epoch second at which another card takes over; ``None`` if no change is known.
        billed: whether the figure in the vendor's reply is what is billed, and so overrides the prices.
        context_window: most input tokens; ``max_output``: most output tokens; ``None`` if unknown.
        capabilities: such as ``vision``, ``tools``, ``reasoning``, as far as the source knows them.
        sheets: service tier → complete sheets by ascending ``above``; derived.
        origin: ``source@version``, as written to records; derived.
    """

    model: str
    prices: Mapping[str, Steps]
    service_tiers: Mapping[str, Mapping[str, Steps]] = field(default_factory=dict)
    source: str = STACK
    version: str = ""
    until: float | None = None
    billed: bool = False
    context_window: int | None = None
    max_output: int | None = None
    capabilities: frozenset[str] = frozenset()
    sheets: Mapping[str, Sequence[Sheet]] = field(init=False, repr=False, compare=False)
    origin: str = field(init=False, repr=False, compare=False)
    _peaks: Sequence[Sheet] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tiers = {STANDARD: self.prices, **{name: {**self.prices, **own} for name, own in self.service_tiers.items()}}
        sheets = {name: _sheets(prices) for name, prices in tiers.items()}
        object.__setattr__(self, "sheets", sheets)
        object.__setattr__(self, "origin", f"{self.source}@{self.version}")
        object.__setattr__(self, "_peaks", _peaks(sheets.values()))

    def sheet(self, usage: Usage, service_tier: str | None) -> Sheet:
        """The prices for that much input; the standard ones for an unknown service tier."""
        sheets = self.sheets.get(service_tier or STANDARD) or self.sheets[STANDARD]
        return sheets[0] if len(sheets) == 1 else _reached(sheets, usage.total_in)

    def cost(self, usage: Usage, *, service_tier: str | None = None) -> int:
        """Nano-USD for the usage. Anything without a price adds nothing: see :meth:`unpriced`.

        Args:
            usage: of one attempt.
            service_tier: overrides the one stated in the reply.
        """
        return self._added_up(usage, service_tier)[0]

    def unpriced(self, usage: Usage, *, service_tier: str | None = None) -> tuple[str, ...]:
        """Used buckets and fees without a price here; ``service_tier:x`` for a tier without prices."""
        return self._added_up(usage, service_tier)[1]

    def charge(self, usage: Usage) -> Cost:
        """:meth:`cost` and :meth:`unpriced`, with the source of the prices."""
        nano, missing = self._added_up(usage, None)
        source = "reply" if self.billed and usage.reported is not None else self.source
        return Cost(nano, source, self.version, missing)

    def _added_up(self, usage: Usage, service_tier: str | None) -> tuple[int, tuple[str, ...]]:
        if self.billed and usage.reported is not None:
            return usage.reported, ()
        tier = service_tier or usage.service_tier
        sheet = self.sheet(usage, tier)
        total = usage.times(sheet.row) + sheet.prices.get(REQUEST, 0)
        missing = [name for name in sheet.gaps if getattr(usage, name)] if sheet.gaps else []
        for name, count in usage.fees.items():
            price = sheet.fee(name) if count else 0
            if price is None:
                missing.append(name)
            else:
                total += count * price
        if tier and tier not in self.sheets:
            missing.append(f"service_tier:{tier}")
        return -(-total // MILLION), tuple(missing)

    def parts(self, usage: Usage) -> dict[str, int]:
        """Nano-USD of each used bucket and fee with a price. By these prices they sum to :meth:`cost`.

        The cost is rounded up once; each part is the increase of the rounded running sum, so it can differ by one from
        its own amount rounded up.
        """
        sheet = self.sheet(usage, usage.service_tier)
        found, total = {}, 0
        for name, count in ((REQUEST, 1), *zip(BUCKETS, _counts(usage), strict=True), *usage.fees.items()):
            price = sheet.fee(name) if count else None
            if price is not None:
                before, total = total, total + count * price
                found[name] = -(-total // MILLION) + before // -MILLION
        return found

    def dearest(self, input_tokens: int, service_tiers: Collection[str] | None = None) -> Mapping[str, int]:
        """The highest price of every bucket, fee and kind of fee for a request of up to ``input_tokens``.

        Taken over all length steps below ``input_tokens``; nano-USD per million units. A bucket or fee that is missing
        has no price: the cost of a request that uses it has no upper bound.

        Args:
            input_tokens: upper bound of the input, all kinds together.
            service_tiers: those the request can end up in besides :data:`STANDARD`; ``None`` is all of the card's.
        """
        return self._peak(input_tokens, service_tiers).prices

    def highest(self, bucket: str, input_tokens: int, service_tiers: Collection[str] | None = None) -> int | None:
        """One price of :meth:`dearest`, or that of the fee's kind; ``None`` if there is none."""
        return self._peak(input_tokens, service_tiers).fee(bucket)

    def _peak(self, input_tokens: int, service_tiers: Collection[str] | None) -> Sheet:
        peaks = self._peaks
        if service_tiers is not None:
            peaks = _peaks([self.sheets[name] for name in (STANDARD, *service_tiers) if name in self.sheets])
        return peaks[0] if len(peaks) == 1 else _reached(peaks, input_tokens)


def _reached(sheets: Sequence[Sheet], input_tokens: int) -> Sheet:
    """The last sheet whose ``above`` the input exceeds, else the first."""
    found = sheets[0]
    for one in sheets[1:]:
        if input_tokens > one.above:
            found = one
    return found


def _at(steps: Steps, above: int) -> int:
    found = steps[0][1]
    for start, price in steps:
        if start <= above:
            found = price
    return found


def _sheets(prices: Mapping[str, Steps]) -> tuple[Sheet, ...]:
    starts = sorted({0} | {above for steps in prices.values() for above, _ in steps})
    sheets = []
    for above in starts:
        own = {name: _at(steps, above) for name, steps in prices.items()}
        lent = {
            bucket: next(own[other] for other in others if other in own)
            for bucket, others in _ELSE.items()
            if bucket not in own and not own.keys().isdisjoint(others)
        }
        sheets.append(Sheet(above, own | lent))
    return tuple(sheets)


def _kinds(name: str) -> Iterator[str]:
    """``image/hd/1024x1024``, ``image/hd``, ``image``."""
    while name:
        yield name
        name = name.rpartition("/")[0]


def _peaks(tiers: Iterable[Sequence[Sheet]]) -> Sequence[Sheet]:
    """The highest prices by length, over every service tier."""
    highest: dict[str, int] = {}
    peaks: dict[int, Sheet] = {}
    for sheet in sorted((sheet for tier in tiers for sheet in tier), key=lambda sheet: sheet.above):
        for name, price in sheet.prices.items():
            for kind in _kinds(name):
                # the upper bound of a step covers every shorter input too, so take the highest price so far
                highest[kind] = max(price, highest.get(kind, 0))
        peaks[sheet.above] = Sheet(sheet.above, dict(highest))
    return tuple(peaks.values())


@dataclass(slots=True, frozen=True)
class Override:
    """The stack file's prices for one model, merged over a catalogue's price by price.

    Attributes:
        prices: bucket or fee → price from 0 tokens on, as in ``Sheet.prices``.
        tiers: length steps, each with the prices that differ from there on.
        service_tiers: name → ``(prices, tiers)`` of that service tier.
        inherits: whether omitted prices come from the card below.
        base_model: the model whose card is used, for a name that no catalogue knows.
    """

    prices: Mapping[str, int] = field(default_factory=dict)
    tiers: Sequence[Sheet] = ()
    service_tiers: Mapping[str, tuple[Mapping[str, int], Sequence[Sheet]]] = field(default_factory=dict)
    inherits: bool = True
    base_model: str | None = None
    context_window: int | None = None
    max_output: int | None = None
    capabilities: frozenset[str] | None = None

    def over(self, below: PriceCard | None, model: str, version: str) -> PriceCard:
        """A card with these prices, and the omitted ones from the card below."""
        card = below or PriceCard(model, {})
        if not self.inherits:
            card = replace(card, prices={}, service_tiers={}, until=None)
        tiers = dict(card.service_tiers)
        for name, (prices, steps) in self.service_tiers.items():
            tiers[name] = _laid(tiers.get(name, {}), prices, steps)
        return replace(
            card,
            model=model,
            prices=_laid(card.prices, self.prices, self.tiers),
            service_tiers=tiers,
            source=f"{STACK}+{card.source}" if below and self.inherits else STACK,
            version=f"{version}+{card.version}" if below and self.inherits else version,
            # explicit prices take precedence over the vendor's figure
            billed=card.billed and not (self.prices or self.tiers or self.service_tiers),
            context_window=self.context_window or card.context_window,
            max_output=self.max_output or card.max_output,
            capabilities=card.capabilities if self.capabilities is None else self.capabilities,
        )


def _laid(below: Mapping[str, Steps], prices: Mapping[str, int], tiers: Sequence[Sheet]) -> dict[str, Steps]:
    made = {name: dict(steps) for name, steps in below.items()}
    for above, changed in [(0, prices), *((tier.above, tier.prices) for tier in tiers)]:
        for name, price in changed.items():
            made.setdefault(name, {})[above] = price
    # a price first given at a step applies from 0: below it is free only if the file says so
    return {name: _ascending(steps) for name, steps in made.items()}


def _ascending(steps: Mapping[int, int]) -> Steps:
    ordered = sorted(steps.items())
    return tuple(ordered) if ordered[0][0] == 0 else ((0, ordered[0][1]), *ordered)


Source = Callable[[Upstream, str], PriceCard | None]
"""What distributions know: an upstream and the model's name there → its card."""


class Prices:
    """The cards of one stack: the stack file's own prices first, then what distributions know, else ``None``.

    Attributes:
        unmetered: ``upstream operation`` → number of answers that should have reported usage and did not.
        warmed: whether :meth:`warm` has run, after which look-ups are cheap.

    Args:
        overrides: upstream → model or wildcard → the stack file's prices.
        source: called once per target; may import a catalogue on its first call.
        version: of the overrides.
    """

    def __init__(
        self,
        overrides: Mapping[str, Mapping[str, Override]] | None = None,
        source: Source | None = None,
        version: str = "",
    ) -> None:
        self._overrides = overrides or {}
        self._source = source
        self._version = version
        self._cards: dict[tuple[str, str], PriceCard | None] = {}
        self.warmed = False
        self.unmetered: Counter[str] = Counter()

    def card(self, target: Target) -> PriceCard | None:
        """The card of a target, cached after the first look-up. ``None`` means unpriced, which is not free."""
        key = (target.upstream.name, target.model)
        try:
            found = self._cards[key]
        except KeyError:
            return self._resolve(target, key)
        if found is not None and found.until is not None and time.time() >= found.until:
            return self._resolve(target, key)
        return found

    def known(self, upstream: str, model: str) -> PriceCard | None:
        """The last result of :meth:`card` for a target of these names; ``None`` if there was none."""
        return self._cards.get((upstream, model))

    def warm(self, targets: Iterable[Target], upstreams: Iterable[Upstream] = ()) -> list[str]:
        """Look up every target in advance; may take a second, so do not call it on the serving loop.

        Args:
            targets: every model known by name.
            upstreams: those whose other models clients may name; a catalogue loads on its first look-up.

        Returns:
            the targets without a price, as ``upstream/model``.
        """
        for upstream in upstreams:
            self.card(Target(upstream, ""))
        unpriced = [str(target) for target in targets if not ((card := self.card(target)) and card.prices)]
        self.warmed = True
        return list(dict.fromkeys(unpriced))

    def note_unmetered(self, target: Target, operation: str) -> None:
        """Count an answer that reported no usage, though its operation is billed; logged the first time."""
        what = f"{target.upstream.name} {operation}"
        if not self.unmetered[what]:
            _log.warning(
                "an answer reported no usage: its cost is not known", upstream=target.upstream.name, operation=operation
            )
        self.unmetered[what] += 1

    def _resolve(self, target: Target, key: tuple[str, str]) -> PriceCard | None:
        upstream, model = target.upstream, target.model
        override = self._override(upstream.name, model)
        wanted = override.base_model if override and override.base_model else model
        source = None if override is not None and not override.inherits else self._source
        card = source(upstream, wanted) if source is not None else None
        if override is not None:
            card = override.over(card, model, self._version)
        # bounded, since clients choose the names
        if len(self._cards) < _CACHED or key in self._cards:
            self._cards[key] = card
        return card

    def _override(self, upstream: str, model: str) -> Override | None:
        listed = self._overrides.get(upstream, {})
        if model in listed:
            return listed[model]
        fitting = [name for name in listed if "*" in name and fits(name, model)]
        return listed[max(fitting, key=len)] if fitting else None


def fits(wildcard: str, model: str) -> bool:
    """Whether a wildcard with a single ``*`` matches a model name."""
    prefix, _, suffix = wildcard.partition("*")
    return len(model) >= len(prefix) + len(suffix) and model.startswith(prefix) and model.endswith(suffix)
