"""Grants of a worker that was silent are burned at once; what it settles when it returns was a part of that. Repeats change nothing."""

from types import SimpleNamespace

import orjson
import pytest
import structlog
from budget_kit import accounts, budget, do, reserve, spent
from test_escrow import G, close, hold, kill, quiet, sound, within

from gwcore_budget.ledger import worker
from gwcore_budget.ledger.books import Books
from gwcore_budget.ledger.ops import POSTED, REAPED, VOIDED, Already, Bury, Done, GiveBack, Settle, Spent
from gwcore_budget.ledger.verify import verify


async def taken_for_dead(ledger, by):
    """As one on another machine, of which nothing was heard for a minute."""
    query = "UPDATE budget_worker SET seen = 0, boot = 'elsewhere' WHERE id = $1 RETURNING id"
    await by.home.rows(query, ledger.worker.id)
    await by.bury_the_dead()
    await quiet(by)


async def returned(make_ledger, *settled):
    """What is posted after a worker's grant of 1,000 was burned and it has settled so much of each hold after all."""
    silent, other = await make_ledger(), await make_ledger()
    held = [await hold(silent, f"r{n}:1", 100) for n in range(len(settled))]
    assert all(map(within, held))
    await taken_for_dead(silent, other)
    assert (await accounts(other.home))[G] == (1_000, 0, 0)
    for one, amount in zip(held, settled, strict=True):
        silent.settle(one, POSTED, amount, "usage")
    await quiet(silent)
    await sound(other)
    return (await accounts(other.home))[G]


async def test_what_a_worker_settles_late_was_a_part_of_what_was_burned(make_ledger):
    assert await returned(make_ledger, 60, 0, 100) == (1_000, 0, 0)


async def test_only_what_exceeds_the_burn_is_added(make_ledger):
    assert await returned(make_ledger, 60, 1_000) == (1_060, 0, 900)


async def test_negative_control_a_burn_that_stays_beside_it(make_ledger, monkeypatch):
    monkeypatch.setattr(Books, "_drawn", lambda self, worker, account, amount: 0)
    assert await returned(make_ledger, 60, 0, 100) == (1_160, 0, 0)


async def burned(home, *budgets):
    taken = await do(home, reserve("take:1", 100, *budgets, chunk=900))
    assert await do(home, Bury("w1", burn=True)) == Done(REAPED, 900 * len(budgets))
    return tuple(grant.account for grant in taken.grants)


async def test_of_each_account_its_own_burn_and_a_repeat_changes_nothing(make_home):
    home = make_home(exports=True)
    await home.open()
    a, b = budget("team:t", 10_000), budget("key:k", 10_000)
    ids = await burned(home, a, b)
    await do(home, Settle(f"burn:w1:{ids[1]}", POSTED, 500, "reconciled"))  # final: what comes later is beside it
    late = spent("r:1", 100, ids, POSTED, 70)
    assert await do(home, late) == Done(POSTED, 70)
    assert await do(home, late) == Already(POSTED, 70)
    assert await do(home, spent("r:2", 50, ids[:1], REAPED, 0)) == Done(REAPED, 50)
    assert await accounts(home) == {a.id: (900, 0, 0), b.id: (570, 0, 0)}
    entries = await home.rows("SELECT kind, posted FROM budget_entry WHERE hold=$1 ORDER BY seq", f"burn:w1:{ids[0]}")
    assert entries == [("burn", 900), ("drawn", -70), ("drawn", -50)]
    assert (await verify(home)).problems == []
    # whoever adds up what was exported has the same sum
    told = [
        orjson.loads(row[0]) for row in await home.rows("SELECT body FROM budget_outbox WHERE topic LIKE 'ledger.%'")
    ]
    assert sum(one["change"] for one in told if str(ids[0]) in one["accounts"]) == 900
    await home.aclose()


