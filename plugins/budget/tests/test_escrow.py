"""Two modes, workers that die, grants that travel: several ledgers on one store, in one process."""

import asyncio
import os
import shutil

import pytest
from budget_kit import TOTAL, accounts, budget, eventually

from gwcore_budget.ledger.escrow import Escrow, Within
from gwcore_budget.ledger.group import Unavailable
from gwcore_budget.ledger.home import StoreDown
from gwcore_budget.ledger.journal import Journal, recover
from gwcore_budget.ledger.ledger import Ledger, Refused
from gwcore_budget.ledger.ops import NOTHING_METERED, PENDING, POSTED, REAPED, VOIDED, Facts, Hold
from gwcore_budget.ledger.verify import verify
from gwcore_budget.ledger.worker import Worker

G = "global:total"


def kill(ledger):
    """As SIGKILL leaves it: no task runs on, the lock is free, the files stay."""
    for task in (*ledger._tasks, ledger.group._task):
        task.cancel()
    ledger.escrow.journal.close()
    ledger.worker.close()


async def close(ledger):
    await ledger.home.aclose()


async def sound(ledger):
    report = await verify(ledger.home)
    assert report.problems == []
    return report


async def quiet(ledger):
    await eventually(lambda: not ledger.group.backlog and not ledger.escrow.unwritten and not ledger.escrow.done)


async def hold(ledger, name, amount, *budgets, **options):
    return await ledger.hold(name, amount, budgets or (budget(limit=100_000),), Facts(name), **options)


def within(held):
    return isinstance(held, Within)


async def test_escrow_asks_the_store_once_per_chunk(make_ledger):
    ledger = await make_ledger()
    commits = ledger.group.commits
    tickets = [await hold(ledger, f"r{n}:1", 10) for n in range(50)]
    assert ledger.group.commits == commits + 1
    assert all(map(within, tickets))
    for ticket in tickets:
        ledger.settle(ticket, POSTED, 7, basis="usage")
    await quiet(ledger)
    assert (await accounts(ledger.home))[G][0] == 350
    assert ledger.group.commits <= commits + 4
    await sound(ledger)


async def test_auto_is_direct_where_it_is_tight_and_escrow_where_there_is_plenty(make_ledger):
    ledger = await make_ledger(mode="auto")
    tight = await hold(ledger, "a:1", 100, budget("key:tight", 1_000))
    plenty = await hold(ledger, "b:1", 100, budget("key:plenty", 100_000))
    assert not within(tight) and within(plenty)
    mixed = await hold(ledger, "c:1", 100, budget("key:plenty", 100_000), budget("key:tight", 1_000))
    assert not within(mixed)
    await sound(ledger)


async def test_other_workers_idle_grants_come_back_before_anyone_is_refused(make_ledger):
    first, second = await make_ledger(), await make_ledger()
    one = budget(limit=8_000)
    ticket = await hold(first, "a:1", 10, one)
    first.settle(ticket, POSTED, 10)
    assert (await accounts(second.home))[G][1] > 0
    # all but the ten that were spent
    assert (await hold(second, "b:1", 7_990, one)).amount == 7_990
    with pytest.raises(Refused) as caught:
        await hold(second, "c:1", 11, one)
    assert caught.value.short.posted == 10
    await quiet(first)
    await sound(second)


async def test_idle_grants_are_handed_back(make_ledger, monkeypatch):
    monkeypatch.setattr("gwcore_budget.ledger.escrow.IDLE", 0.1)
    ledger = await make_ledger()
    ledger.settle(await hold(ledger, "a:1", 10), POSTED, 10)

    async def back():
        return (await accounts(ledger.home))[G] == (10, 0, 0)

    await eventually(back)
    assert ledger.escrow.grants == {}
    await sound(ledger)


