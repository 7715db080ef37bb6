"""Money of which the store refuses something for good: it hurts no other, is not forgotten, and is told. Real constraints refuse here."""

import pytest
from budget_kit import accounts, budget, do, eventually, post, reap, reserve
from test_escrow import G, hold, kill, quiet, sound, within

from gwcore_budget.ledger import ledger as module
from gwcore_budget.ledger.group import Unbooked
from gwcore_budget.ledger.ops import NOTHING_METERED, PENDING, POSTED, REAPED, Facts
from gwcore_budget.ledger.reconcile import reconcile
from gwcore_budget.ledger.verify import verify

MODES = pytest.mark.parametrize("mode", ["direct", "escrow"])
ONE = budget(limit=100_000)


@pytest.fixture
def constraints(store_url):
    """Makes the store refuse rows of a table, as an operator's constraint, a partition that is missing or an index would."""
    lite = store_url.startswith("sqlite")

    async def forbid(home, table, column, value):
        if lite:
            for verb in ("INSERT", "UPDATE"):
                await home.rows(
                    f"CREATE TRIGGER odd_{verb} BEFORE {verb} ON {table} WHEN NEW.{column} = {value} "
                    "BEGIN SELECT RAISE(ABORT, 'odd'); END"
                )
        else:
            await home.rows(f"ALTER TABLE {table} ADD CONSTRAINT odd CHECK ({column} <> {value})")

    async def allow(home, table):
        if lite:
            await home.rows("DROP TRIGGER odd_INSERT")
            await home.rows("DROP TRIGGER odd_UPDATE")
        else:
            await home.rows(f"ALTER TABLE {table} DROP CONSTRAINT odd")

    forbid.allow = allow
    return forbid


@pytest.fixture
def told():
    return []


@pytest.fixture
def ledgers(make_ledger, told):
    return lambda **options: make_ledger(on_event=told.append, **options)


async def spend(ledger, ends, metered=NOTHING_METERED, **said):
    """Attempts that came to so much each, all settled at once; those called ``odd`` have facts of their own."""
    held = []
    for name in ends:
        facts = Facts(name, key_id="k", model="m", upstream="u", **(said if name.startswith("odd") else {}))
        held.append(await ledger.hold(f"{name}:1", 100, (ONE,), facts))
    for one, amount in zip(held, ends.values(), strict=True):
        ledger.settle(one, POSTED, amount, "usage", metered if one.id.startswith("odd") else NOTHING_METERED)
    ledger.escrow.pump()
    return held


async def row(home, hold, *columns):
    ((*found,),) = await home.rows(f"SELECT {', '.join(columns)} FROM budget_hold WHERE id = $1", hold)
    return tuple(found)


def topics(told):
    return [event.topic for event in told]


ENDS = {"a": 10, "odd": 77, "b": 20, "c": 30}


@MODES
async def test_names_that_a_table_refuses_cost_no_money(ledgers, constraints, told, mode):
    ledger = await ledgers(mode=mode)
    await constraints(ledger.home, "budget_daily", "end_user", "'whoever'")
    await spend(ledger, ENDS, end_user="whoever")
    await quiet(ledger)
    assert (await accounts(ledger.home))[G][0] == 137
    assert await row(ledger.home, "odd:1", "state", "settled", "end_user", "key_id") == (POSTED, 77, None, None)
    assert await row(ledger.home, "b:1", "state", "settled", "key_id") == (POSTED, 20, "k")
    assert topics(told) == ["budget.lessened"] and told[0].body["first"] == ("odd:1",)
    await sound(ledger)


@MODES
async def test_what_fits_of_the_names_is_kept(ledgers, constraints, mode):
    ledger = await ledgers(mode=mode)
    await constraints(ledger.home, "budget_daily", "end_user", "'wöever'")
    await spend(ledger, ENDS, end_user="wöever")
    await quiet(ledger)
    assert await row(ledger.home, "odd:1", "settled", "end_user", "key_id", "model") == (77, "w?ever", "k", "m")
    await sound(ledger)


