"""Recorded usage objects: what was read, and what it cost, against figures added up by hand.

The prices of a row are dollars per million tokens (fees: per piece) as published when the table was written; they are
literals, so that a new catalogue changes nothing here. The arithmetic counts nano-dollars: $1 per million is 1,000 nano
per token. Token counts in it are those of the vendor's own usage object.
"""

import gzip
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest
from framings import metered, reframed
from hypothesis import given
from hypothesis import strategies as st

from gwcore.prices import PriceCard
from gwcore.usage import BUCKETS
from gwcore_providers import usage as readers

FILE = Path(os.environ.get("GWCORE_RECORDINGS") or "/nonexistent") / "dev.jsonl.gz"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="GWCORE_RECORDINGS is unset: recorded usage was NOT tested")

KIMI = {"input": "0.95", "cache_read": "0.16", "output": "4"}
SOL = {"input": "4", "cache_read": "0.4", "cache_write_5m": "5", "output": "20"}
TERRA = {"input": "2", "cache_read": "0.2", "cache_write_5m": "2.5", "output": "12"}
TERRA_FLEX = {"input": "1", "cache_read": "0.1", "cache_write_5m": "1.25", "output": "6"}
LUNA_FLEX = {"input": "0.1", "cache_read": "0.01", "output": "0.6"}
AUDIO = {"input": "2.5", "output": "10", "audio_in": "32", "audio_out": "64"}
OSS = {"input": "0.35", "output": "0.75"}
GEMINI_PRO = {"input": "1.25", "cache_read": "0.125", "output": "10"}
VOXTRAL = {"input": "0.1", "output": "0.4"}
SONNET = {
    "input": "3",
    "cache_read": "0.3",
    "cache_write_5m": "3.75",
    "cache_write_1h": "6",
    "output": "15",
    "web_search": "0.01",
}
SONNET_LONG = {"input": "6", "cache_read": "0.6", "cache_write_5m": "7.5", "output": "22.5", "web_search": "0.01"}
SONNET_5 = {"input": "2", "cache_read": "0.2", "cache_write_5m": "2.5", "cache_write_1h": "4", "output": "10"}
HAIKU = {
    "input": "1",
    "cache_read": "0.1",
    "cache_write_5m": "1.25",
    "cache_write_1h": "2",
    "output": "5",
    "web_search": "0.01",
}
HAIKU_3 = {"input": "0.8", "cache_read": "0.08", "cache_write_5m": "1", "output": "4"}
OPUS = {"input": "5", "cache_read": "0.5", "cache_write_5m": "6.25", "output": "25"}
MINI_54 = {"input": "0.75", "cache_read": "0.075", "output": "4.5"}
GPT_5 = {"input": "1.25", "cache_read": "0.125", "output": "10", "web_search": "0.01", "file_search": "0.0025"}
MINI_5 = {"input": "0.25", "cache_read": "0.025", "output": "2", "file_search": "0.0025"}
GPT_52 = {"input": "1.75", "cache_read": "0.175", "output": "14", "web_search": "0.01"}
GPT_4O = {"input": "2.5", "cache_read": "1.25", "output": "10"}
NANO = {"input": "0.05", "cache_read": "0.005", "output": "0.4"}
V4 = {"input": "0.3", "cache_read": "0.006", "output": "1.2"}
REASONER = {"input": "0.55", "cache_read": "0.14", "output": "2.19"}
FLASH = {"input": "0.3", "cache_read": "0.03", "output": "2.5", "audio_in": "1", "web_search": "0.035"}
FLASH_3 = {"input": "0.5", "cache_read": "0.05", "output": "3", "audio_in": "1"}
FLASH_38 = {"input": "0.75", "cache_read": "0.075", "output": "3.75"}
GROK_FAST = {"input": "0.2", "cache_read": "0.05", "output": "0.5"}
GROK_CODE = {"input": "0.2", "cache_read": "0.02", "output": "1.5"}
GROK_3 = {"input": "0.3", "cache_read": "0.075", "output": "0.5"}
GROK_43 = {"input": "1.25", "cache_read": "0.2", "output": "2.5"}
GPT_52_OR = {"input": "1.75", "output": "14", "web_search": "0.01"}
SONAR = {"input": "1", "output": "1", "request": "0.005"}
GROQ_OSS = {"input": "0.15", "cache_read": "0.075", "output": "0.6"}
COMMAND = {"input": "2.5", "output": "10"}
TRANSCRIBE = {"input": "2.5", "audio_in": "6", "output": "10"}
WHISPER = {"audio_seconds": "0.0001"}
TTS = {"input": "0.6", "output": "12"}
IMAGE = {"input": "2", "output": "8", "image_in": "2.5", "image_out": "8"}
ADA = {"input": "0.1"}
RERANK = {"rerank": "0.002"}
RERANK_LITE = {"input": "0.02"}


