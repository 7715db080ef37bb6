"""One suite for every home of the ledger: each test runs against SQLite and PostgreSQL."""

import asyncio

import pytest
from budget_kit import accounts, alive, budget, do, eventually, now_of, post, reap, reserve, spent, void

from gwcore_budget.ledger.group import Group
from gwcore_budget.ledger.ledger import Ledger, Refused
from gwcore_budget.ledger.ops import (
    PENDING,
    POSTED,
    REAPED,
    VOIDED,
    Admitted,
    Already,
    Bury,
    Done,
    Dropped,
    Facts,
    GiveBack,
    Missing,
    Recall,
    Reset,
    Short,
    Shrink,
    Stale,
)  # fmt: skip
from gwcore_budget.ledger.postgres import PostgresHome
from gwcore_budget.ledger.verify import _Tally, verify
from gwcore_budget.window import Window

G = "global:total"


async def sound(home):
    assert (await verify(home)).problems == []


async def test_a_hold_is_posted_and_the_rest_is_free_again(home):
    assert isinstance(await do(home, reserve("r:1", 600, budget())), Admitted)
    assert (await accounts(home))[G] == (0, 600, 0)
    assert await do(home, post("r:1", 450)) == Done(POSTED, 450)
    assert (await accounts(home))[G] == (450, 0, 0)
    await sound(home)


async def test_a_refusal_says_what_is_left_and_moves_nothing(home):
    a, b = budget("team:t", 1_000), budget("key:k", 500)
    await do(home, reserve("r:1", 300, a, b))
    await do(home, post("r:1", 300))
    await do(home, reserve("r:2", 150, a, b))
    short = await do(home, reserve("r:3", 100, a, b))
    assert isinstance(short, Short)
    assert (short.budget.id, short.free, short.limit, short.posted, short.pending) == (b.id, 50, 500, 300, 150)
    assert await accounts(home) == {a.id: (300, 150, 0), b.id: (300, 150, 0)}
    await sound(home)


async def test_of_two_refusals_the_final_one_is_named(home):
    held, spent = budget("key:held", 100), budget("key:spent", 100)
    for hold, amount, one in (("r:0", 90, held), ("r:2", 95, spent)):
        await do(home, reserve(hold, amount, one))
        await do(home, post(hold, amount))
    await do(home, reserve("r:1", 10, held))  # and as much would just fit, if it came back
    for pair in ((held, spent), (spent, held)):
        short = await do(home, reserve("r:3", 10, *pair))
        assert short.budget.id == spent.id


async def test_less_is_held_where_less_will_do(home):
    one = budget(limit=100)
    assert (await do(home, reserve("r:1", 250, one, least=80))).amount == 100
    assert isinstance(await do(home, reserve("r:2", 250, one, least=1)), Short)
    assert (await do(home, reserve("r:3", 10, budget("key:k"), least=80))).amount == 10, "no more than is asked for"
    await do(home, post("r:1", 100))
    assert isinstance(await do(home, reserve("r:4", 250, one, least=0)), Short), "nothing at all will not do"


async def test_an_answer_is_cut_for_what_is_spent_never_for_what_is_held(home):
    one, other = budget(limit=100), budget("key:k", 300)
    await do(home, reserve("r:1", 40, one))
    await do(home, post("r:1", 30))
    await do(home, reserve("r:2", 20, one))
    # 70 are not spent, and 20 of them come back
    short = await do(home, reserve("r:3", 250, one, other, least=10))
    assert isinstance(short, Short) and short.held_only
    assert (short.budget.id, short.free, short.need) == (one.id, 50, 70)
    # 80 will never fit, whoever gives back what
    final = await do(home, reserve("r:4", 250, one, other, least=80))
    assert isinstance(final, Short) and not final.held_only and final.need == 80
    await do(home, void("r:2"))
    assert (await do(home, reserve("r:5", 250, one, other, least=10))).amount == 70
    await sound(home)


