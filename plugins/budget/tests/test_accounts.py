"""Which budgets bind an attempt, what they say together, and how their money is told; without a store."""

import pytest

from gwcore.call import Attempt, Principal
from gwcore.testing import fakes
from gwcore_budget.accounts import Accounts
from gwcore_budget.config import BudgetConfig, BudgetPolicy
from gwcore_budget.refusal import dollars

ALICE = {"id": "k", "team": "t", "user": "alice"}


def accounts(*rules, plans=(), names=lambda *_: (), **config):
    return Accounts(BudgetConfig(rules=list(rules), **config), dict(plans).get, names)


def attempt(model="fake/m", said=(), **who):
    call = fakes.call(model=model)
    call.principal = Principal(**who) if who else None
    call.tags = frozenset(said)
    return Attempt(call, call.targets[0])


def policy(**said):
    return {"budget": {"key": BudgetPolicy.model_validate(said)}}


def test_of_two_that_count_the_same_money_the_lower_binds_whichever_is_first():
    for limits in ((1, 2), (2, 1)):
        rules = [{"per": "team", "limit": limit, "soft": limit / 2} for limit in limits]
        (one,) = accounts(*rules).of(attempt(**ALICE)).all
        assert (one.limit, one.soft) == (10**9, 5 * 10**8)


def test_an_increase_goes_no_further_than_what_else_limits_the_same_money():
    said = policy(max_budget=1, temp_budget_increase=10, temp_budget_expiry="2999-01-01T00:00:00Z")
    (one,) = accounts({"per": "key", "limit": 3}).of(attempt(**ALICE, policies=said)).all
    assert (one.limit, one.bonus) == (10**9, 2 * 10**9)


def test_tags_of_the_credential_have_budgets_like_those_of_the_call():
    found = accounts({"per": "tag", "limit": 1}).of(attempt(said=["asked"], **ALICE, tags=frozenset({"own"})))
    assert [one.scope_id for one in found.all] == ["asked", "own"]


def test_the_same_days_of_two_time_zones_are_two_accounts():
    rules = [{"per": "team", "limit": 1, "window": "day", "zone": zone} for zone in ("UTC", "Asia/Tokyo")]
    assert len(accounts(*rules).of(attempt(**ALICE)).all) == 2


def test_what_a_policy_says_itself_goes_before_its_plan():
    plan = BudgetPolicy(max_budget=9, soft_budget=1)
    (one,) = accounts(plans={"p": plan}).of(attempt(**ALICE, policies=policy(budget_id="p", max_budget=2))).all
    assert (one.limit, one.soft) == (2 * 10**9, 10**9)


def test_beginning_and_end_of_a_pattern_are_different_letters():
    rule = {"per": "team", "limit": 1, "models": ["aba*ba"]}
    assert [len(accounts(rule).of(attempt(f"fake/{name}", **ALICE)).all) for name in ("aba", "ababa")] == [0, 1]


def test_what_was_found_is_forgotten_when_a_plan_changes():
    plans = {"p": BudgetPolicy(max_budget=9)}
    made = Accounts(BudgetConfig(), plans.get, lambda *_: ())
    tried = attempt(**ALICE, policies=policy(budget_id="p"))
    assert made.of(tried).all[0].limit == 9 * 10**9
    plans["p"] = BudgetPolicy(max_budget=1)
    made.forget()
    assert made.of(tried).all[0].limit == 10**9


@pytest.mark.parametrize("order", [1, -1])
def test_the_strictest_of_several_decides(order):
    free = {"per": "team", "soft": 1, "on_short": "clamp", "unpriced": "allow_unmetered"}
    strict = {"per": "user", "limit": 1, "on_short": "reject", "unpriced": "deny"}
    found = accounts(*[free, strict][::order]).of(attempt(**ALICE))
    assert (found.limited, found.clamps, found.waits, found.unmetered, found.denies) == (
        True,
        False,
        False,
        False,
        True,
    )


@pytest.mark.parametrize(
    ("nano", "told"), [(0, "$0.00"), (1, "$0.000000001"), (50_000_000, "$0.05"), (1_250_000_000, "$1.25")]
)
def test_money_is_told_to_the_last_digit(nano, told):
    assert dollars(nano) == told