class Row(NamedTuple):
    """One recording: its id, its prices, the arithmetic, its result, the buckets, and what the vendor says it cost."""

    id: str
    prices: dict
    sum: int
    nano: int
    read: dict
    reported: int | None = None
    mismatch: bool = False


ROWS = [
    # chat completions: cached and written tokens inside the prompt, reasoning inside the completion
    Row("1b1e10e1aa275f5b", KIMI, 10 * 950 + 10 * 160 + 30 * 4_000, 131_100, {"input": 10, "cache_read": 10, "output": 8, "reasoning": 22}),
    Row("9f6300883971a1c5", SOL, 3 * 4_000 + 1_217 * 5_000 + 100 * 20_000, 8_097_000, {"input": 3, "cache_write_5m": 1_217, "reasoning": 100}),
    Row("e5b7a3ac084121b1", SOL, 8 * 4_000 + 4_012 * 5_000 + 4 * 20_000, 20_172_000, {"input": 8, "cache_write_5m": 4_012, "output": 4}),
    Row("765d67b8e0f87108", TERRA_FLEX, 159 * 1_000 + 17 * 6_000, 261_000, {"input": 159, "output": 17, "service_tier": "flex"}),
    Row("0733fdda84ba7c0e", AUDIO, 237 * 2_500 + 7 * 10_000 + 26 * 64_000, 2_326_500, {"input": 237, "output": 7, "audio_out": 26}),
    Row("0a0212b7a6796bde", OSS, 122 * 350 + 88 * 750, 108_700, {"input": 122, "output": 20, "reasoning": 68}),
    Row("fa9054633cd7f1da", GROQ_OSS, 46_567 * 150 + 1_024 * 75 + 415 * 600, 7_310_850, {"input": 46_567, "cache_read": 1_024, "output": 59, "reasoning": 356}),
    Row("88ee84d4824e06af", V4, 106 * 300 + 256 * 6 + 19 * 1_200, 56_136, {"input": 106, "cache_read": 256, "output": 7, "reasoning": 12}),
    Row("918cd0e3221c9793", REASONER, 80 * 550 + 896 * 140 + 61 * 2_190, 303_030, {"input": 80, "cache_read": 896, "output": 36, "reasoning": 25}),
    Row("1d85ac8d07c7389c", V4, 70 * 300 + 768 * 6 + 188 * 1_200, 251_208, {"input": 70, "cache_read": 768, "output": 188}),
    # reasoning that only the total shows, audio that only the total shows, reasoning above its own total, cache above the prompt
    Row("2d40689b753ac674", GEMINI_PRO, 66 * 1_250 + 34 * 10_000, 422_500, {"input": 66, "output": 6, "reasoning": 28}, mismatch=True),
    Row("51087d72ee10cb23", VOXTRAL, 391 * 100 + 2 * 400, 39_900, {"input": 391, "output": 2}, mismatch=True),
    Row("b0b9c1175cdb9948", V4, 95 * 300 + 2_048 * 1_200, 2_486_100, {"input": 95, "reasoning": 2_048}, mismatch=True),
    Row("22b7945a147dec97", GROK_FAST, 347 * 50 + 18 * 500, 26_350, {"cache_read": 347, "output": 18}, mismatch=True),
    # responses
    Row("08fe0da9e610024a", MINI_54, 306 * 750 + 7_168 * 75 + 70 * 4_500, 1_082_100, {"input": 306, "cache_read": 7_168, "output": 61, "reasoning": 9}),
    Row("c08f85167a395878", MINI_54, 423 * 750 + 7_168 * 75 + 6 * 4_500, 881_850, {"input": 423, "cache_read": 7_168, "output": 6}),
    Row("0a0739d0a1f6cfd1", LUNA_FLEX, 106 * 100 + 42 * 600, 35_800, {"input": 106, "output": 9, "reasoning": 33, "service_tier": "flex"}),
    Row("13630e6c12b11c51", LUNA_FLEX, 106 * 100 + 89 * 600, 64_000, {"input": 106, "output": 9, "reasoning": 80, "service_tier": "flex"}),
    Row("0767f7f7738afd21", GPT_4O, 130 * 2_500 + 12 * 10_000, 445_000, {"input": 130, "output": 12}),
    Row("65e656879909ccd1", NANO, 16 * 50, 800, {"input": 16}),
    Row("0ea440b4d72839ab", MINI_5, 1_140 * 250 + 2_560 * 25 + 741 * 2_000 + 1 * 2_500_000, 4_331_000, {"input": 1_140, "cache_read": 2_560, "output": 101, "reasoning": 640, "fees": {"file_search": 1}}),
    Row("8d9cd603b7146116", GPT_52, 12_243 * 1_750 + 140 * 14_000 + 2 * 10_000_000, 43_385_250, {"input": 12_243, "output": 40, "reasoning": 100, "fees": {"web_search": 2}}),
    Row("11b13d4f33b24a07", GPT_5, 1_143 * 1_250 + 8_320 * 125 + 582 * 10_000 + 10_000_000, 18_288_750, {"input": 1_143, "cache_read": 8_320, "output": 70, "reasoning": 512, "fees": {"web_search": 1}}),
    Row("5dd3e31e56fc581b", V4, 61 * 300 + 128 * 6 + 102 * 1_200, 141_468, {"input": 61, "cache_read": 128, "output": 2, "reasoning": 100}),
    # messages: cached and written tokens beside the input, by lifetime; thinking inside the output
    Row("eef567ea4544aa1a", SONNET, 10 * 3_000 + 67 * 3_750 + 1_603 * 6_000 + 13 * 15_000, 10_094_250, {"input": 10, "cache_write_5m": 67, "cache_write_1h": 1_603, "output": 6, "reasoning": 7}),
    Row("fe3f24d7527f11bf", SONNET, 12 * 3_000 + 3_710 * 3_750 + 3_715 * 6_000 + 10 * 15_000, 36_388_500, {"input": 12, "cache_write_5m": 3_710, "cache_write_1h": 3_715, "output": 10}),
    Row("aab3dcb1f2b934af", SONNET_5, 4 * 2_000 + 14_210 * 200 + 426 * 2_500 + 290 * 10_000, 6_815_000, {"input": 4, "cache_read": 14_210, "cache_write_5m": 426, "output": 275, "reasoning": 15}),
    Row("061356bd89d2ac33", HAIKU, 3 * 1_000 + 17_269 * 100 + 37 * 1_250 + 10 * 5_000, 1_826_150, {"input": 3, "cache_read": 17_269, "cache_write_5m": 37, "output": 10}),
    Row("139e9f5aaab3548e", OPUS, 15 * 5_000 + 837 * 6_250 + 81 * 25_000, 7_331_250, {"input": 15, "cache_write_5m": 837, "output": 70, "reasoning": 11}),
    Row("412902dad0413ea0", SONNET, 4 * 3_000 + 9_116 * 300 + 219 * 3_750 + 156 * 15_000, 5_908_050, {"input": 4, "cache_read": 9_116, "cache_write_5m": 219, "output": 156}),
    Row("0f33554c12e9aa4d", SONNET_5, 2 * 2_000 + 1_609 * 200 + 4 * 10_000, 365_800, {"input": 2, "cache_read": 1_609, "output": 4}),
    Row("4b01286d8c1b0983", SONNET, 19_859 * 3_000 + 544 * 15_000 + 10_000_000, 77_737_000, {"input": 19_859, "output": 544, "fees": {"web_search": 1}}),
    Row("3fd32ebb019c7139", SONNET_LONG, 404_500 * 6_000 + 943 * 22_500 + 10 * 10_000_000, 2_548_217_500, {"input": 404_500, "output": 682, "reasoning": 261, "fees": {"web_search": 10}}),
    Row("75fd53a22da1c296", SONNET_LONG, 401_468 * 6_000 + 792 * 22_500 + 10 * 10_000_000, 2_526_628_000, {"input": 401_468, "output": 792, "fees": {"web_search": 10}}),
    # written tokens whose lifetimes do not add up; a compaction that the top level leaves out (whole and streamed)
    Row("8a54682d969113dd", SONNET, 10 * 3_000 + 39_695 * 300 + 12_174 * 3_750 + 437 * 15_000 + 10_000_000, 74_146_000, {"input": 10, "cache_read": 39_695, "cache_write_5m": 12_174, "output": 437, "fees": {"web_search": 1}}, mismatch=True),
    Row("fa5adf37890a5252", HAIKU, 10 * 1_000 + 12_016 * 100 + 20_718 * 1_250 + 188 * 5_000 + 10_000_000, 38_049_100, {"input": 10, "cache_read": 12_016, "cache_write_5m": 20_718, "output": 188, "fees": {"web_search": 1}}, mismatch=True),
    Row("accea4d31b615673", SONNET, (229 + 100) * 3_000 + 55_096 * 3_750 + (5 + 131) * 15_000, 209_637_000, {"input": 329, "cache_write_5m": 55_096, "output": 136}),
    Row("7a14f396a8cee4cc", SONNET, (181 + 100) * 3_000 + 55_096 * 300 + (8 + 83) * 15_000, 18_736_800, {"input": 281, "cache_read": 55_096, "output": 91}),
    # generateContent: cached inside the prompt, thoughts and tool input beside
    Row("23745313a3f59ee7", FLASH, (1_107 - 1_081 + 1_171) * 300 + 1_081 * 30 + (21 + 41) * 2_500, 546_530, {"input": 1_197, "cache_read": 1_081, "output": 21, "reasoning": 41}),
    Row("4fd79940c2183fb5", FLASH, 121 * 300 + 331 * 2_500 + 35_000_000, 35_863_800, {"input": 121, "output": 36, "reasoning": 295, "fees": {"web_search": 1}}),
    Row("17fa41e4deade786", FLASH, 742 * 300 + 3_055 * 30 + 2_205 * 2_500, 5_826_750, {"input": 742, "cache_read": 3_055, "output": 656, "reasoning": 1_549}),
    Row("37d5dc80d79732d4", FLASH, 460 * 300 + 206 * 2_500, 653_000, {"input": 460, "output": 31, "reasoning": 175}),
    Row("0059e3310996cfbb", FLASH_38, 10 * 750 + 12 * 3_750, 52_500, {"input": 10, "reasoning": 12}),
    Row("05179b78afc76f7e", FLASH_38, 16 * 750 + 606 * 3_750, 2_284_500, {"input": 16, "output": 54, "reasoning": 552}),
    Row("06e6a56aab10d5bd", FLASH_3, 14 * 500 + 138 * 1_000 + 627 * 3_000, 2_026_000, {"input": 14, "audio_in": 138, "output": 18, "reasoning": 609}),
    Row("c7dd3c42b8ac8501", FLASH_3, 780 * 500 + 250 * 1_000 + 719 * 3_000, 2_797_000, {"input": 780, "audio_in": 250, "output": 132, "reasoning": 587}),
    Row("276ed971cb9f0cb5", FLASH_3, 102 * 500 + 353 * 3_000, 1_110_000, {"input": 102, "output": 7, "reasoning": 346}),
    Row("1fdab2a1d0c9bdbd", GEMINI_PRO, 575 * 1_250 + 97 * 10_000, 1_688_750, {"input": 575, "output": 1, "reasoning": 96}, mismatch=True),
    # Bedrock: both of its APIs
    Row("a604d9551fc2346b", SONNET, 182 * 3_000 + 258 * 15_000, 4_416_000, {"input": 182, "output": 258}),
    Row("bb9046c0b4406a53", SONNET, 782 * 3_000 + 20 * 15_000, 2_646_000, {"input": 782, "output": 20}),
    Row("697aee4116cb101d", HAIKU, 3 * 1_000 + 9_511 * 100 + 1_944 * 5_000, 10_674_100, {"input": 3, "cache_read": 9_511, "output": 1_944}),
    Row("cb90a0243ffcc16c", HAIKU_3, 4 * 800 + 18_131 * 1_000 + 50 * 4_000, 18_334_200, {"input": 4, "cache_write_5m": 18_131, "output": 50}),
    # vendors that say what they bill: xAI (ticks of 1e-10 USD; reasoning beside the completion in chat, inside in responses) …
    Row("6fb421a8fded9ccc", GROK_FAST, 52 * 200 + 618 * 50 + (25 + 44) * 500, 75_800, {"input": 52, "cache_read": 618, "output": 25, "reasoning": 44}, 75_800),
    Row("9af31d6291ad4a41", GROK_CODE, 14 * 200 + 512 * 20 + (27 + 72) * 1_500, 161_540, {"input": 14, "cache_read": 512, "output": 27, "reasoning": 72}, 161_540),
    Row("b3205214a247f31d", GROK_3, 48 * 300 + 283 * 75 + (11 + 332) * 500, 207_125, {"input": 48, "cache_read": 283, "output": 11, "reasoning": 332}, 207_125),
    Row("48fa628096c2350c", GROK_43, 175 * 1_250 + 128 * 200 + 272 * 2_500, 924_350, {"input": 175, "cache_read": 128, "output": 15, "reasoning": 257}, 924_350),
    Row("90ade06f49d0ae17", GROK_43, 58 * 1_250 + 640 * 200 + 476 * 2_500, 1_390_500, {"input": 58, "cache_read": 640, "output": 5, "reasoning": 471}, 1_390_500),
    # … OpenRouter, Perplexity
    Row("906b9644d8eb1cff", SONNET, 1 * 3_000 + 2_569 * 300 + 79 * 3_750 + 100 * 15_000, 2_569_950, {"input": 1, "cache_read": 2_569, "cache_write_5m": 79, "output": 100}, 2_569_950),
    Row("75256be8571c14aa", GPT_52_OR, 16_924 * 1_750 + 485 * 14_000 + 3 * 10_000_000, 66_407_000, {"input": 16_924, "output": 36, "reasoning": 449, "fees": {"web_search": 3}}, 66_407_000),
    Row("16f57b78ca3d3056", SONAR, 139 * 1_000 + 2 * 1_000 + 5_000_000, 5_141_000, {"input": 139, "output": 2}, 5_141_000),
    # other units, other operations
    Row("a92e742a9e298f83", COMMAND, 26 * 2_500 + 147 * 10_000, 1_535_000, {"input": 26, "output": 147}),
    Row("930813715aa4363a", TRANSCRIBE, 17 * 6_000 + 10 * 10_000, 202_000, {"audio_in": 17, "output": 10}),
    Row("d1bf1c402e1c24ef", WHISPER, 37 * 100_000, 3_700_000, {"fees": {"audio_seconds": 37}}),
    Row("03127461e677b7ad", TTS, 10 * 600 + 93 * 12_000, 1_122_000, {"input": 10, "audio_out": 93}),
    Row("20f08fe99f7945e2", IMAGE, 14 * 2_000 + 272 * 8_000, 2_204_000, {"input": 14, "image_out": 272}),
    Row("015f70f846d92c9c", ADA, 5 * 100, 500, {"input": 5}),
    Row("005b214277a2078d", RERANK, 1 * 2_000_000, 2_000_000, {"fees": {"rerank": 1}}),
    Row("e0b5d6c4ff026a8d", RERANK_LITE, 57 * 20, 1_140, {"input": 57}),
]  # fmt: skip