async def test_a_lowered_limit_and_a_manual_reset_end_grants(make_ledger):
    from gwcore_budget.ledger.ops import Reset

    ledger = await make_ledger()
    ticket = await hold(ledger, "a:1", 10, budget(limit=10_000))
    ledger.settle(ticket, POSTED, 10)
    with pytest.raises(Refused):
        await hold(ledger, "b:1", 10, budget(limit=5))
    assert (await hold(ledger, "c:1", 10, budget(limit=10_000))).amount == 10
    generation = max(grant.generation for grant in ledger.escrow.grants.values()) if ledger.escrow.grants else 0
    await ledger.group.ask(Reset(G))
    await eventually(lambda: all(grant.generation > generation for grant in ledger.escrow.grants.values()), 2)
    await hold(ledger, "d:1", 9_900, budget(limit=10_000))
    await quiet(ledger)
    await sound(ledger)


async def test_a_dead_workers_journal_is_worth_its_settlements(make_ledger):
    dead, alive = await make_ledger(), await make_ledger()
    one = budget(limit=100_000)
    tickets = [await hold(dead, f"a{n}:1", 100, one) for n in range(3)]
    dead.settle(tickets[0], POSTED, 40, basis="usage")
    dead.settle(tickets[1], VOIDED)
    kill(dead)
    await alive.bury_the_dead()
    await quiet(alive)
    rows = await alive.home.rows("SELECT id, state, settled FROM budget_hold ORDER BY id")
    assert rows == [("a0:1", POSTED, 40), ("a1:1", VOIDED, 0), ("a2:1", REAPED, 100)]
    assert (await accounts(alive.home))[G] == (140, 0, 0)
    assert await alive.home.rows("SELECT id FROM budget_worker") == [(alive.worker.id,)]
    await sound(alive)
    await close(dead)


async def test_without_its_journal_the_whole_grant_is_burnt(make_ledger):
    dead, alive = await make_ledger(), await make_ledger()
    ticket = await hold(dead, "a:1", 100)
    dead.settle(ticket, POSTED, 40)
    kill(dead)
    dead.worker.path("journal").unlink()
    await alive.bury_the_dead()
    posted, pending, _ = (await accounts(alive.home))[G]
    assert (posted, pending) == (1_000, 0)
    await sound(alive)
    await close(dead)


async def test_direct_holds_of_the_dead_are_reaped_and_those_of_the_living_are_not(make_ledger):
    dead, alive, other = [await make_ledger(mode="direct") for _ in range(3)]
    await hold(dead, "a:1", 100)
    mine = await hold(other, "b:1", 50)
    kill(dead)
    await alive.bury_the_dead()
    await quiet(alive)
    assert await alive.home.rows("SELECT id, state FROM budget_hold ORDER BY id") == [("a:1", REAPED), ("b:1", 0)]
    other.settle(mine, POSTED, 1)
    await quiet(other)
    await sound(alive)
    await close(dead)


async def test_negative_control_a_reaper_that_releases_money(make_ledger, monkeypatch):
    """Time-outs must never release money: with a reap that voids, the books fall below what was spent."""
    monkeypatch.setattr("gwcore_budget.ledger.ledger.REAPED", VOIDED)
    dead, alive = await make_ledger(mode="direct"), await make_ledger(mode="direct")
    await hold(dead, "a:1", 100)
    kill(dead)
    await alive.bury_the_dead()
    await quiet(alive)
    assert (await accounts(alive.home))[G][0] < 100
    await close(dead)


async def test_a_worker_that_cannot_say_it_lives_spends_no_grants(make_ledger, monkeypatch):
    ledger = await make_ledger()
    await hold(ledger, "a:1", 10)
    monkeypatch.setattr(Worker, "fenced", lambda _worker: True)
    assert not within(await hold(ledger, "b:1", 10))


