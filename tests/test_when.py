"""``when`` holds for layers and for taps, of one entry alike."""

import pytest

from gwcore.assemble import assemble
from gwcore.call import Attempt, Outcome
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore.resources import Resources
from gwcore.taps import tell
from gwcore.testing.fakes import call
from gwcore.when import Condition, tap_when
from tests.test_plugins import catalog


class Ears(Plugin):
    """Every tap."""

    name = "ears"

    def __init__(self, config, setup):
        super().__init__(config, setup)
        self.told = []

    @hookimpl
    def call_started(self, call):
        self.told.append("started")

    @hookimpl
    def attempt_started(self, attempt):
        self.told.append("attempt")

    @hookimpl
    def attempt_failed(self, attempt):
        self.told.append("failed")

    @hookimpl
    def call_ended(self, call, outcome):
        self.told.append("ended")


def made(when):
    text = f"gwcore: 1\nstack:\n  - ears:\n    {when}\nwatch:\n  - ears:\n    {when}\n"
    return assemble(text, catalog(Ears), Resources(), {})


def told_of(stack, one):
    attempt = Attempt(one, one.targets[0])
    tell(stack.taps.call_started, one)
    tell(stack.taps.attempt_started, attempt)
    tell(stack.taps.attempt_failed, attempt)
    tell(stack.taps.call_ended, one, Outcome(200))
    return [placed.plugin.told for placed in stack.placed]


EVENTS = ["started", "attempt", "failed", "ended"]


@pytest.mark.parametrize(
    ("when", "hears"),
    [
        ("when: {models: 'fake/*'}", True),
        ("when: {models: 'other/*'}", False),
        ("when: {operations: chat, dialects: fake.chat}", True),
        ("when: {tags: gold}", False),
    ],
)
def test_a_tap_is_told_where_its_entry_is_there(when, hears):
    for told in told_of(made(when), call()):
        assert told == (EVENTS if hears else [])


def test_without_when_a_tap_is_the_method_itself():
    stack = made("")
    assert [tap for _, tap in stack.taps.call_ended] == [placed.plugin.call_ended for placed in stack.placed]


def test_what_is_told_first_decides_nothing_for_the_rest():
    """Tags may come with authentication, after ``call_started``."""
    told, condition, one = [], Condition(tags=["gold"]), call()
    tap_when(condition, lambda c: told.append("started"), "call_started")(one)
    one.tags = frozenset({"gold"})
    tap_when(condition, lambda c, o: told.append("ended"), "call_ended")(one, None)
    assert told == ["ended"]


def test_layer_and_tap_agree_for_the_whole_call():
    told, condition, one = [], Condition(tags=["gold"]), call()
    assert condition(one) is False
    one.tags = frozenset({"gold"})
    tap_when(condition, lambda c, o: told.append("ended"), "call_ended")(one, None)
    assert told == []


def test_how_it_is_shown():
    assert str(Condition(models=["a*", "b"], tags=["c"])) == "models a*, b; tags c"