def card(prices):
    """Dollars per million tokens; of a fee, per piece."""
    scale = {name: Decimal(10**9) if name in BUCKETS else Decimal(10**15) for name in prices}
    return PriceCard("recorded", {name: ((0, int(Decimal(text) * scale[name])),) for name, text in prices.items()})


@pytest.fixture(scope="module")
def records():
    found = {}
    with gzip.open(FILE, "rt") as lines:
        for record in map(json.loads, lines):
            found[record["id"]] = record
    return found


def wrong(records):
    """Rows whose reading or cost is not the table's."""
    bad = []
    for row in ROWS:
        usage = metered(records[row.id])
        want = {name: row.read.get(name, 0) for name in BUCKETS}
        if usage is None or {name: getattr(usage, name) for name in BUCKETS} != want:
            bad.append((row.id, "buckets", usage))
        elif dict(usage.fees) != row.read.get("fees", {}) or usage.service_tier != row.read.get("service_tier"):
            bad.append((row.id, "fees or tier", usage))
        elif card(row.prices).cost(usage) != row.nano or usage.reported != row.reported:
            bad.append((row.id, "cost", usage))
        elif usage.mismatch != row.mismatch:
            bad.append((row.id, "mismatch", usage))
    return bad


def test_the_table_adds_up():
    assert len(ROWS) >= 60 and len({row.id for row in ROWS}) == len(ROWS)
    assert [row.id for row in ROWS if row.sum != row.nano] == []
    assert [row.id for row in ROWS if row.reported not in (None, row.nano)] == []