async def test_those_who_wait_ask_one_after_the_other(make_home, tmp_path, monkeypatch):
    ledger = Ledger(make_home(), tmp_path / "workers", mode="direct", patience=5.0)
    await ledger.start()
    one, asked, order = budget(limit=100), [], []
    first = await ledger.hold("a:1", 100, [one], Facts("a"))
    ask = ledger._ask

    async def counted(hold, *arguments, **named):
        asked.append(hold)
        return await ask(hold, *arguments, **named)

    monkeypatch.setattr(ledger, "_ask", counted)

    async def client(n):
        held = await ledger.hold(f"{n}:1", 100, [one], Facts(str(n)), wait=20)
        order.append(n)
        ledger.settle(held, POSTED, 0)

    clients = []
    for n in range(20):
        clients.append(asyncio.create_task(client(n)))
        await eventually(lambda n=n: f"{n}:1" in asked)
    await eventually(lambda: asked.count("0:1") > 3)
    assert max(asked.count(f"{n}:1") for n in range(1, 20)) == 1
    ledger.settle(first, POSTED, 0)
    await asyncio.gather(*clients)
    assert order == list(range(20))
    with pytest.raises(Refused):
        await ledger.hold("b:1", 101, [one], Facts("b"), wait=20)
    held = await ledger.hold("c:1", 100, [one], Facts("c"))
    with pytest.raises(Refused):
        await ledger.hold("d:1", 100, [one], Facts("d"), wait=0.01)
    assert not ledger._turns
    ledger.settle(held, POSTED, 0)
    await ledger.stop()


async def test_who_needs_little_is_not_refused_for_who_waits_for_much(make_home, tmp_path):
    ledger = Ledger(make_home(), tmp_path / "workers", mode="direct", patience=5.0)
    await ledger.start()
    one = budget(limit=100)
    most, some = [await ledger.hold(f"{n}:1", amount, [one], Facts(str(n))) for n, amount in enumerate((70, 30))]
    much = asyncio.create_task(ledger.hold("much:1", 50, [one], Facts("much"), wait=30))
    await eventually(lambda: ledger._turns and ledger._settled is not None)
    little = asyncio.create_task(ledger.hold("little:1", 20, [one], Facts("little"), wait=1))
    await asyncio.sleep(0.1)  # it stands behind the other, or else it gets the money at once
    ledger.settle(some, POSTED, 0)
    assert (await little).amount == 20 and not much.done()
    ledger.settle(most, POSTED, 0)
    assert (await much).amount == 50
    for held in (little.result(), much.result()):
        ledger.settle(held, POSTED, 1)
    await eventually(lambda: not ledger.group.backlog)
    await sound(ledger.home)
    await ledger.stop()


async def test_repeats_change_nothing(home):
    one = reserve("r:1", 600, budget())
    for _ in range(2):
        assert isinstance(await do(home, one), Admitted)
    assert (await accounts(home))[G] == (0, 600, 0)
    assert await do(home, post("r:1", 450)) == Done(POSTED, 450)
    assert await do(home, post("r:1", 450)) == Already(POSTED, 450)
    assert await do(home, post("r:1", 451)) == Already(POSTED, 450, conflict=True)
    assert await do(home, void("r:1")) == Already(POSTED, 450, conflict=True)
    assert isinstance(await do(home, one), Already)
    assert (await accounts(home))[G] == (450, 0, 0)
    await sound(home)


async def test_a_reaped_hold_takes_one_correction(home):
    await do(home, reserve("r:1", 600, budget()))
    assert await do(home, reap("r:1")) == Done(REAPED, 600)
    assert (await accounts(home))[G] == (600, 0, 0)
    for end in (void("r:1"), reap("r:1")):
        assert isinstance(await do(home, end), Already), "only the truth corrects it"
    assert await do(home, post("r:1", 200)) == Done(POSTED, 200)
    assert (await do(home, post("r:1", 100))).conflict
    await do(home, reserve("v:1", 600, budget()))
    await do(home, void("v:1"))
    assert await do(home, post("v:1", 5)) == Already(VOIDED, 0, conflict=True), "what was given back is"
    assert (await accounts(home))[G] == (200, 0, 0)
    await sound(home)