async def test_holds_that_the_store_has_and_we_do_not_are_voided(make_ledger, monkeypatch):
    from budget_kit import do, reserve

    monkeypatch.setattr("gwcore_budget.ledger.ledger._AUDIT_AGE", -1_000)
    ledger = await make_ledger(mode="direct")
    mine = await hold(ledger, "a:1", 10)
    await do(ledger.home, reserve("lost:1", 10, budget(limit=100_000), worker=ledger.worker.id))
    await ledger._audit()
    await quiet(ledger)
    assert await ledger.home.rows("SELECT id, state FROM budget_hold ORDER BY id") == [("a:1", 0), ("lost:1", VOIDED)]
    ledger.settle(mine, VOIDED)


async def test_stopping_leaves_nothing_pending(make_ledger):
    for mode in ("direct", "escrow"):
        ledger = await make_ledger(mode=mode)
        await hold(ledger, f"{mode}:1", 10)
        ledger.settle(await hold(ledger, f"{mode}:2", 10), POSTED, 5)
        await ledger.stop()
        assert os.listdir(ledger.worker.folder) == []
    last = await make_ledger()
    assert (await sound(last)).pending == 0
    assert (await accounts(last.home))[G] == (30, 0, 0)


async def test_cancelled_waits_leave_nothing(make_ledger):
    for mode in ("direct", "escrow", "auto"):
        ledger = await make_ledger(mode=mode)
        for k in range(8):
            task = asyncio.ensure_future(hold(ledger, f"{mode}{k}:1", 10))
            for _ in range(k):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                ledger.settle(task.result(), VOIDED)
        await quiet(ledger)
        ledger.escrow.retire(ledger.group.now(), everything=True)
        await quiet(ledger)
        assert not ledger.open
        assert (await accounts(ledger.home)).get(G, (0, 0, 0))[:2] == (0, 0)
        await sound(ledger)


def sent(hold_, long=1):
    return Hold(hold_, "w", PENDING, 10, None, (1, 2), 5, 5, Facts("r" * long))


def settled(hold_, amount):
    made = sent(hold_)
    made.end(POSTED, amount, "usage", NOTHING_METERED)
    return made


def test_a_torn_journal_is_read_to_the_tear(tmp_path):
    path = tmp_path / "w.journal"
    journal = Journal(path)
    for n in range(3):
        journal.dispatched(sent(f"r{n}:1"))
    journal.settled(settled("r0:1", 4))
    journal.close()
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        found = recover(path, "w")
        assert len(found) <= 3
        for one in found:
            assert one.state == (POSTED if one.id == "r0:1" and cut >= len(whole) - 1 else REAPED)


def test_a_journal_of_many_segments_is_read_whole_while_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("gwcore_budget.ledger.journal.SEGMENT", 4_096)
    journal = Journal(tmp_path / "w.journal")
    for n in range(200):
        journal.dispatched(sent(f"r{n}:1", n % 90))
        if n % 2:
            journal.settled(settled(f"r{n}:1", n))
    journal.dispatched(sent("long:1", 10_000))
    whole = journal.path.read_bytes()
    assert b"\n\0" in whole and b"\0[" in whole, "no gap to read over"
    found = {one.id: one for one in recover(journal.path, "w")}
    assert len(found) == 201 and found["long:1"].state == REAPED
    assert all(found[f"r{n}:1"].settled == n and found[f"r{n}:1"].state == POSTED for n in range(1, 200, 2))
    assert all(found[f"r{n}:1"].state == REAPED for n in range(0, 200, 2))
    journal.close()
    assert len(recover(journal.path, "w")) == 201