@MODES
async def test_negative_control_names_that_nothing_refuses(ledgers, told, mode):
    ledger = await ledgers(mode=mode)
    await spend(ledger, ENDS, end_user="whoever")
    await quiet(ledger)
    assert await row(ledger.home, "odd:1", "settled", "end_user") == (77, "whoever")
    assert told == []
    await sound(ledger)


@MODES
@pytest.mark.parametrize("metered", [{"input": 10**30}, {"error": "a\0b", "output": 10**25, "status": 200}])
async def test_numbers_and_texts_that_no_column_holds(ledgers, mode, metered):
    """PostgreSQL knows no NUL; of 10**30 tokens an upstream may tell without any harm to others."""
    ledger = await ledgers(mode=mode)
    await spend(ledger, ENDS, NOTHING_METERED._replace(cache_read=5, **metered))
    await quiet(ledger)
    assert await row(ledger.home, "odd:1", "state", "settled", "cache_read", "key_id") == (POSTED, 77, 5, "k")
    assert (await accounts(ledger.home))[G][0] == 137
    await sound(ledger)


async def unbookable(ledger, constraints):
    """What is refused whatever is left out of it: a line of the book itself."""
    await constraints(ledger.home, "budget_entry", "posted", "77")
    await spend(ledger, ENDS)
    await eventually(lambda: ledger.group.refused)
    assert await ledger.group.flushed()


@MODES
async def test_what_cannot_be_booked_stays_held_and_verify_says_so(ledgers, constraints, told, monkeypatch, mode):
    monkeypatch.setattr(module, "_AUDIT_AGE", -60_000)
    ledger = await ledgers(mode=mode)
    await unbookable(ledger, constraints)
    assert topics(told) == ["budget.refused"] and list(ledger.group.refused) == ["odd:1"]
    assert "odd" in str(told[0].body["error"])
    posted, pending, _ = (await accounts(ledger.home))[G]
    assert posted == 60 and pending >= 100
    await ledger._own_up()
    await ledger._audit()  # it is not one that was never dispatched
    await ledger.group.flushed()
    assert (await accounts(ledger.home))[G] == (posted, pending, 0)
    (problem,) = (await verify(ledger.home)).problems
    assert "1 (odd:1)" in problem
    await constraints.allow(ledger.home, "budget_entry")
    ledger.group.again()
    await quiet(ledger)
    await ledger._own_up()
    assert (await accounts(ledger.home))[G][0] == 137
    await sound(ledger)


async def test_negative_control_what_nobody_remembers_is_freed(ledgers, constraints, monkeypatch):
    monkeypatch.setattr(module, "_AUDIT_AGE", -60_000)
    ledger = await ledgers(mode="direct")
    await unbookable(ledger, constraints)
    ledger.group.refused.clear()
    await ledger._audit()
    await ledger.group.flushed()
    assert (await accounts(ledger.home))[G] == (60, 0, 0)


@pytest.mark.parametrize("end", ["kill", "stop"])
@MODES
async def test_the_dead_keep_what_cannot_be_booked(ledgers, constraints, mode, end):
    dead = await ledgers(mode=mode)
    other = await ledgers()
    await unbookable(dead, constraints)
    if end == "kill":
        kill(dead)
    else:
        await dead.stop()
    if mode == "direct":  # the worst case is no better
        await constraints.allow(other.home, "budget_entry")
        await constraints(other.home, "budget_entry", "posted", "100")
    for _ in range(2):
        other._unburied.clear()
        await other.bury_the_dead()
        posted, pending, _ = (await accounts(other.home))[G]
        assert posted == 60 and pending >= 77
        (problem,) = (await verify(other.home)).problems
        assert "odd:1" in problem
    await constraints.allow(other.home, "budget_entry")
    await other.bury_the_dead()  # not so soon
    assert (await accounts(other.home))[G][0] == 60
    other._unburied.clear()
    await other.bury_the_dead()
    assert (await accounts(other.home))[G] == (160 if mode == "direct" else 137, 0, 0)
    assert await row(other.home, "odd:1", "state") == (REAPED if mode == "direct" else POSTED,)
    await sound(other)
    assert not list(other.worker.folder.glob(f"{dead.worker.id}.*"))