def test_sixty_recorded_usage_objects_cost_what_was_added_up_by_hand(records):
    assert wrong(records) == []


def test_the_other_framing_reads_the_same(records):
    """A whole reply told again as a stream, and a stream as a whole reply, in pieces of any size."""
    told = 0
    for row in ROWS:
        whole = metered(records[row.id])
        for again in reframed(records[row.id]):
            told += 1
            assert again == whole, row.id
    assert told > 150


def test_a_reader_that_bills_cached_tokens_twice_is_caught(records, monkeypatch):
    split = readers._split
    monkeypatch.setattr(readers, "_split", lambda total, *parts: [total, *split(total, *parts)[1:]])
    assert len(wrong(records)) > 15


def test_a_reader_that_forgets_reasoning_beside_the_output_is_caught(records, monkeypatch):
    totals = readers._openai_totals
    monkeypatch.setattr(
        readers, "_openai_totals", lambda *args: (totals(*args)[0], totals(*args)[1] - totals(*args)[2], 0, 0)
    )
    assert len(wrong(records)) > 8


_COUNTS = st.none() | st.integers(-1, 300) | st.just(0)
_PARTS = st.dictionaries(
    st.sampled_from(["cached_tokens", "reasoning_tokens", "audio_tokens", "image_tokens"]), _COUNTS
)
_USAGES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ["prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"], _COUNTS
        ),
        **dict.fromkeys(
            ["prompt_tokens_details", "completion_tokens_details", "output_tokens_details"], _PARTS | st.none()
        ),
        **dict.fromkeys(
            ["cost", "citation_tokens", "prompt_audio_seconds", "reasoning_tokens", "num_search_queries"], _COUNTS
        ),
    },
)