async def test_a_void_before_its_reserve_leaves_a_tombstone(home):
    assert await do(home, void("r:1")) == Done(VOIDED, 0)
    assert await do(home, reserve("r:1", 600, budget())) == Already(VOIDED, 0)
    assert (await accounts(home))[G] == (0, 0, 0)
    assert await do(home, post("none:1", 5)) == Missing("none:1")
    for grants in ({}, {"chunk": 10, "floor": 10_000}):
        assert isinstance(await do(home, reserve("r:2", 1, budget(), abandoned=True, **grants)), Dropped)
    await sound(home)


async def test_truth_above_the_hold_is_posted_and_seen_in_over(home):
    await do(home, reserve("r:1", 600, budget()))
    assert await do(home, post("r:1", 1_800)) == Done(POSTED, 1_800, over=1_200)
    assert (await accounts(home))[G] == (1_800, 0, 1_200)
    await sound(home)


async def test_free_models_pass_an_exhausted_budget_and_a_limit_of_zero_refuses_all_else(home):
    nothing = budget(limit=0)
    assert isinstance(await do(home, reserve("r:1", 0, nothing)), Admitted)
    assert isinstance(await do(home, reserve("r:2", 1, nothing)), Short)
    unmetered = await do(home, reserve("r:3", None, nothing))
    assert unmetered.amount is None
    await do(home, post("r:3", 0))
    await sound(home)


async def test_a_batch_is_one_transaction_and_each_operation_stands_alone(home):
    ops = [reserve(f"r{n}:1", 300, budget()) for n in range(5)] + [post("r0:1", 10), reserve("r9:1", 300, budget())]
    kinds = [type(result) for result in (await home.transact(ops)).results]
    assert kinds == [Admitted] * 3 + [Short] * 2 + [Done, Admitted]
    assert (await accounts(home))[G] == (10, 900, 0)
    await sound(home)


async def test_periods_are_opened_by_the_first_reserve_and_a_wrong_clock_is_told(home):
    day = budget("key:k", 100, Window.parse("day", "Europe/Warsaw"))
    now = await now_of(home)
    stale = await do(home, reserve("r:1", 10, day, now=now - 86_400_000))
    assert isinstance(stale, Stale) and abs(stale.now - now) < 60_000
    assert isinstance(await do(home, reserve("r:2", 10, day, now=stale.now)), Admitted)
    rows = await home.rows("SELECT start FROM budget_account")
    assert [row[0] for row in rows] == [day.window.period(now).start]


async def test_a_manual_reset_opens_a_new_generation_and_the_old_holds_settle_there(home):
    one = budget(limit=100)
    await do(home, reserve("r:1", 90, one))
    assert await do(home, Reset(one.id)) == Done(VOIDED, 1)
    assert isinstance(await do(home, reserve("r:2", 90, one)), Admitted)
    await do(home, post("r:1", 80))
    await do(home, post("r:2", 70))
    rows = await home.rows("SELECT generation, posted FROM budget_account ORDER BY generation")
    assert rows == [(0, 80), (1, 70)]
    assert (await do(home, reserve("r:3", 1, one, chunk=10))).grants[0].generation == 1
    assert await do(home, Reset("nobody")) == Missing("nobody")
    await sound(home)


async def test_a_temporary_increase_ends(home):
    now = await now_of(home)
    raised = budget(limit=100, bonus=50, bonus_until=now + 60_000)
    ended = budget(limit=100, bonus=50, bonus_until=now - 1)
    assert isinstance(await do(home, reserve("r:1", 120, ended)), Short)
    assert isinstance(await do(home, reserve("r:2", 120, raised)), Admitted)