@MODES
async def test_a_journal_whose_names_are_refused_is_buried_whole(ledgers, constraints, mode):
    dead, other = await ledgers(mode=mode), await ledgers()
    await constraints(other.home, "budget_daily", "end_user", "'whoever'")
    held = [await dead.hold(f"{n}:1", 100, (ONE,), Facts(n, end_user="whoever")) for n in ("x", "y")]
    if mode == "escrow":
        assert within(held[0])
        dead.escrow.pump = lambda: None
        dead.settle(held[0], POSTED, 40, "usage")
    kill(dead)
    await other.bury_the_dead()
    assert (await accounts(other.home))[G] == (140 if mode == "escrow" else 200, 0, 0)
    await sound(other)


async def test_a_burial_that_the_store_refuses_ends_no_worker(ledgers, constraints):
    dead, other = await ledgers(), await ledgers()
    assert within(await hold(dead, "a:1", 100))
    kill(dead)
    await constraints(other.home, "budget_entry", "kind", "'return'")
    await other.bury_the_dead()
    (problem,) = (await verify(other.home)).problems
    assert f"grants of {dead.worker.id}" in problem
    assert (await accounts(other.home))[G] == (100, 900, 0)
    await constraints.allow(other.home, "budget_entry")
    other._unburied.clear()
    await other.bury_the_dead()
    assert (await accounts(other.home))[G] == (100, 0, 0)
    await sound(other)


async def test_a_hold_that_is_refused_is_said_at_once_and_holds_nothing(ledgers, constraints, told):
    ledger = await ledgers(mode="direct")
    await constraints(ledger.home, "budget_hold", "end_user", "'whoever'")
    with pytest.raises(Unbooked):
        await ledger.hold("odd:1", 100, (ONE,), Facts("odd", end_user="whoever"))
    await ledger.hold("a:1", 100, (ONE,), Facts("a"))
    assert (await accounts(ledger.home))[G] == (0, 100, 0)
    assert topics(told) == ["budget.refused"] and not ledger.group.refused


async def test_one_of_many_is_found_in_few_steps(ledgers, constraints):
    ledger = await ledgers(chunk=100_000)
    await constraints(ledger.home, "budget_daily", "end_user", "'whoever'")
    real, asked = ledger.home.transact, []

    async def counted(ops):
        asked.append(len(ops))
        return await real(ops)

    ledger.home.transact = counted
    ends = {f"r{n}": 1 for n in range(200)} | {"odd": 1}
    await spend(ledger, ends, end_user="whoever")
    await quiet(ledger)
    assert (await accounts(ledger.home))[G][0] == 201
    assert len(asked) < 40


async def test_a_correction_that_is_refused_hurts_no_other(home, constraints):
    ids = [f"{n}:1" for n in "abcd"]
    await home.transact([op for id_ in ids for op in (reserve(id_, 100, ONE), reap(id_))])
    await constraints(home, "budget_entry", "posted", "-23")
    found = await reconcile(home, {"a:1": 60, "b:1": 77, "c:1": 50, "d:1": 40})
    assert found.corrected == 3 and found.refused == ["b:1"] and found.document()["refused"] == ["b:1"]
    assert (await accounts(home))[G] == (250, 0, 0)
    assert (await verify(home)).problems == []


async def test_negative_control_a_refusal_is_not_a_store_that_is_down(home, constraints):
    await constraints(home, "budget_entry", "posted", "77")
    await do(home, reserve("a:1", 100, ONE))
    with pytest.raises(Exception, match=r"odd|Check"):
        await do(home, post("a:1", 77))
    assert await row(home, "a:1", "state") == (PENDING,)
    await do(home, post("a:1", 76))
