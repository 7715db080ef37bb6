"""B12: what is held is at least what any usage that the request allows can cost; and the calls that nothing bounds."""

import random

import orjson
import pytest

from gwcore.call import Attempt
from gwcore.prices import MILLION, PriceCard
from gwcore.testing import fakes
from gwcore.usage import Usage
from gwcore_budget import bound as module
from gwcore_budget.bound import Bound, bound, scaled


def card(output=(15,), tiers=None, **prices):
    """Dollars per million tokens; a pair is a step: what a request of more than so many tokens pays."""
    prices = {"output": output, **prices}

    def steps(value):
        first, *more = value if isinstance(value, tuple) else (value,)
        return ((0, round(first * 10**9)), *((above, round(price * 10**9)) for above, price in more))

    made = {name: steps(value) for name, value in prices.items()}
    return PriceCard(
        "m", made, {t: {n: steps(v) for n, v in own.items()} for t, own in (tiers or {}).items()},
        context_window=1_000_000, max_output=64_000,
    )  # fmt: skip


CARDS = {
    "long context": card(input=(3, (2_000, 6)), output=(15, (2_000, 22.5)), cache_read=(0.3, (2_000, 0.6)), cache_write_5m=(3.75, (2_000, 7.5)), cache_write_1h=(6, (2_000, 12))),
    "service tiers": card(input=2.5, cache_read=0.25, tiers={"flex": {"input": 1.25, "output": (7.5,)}, "priority": {"input": 5, "output": (30,)}}),
    "reasoning": card(input=2, output=(8,), reasoning=12),
    "a fee per request": card(input=1, output=(1,), request=5_000),
    "voice": card(input=2.5, output=(10,), audio_in=40, audio_out=80),
    "plain": card(input=0.0375, output=(0.15,)),
}  # fmt: skip


def drawn(rng, prices):
    """A request, and a usage that it allows."""
    cached = rng.random() < 0.5
    text = "x" * rng.choice([0, 10, 500, 1_900, 2_100, 5_000])
    length, choices = rng.choice([1, 16, 300, 70_000, None]), rng.choice([1, 1, 4])
    fields = {"n": choices} if choices > 1 else {}
    if length is not None:
        fields["max_tokens"] = length
    if cached:
        fields["cache_control"] = {"type": "ephemeral"}
    if "audio_in" in prices.prices:
        fields["modalities"] = ["text", "audio"]
    made = fakes.call(text, **fields)
    left, parts = len(made.raw), {}
    names = ["input", "cache_read", *(["cache_write_5m", "cache_write_1h"] if cached else [])]
    for name in [*names, *(["audio_in"] if "audio_in" in prices.prices else [])]:
        if name in prices.prices:
            parts[name] = rng.randint(0, left)
            left -= parts[name]
    out = rng.randint(0, choices * min(length or 64_000, 64_000))
    thought = rng.randint(0, out) if "reasoning" in prices.prices else 0
    usage = Usage(**parts, output=out - thought, reasoning=thought)
    usage.service_tier = rng.choice([None, *prices.service_tiers])
    return made, usage


def overruns(prices, rounds=1_500):
    rng, found = random.Random(7), 0
    for _ in range(rounds):
        made, usage = drawn(rng, prices)
        terms = bound(Attempt(made, made.targets[0]), prices, 32_768)
        found += prices.cost(usage) > terms.amount
    return found


@pytest.mark.parametrize("name", CARDS)
def test_b12_no_reachable_usage_costs_more_than_was_held(name):
    assert overruns(CARDS[name]) == 0


@pytest.mark.parametrize("blind", ["length", "tier", "fee", "choices"])
def test_b12_negative_controls(blind, monkeypatch):
    dearest = PriceCard.dearest

    def careless(self, tokens, tiers=None):
        found = dearest(self, 0 if blind == "length" else tokens, () if blind == "tier" else tiers)
        return {name: price for name, price in found.items() if blind != "fee" or name != "request"}

    monkeypatch.setattr(PriceCard, "dearest", careless)
    if blind == "choices":
        monkeypatch.setattr("gwcore.call.largest", lambda *_: None)
    assert sum(overruns(prices, 400) for prices in CARDS.values()) > 5


def of(**fields):
    made = fakes.call("hi", **fields)
    return bound(Attempt(made, made.targets[0]), CARDS["plain"], 1_000)


@pytest.mark.parametrize(
    ("said", "wanted"), [({}, (None, None)), ({"n": 0}, (None, 0)), ({"max_tokens": "9", "n": 3}, (9, 3))]
)
def test_what_a_request_wants_is_read_once_and_again_after_a_change(said, wanted):
    call = fakes.call("x", **said)
    assert call.wanted() == call.wanted() == wanted
    one = bound(Attempt(call, call.targets[0]), CARDS["plain"], 100).amount
    call.edit()["n"] = 8
    assert call.wanted() == (wanted[0], 8)
    assert bound(Attempt(call, call.targets[0]), CARDS["plain"], 100).amount > one > 0


def test_what_a_plugin_adds_to_the_document_is_held_too():
    made = fakes.call("hi", max_tokens=1)
    before = bound(Attempt(made, made.targets[0]), CARDS["plain"], 1_000).amount
    made.document["messages"][0]["content"] = "x" * 10_000
    made.edited = True
    after = bound(Attempt(made, made.targets[0]), CARDS["plain"], 1_000).amount
    assert after - before > 10_000 * 37