async def test_b26_a_limit_lowered_below_what_is_held(home):
    await do(home, reserve("r:1", 800, budget(limit=1_000)))
    short = await do(home, reserve("r:2", 1, budget(limit=500)))
    assert (short.free, short.limit) == (0, 500)
    assert await do(home, post("r:1", 700)) == Done(POSTED, 700)
    assert isinstance(await do(home, reserve("r:3", 1, budget(limit=500))), Short)
    assert isinstance(await do(home, reserve("r:4", 300, budget(limit=1_000))), Admitted)
    await sound(home)


async def test_a_hold_shrinks_while_its_stream_runs(home):
    await do(home, reserve("r:1", 600, budget()))
    assert await do(home, Shrink("r:1", 200)) == Done(PENDING, 200)
    assert isinstance(await do(home, Shrink("r:1", 300)), Already)
    assert (await accounts(home))[G] == (0, 200, 0)
    await do(home, reap("r:1"))
    assert (await accounts(home))[G] == (200, 0, 0)
    await sound(home)


async def test_grants_are_taken_spent_returned_and_burnt(home):
    a, b = budget("team:t", 10_000), budget("key:k", 8_000)
    taken = await do(home, reserve("r:1", 100, a, b, chunk=900))
    assert [(g.budget, g.amount) for g in taken.grants] == [(a.id, 900), (b.id, 900)]
    assert await accounts(home) == {a.id: (0, 900, 0), b.id: (0, 900, 0)}
    ids = tuple(g.account for g in taken.grants)
    first = spent("r:1", 100, ids, POSTED, 70)
    assert await do(home, first) == Done(POSTED, 70)
    assert await do(home, first) == Already(POSTED, 70)
    assert await do(home, spent("r:2", 50, ids, REAPED, 0)) == Done(REAPED, 50)
    assert await do(home, post("r:2", 20)) == Done(POSTED, 20)
    assert await accounts(home) == {a.id: (90, 780, 0), b.id: (90, 780, 0)}
    await do(home, GiveBack("w1", ((ids[0], 80),), 1))
    assert (await accounts(home))[a.id] == (90, 700, 0)
    await sound(home)
    assert await do(home, Bury("w1", burn=True)) == Done(REAPED, 700 + 780)
    assert await accounts(home) == {a.id: (790, 0, 0), b.id: (870, 0, 0)}
    assert await do(home, Bury("w1")) == Done(VOIDED, 0)
    # a burnt grant is corrected like any reaped hold
    assert await do(home, post(f"burn:w1:{ids[0]}", 0)) == Done(POSTED, 0)
    await sound(home)


async def test_grants_shrink_towards_the_limit_and_stop_at_the_floor(home):
    one = budget(limit=1_000)
    sizes = []
    for n in range(4):
        result = await do(home, reserve(f"r{n}:1", 10, one, chunk=400, floor=600))
        sizes.append([g.amount for g in result.grants])
    assert sizes == [[125], [109], [95], [83]]
    direct = await do(home, reserve("r9:1", 10, one, chunk=400, floor=600))
    assert direct.grants == () and direct.amount == 10
    # an under-estimate takes the whole grant and shows in over
    assert await do(home, spent("r0:1", 10, direct.accounts, POSTED, 500)) == Done(POSTED, 500, over=490)
    assert (await accounts(home))[one.id] == (500, 10, 490)
    assert (await do(home, reserve("r10:1", 10, one, chunk=400))).grants[0].amount == 61, "of what is not spent, either"
    await sound(home)


async def test_a_home_tells_that_another_worker_recalled_or_reset(make_home):
    one, other = make_home(), make_home()
    for home in (one, other):
        await home.open()
    watched = budget(limit=1_000)
    await do(other, reserve("a:1", 10, watched))
    one.stirred()
    await do(other, post("a:1", 5))
    assert one.stirred() == isinstance(one, PostgresHome), "plain business makes nobody look"
    for op in (Recall((watched.id,)), Recall((watched.id,)), Reset(watched.id)):
        await do(other, op)
        assert one.stirred()
    for home in (one, other):
        await home.aclose()