async def test_a_journal_never_grows_beyond_what_it_needs(make_ledger, monkeypatch):
    monkeypatch.setattr("gwcore_budget.ledger.journal.COMPACT", 1_000)
    monkeypatch.setattr("gwcore_budget.ledger.journal.SEGMENT", 4_096)
    ledger = await make_ledger()
    path = ledger.worker.path("journal")
    settle_all = [await hold(ledger, "first:1", 100)]  # opens grants
    lasting = await hold(ledger, "lasting:1", 100)
    assert within(lasting)
    sizes = []
    for n in range(300):
        settle_all.append(await hold(ledger, f"r{n}:1", 100))
        if len(settle_all) > 5:
            ledger.settle(settle_all.pop(0), POSTED, 7)
            sizes.append(path.stat().st_size)
        if not n % 10:
            await asyncio.sleep(0.03)
    assert max(sizes) <= 6 * 4_096, "never empty, yet it may not grow"
    found = {one.id: one for one in recover(path, "w")}
    assert found["lasting:1"].state == REAPED, "what is not settled is kept"
    assert {ticket.id for ticket in settle_all} <= found.keys()
    for ticket in (lasting, *settle_all):
        ledger.settle(ticket, POSTED, 7)
    found = {one.id: one for one in recover(path, "w")}
    assert found["lasting:1"].state == POSTED, "the new file is the one that is written"
    await quiet(ledger)
    await sound(ledger)


def test_a_journal_is_written_anew_whole_or_not_at_all(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "w.journal")
    journal.dispatched(sent("a:1"))
    before = journal.path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("gwcore_budget.ledger.journal.SEGMENT", 1 << 62)
        with pytest.raises(OSError, match=r"large|space"):
            journal.rewrite([sent("b:1")])
    assert journal.path.read_bytes() == before
    assert not journal.grown
    journal.rewrite([sent("b:1"), settled("c:1", 4)])
    journal.settled(settled("b:1", 5))
    assert [(one.id, one.settled) for one in recover(journal.path, "w")] == [("b:1", 5), ("c:1", 4)]
    journal.rewrite([])
    assert recover(journal.path, "w") == []
    journal.close()


def test_a_journal_that_cannot_be_written_anew_is_not_tried_again_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("gwcore_budget.ledger.journal.COMPACT", 10)
    folder = tmp_path / "workers"
    folder.mkdir()
    journal = Journal(folder / "w.journal")
    journal.dispatched(sent("a:1"))
    assert journal.grown
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        journal.rewrite([])
    assert not journal.grown
    journal.close()


async def test_a_full_disk_is_an_error_and_turns_escrow_off(make_ledger, monkeypatch):
    monkeypatch.setattr("gwcore_budget.ledger.journal.SEGMENT", 1 << 62)
    ledger = await make_ledger()
    with pytest.raises(OSError, match=r"large|space"):
        Journal(ledger.worker.path("other")).dispatched(sent("a:1"))
    assert not within(await hold(ledger, "a:1", 10))
    assert ledger.mode == "direct"


async def test_a_journal_that_cannot_be_written_turns_escrow_off(make_ledger, monkeypatch):
    ledger = await make_ledger()
    await hold(ledger, "a:1", 10)

    def full(*_):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(Journal, "dispatched", full)
    assert not within(await hold(ledger, "b:1", 10))
    assert ledger.mode == "direct"


async def outage(make_ledger, monkeypatch):
    """What a worker does while the store is down, and what the book says afterwards."""
    ledger = await make_ledger(patience=0.25)
    first = await hold(ledger, "a:1", 100)
    home = ledger.home
    transact = home.transact

    async def down(_ops):
        raise StoreDown("down")

    monkeypatch.setattr(home, "transact", down)
    local = await hold(ledger, "b:1", 100)
    try:
        # how soon (300 ms) is asserted by the campaign, not by a unit test on a busy machine
        async with asyncio.timeout(5):
            ledger.settle(await hold(ledger, "c:1", 100, budget("key:other", 1_000)), POSTED, 0)
        refused = False
    except Unavailable:
        refused = True
    ledger.settle(first, POSTED, 60)
    ledger.settle(local, POSTED, 50)
    await asyncio.sleep(0.05)
    monkeypatch.setattr(home, "transact", transact)
    await quiet(ledger)
    open_ = await home.rows("SELECT id FROM budget_hold WHERE id='c:1' AND state=0")
    seen = {"local": within(local), "refused": refused, "posted": (await accounts(home))[G][0], "open": open_}
    return ledger, seen