@pytest.mark.parametrize("mark", [b"image_url", b"input_image", b"file", b"web_search"])
def test_letters_that_are_escaped_are_read_all_the_same(mark):
    """JSON has two spellings of every letter; the upstream knows both, and so must the worst case."""
    part = {"type": mark.decode(), mark.decode(): {"url": "https://x.y/z"}}
    plain = fakes.call("hi", max_tokens=1, messages=[{"role": "user", "content": [part]}], tools=[part])
    escaped = fakes.call("hi", max_tokens=1)
    escaped.raw = plain.raw.replace(mark, b"\\u%04x" % mark[0] + mark[1:])
    escaped.document = plain.document
    assert orjson.loads(escaped.raw) == plain.document and mark not in escaped.raw
    prices = CARDS["plain"]
    found = [bound(Attempt(made, made.targets[0]), prices, 1_000) for made in (plain, escaped)]
    assert found[0] == found[1]
    assert found[0] is None or found[0].fixed > 2 * of(max_tokens=1).fixed


def test_what_the_gateway_does_not_see_is_a_whole_window():
    seen = of(max_tokens=1).fixed
    for fields in (
        {"previous_response_id": "r"},
        {"prompt": {"id": "p"}},
        {"conversation": "c"},
        {"thread": {"type": "continue"}},
    ):
        assert of(max_tokens=1, **fields).fixed == 1_000_000 * 37_500_000 > seen
    assert of(max_tokens=1, prompt="a text").fixed < 2 * seen


def test_tools_that_may_be_used_without_end_have_no_bound():
    search = {"type": "web_search"}
    assert of(tools=[search]) is None
    assert of(tools=[{"type": "function", "function": {"name": "web_search"}}]) is not None


def test_nothing_hides_in_what_looks_like_plain_words():
    """The document is what the last of two equal names says; the upstream may read the first."""
    plain = fakes.call("hi", max_tokens=1)
    words = bound(Attempt(plain, plain.targets[0]), CARDS["plain"], 1_000).fixed
    picture = b'"content": [{"type": "image_url", "image_url": {"url": "https://x.y/z"}}], '
    plain.raw = plain.raw.replace(b'"content":', picture + b'"content":')
    assert bound(Attempt(plain, plain.targets[0]), CARDS["plain"], 1_000).fixed > 10 * words
    for fields in (
        {"image": "https://x.y/z"},
        {"messages": [{"role": "user", "content": "hi", "image": "https://x.y/z"}]},
    ):
        assert of(max_tokens=1, **fields).fixed > 10 * words


def test_no_object_hides_behind_a_name_that_is_there_twice():
    plain = fakes.call("hi", max_tokens=1)
    words = bound(Attempt(plain, plain.targets[0]), CARDS["plain"], 1_000).fixed
    plain.raw = plain.raw.replace(b'"content":', b'"content": {"image_url": "https://x.y/z"}, "content":')
    assert bound(Attempt(plain, plain.targets[0]), CARDS["plain"], 1_000).fixed > 10 * words


def test_what_is_held_is_rounded_up_and_the_answer_that_it_pays_for_down():
    least = Bound(1, 1, 1)
    assert (least.amount, least.least) == (1, 1)
    assert Bound(0, 3 * MILLION, 100).fitting(11) == 3
    assert scaled(1, (5, 4)) == 2


@pytest.mark.parametrize("name", ["cache_control", "explicitCaching"])
def test_what_may_be_written_into_a_cache_is_held_for_at_its_price(name):
    prices = card(input=1, cache_write_5m=5)
    plain, writes = (fakes.call("hi", max_tokens=1, **{said: {}}) for said in ("x" * len(name), name))
    least, most = (bound(Attempt(made, made.targets[0]), prices, 1) for made in (plain, writes))
    assert most.fixed == 5 * least.fixed


def test_negative_control_whoever_trusts_the_document(monkeypatch):
    monkeypatch.setattr(module, "_plain", lambda *_: True)
    with pytest.raises(AssertionError):
        test_nothing_hides_in_what_looks_like_plain_words()


def test_a_text_that_stands_for_a_file_is_a_whole_window():
    """Qwen-Long reads ``fileid://…`` as the file's text, and bills that: https://www.alibabacloud.com/help/en/model-studio/long-context-qwen-long."""
    for address in ("fileid://file-fe-1", "file:///a", "video://b"):
        assert of(max_tokens=1, messages=[{"role": "system", "content": address}]).fixed == 1_000_000 * 37_500_000
    escaped = fakes.call("fileid://file-fe-1", max_tokens=1)
    escaped.raw = escaped.raw.replace(b"fileid", b"\\u0066ileid")
    assert bound(Attempt(escaped, escaped.targets[0]), CARDS["plain"], 1_000).fixed == 1_000_000 * 37_500_000


def test_what_has_no_price_of_output_is_not_bounded_by_a_tiers_pictures():
    half = PriceCard("m", {"input": ((0, 10**9),)}, {"flex": {"image_out": ((0, 10**9),)}}, context_window=1_000)
    made = fakes.call("hi", max_tokens=1)
    assert bound(Attempt(made, made.targets[0]), half, 1_000) is None
