"""Cards: what they lend, inherit and leave unpriced; and where a stack takes them from."""

import pytest
from pydantic import TypeAdapter, ValidationError

from gwcore.pricemodels import ModelPrices
from gwcore.prices import FREE, Override, PriceCard, Prices, Sheet
from gwcore.provider import Target
from gwcore.testing.fakes import upstream
from gwcore.units import Price
from gwcore.usage import Usage

USD = 10**9  # per million units
BASE = PriceCard(
    "base",
    {"input": ((0, 3 * USD), (200_000, 6 * USD)), "cache_read": ((0, USD // 10),), "output": ((0, 15 * USD),)},
    {"flex": {"input": ((0, USD),)}},
    source="catalogue",
    version="7",
    context_window=1_000_000,
)
PRICE = TypeAdapter(Price)
MODEL = TypeAdapter(ModelPrices)


def override(**said):
    return MODEL.validate_python(said).override()


# ── buckets and fees without a price of their own ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("bucket", "prices", "lent"),
    [
        ("cache_read", {"input": 5}, 5),
        ("cache_write_1h", {"input": 5, "cache_write_5m": 6}, 6),
        ("reasoning", {"output": 7}, 7),
        ("audio_cache_read", {"input": 5, "cache_read": 1}, 1),
        ("audio_cache_read", {"input": 5, "cache_read": 1, "audio_in": 9}, 9),
        ("image_out", {"output": 7}, 7),
    ],
)
def test_a_bucket_is_never_cheaper_than_what_it_is_made_of(bucket, prices, lent):
    card = PriceCard("m", {name: ((0, price * USD),) for name, price in prices.items()})
    assert card.cost(Usage(**{bucket: 1})) == lent * 1000
    assert card.highest(bucket, 1) == lent * USD


def test_what_has_no_price_is_named_and_never_counted_as_nothing_in_silence():
    usage = Usage(input=10, fees={"web_search": 2, "code_execution": 0}, service_tier="turbo")
    assert BASE.unpriced(usage) == ("web_search", "service_tier:turbo")
    assert BASE.charge(usage).unpriced == BASE.unpriced(usage)
    assert PriceCard("m", {"output": ((0, 1),)}).unpriced(Usage(input=1, audio_in=1, output=1)) == ("input", "audio_in")
    assert BASE.highest("web_search", 10) is None
    assert BASE.unpriced(Usage(input=1, cache_write_1h=1, reasoning=1)) == ()


def test_the_vendors_own_figure_is_the_bill_where_the_card_says_so():
    usage = Usage(input=1_000_000, fees={"web_search": 1}, reported=42)
    billed = PriceCard("m", BASE.prices, billed=True, source="catalogue", version="7")
    assert (billed.cost(usage), billed.unpriced(usage), billed.charge(usage).source) == (42, (), "reply")
    assert BASE.cost(usage) == 6 * USD  # anybody else's figure is not
    usage.reported = None
    assert billed.cost(usage) == BASE.cost(usage)


def test_parts_sum_to_the_cost_however_little_each_is():
    card = PriceCard("m", dict.fromkeys(("input", "output", "request", "image"), ((0, 1300000),)))
    usage = Usage(input=1, cache_read=3, reasoning=1, output=2, fees={"image/hd": 5, "pages": 9})
    parts = card.parts(usage)
    assert parts.keys() == {"request", "input", "cache_read", "output", "reasoning", "image/hd"}
    assert sum(parts.values()) == card.cost(usage) == 17  # 13 * 1.3, rounded up once
    assert sum(-(-count * 13 // 10) for count in (1, 1, 3, 2, 1, 5)) == 20  # what rounding each would come to
    long = Usage(input=200_001, output=1, service_tier="flex")
    assert sum(BASE.parts(long).values()) == BASE.cost(long) and BASE.parts(long)["input"] == 200_001 * 1000
    assert PriceCard("m", {}).parts(usage) == {}


def test_the_highest_of_a_kind_covers_what_it_may_turn_out_to_be():
    card = PriceCard("m", {"image": ((0, 4),), "image/hd": ((0, 8),), "image/hd/big": ((0, 12),)})
    assert [card.highest(fee, 0) for fee in ("image", "image/hd", "image/hd/small", "image/low", "web_search")] == [
        12,
        12,
        12,
        12,
        None,
    ]


def test_highest_over_some_service_tiers():
    card = PriceCard("m", {"input": ((0, 2),)}, {"fast": {"input": ((0, 9),)}, "flex": {"input": ((0, 1),)}})
    assert [card.highest("input", 1), card.highest("input", 1, ()), card.highest("input", 1, ("flex",))] == [9, 2, 2]


# ── what the stack file says ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("written", "nano"),
    [
        ("$2.50/M", 2_500_000_000),
        ("2.5 USD / M", 2_500_000_000),
        ("$0.0375/M", 37_500_000),
        ("$10/k", 10_000_000_000_000),
        ("$0.04/1", 40_000_000_000_000),
        ("$0.36/h", 100_000_000_000),
        ("$0.04/h", 11_111_111_111),
        ("$0.006/min", 100_000_000_000),
        (0, 0),
        ("0", 0),
        ("$0", 0),
    ],
)
def test_prices_are_written_per_how_many(written, nano):
    assert PRICE.validate_python(written) == nano
    assert PRICE.validate_python(PRICE.dump_python(nano)) == nano


@pytest.mark.parametrize(
    "written", [2.5, "2.5", "$2.50", "-1/M", "1/G", "free", "1e3/M", "$0.0000000001/M", None, True]
)
def test_a_price_that_does_not_say_per_how_many_is_refused(written):
    with pytest.raises(ValidationError):
        PRICE.validate_python(written)


def test_a_partial_override_inherits_the_rest():
    made = override(input="$2/M").over(BASE, "m", "ab")
    assert made.prices == {**BASE.prices, "input": ((0, 2 * USD), (200_000, 6 * USD))}
    assert (made.service_tiers, made.context_window) == (BASE.service_tiers, 1_000_000)
    assert (made.source, made.version) == ("stack+catalogue", "ab+7")


def test_steps_and_tiers_are_laid_over_each_other():
    made = override(
        tiers=[{"above": 100_000, "output": "$20/M"}],
        service_tiers={
            "flex": {"output": "$5/M"},
            "mine": {"input": "$1/M", "tiers": [{"above": 10, "input": "$9/M"}]},
        },
        fees={"web_search": "$10/k"},
        max_output=4096,
    ).over(BASE, "m", "")
    assert made.prices["output"] == ((0, 15 * USD), (100_000, 20 * USD))
    assert made.cost(Usage(input=1, output=1), service_tier="flex") == 1_000 + 5_000
    assert made.cost(Usage(input=11), service_tier="mine") == 99_000
    assert (made.unpriced(Usage(fees={"web_search": 1})), made.max_output) == ((), 4096)


def test_a_tier_that_names_another_bucket_leaves_the_tiers_steps_alone():
    """A tier's own price takes the place of all steps of the standard one, as catalogues have it."""
    made = override(service_tiers={"flex": {"cache_read": "$0.05/M"}}).over(BASE, "m", "")
    assert made.cost(Usage(input=300_000), service_tier="flex") == 300_000 * 1_000


def test_free_takes_nothing_from_below():
    made = MODEL.validate_python("free").override().over(BASE, "m", "")
    assert made.prices == FREE and not made.service_tiers and made.source == "stack"
    assert made.cost(Usage(input=9, output=9, fees={"web_search": 1})) == 0
    assert override(free=True, output="$1/M").over(None, "m", "").cost(Usage(input=5, output=5)) == 5_000


def test_prices_of_ones_own_win_over_the_vendors_figure():
    billed = PriceCard("m", BASE.prices, billed=True)
    usage = Usage(input=1, reported=7)
    assert override(input="$9/M").over(billed, "m", "").cost(usage) == 9_000
    assert override(max_output=5).over(billed, "m", "").cost(usage) == 7


@pytest.mark.parametrize(
    "said", [{"inputs": "$1/M"}, {"tiers": [{"above": 0}]}, {"input": -1}, {"fees": {"x": 3}}, "cheap"]
)
def test_what_it_does_not_know_is_refused(said):
    with pytest.raises(ValidationError):
        MODEL.validate_python(said)


# ── where cards come from ────────────────────────────────────────────────────────────────────────────────────────────


class Catalogue:
    """Counts how often it is asked."""

    def __init__(self, **cards):
        self.cards, self.asked = cards, []

    def __call__(self, _upstream, model):
        self.asked.append(model)
        return self.cards.get(model)


def test_each_target_is_asked_for_once_whether_known_or_not():
    catalogue = Catalogue(a=BASE)
    prices = Prices({}, catalogue)
    up = upstream()
    for _ in range(3):
        assert prices.card(Target(up, "a")) is BASE
        assert prices.card(Target(up, "b")) is None
    assert catalogue.asked == ["a", "b"]


def test_a_card_is_known_once_it_was_asked_for():
    prices = Prices(source=lambda _upstream, _model: BASE)
    assert prices.known("fake", "m") is None
    assert prices.card(Target(upstream(), "m")) is prices.known("fake", "m") is BASE


def test_the_stack_file_comes_first_an_exact_name_before_a_wildcard():
    up = upstream()
    rules = {
        "gpt-*": {"input": "$1/M"},
        "gpt-5-*": {"input": "$2/M"},
        "gpt-5-x": {"input": "$3/M"},
        "*": {"input": "$4/M"},
    }
    listed = {up.name: {name: override(**said) for name, said in rules.items()}}
    prices = Prices(listed, Catalogue(), "d1")

    def price(model):
        return prices.card(Target(up, model)).prices["input"][0][1] // USD

    assert [price(name) for name in ("gpt-5-x", "gpt-5-y", "gpt-4", "o3")] == [3, 2, 1, 4]
    assert prices.card(Target(up, "o3")).version == "d1"


def test_base_model_is_looked_up_in_its_place():
    up = upstream()
    catalogue = Catalogue(base=BASE)
    prices = Prices({up.name: {"mine": override(base_model="base", output="$1/M")}}, catalogue)
    card = prices.card(Target(up, "mine"))
    assert (card.model, card.prices["output"], card.prices["input"]) == ("mine", ((0, USD),), BASE.prices["input"])


def test_free_models_need_no_catalogue():
    up = upstream()
    catalogue = Catalogue()
    prices = Prices({up.name: {"*": Override(dict.fromkeys(FREE, 0), inherits=False)}}, catalogue)
    assert prices.card(Target(up, "any")).cost(Usage(input=1)) == 0 and not catalogue.asked


def test_a_card_that_runs_out_is_asked_for_again(monkeypatch):
    catalogue = Catalogue(a=PriceCard("a", BASE.prices, until=1000.0))
    prices = Prices({}, catalogue)
    target = Target(upstream(), "a")
    for now in (998.0, 999.0, 1000.0):
        monkeypatch.setattr("gwcore.prices.time.time", lambda now=now: now)
        prices.card(target)
    assert catalogue.asked == ["a", "a"]


def test_names_that_clients_type_do_not_fill_the_memory():
    prices = Prices({}, Catalogue())
    up = upstream()
    for number in range(5_000):
        prices.card(Target(up, f"m{number}"))
    assert len(prices._cards) == 4096


def test_warm_names_what_has_no_price():
    up = upstream()
    prices = Prices({up.name: {"limits": override(max_output=5)}}, Catalogue(a=BASE))
    assert prices.warm([Target(up, name) for name in ("a", "b", "limits", "b")]) == [
        f"{up.name}/b",
        f"{up.name}/limits",
    ]
    assert prices.warmed


def test_an_override_of_a_step_alone_holds_from_the_start():
    made = Override(tiers=[Sheet(5, {"audio_in": 7})]).over(None, "m", "")
    assert made.prices["audio_in"] == ((0, 7), (5, 7))