SERVED = {"local": True, "refused": True, "posted": 110, "open": []}


async def test_b14_a_store_that_is_down(make_ledger, monkeypatch):
    """503 where the store must be asked; escrow serves on within its grants; nothing is lost."""
    ledger, seen = await outage(make_ledger, monkeypatch)
    assert seen == SERVED
    await sound(ledger)


async def test_b14_negative_control_a_worker_that_goes_on_without_a_grant(make_ledger, monkeypatch):
    """Mutant: what the store cannot be asked is admitted."""
    monkeypatch.setattr(Escrow, "admit", _admit_on_any_grant)
    _, seen = await outage(make_ledger, monkeypatch)
    assert seen != SERVED and not seen["refused"]


async def test_b14_negative_control_what_ends_in_an_outage_is_forgotten(make_ledger, monkeypatch):
    """Mutant: a settlement that cannot be written is written off."""
    settle = Ledger.settle
    monkeypatch.setattr(Ledger, "settle", lambda self, held, *_rest: settle(self, held, POSTED, 0))
    _, seen = await outage(make_ledger, monkeypatch)
    assert seen != SERVED and seen["posted"] < 110


async def test_many_workers_in_escrow_never_pass_the_limit(make_ledger):
    ledgers = [await make_ledger() for _ in range(4)]
    one = budget(limit=20_000)
    spent = 0

    async def client(n):
        nonlocal spent
        for k in range(12):
            try:
                ticket = await hold(ledgers[n % 4], f"{n}-{k}:1", 100, one)
            except Refused:
                return
            await asyncio.sleep(0)
            spent += 90
            ledgers[n % 4].settle(ticket, POSTED, 90, basis="usage")

    await asyncio.gather(*(client(n) for n in range(40)))
    for ledger in ledgers:
        await quiet(ledger)
    posted = (await accounts(ledgers[0].home))[G][0]
    assert spent == posted <= 20_000
    assert posted >= 19_000
    await sound(ledgers[0])


async def test_negative_control_grants_that_are_not_counted(make_ledger, monkeypatch):
    monkeypatch.setattr(Escrow, "admit", _admit_on_any_grant)
    ledger = await make_ledger()
    one = budget(limit=1_000)
    total = 0
    for n in range(20):
        ticket = await hold(ledger, f"r{n}:1", 100, one)
        ledger.settle(ticket, POSTED, 100)
        total += 100
    await quiet(ledger)
    assert (await accounts(ledger.home))[G][0] > 1_000
    assert TOTAL.name == "total"


def _admit_on_any_grant(escrow, hold_, amount, _budgets, facts):
    return _free(escrow, hold_, amount, facts) if escrow.grants else None


def _free(escrow, hold_, amount, facts):
    grant = next(iter(escrow.grants.values()))
    grant.open += 1
    within = escrow.open[hold_] = Within(hold_, escrow.worker, PENDING, amount, None, (grant.account,), 1, 1, facts)
    within.grants = [grant]
    return within


async def test_a_store_that_is_slower_than_any_patience_still_gives_grants(make_ledger, monkeypatch):
    """Each call that gave up was dropped when its turn came, and took no grant: 50 ms a statement refused every call for ever."""
    ledger = await make_ledger(patience=0.05)
    home, asked = ledger.home, asyncio.Event()
    transact = home.transact

    async def slow(ops):
        await asked.wait()
        return await transact(ops)

    monkeypatch.setattr(home, "transact", slow)
    with pytest.raises(Unavailable):
        await hold(ledger, "a:1", 100)
    asked.set()
    await ledger.group.flushed()
    asked.clear()
    local = await hold(ledger, "b:1", 100)
    assert within(local)
    ledger.settle(local, POSTED, 60)
    asked.set()
    await quiet(ledger)
    assert (await accounts(home))[G][0] == 60
    assert not await home.rows("SELECT id FROM budget_hold WHERE id='a:1' AND state=0")