async def test_a_worker_may_be_lost_twice(home):
    """It had come back before its last direct hold expired, and so was never told."""
    one = budget(limit=10_000)
    ids = await burned(home, one)
    await do(home, spent("r:1", 100, ids, POSTED, 70))
    await burned(home, one)
    await do(home, spent("r:2", 100, ids, POSTED, 80))
    assert await accounts(home) == {one.id: (1_800, 0, 0)}
    assert await home.rows("SELECT state, amount, settled FROM budget_hold WHERE id=$1", f"burn:w1:{ids[0]}") == [
        (REAPED, 1_800, 1_650)
    ]
    assert (await verify(home)).problems == []
    # and what a bill has corrected is, with what is lost after it, open to the truth again
    await do(home, Settle(f"burn:w1:{ids[0]}", POSTED, 1_000, "reconciled"))
    await burned(home, one)
    await do(home, spent("r:3", 100, ids, POSTED, 90))
    assert await accounts(home) == {one.id: (2_050, 0, 0)}
    assert (await verify(home)).problems == []


async def test_a_burial_leaves_to_others_what_is_theirs(home):
    one = budget(limit=10_000)
    for worker_ in ("w1", "w2"):
        taken = await do(home, reserve("take:1", 100, one, chunk=900, worker=worker_))
    ids = (taken.grants[0].account,)
    await home.transact([spent("r:1", 100, ids, POSTED, 70, worker="w2"), Bury("w1")])
    assert await accounts(home) == {one.id: (70, 830, 0)}


async def test_a_batch_that_its_grants_do_not_bear_is_booked_hold_by_hold(home):
    """Each line of the book is what its own hold took of each account."""
    a, b = budget("team:t", 10_000), budget("key:k", 10_000)

    async def told(name, ids, *amounts):
        holds = [spent(f"{name}{n}:1", 100, ids, POSTED, amount).holds[0] for n, amount in enumerate(amounts)]
        assert await do(home, Spent("w1", tuple(holds))) == Done(POSTED, amounts[-1], over=max(0, amounts[-1] - 100))
        assert (await verify(home)).problems == []
        query = "SELECT pending, posted FROM budget_entry WHERE hold LIKE $1 ORDER BY hold, pending"
        assert {row[1] for row in await home.rows(query, f"{name}%")} == set(amounts)
        return await accounts(home)

    taken = await do(home, reserve("take:1", 100, a, b, chunk=900))
    ids = tuple(grant.account for grant in taken.grants)
    await do(home, GiveBack("w1", ((ids[1], 800),), 1))
    assert await told("more", ids, 500, 600) == {a.id: (1_100, 0, 900), b.id: (1_100, 0, 900)}
    # of a worker that was lost and has come back: a part of what was burned, though its new grant would bear it
    assert await burned(home, a, b) == ids
    await do(home, reserve("take:1", 100, a, b, chunk=900))
    assert await told("late", ids, 50, 60) == {a.id: (2_000, 900, 900), b.id: (2_000, 900, 900)}


async def test_what_a_worker_tells_of_a_hold_that_the_store_has_ends_that_one(home):
    """It was reaped out of a journal, or is held though its answer was lost: the truth corrects it, once."""
    one = budget(limit=10_000)
    direct = await do(home, reserve("d:1", 100, one))
    await do(home, reserve("take:1", 100, one, chunk=900))
    await do(home, spent("r:1", 50, direct.accounts, REAPED, 0))
    assert await accounts(home) == {one.id: (50, 950, 0)}
    for name in ("r:1", "d:1"):
        assert await do(home, spent(name, 50, direct.accounts, POSTED, 20)) == Done(POSTED, 20)
        assert isinstance(await do(home, spent(name, 50, direct.accounts, POSTED, 30)), Already)
    assert await accounts(home) == {one.id: (40, 850, 0)}
    assert (await verify(home)).problems == []


