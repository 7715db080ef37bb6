"""Ids of calls."""

import multiprocessing
import re
import time
from random import Random

import pytest

from gwcore.ids import new_id

# Python warns of a fork beside threads, which other tests of this process may have left
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


def some(count=100):
    return [new_id() for _ in range(count)]


def test_an_id_sorts_by_the_time_at_which_it_was_made():
    first = new_id()
    time.sleep(0.002)
    second = new_id()
    assert first < second
    assert re.fullmatch(r"gw-[0-9a-f]{28}", first)
    assert abs(int(first[3:15], 16) / 1000 - time.time()) < 60


def chances():
    """The random parts of ids that this process and four forks of it make."""
    some()
    with multiprocessing.get_context("fork").Pool(4) as pool:
        made = pool.map(some, [100] * 8, chunksize=1)
    return [id_[15:] for ids in [*made, some()] for id_ in ids]


def test_processes_that_were_forked_make_no_id_twice():
    made = chances()
    assert len(set(made)) == len(made) == 900


def test_negative_control_a_generator_that_a_fork_copies(monkeypatch):
    monkeypatch.setattr("gwcore.ids._random", Random())
    assert len(set(chances())) < 900
