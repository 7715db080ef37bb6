"""Which grants a caller's budgets have is found once: until a grant comes or goes, is over, or a limit is another one."""

import pytest
from budget_kit import budget, eventually

from gwcore_budget.ledger import escrow as module
from gwcore_budget.ledger.ops import POSTED, Facts, GiveBack
from gwcore_budget.window import FOREVER, Window


class Deaf(dict):
    """Mutant: what was found once is kept, whatever comes or goes."""

    def clear(self):
        pass


async def spent_once(ledger, *budgets):
    """The budgets, of which a grant has been found."""
    ledger.settle(await ledger.hold("a:1", 10, budgets, Facts("a")), POSTED, 10)
    assert admits(ledger, "b:1", budgets), "found"
    return budgets


def admits(ledger, hold, budgets):
    admitted = ledger.admit(hold, 10, budgets, Facts(hold))
    if admitted is not None:
        ledger.settle(admitted, POSTED, 10)
    return admitted is not None


@pytest.fixture
async def ledger(make_ledger):
    return await make_ledger(mode="escrow")


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("how", ["retired", "forgotten"])
async def test_what_is_handed_back_is_not_spent(ledger, how, deaf):
    if deaf:
        ledger.escrow._leases = Deaf()
    budgets = await spent_once(ledger, budget(limit=1_000_000))
    grant = ledger.escrow.grants[budgets[0].id]
    if how == "retired":
        ledger.escrow.retire(ledger.group.now(), everything=True)
        grant.free = 1_000  # as if a hold had been settled since
    else:
        ledger.escrow.forget()
    assert admits(ledger, "c:1", budgets) == deaf


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_grant_of_another_generation_takes_the_place_of_the_old_one(ledger, deaf):
    if deaf:
        ledger.escrow._leases = Deaf()
    budgets = await spent_once(ledger, budget(limit=1_000_000))
    old = ledger.escrow.grants[budgets[0].id]
    other = module.Granted(old.budget, old.account + 1, 500, old.end, old.recall, old.generation + 1)
    ledger.escrow.receive((other,), {old.budget: old.limit})
    held = ledger.admit("c:1", 10, budgets, Facts("c"))
    assert (held.accounts == (other.account,)) == (not deaf)
    ledger.escrow.retired.clear()
    ledger.settle(held, POSTED, 10)


async def test_a_grant_under_another_limit_takes_the_place_of_the_old_one(ledger):
    budgets = await spent_once(ledger, budget(limit=1_000_000))
    old = ledger.escrow.grants[budgets[0].id]
    more = module.Granted(old.budget, old.account, 500, old.end, old.recall, old.generation)
    ledger.escrow.receive((more,), {old.budget: 2_000_000})
    new = ledger.escrow.grants[old.budget]
    assert (new.limit, new.free) == (2_000_000, 500) and ledger.escrow.retired == [old]
    ledger.escrow.receive((more,), {old.budget: 2_000_000})
    assert new.free == 1_000


async def test_what_the_last_hold_of_a_retired_grant_leaves_is_given_back_once(ledger, monkeypatch):
    budgets = await spent_once(ledger, budget(limit=1_000_000))
    grant, escrow = ledger.escrow.grants[budgets[0].id], ledger.escrow
    held = ledger.admit("c:1", 10, budgets, Facts("c"))
    free, sent = grant.free, []
    monkeypatch.setattr(ledger.group, "send", lambda op, *_: sent.append(op))
    escrow.retire(ledger.group.now(), everything=True)
    ledger.settle(held, POSTED, 4)
    escrow.pump()
    escrow.pump()
    back = [op.amounts for op in sent if isinstance(op, GiveBack)]
    assert back == [((grant.account, free),), ((grant.account, 6),)] and not escrow.retired
    escrow._sent.clear()


async def test_a_journal_written_anew_keeps_what_is_open_and_what_the_store_does_not_know(ledger, monkeypatch):
    budgets = await spent_once(ledger, budget(limit=1_000_000))
    await eventually(lambda: not ledger.escrow.unwritten)
    held, ended = (ledger.admit(id_, 10, budgets, Facts(id_)) for id_ in ("c:1", "d:1"))
    kept = []
    monkeypatch.setattr(ledger.group, "send", lambda *_: None)
    monkeypatch.setattr(type(ledger.escrow.journal), "grown", True)
    monkeypatch.setattr(ledger.escrow.journal, "rewrite", kept.extend)
    ledger.settle(ended, POSTED, 4)
    ledger.escrow.pump()
    assert [hold.id for hold in kept] == ["c:1", "d:1"]
    monkeypatch.undo()
    ledger.escrow.done += [hold for spent in ledger.escrow._sent for hold in spent.holds]
    ledger.escrow._sent.clear()
    ledger.settle(held, POSTED, 10)


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("what", ["bonus", "period"])
async def test_no_longer_than_the_limit_and_the_period_last(ledger, monkeypatch, what, deaf):
    later = ledger.group.now() + 7_200_000
    one = (
        budget(limit=1_000_000, bonus=1_000, bonus_until=later)
        if what == "bonus"
        else budget(window=Window.parse("1h"), limit=1_000_000)
    )
    budgets = await spent_once(ledger, one)
    if deaf:
        kept = ledger.escrow._leases
        kept[id(budgets)] = kept[id(budgets)]._replace(until=FOREVER)
    monkeypatch.setattr(ledger.group, "now", lambda: later)
    assert admits(ledger, "c:1", budgets) == deaf