@pytest.mark.parametrize("mode", ["direct", "escrow"])
async def test_a_burial_is_told_once(make_ledger, mode):
    dead, other = await make_ledger(mode=mode), await make_ledger()
    await hold(dead, "a:1", 100)
    kill(dead)
    for time in range(3):
        with structlog.testing.capture_logs() as logs:
            await taken_for_dead(dead, other)
        assert [one["event"] for one in logs].count("buried a dead worker") == (mode == "escrow" and time == 0), logs
    await other.home.rows("UPDATE budget_hold SET expires = 0 WHERE state = 0 RETURNING id")
    with structlog.testing.capture_logs() as logs:
        await taken_for_dead(dead, other)
    assert [one["reaped"] for one in logs] == ([1] if mode == "direct" else [])
    await sound(other)
    await close(dead)


async def given_back(home):
    """A worker gives 300 of 900 back, spends the rest, and is not told that the store has heard the former. What is free."""
    one = budget(limit=10_000)
    taken = await do(home, reserve("take:1", 100, one, chunk=900))
    ids = (taken.grants[0].account,)
    back = GiveBack("w1", ((ids[0], 300),), 7)
    await do(home, back)
    await home.transact([back, spent("r:1", 300, ids, POSTED, 300)])
    await do(home, back)
    assert (await verify(home)).problems == []
    return 10_000 - sum((await accounts(home))[one.id][:2])


async def test_what_is_given_back_is_given_back_once(home):
    assert await given_back(home) == 9_400


async def test_negative_control_a_repeat_gives_back_what_is_in_use(home, monkeypatch):
    def returned_each_time(self, op):
        for account, amount in op.amounts:
            self._take_grant(op.worker, account, amount, "return")
        return Done(VOIDED)

    monkeypatch.setattr(Books, "_returned", returned_each_time)
    assert await given_back(home) > 9_400


async def test_after_an_outage_the_silent_are_let_speak_first(make_ledger):
    """The store was away from everybody: who comes back first must not take the others for dead."""
    silent, other = await make_ledger(), await make_ledger()
    await hold(silent, "r:1", 100)
    query = "UPDATE budget_worker SET seen = 0, boot = 'elsewhere' WHERE id = $1 RETURNING id"
    await other.home.rows(query, silent.worker.id)
    await other.bury_the_dead(silent=False)
    await quiet(other)
    assert (await accounts(other.home))[G][0] == 0
    await other.bury_the_dead()
    await quiet(other)
    assert (await accounts(other.home))[G][0] == 1_000


async def test_a_worker_spends_nothing_any_more_before_others_take_it_for_dead(tmp_path, monkeypatch):
    """It counts from when it began to say that it lives: the store may have heard that then, and answered late."""
    assert (worker.FENCED + 2 * worker.BEAT) * 1000 < worker.SILENT
    now, found = [1_000.0], [("id",)]
    monkeypatch.setattr(worker, "time", SimpleNamespace(clock_gettime=lambda _clock: now[0]))

    class Slow:
        async def rows(self, _query, *_values):
            now[0] += 5
            return found

    one = worker.Worker(tmp_path)
    assert one.fenced(), "nobody has heard of it"
    await one.enter(Slow(), 1)
    assert not one.fenced()
    now[0] += 30
    assert await one.beat(Slow(), 1)
    now[0] += 35
    assert not one.fenced()
    now[0] += 1
    assert one.fenced()
    found.clear()
    assert not await one.beat(Slow(), 1) and one.fenced(), "it is buried"
    one.close()


async def test_a_lock_means_nothing_where_the_kernel_is_not_known(tmp_path, monkeypatch):
    """Two machines that cannot say which they are may see one folder: only silence tells who is dead."""
    (tmp_path / "w.alive").touch()
    for boot in ("unknown", "ours"):
        monkeypatch.setattr(worker, "boot_id", lambda boot=boot: boot)
        corpse = worker.Corpse.of(worker.Other("w", "host", boot, str(tmp_path), 0))
        assert (corpse is None) == (boot == "unknown")
        if corpse is not None:
            corpse.close()