@given(_USAGES, st.sampled_from([(), ("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")]))
def test_the_short_way_of_plain_usage_is_the_long_one(usage, totals):
    if totals:  # that add up
        usage["total_tokens"] = sum(usage.get(name) or 0 for name in totals)
    short = readers.openai_usage(usage, "flex")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(readers, "_plain", lambda _: None)
        assert readers.openai_usage(usage, "flex") == short


def test_most_recorded_usage_goes_the_short_way():
    """Else the test above would have nothing to compare."""
    details = {"prompt_tokens_details": {"cached_tokens": 0}}
    assert readers._plain({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, **details}) == readers.Usage(
        1, output=1
    )
    assert readers._plain({"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}) == readers.Usage(1, output=1)
    assert readers._plain({"prompt_tokens": 1, "total_tokens": 1}) == readers.Usage(1)
    assert readers._plain({"prompt_tokens": 1, "total_tokens": 2, **details}) is None
    assert not readers._plain({"prompt_tokens": 1, "cost": 0})


@pytest.mark.parametrize(
    ("said", "heard"),
    [("flex", "flex"), ("Priority", "priority"), ("default", None), (None, None), (7, None), ("what you asked me", "unknown"), ("x" * 41, "unknown")],
)  # fmt: skip
def test_a_service_tier_is_a_name_or_unknown(said, heard):
    """It is written into ledgers and records, where nothing that an upstream makes up belongs."""
    assert readers.tier(said) == heard