async def test_recall_and_events_reach_the_budget(home):
    one = budget()
    first = await do(home, reserve("r:1", 1, one, chunk=10))
    await do(home, Recall((one.id, "unknown")))
    again = await do(home, reserve("r:2", 1, one, chunk=10))
    assert again.grants[0].recall == first.grants[0].recall + 1


async def test_two_connections_never_overspend(make_home):
    homes = [make_home() for _ in range(4)]
    groups = [Group(one, patience=20) for one in homes]
    await asyncio.gather(*(group.open() for group in groups))
    five = [
        budget("global", 500),
        budget("team:t", 450),
        budget("user:u", 600),
        budget("key:k", 700),
        budget("model:m", 400),
    ]

    async def try_(n):
        return await groups[n % 4].ask(reserve(f"r{n}:1", 7, *five[: 1 + n % 5]))

    results = await asyncio.gather(*(try_(n) for n in range(400)))
    admitted = [n for n, result in enumerate(results) if isinstance(result, Admitted)]
    # every admitted hold stands on `global`: the limits of the wider scopes bind too
    held = await accounts(homes[0])
    for at, one in enumerate(five):
        assert held[one.id][1] == sum(7 for n in admitted if n % 5 >= at) <= one.limit
    for n, result in enumerate(results):
        if isinstance(result, Short):
            assert result.free < 7 and result.posted + result.pending + 7 > result.limit, n
    await sound(homes[0])
    await asyncio.gather(*(group.aclose() for group in groups))


async def test_the_book_is_append_only(home):
    await do(home, reserve("r:1", 1, budget()))
    for statement in ("UPDATE budget_entry SET posted=1 RETURNING seq", "DELETE FROM budget_entry RETURNING seq"):
        with pytest.raises(Exception, match=r"append only|StoreDown|IntegrityError"):
            await home.rows(statement)
    assert len(await home.rows("SELECT seq FROM budget_entry")) == 1


async def test_the_daily_sums_follow_a_correction(home):
    await do(home, reserve("r:1", 600, budget()))
    await do(home, reap("r:1"))
    await do(home, post("r:1", 200))
    await do(home, reserve("s:1", 600, budget(limit=5_000)))
    await do(home, void("s:1"))
    rows = await home.rows(
        "SELECT CAST(sum(spend) AS BIGINT), CAST(sum(attempts) AS BIGINT), CAST(sum(failed) AS BIGINT) FROM budget_daily"
    )
    assert rows == [(200, 2, 1)]
    await sound(home)


async def test_verify_sees_what_is_wrong(home):
    await do(home, reserve("r:1", 600, budget()))
    await home.rows("UPDATE budget_account SET pending=599 RETURNING id")
    found = (await verify(home)).problems
    assert len(found) == 2 and found[0].startswith("I2") and found[1].startswith("I3")


async def test_verify_sees_each_sum_that_is_off_by_one(home):
    await do(home, reserve("r:1", 600, budget()))
    await do(home, post("r:1", 450))
    await do(home, reserve("r:2", 100, budget()))
    await do(home, reserve("r:3", 10, budget(), chunk=20))
    entry = (
        "INSERT INTO budget_entry (hold, accounts, kind, pending, posted, at) "
        "SELECT hold, accounts, kind, {}, at FROM budget_entry WHERE hold='r:2' ORDER BY seq LIMIT 1 RETURNING seq"
    )
    for change, seen in (
        ("UPDATE budget_account SET pending=pending{}1 RETURNING id", ["I2:", "I3:"]),
        ("UPDATE budget_account SET posted=posted{}1 RETURNING id", ["I2:", "I3:"]),
        ("UPDATE budget_hold SET amount=amount{}1 WHERE state=0 RETURNING id", ["I2:"]),
        ("UPDATE budget_hold SET settled=settled{}1 WHERE state=1 RETURNING id", ["I2:", "daily"]),
        ("UPDATE budget_grant SET amount=amount{}1 RETURNING worker", ["I2:"]),
        ("UPDATE budget_daily SET spend=spend{}1 RETURNING day", ["daily"]),
        (entry.format("{}1, 0"), ["I3:"]),
        (entry.format("0, {}1"), ["I3:"]),
    ):
        assert await home.rows(change.format("+"))
        assert [one.split()[0] for one in (await verify(home)).problems] == seen, change
        assert await home.rows(change.format("-"))
        await sound(home)


