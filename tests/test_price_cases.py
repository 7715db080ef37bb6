"""Forty price cases, each added up by hand; and the bound a budget takes from the same cards.

Cards are written in dollars per million tokens and per piece, as vendors publish them. The arithmetic counts
nano-dollars: $1 per million tokens is 1,000 nano per token.
"""

import random
from decimal import Decimal
from typing import NamedTuple

import pytest

from gwcore.prices import PriceCard
from gwcore.usage import BUCKETS, IN, Usage


def steps(name, *prices):
    """``"3"`` or ``"3", (200_000, "6")`` as steps of nano-USD per million units."""
    scale = Decimal(10**9) if name in BUCKETS else Decimal(10**15)
    listed = [(0, prices[0]), *prices[1:]]
    return tuple((above, int(Decimal(price) * scale)) for above, price in listed)


def sheet(prices):
    return {name: steps(name, *(price if isinstance(price, tuple) else (price,))) for name, price in prices.items()}


def card(prices, **tiers):
    return PriceCard("case", sheet(prices), {name: sheet(own) for name, own in tiers.items()})


SONNET = card(
    {
        "input": ("3", (200_000, "6")),
        "cache_read": ("0.3", (200_000, "0.6")),
        "cache_write_5m": ("3.75", (200_000, "7.5")),
        "cache_write_1h": ("6", (200_000, "12")),
        "output": ("15", (200_000, "22.5")),
        "web_search": "0.01",
    },
    batch={"input": "1.5", "cache_read": "0.15", "cache_write_5m": "1.875", "cache_write_1h": "3", "output": "7.5"},
    fast={"input": "30", "output": "150"},
)
GPT = card(
    {"input": ("2.5", (272_000, "5")), "cache_read": ("0.25", (272_000, "0.5")), "output": ("15", (272_000, "22.5")),
     "web_search": "0.01", "file_search": "0.0025"},
    flex={"input": "1.25", "cache_read": "0.13", "output": "7.5"},
    priority={"input": "5", "cache_read": "0.5", "output": "30"},
)  # fmt: skip
PRO = card({"input": ("1.25", (200_000, "2.5")), "cache_read": ("0.31", (200_000, "0.625")), "output": ("10", (200_000, "15")), "web_search": "0.035"})  # fmt: skip
FLASH = card({"input": "0.3", "cache_read": "0.03", "output": "2.5", "audio_in": "1", "audio_cache_read": "0.1"})
VOICE = card({"input": "2.5", "output": "10", "audio_in": "40", "audio_out": "80", "audio_cache_read": "2.5"})
IMAGES = card({"input": "5", "image_in": "10", "image_cache_read": "2.5", "output": "40"})
PLAIN = card({"input": "0.15", "output": "0.6"})
REASONER = card({"input": "2", "output": "8", "reasoning": "3", "citation": "0.000002", "web_search": "0.005"})
PIECES = card(
    {
        "image": "0.04",
        "image/hd": "0.08",
        "image/hd/1792x1024": "0.12",
        "audio_seconds": "0.0001",
        "characters": "0.000015",
        "pages": "0.001",
        "rerank": "0.002",
    }
)
SMALL = card({"input": "0.0375", "output": "0.15"})
EMBED = card({"input": "0.02"})
SEARCH = card({"input": "1", "output": "1", "request": "0.005"})
THREE = card({"input": ("1", (128_000, "2"), (1_000_000, "4")), "output": "5"})
FREE = card({"input": "0", "output": "0"})


class Case(NamedTuple):
    """What, on which card, in which tier; the arithmetic; its result in nano-USD."""

    what: str
    card: PriceCard
    usage: Usage
    sum: int
    nano: int
    tier: str | None = None


