"""What stands beside a reply and hears it; and each single thing for which an answer is not kept, where all else is well."""

import pytest

from gwcore.call import Attempt, Outcome
from gwcore.errors import Broken
from gwcore.provider import Target
from gwcore.testing.fakes import call, upstream
from gwcore_cache.record import Record, is_asked_for, is_whole


async def test_a_second_answer_behind_a_layer_that_holds_is_recorded_alone():
    made = call()
    record = Record(made, limit=100)
    async with made.reply.hold():
        with made.reply.record(record):
            await made.reply.commit(200, [])
            await made.reply.write(b"half an")  # broke: another target is asked
            await made.reply.commit(200, [])
            await made.reply.end(b"answer")
    assert (record.body, record.size, record.ended) == (b"answer", 6, True)


@pytest.mark.parametrize(
    ("heard", "outcome", "whole"),
    [
        ({}, Outcome(200), True),
        ({"ended": False}, Outcome(200), False),
        ({"code": 201}, Outcome(201), False),
        ({"code": 500}, Outcome(200), False),
        ({}, Outcome(500), False),
        ({}, Outcome(200, error=Broken("in its last event")), False),
        ({}, Outcome(200, cancelled=True), False),
        ({"size": 101}, Outcome(200), False),
        ({"headers": [(b"content-encoding", b"gzip")]}, Outcome(200), False),
    ],
)
def test_only_what_is_whole_is_kept(heard, outcome, whole):
    record = Record(call(), limit=100, code=200, size=100, ended=True)
    for name, value in heard.items():
        setattr(record, name, value)
    assert is_whole(record, outcome) is whole


def test_only_what_was_asked_for_is_kept():
    one, two = upstream("one"), upstream("two")
    made = call()
    made.targets = (Target(one, "m"), Target(one, "n"), Target(two, "m"))

    def kept(target, *, any_target=False, error=None, later=False):
        by = made.served = Attempt(made, target)
        by.error = error
        if later:
            made.served = Attempt(made, target)
        return is_asked_for(made, by, any_target=any_target)

    assert kept(Target(one, "m")) and kept(Target(two, "m"))
    assert not kept(Target(one, "n")) and kept(Target(one, "n"), any_target=True)
    assert not kept(Target(two, "n"), any_target=True), "a fallback: another upstream's model of that name"
    assert not kept(Target(one, "m"), error=Broken("no"))
    assert not kept(Target(one, "m"), later=True), "begun by one, continued by another"
    assert not is_asked_for(made, None, any_target=True)