@pytest.mark.parametrize(
    "row", [("account", 1, -1, 0, 0, 0, "b"), ("account", 1, 0, -1, 0, 0, "b"), ("hold", POSTED, 5, 5, 2, -1, "[1]")]
)
def test_verify_sees_money_below_zero(row):
    """The tables themselves refuse it: this is for books that came from elsewhere without their constraints."""
    tally = _Tally()
    tally.add(row)
    assert any(problem.startswith("I12") for problem in tally.report().problems)


async def test_verify_sees_what_is_overdue(make_home):
    home = make_home(exports=True)
    await home.open()
    await do(home, reserve("open:1", 100, budget()))
    await do(home, reserve("done:1", 600, budget()))
    await do(home, post("done:1", 600))
    await home.rows("UPDATE budget_hold SET expires=created WHERE state=0 RETURNING id")
    await home.rows("UPDATE budget_outbox SET created=created-250000, due=due+250000 RETURNING id")
    fresh = await verify(home)
    assert fresh.problems == [] and fresh.notes == [], "what is reaped and sent in time"
    await home.rows("UPDATE budget_hold SET expires=expires-40000 WHERE state=0 RETURNING id")
    await home.rows("UPDATE budget_outbox SET created=created-100000 RETURNING id")
    await home.rows("UPDATE budget_account SET lim=599 RETURNING id")
    found = await verify(home)
    assert [one.partition(" expired")[0] for one in found.problems[:1]] == ["I4: 1 (open:1)"]
    assert found.problems[1].startswith("outbox: 1 (done:1:1) not sent") and len(found.problems) == 2
    assert len(found.notes) == 1 and "posted 600 of 599" in found.notes[0]
    # a living worker's own hold is its own affair; one that is silent is not
    await alive(home, await now_of(home))
    assert len((await verify(home)).problems) == 1
    await home.rows("UPDATE budget_worker SET seen=seen-70000 RETURNING id")
    assert len((await verify(home)).problems) == 2
    await home.aclose()


async def test_reopened_books_are_the_same(make_home):
    first = make_home()
    await first.open()
    await do(first, reserve("r:1", 600, budget()))
    await first.aclose()
    second = make_home()
    await second.open()
    assert await do(second, post("r:1", 600)) == Done(POSTED, 600)
    await second.aclose()


async def test_a_waiter_that_gives_up_leaves_nothing(make_home):
    home = make_home()
    group = Group(home)
    await group.open()
    for k in range(6):
        task = asyncio.ensure_future(group.ask(reserve(f"r{k}:1", 10, budget())))
        for _ in range(k):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    await eventually(lambda: group.backlog == 0)
    assert (await accounts(home)).get(G, (0, 0, 0)) == (0, 0, 0)
    await sound(home)
    await group.aclose()


async def test_a_start_that_fails_leaves_nothing_behind(make_home, tmp_path):
    (tmp_path / "file").touch()
    ledger = Ledger(make_home(), tmp_path / "file/journals")
    before = asyncio.all_tasks()
    with pytest.raises(OSError, match="Not a directory"):
        await ledger.start()
    assert asyncio.all_tasks() == before