CASES = [
    Case("plain", PLAIN, Usage(input=1_000, output=500), 1_000 * 150 + 500 * 600, 450_000),
    Case("one token", PLAIN, Usage(input=1), 150, 150),
    Case("nothing", PLAIN, Usage(), 0, 0),
    Case("below a nano-dollar, rounded up", SMALL, Usage(input=1), -(-375 // 10), 38),
    Case("one ceil for all parts, not one each", SMALL, Usage(input=1, cache_read=1), (375 + 375) // 10, 75),
    Case("many small ones", SMALL, Usage(input=1_001, output=3), -(-(1_001 * 375 + 3 * 1_500) // 10), 37_988),
    Case("cached input", SONNET, Usage(input=100, cache_read=9_900, output=10), 100 * 3_000 + 9_900 * 300 + 10 * 15_000, 3_420_000),
    Case("written for minutes", SONNET, Usage(input=10, cache_write_5m=2_000), 10 * 3_000 + 2_000 * 3_750, 7_530_000),
    Case("written for an hour", SONNET, Usage(input=10, cache_write_1h=2_000), 10 * 3_000 + 2_000 * 6_000, 12_030_000),
    Case("read and both writes", SONNET, Usage(input=1, cache_read=2, cache_write_5m=3, cache_write_1h=4, output=5), 3_000 + 2 * 300 + 3 * 3_750 + 4 * 6_000 + 5 * 15_000, 113_850),
    Case("reasoning as output", SONNET, Usage(output=20, reasoning=100), 120 * 15_000, 1_800_000),
    Case("three searches", SONNET, Usage(input=100, fees={"web_search": 3}), 100 * 3_000 + 3 * 10_000_000, 30_300_000),
    Case("at the long-context step", SONNET, Usage(input=200_000, output=10), 200_000 * 3_000 + 10 * 15_000, 600_150_000),
    Case("one above the step: all of it", SONNET, Usage(input=200_001, output=10), 200_001 * 6_000 + 10 * 22_500, 1_200_231_000),
    Case("cached tokens count towards the step", SONNET, Usage(input=1, cache_read=200_000, output=1), 6_000 + 200_000 * 600 + 22_500, 120_028_500),
    Case("written ones too", SONNET, Usage(cache_write_5m=150_000, cache_write_1h=50_001), 150_000 * 7_500 + 50_001 * 12_000, 1_725_012_000),
    Case("output does not", SONNET, Usage(input=200_000, output=100_000), 200_000 * 3_000 + 100_000 * 15_000, 2_100_000_000),
    Case("a batch", SONNET, Usage(input=1_000, cache_read=1_000, output=1_000), 1_000 * (1_500 + 150 + 7_500), 9_150_000, "batch"),
    Case("a batch's writes", SONNET, Usage(cache_write_5m=8, cache_write_1h=8), 8 * 1_875 + 8 * 3_000, 39_000, "batch"),
    Case("a fee has no batch price", SONNET, Usage(fees={"web_search": 1}), 10_000_000, 10_000_000, "batch"),
    Case("fast: what it leaves out is standard", SONNET, Usage(input=10, cache_read=10, output=10), 10 * 30_000 + 10 * 300 + 10 * 150_000, 1_803_000, "fast"),
    Case("flex", GPT, Usage(input=1_000, cache_read=100, output=10), 1_000 * 1_250 + 100 * 130 + 10 * 7_500, 1_338_000, "flex"),
    Case("flex as the reply says it", GPT, Usage(input=1_000, output=10, service_tier="flex"), 1_000 * 1_250 + 10 * 7_500, 1_325_000),
    Case("what is asked for wins over the reply", GPT, Usage(input=1_000, service_tier="flex"), 1_000 * 5_000, 5_000_000, "priority"),
    Case("priority", GPT, Usage(input=1_000, cache_read=100, output=10), 1_000 * 5_000 + 100 * 500 + 10 * 30_000, 5_350_000, "priority"),
    Case("priority has no step of its own", GPT, Usage(input=300_000, output=1), 300_000 * 5_000 + 30_000, 1_500_030_000, "priority"),
    Case("an unknown tier is standard, and named", GPT, Usage(input=1_000), 1_000 * 2_500, 2_500_000, "turbo"),
    Case("the longer step", GPT, Usage(input=272_001, output=2), 272_001 * 5_000 + 2 * 22_500, 1_360_050_000),
    Case("two kinds of search", GPT, Usage(fees={"web_search": 2, "file_search": 4}), 2 * 10_000_000 + 4 * 2_500_000, 30_000_000),
    Case("cache priced to a third decimal", PRO, Usage(input=10, cache_read=33, output=7, reasoning=3), 10 * 1_250 + 33 * 310 + 10 * 10_000, 122_730),
    Case("long and grounded", PRO, Usage(input=250_000, reasoning=1_000, fees={"web_search": 1}), 250_000 * 2_500 + 1_000 * 15_000 + 35_000_000, 675_000_000),
    Case("audio in, some of it cached", FLASH, Usage(input=14, audio_in=138, audio_cache_read=62, output=18), 14 * 300 + 138 * 1_000 + 62 * 100 + 18 * 2_500, 193_400),
    Case("images at the price of input", FLASH, Usage(image_in=258, image_cache_read=10), 258 * 300 + 10 * 30, 77_700),
    Case("speech both ways", VOICE, Usage(input=30, audio_in=70, output=20, audio_out=80), 30 * 2_500 + 70 * 40_000 + 20 * 10_000 + 80 * 80_000, 9_475_000),
    Case("an image drawn, one shown", IMAGES, Usage(input=50, image_in=300, image_cache_read=100, image_out=4_160), 50 * 5_000 + 300 * 10_000 + 100 * 2_500 + 4_160 * 40_000, 169_900_000),
    Case("four images by the piece", PIECES, Usage(fees={"image": 4}), 4 * 40_000_000, 160_000_000),
    Case("images by quality and size", PIECES, Usage(fees={"image/hd/1792x1024": 2, "image/hd/1024x1024": 3, "image/1792x1024": 1}), 2 * 120_000_000 + 3 * 80_000_000 + 40_000_000, 520_000_000),
    Case("half a minute of audio", PIECES, Usage(fees={"audio_seconds": 30}), 30 * 100_000, 3_000_000),
    Case("text to speech by the character", PIECES, Usage(fees={"characters": 1_234}), 1_234 * 15_000, 18_510_000),
    Case("pages and searches", PIECES, Usage(fees={"pages": 12, "rerank": 1}), 12 * 1_000_000 + 2_000_000, 14_000_000),
    Case("reasoning and citations at prices of their own", REASONER, Usage(input=33, output=7_163, reasoning=193_648, fees={"citation": 20_016, "web_search": 28}), 33 * 2_000 + 7_163 * 8_000 + 193_648 * 3_000 + 20_016 * 2_000 + 28 * 5_000_000, 818_346_000),
    Case("an embedding", EMBED, Usage(input=8_191), 8_191 * 20, 163_820),
    Case("a fee for the request itself", SEARCH, Usage(input=25, output=18), 43 * 1_000 + 5_000_000, 5_043_000),
    Case("the middle of three steps", THREE, Usage(input=128_001, output=1), 128_001 * 2_000 + 5_000, 256_007_000),
    Case("the last of three steps", THREE, Usage(input=1_000_001), 1_000_001 * 4_000, 4_000_004_000),
    Case("free is 0, said so", FREE, Usage(input=10**9, output=10**9, reasoning=5), 0, 0),
    Case("beyond 2**53 nano-dollars", SONNET, Usage(input=2_000_000_000_001), 2_000_000_000_001 * 6_000, 12_000_000_000_006_000),
]  # fmt: skip

CARDS = list({id(case.card): case.card for case in CASES}.values())


def wrong():
    """Cases that do not cost what they should."""
    return [case.what for case in CASES if case.card.cost(case.usage, service_tier=case.tier) != case.nano]


def test_the_table_adds_up():
    assert len(CASES) >= 40
    assert [case.what for case in CASES if case.sum != case.nano] == []


def test_forty_cases_cost_what_was_added_up_by_hand():
    assert wrong() == []


def test_a_card_that_ignores_the_length_is_caught(monkeypatch):
    monkeypatch.setattr(PriceCard, "sheet", lambda self, _usage, tier: self.sheets.get(tier or "", self.sheets[""])[0])
    assert len(wrong()) >= 5


def test_a_card_that_ignores_the_service_tier_is_caught(monkeypatch):
    sheet_of = PriceCard.sheet
    monkeypatch.setattr(PriceCard, "sheet", lambda self, usage, _tier: sheet_of(self, usage, None))
    assert len(wrong()) >= 6


def test_a_card_that_prices_only_the_part_above_the_step_is_caught(monkeypatch):
    cost = PriceCard.cost

    def marginal(self, usage, *, service_tier=None):
        low = cost(self, Usage(input=min(usage.input, 200_000)), service_tier=service_tier)
        return (
            low
            + cost(self, usage, service_tier=service_tier)
            - cost(self, Usage(input=usage.input - 1), service_tier=service_tier)
        )

    monkeypatch.setattr(PriceCard, "cost", marginal)
    assert wrong()


# ── what a budget holds beforehand (acceptance B12) ──────────────────────────────────────────────────────────────────


def bound(found, tokens_in, tokens_out, fees):
    """The most that a request of so many tokens and fees can cost."""
    most_in = max((found.highest(bucket, tokens_in) or 0 for bucket in IN), default=0)
    most_out = max((found.highest(b, tokens_in) or 0 for b in BUCKETS if b not in IN), default=0)
    most = tokens_in * most_in + tokens_out * most_out + (found.highest("request", tokens_in) or 0)
    most += sum(count * (found.highest(fee, tokens_in) or 0) for fee, count in fees.items())
    return -(-most // 10**6)


def reachable(rng, found):
    """A usage within a random limit, and that limit; lengths lie near the steps of the card."""
    near = [above for sheets in found.sheets.values() for one in sheets for above in (one.above, one.above + 1)]
    limit = max(0, rng.choice([*near, 10, 5_000]) + rng.randint(-3, 3))
    left, parts = limit, {}
    for bucket in rng.sample(IN, 3):
        parts[bucket] = rng.randint(0, left)
        left -= parts[bucket]
    if rng.random() < 0.5:
        parts["input"] = parts.get("input", 0) + left
    out = rng.randint(0, 200_000)
    thought = rng.randint(0, out)
    fees = {fee: rng.randint(0, 3) for fee in found.prices if fee not in BUCKETS and fee != "request"}
    usage = Usage(**parts, output=out - thought, reasoning=thought, fees=fees)
    usage.service_tier = rng.choice([None, *found.service_tiers])
    return usage, limit, out


def overruns(found, rounds):
    rng = random.Random(4)
    drawn = (reachable(rng, found) for _ in range(rounds))
    return sum(found.cost(usage) > bound(found, most_in, most_out, usage.fees) for usage, most_in, most_out in drawn)


@pytest.mark.parametrize("found", CARDS, ids=lambda found: ",".join(found.prices))
def test_no_reachable_usage_costs_more_than_the_bound(found):
    assert overruns(found, 10_000) == 0


@pytest.mark.parametrize("blind", ["length", "service tier"])
def test_a_bound_that_overlooks_a_price_is_caught(monkeypatch, blind):
    highest = PriceCard.highest

    def careless(self, bucket, tokens):
        return highest(self, bucket, 0) if blind == "length" else highest(self, bucket, tokens, ())

    monkeypatch.setattr(PriceCard, "highest", careless)
    assert sum(overruns(found, 2_000) for found in (SONNET, GPT, PRO, THREE)) > 20
