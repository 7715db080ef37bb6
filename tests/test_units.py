"""What people write, and what becomes of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from gwcore.units import DOLLAR, STORES, AdminSecret, Duration, Money, Rate, Size, StoreRef, suggest


def read(kind, value):
    return TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize(
    ("kind", "written", "becomes"),
    [
        (Duration, "250ms", 0.25),
        (Duration, "30s", 30.0),
        (Duration, "1h30m", 5400.0),
        (Duration, "1h 30m", 5400.0),
        (Duration, "1.5d", 129600.0),
        (Duration, "2w", 1209600.0),
        (Duration, 5, 5.0),
        (Duration, "5", 5.0),
        (Duration, 0, 0.0),
        (Size, "20MB", 20_000_000),
        (Size, "16MiB", 16 << 20),
        (Size, "1.5 KiB", 1536),
        (Size, "10", 10),
        (Size, 10, 10),
        (Size, "7b", 7),
        (Money, "$5", 5 * DOLLAR),
        (Money, "12.50 USD", 12_500_000_000),
        (Money, 0.1, 100_000_000),
        (Money, "0.000000001", 1),
        (Money, 1e-7, 100),
        (Money, "1_000", 1000 * DOLLAR),
        (Rate, "600/min", Rate(600, 60.0)),
        (Rate, "200k/day", Rate(200_000, 86400.0)),
        (Rate, "1.5M / h", Rate(1_500_000, 3600.0)),
        (Rate, "5/10s", Rate(5, 10.0)),
        (Rate, Rate(5, 10.0), Rate(5, 10.0)),
    ],
)
def test_read(kind, written, becomes):
    assert read(kind, written) == becomes
    assert type(read(kind, written)) is type(becomes)


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        *((Duration, v) for v in ("", "s", "5x", "-5s", "5s!", -1, True, None, float("nan"), float("inf"), "nan", [])),
        *((Size, v) for v in ("", "MB", "5m", "5mi", "-1", -1, 0.5, True, None, "1TBB")),
        *((Money, v) for v in ("", "$", "-5", -5, "NaN", "Infinity", "5 EUR", True, None, [], "0.0000000001")),
        *((Rate, v) for v in ("", "600", "600/", "/min", "600/year", "0/s", "0.5/s", "5/0s", 600, None, "-1/s")),
    ],
)
def test_refused_with_a_mend(kind, written):
    with pytest.raises(ValidationError) as caught:
        read(kind, written)
    [error] = caught.value.errors()
    assert error["ctx"]["mend"]
    assert not isinstance(written, str) or not written.strip() or f"'{written}'" not in error["msg"]


@given(st.integers(min_value=0, max_value=10**18))
def test_money_survives_a_round_trip(nano):
    class Budget(BaseModel):
        limit: Money

    budget = Budget.model_construct(limit=nano)
    assert Budget.model_validate(budget.model_dump()).limit == nano


@given(st.integers(1, 10**9), st.integers(1, 10**6))
def test_a_rate_survives_a_round_trip(amount, seconds):
    rate = Rate(amount, float(seconds))
    assert Rate.parse(f"{amount}/{seconds}s") == rate
    assert Rate.parse(str(rate)) == rate
    assert TypeAdapter(Rate).dump_json(rate) == f'"{rate}"'.encode()


class Uses(BaseModel):
    store: StoreRef = "hot"


def test_a_store_is_checked_where_stores_are_known():
    assert Uses().store == "hot"
    assert Uses.model_validate({}, context={STORES: ["hot"]}).store == "hot"
    for data in ({}, {"store": "hott"}):
        with pytest.raises(ValidationError, match="names a store that does not exist"):
            Uses.model_validate(data, context={STORES: ["cold"]})


@pytest.mark.parametrize("strong", ["9f86d081884c7d659a2feaa0c55ad015", "Zt7-Qw_9uLk3mVx2Rb8-Hc5nGd1sJf4aYe6p"])
def test_a_strong_secret(strong):
    assert read(AdminSecret, strong).get_secret_value() == strong


@pytest.mark.parametrize(
    ("weak", "why"),
    [
        ("sk-1234", "example"),
        ("CHANGE_ME", "example"),
        ("changeme" * 4, "example"),
        ("your-api-key-your-api-key-your-api-key", "example"),
        ("9f86d081884c7d65", "too short"),
        ("", "too short"),
        ("ab" * 20, "too few"),
    ],
)
def test_a_weak_secret(weak, why):
    with pytest.raises(ValidationError, match=why) as caught:
        read(AdminSecret, weak)
    assert not weak or weak not in caught.value.errors()[0]["msg"]


def test_suggest():
    assert suggest("prot", ["port", "host"], "-") == "did you mean port?"
    assert suggest("zzz", ["port", "host"], "-") == "-"


def test_schemas_say_how_they_are_written():
    assert {"type": "string"} in TypeAdapter(Duration).json_schema()["anyOf"]
    assert TypeAdapter(Rate).json_schema() == {"type": "string"}
    assert TypeAdapter(AdminSecret).json_schema()["writeOnly"]
