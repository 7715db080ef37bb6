"""Holds that the worker admitted itself: the same object is the row, whatever becomes of the transaction."""

import time

import pytest
from budget_kit import accounts, budget, do, eventually, post, reap, reserve, spent

from gwcore_budget.ledger.books import Books
from gwcore_budget.ledger.home import StoreDown
from gwcore_budget.ledger.ledger import Ledger
from gwcore_budget.ledger.ops import POSTED, REAPED, Facts, Hold, Metered, Settle

G = "global:total"


@pytest.fixture
async def ledger(make_home, tmp_path):
    made = Ledger(make_home(), tmp_path / "workers", mode="escrow", chunk=1_000, patience=5.0)
    await made.start()
    yield made
    if made.worker._lock >= 0:
        await made.stop()


async def granted(home):
    return (await do(home, reserve("g:1", 100, budget(limit=100_000), chunk=1_000))).grants[0].account


async def corrected_in_one_batch(home, monkeypatch, truth):
    """A hold that is reaped and corrected in one transaction, which fails when all of it is written, and is repeated."""
    batch = [
        spent("r:1", 100, [await granted(home)], REAPED, 0),
        Settle("r:1", POSTED, truth, "bill", Metered(200, None, 33)),
    ]
    write = type(home)._write

    async def lost(*arguments):
        if (done := write(*arguments)) is not None:
            await done
        raise OSError("the disk is gone")

    def broken(*arguments):
        write(*arguments)
        raise OSError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(type(home), "_write", broken if type(home).__name__ == "SqliteHome" else lost)
        with pytest.raises(StoreDown):
            await home.transact(batch)
    await home.transact(batch)
    return (await accounts(home))[G]


@pytest.mark.parametrize("truth", [40, 130])
async def test_a_correction_in_the_batch_of_its_hold_survives_a_repeat(home, monkeypatch, truth):
    # the worker takes 100 off its grant, as it would without the failure: 900 are left of it
    assert await corrected_in_one_batch(home, monkeypatch, truth) == (truth, 900, max(0, truth - 100))
    assert await home.rows("SELECT CAST(sum(input) AS BIGINT) FROM budget_daily") == [(33,)]


async def test_negative_control_a_correction_of_the_workers_own(home, monkeypatch):
    monkeypatch.setattr("gwcore_budget.ledger.books.replace", lambda hold: hold)
    assert await corrected_in_one_batch(home, monkeypatch, 40) != (40, 900, 0)


async def test_what_unmetered_holds_come_to_is_above_what_was_held(home):
    """I1: posted + pending <= limit + over, though nothing was held."""
    await do(home, reserve("r:1", None, budget(limit=100)))
    await do(home, reap("r:1"))
    assert (await do(home, post("r:1", 500))).over == 0
    assert (await accounts(home))[G] == (500, 0, 500)


async def test_a_hold_on_no_account_is_no_line_of_the_book(home):
    one, other = (spent(f"r:{n}", 100, [], POSTED, 70) for n in (1, 2))
    await do(home, one)
    other.holds += spent("r:3", 100, [], POSTED, 70).holds
    await do(home, other)
    assert await home.rows("SELECT * FROM budget_entry") == []
    assert len(await home.rows("SELECT * FROM budget_hold")) == 3


async def test_a_grant_that_is_too_small_for_the_truth_is_told_line_by_line(home):
    """Of three that end together, each line says what its own took: no account's lines fall below what was granted."""
    account = await granted(home)
    three = spent("r:1", 400, [account], POSTED, 450)
    for n in (2, 3):
        three.holds += spent(f"r:{n}", 300, [account], POSTED, 300).holds
    await do(home, three)
    lines = await home.rows("SELECT hold, pending, posted FROM budget_entry WHERE kind = 'post' ORDER BY hold")
    assert lines == [("r:1", -450, 450), ("r:2", -300, 300), ("r:3", -250, 300)]
    assert (await accounts(home))[G] == (1_050, 0, 50)


async def test_a_clock_that_was_set_changes_neither_waits_nor_idleness(ledger, monkeypatch):
    monkeypatch.setattr("gwcore_budget.ledger.escrow.IDLE", 0.1)
    one = await ledger.hold("r:1", 10, [budget(limit=100_000)], Facts("r"))
    behind = ledger.group.behind
    ledger.group.behind += 86_400_000
    ledger.settle(one, POSTED, 10)
    assert ledger.lasting < 10
    ledger.group.behind = behind - 3_600_000
    monkeypatch.setattr(ledger.group, "heard", lambda _now: None)

    async def back():
        return (await accounts(ledger.home))[G] == (10, 0, 0)

    await eventually(back)


async def test_what_was_granted_in_an_answer_that_was_lost_is_given_back(ledger, make_home, monkeypatch):
    transact, lost = ledger.home.transact, []

    async def lossy(batch):
        answer = await transact(batch)
        if batch and not lost:
            lost.append(batch)
            raise StoreDown("the answer was lost")
        return answer

    monkeypatch.setattr(ledger.home, "transact", lossy)
    ledger.settle(await ledger.hold("r:1", 10, [budget(limit=100_000)], Facts("r")), POSTED, 10)
    await ledger.stop()
    other = make_home()
    await other.open()
    assert lost and (await accounts(other))[G] == (10, 0, 0)
    await other.aclose()


def test_a_hold_says_when_it_was_over_and_nothing_else_when_it_is_written():
    held = Hold("r:1", "w1", 0, 10, None, (), 1, 1, Facts("r"), began=time.monotonic())
    held.end(POSTED, 12, "usage", Metered(200))
    before = {name: getattr(held, name) for name in Hold.__slots__}
    books = Books(now=77)
    books.apply(type(spent("x:1", 1, [], POSTED, 1))("w1", (held,)))
    assert {name for name in Hold.__slots__ if getattr(held, name) != before[name]} == {"new", "ended"}
