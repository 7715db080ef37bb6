"""Acceptance L2, and the state machine over both homes: every decision, reading and wait as the exact model says."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ratelimit_homes import HOMES, TTL, Charge, MemoryUnderTest, Model, RedisUnderTest, limit

from gwcore_ratelimit import memory
from gwcore_ratelimit.gcra import REST

QUICK = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(params=sorted(HOMES))
def make_home(request):
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    return lambda: HOMES[request.param](url)


limits = st.builds(
    limit,
    amount=st.sampled_from([1, 3, 7, 60, 600, 200_000, 999_999_937]),
    period=st.sampled_from([1_000_000, 60_000_000, 86_400_000_000]),
    burst=st.sampled_from([None, 1, 5, 60]),
)


@settings(QUICK)
@given(limit=limits, steps=st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 8)), min_size=1, max_size=40))
def test_gcra_decides_as_the_exact_model_and_waiting_as_told_is_enough(make_home, limit, steps):
    """L2: the same decision each time; a retry after exactly the told wait is admitted, one microsecond earlier is not."""
    home, model = make_home(), Model()
    try:
        for gap, cost in steps:
            charge = [Charge(limit, "k", min(cost, limit.burst))]
            home.advance(gap)
            model.advance(gap)
            said = home.admit(charge)
            assert said == model.admit(charge)
            if said.wait:
                for wait in (said.wait - 1, 1):
                    home.advance(wait)
                    model.advance(wait)
                    again = home.admit(charge)
                    assert again == model.admit(charge)
                assert again.refused < 0
    finally:
        home.close()


def test_what_costs_nothing_passes_a_limit_in_debt(make_home):
    home, tokens = make_home(), limit("tokens", 10, 60_000_000)
    try:
        said = home.admit([Charge(tokens, "k", 10)])
        home.settle([Charge(tokens, "k", 20)], [said.readings[0][2]])
        assert home.admit([Charge(tokens, "k", 1)]).refused == 0
        assert home.admit([Charge(tokens, "k", 0)]).refused < 0
    finally:
        home.close()


def test_a_window_is_free_again_at_the_microsecond_it_told(make_home):
    home, strict = make_home(), limit("requests", 10, 60_000_000, strict=True)
    try:
        assert home.admit([Charge(strict, "k", 10)]).refused < 0
        wait = home.admit([Charge(strict, "k", 1)]).wait
        home.advance(wait - 1)
        assert home.admit([Charge(strict, "k", 1)]).refused == 0
        home.advance(1)
        assert home.admit([Charge(strict, "k", 10)]).refused < 0
    finally:
        home.close()


class HomeMachine(RuleBasedStateMachine):
    """Any order of admissions over several keys, corrections and ends of calls; the model must agree at each step."""

    make = staticmethod(MemoryUnderTest)
    pool = (
        limit("requests", 7, 1_000_000),
        limit("requests", 600, 60_000_000, 60),
        limit("tokens", 1000, 60_000_000),
        limit("tokens", 997, 1_000_000, strict=True),
        limit("requests", 12, 60_000_000, strict=True),
        limit("parallel", 2, 0),
        limit("requests", 2, 60_000_000, shadow=True),
    )

    @initialize()
    def start(self):
        self.home, self.model = self.make(), Model()
        self.open, self.calls = [], 0

    @rule(gap=st.one_of(st.integers(0, 5), st.integers(0, 120_000_000)))
    def time_passes(self, gap):
        self.home.advance(gap)
        self.model.advance(gap)

    @rule(
        picks=st.lists(st.tuples(st.integers(0, 6), st.sampled_from("ab")), min_size=1, max_size=4, unique=True),
        cost=st.integers(0, 500),
    )
    def a_call_comes(self, picks, cost):
        self.calls += 1
        lease = f"c{self.calls}"
        charges = [Charge(self.pool[n], f"{n}{key}", cost if self.pool[n].kind == "tokens" else 1) for n, key in picks]
        said = self.home.admit(charges, lease)
        expected = self.model.admit(charges, lease)
        readings = [r if n not in said.shadowed else None for n, r in enumerate(said.readings)]
        wanted = [r if n not in expected.shadowed else None for n, r in enumerate(expected.readings)]
        assert (said.refused, said.wait, said.shadowed, readings) == (
            expected.refused,
            expected.wait,
            expected.shadowed,
            wanted,
        )
        if said.refused < 0:
            kept = [n for n in range(len(charges)) if n not in said.shadowed]
            self.open.append((lease, [charges[n] for n in kept], [said.readings[n][2] for n in kept]))

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 10**6), used=st.integers(0, 3000))
    def a_call_ends(self, pick, used):
        lease, charges, stamps = self.open.pop(pick % len(self.open))
        changes = [c._replace(cost=used - c.cost if c.limit.kind == "tokens" else 0) for c in charges]
        self.home.settle(changes, stamps, lease)
        self.model.settle(changes, stamps, lease)

    @invariant()
    def no_more_calls_than_places(self):
        if hasattr(self, "model"):
            assert all(len(leases) <= 2 for leases in self.model.leases.values())

    def teardown(self):
        if hasattr(self, "home"):
            self.home.close()


@pytest.mark.hypothesis
@pytest.mark.parametrize(("name", "examples"), [("memory", 200), ("redis", 40)])
def test_state_machine(name, examples, request):
    url = request.getfixturevalue("redis_url") if name == "redis" else None
    machine = type("Machine", (HomeMachine,), {"make": staticmethod(lambda: HOMES[name](url))})
    run_state_machine_as_test(machine, settings=settings(QUICK, max_examples=examples, stateful_step_count=40))


class ChargesOneByOne(memory.Memory):
    """Mutant: every counter by itself, so a refused call moves some (pains C5)."""

    def decide(self, charges):
        verdicts = [super(ChargesOneByOne, self).decide([charge]) for charge in charges]
        worst = max(range(len(verdicts)), key=lambda n: verdicts[n].wait)
        refused = worst if verdicts[worst].refused >= 0 else -1
        shadowed = tuple(n for n, v in enumerate(verdicts) if v.shadowed)
        return memory.Verdict(refused, verdicts[worst].wait, [v.readings[0] for v in verdicts], shadowed)


class Rounds(memory.Memory):
    """Mutant: the remainder of a microsecond is dropped."""

    def decide(self, charges):
        verdict = super().decide(charges)
        for row in self._rates.values():
            row[REST] = 0
        return verdict


class ForgetsDebt(memory.Memory):
    """Mutant: a correction upwards is ignored."""

    def settle(self, changes, lease="", *, local=False):
        super().settle([(limit, key, min(0, more), stamp) for limit, key, more, stamp in changes])


@pytest.mark.parametrize("mutant", [ChargesOneByOne, Rounds, ForgetsDebt], ids=lambda m: m.__name__)
def test_negative_control_the_state_machine_finds_it(mutant):
    make = type("Mutant", (MemoryUnderTest,), {"kind": mutant})
    machine = type("Machine", (HomeMachine,), {"make": staticmethod(make)})
    with pytest.raises((AssertionError, ExceptionGroup)):
        found = settings(QUICK, max_examples=200, stateful_step_count=40, phases=[Phase.generate])
        run_state_machine_as_test(machine, settings=found)


def test_a_long_call_keeps_its_place_while_its_worker_says_so_and_no_longer(redis_url):
    one, two = RedisUnderTest(redis_url), RedisUnderTest(redis_url)
    two.home._prefix, two.home._script, two.home._sha = one.home._prefix, one.home._script, one.home._sha
    try:
        place = [Charge(limit("parallel", 1, 0), "p", 1)]
        assert one.admit(place, "long").refused < 0
        for worker in (two, one):
            worker.runner.run(worker.home.beat())
        assert (one.home.workers, two.home.workers) == (2, 1)
        one.advance(TTL - 1)
        one.runner.run(one.home.beat())
        one.advance(2)
        assert one.admit(place, "second").refused == 0
        one.runner.run(one.home.beat())
        assert one.home.workers == 1, "the other has been silent for a whole lease"
        one.home.leases.clear()
        one.advance(TTL)
        assert one.admit(place, "third").refused < 0
    finally:
        two.close()
        one.close()
