"""B18: periods begin by themselves, at the right moment of any time zone, with calls under way across it."""

import asyncio
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from budget_kit import accounts, budget, do, now_of, post, reserve

from gwcore.resources import Lease, Resources
from gwcore.sql import migrate
from gwcore_budget import window
from gwcore_budget.ledger import postgres
from gwcore_budget.ledger.homes import LEDGER
from gwcore_budget.ledger.ledger import Ledger, Refused
from gwcore_budget.ledger.ops import POSTED, Admitted, ClockJump, Facts, Reset
from gwcore_budget.ledger.sqlite import Clock, SqliteHome
from gwcore_budget.ledger.verify import verify
from gwcore_budget.window import Period, Window

STREAMS, WORKERS = 200, 4
NIGHTS = {
    "UTC": "2026-03-01",
    "Europe/Berlin": "2026-03-29",  # the clock goes on at two
    "America/New_York": "2026-11-01",  # and back
    "America/Santiago": "2026-09-06",  # midnight is skipped: the day begins at one
    "America/Havana": "2026-11-01",  # the hour from midnight comes twice
    "Australia/Lord_Howe": "2026-04-05",  # by half an hour
    "Asia/Kolkata": "2026-12-01",
}


def begins(zone, day):
    """The millisecond of the first moment of a local day, found by walking there."""
    at = int((datetime.fromisoformat(day) - timedelta(days=1)).replace(tzinfo=ZoneInfo("UTC")).timestamp() // 60)
    while datetime.fromtimestamp(at * 60, ZoneInfo(zone)).date().isoformat() < day:
        at += 1
    return at * 60_000


class Time:
    """What the store's clock says."""

    def __init__(self, home, monkeypatch, at):
        self.apart = 0
        self.home = home
        if isinstance(home, SqliteHome):
            self.at = at
        else:
            self.monkeypatch = monkeypatch
        self.set(at)

    def set(self, at):
        self.at = at
        if isinstance(self.home, SqliteHome):
            return
        now = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
        began = "(extract(epoch FROM pg_postmaster_start_time()) * 1000)::bigint"
        self.monkeypatch.setattr(postgres, "_NOW", f"{at} + 0 * ({now} - {began})")

    def clock(self):
        return Clock(wall=lambda: self.at / 1000, boot=lambda: self.at / 1000)


@pytest.fixture
async def at_night(make_home, tmp_path, monkeypatch):
    """Makes several workers' ledgers whose store's clock the test holds."""
    made = []

    async def make(at):
        ledgers, time = [], None
        for _ in range(WORKERS):
            home = make_home()
            time = time or Time(home, monkeypatch, at)
            if isinstance(home, SqliteHome):
                home.clock = time.clock()
            ledger = Ledger(home, tmp_path / "workers", mode="direct", patience=20)
            await ledger.start()
            ledgers.append(ledger)
        made.extend(ledgers)
        return ledgers, time

    yield make
    for ledger in made:
        await ledger.stop()


async def many(ledgers, name, budgets, amount=10):
    """So many streams begin at once; their tickets, and how many were refused."""
    answers = await asyncio.gather(
        *(ledgers[n % WORKERS].hold(f"{name}{n}:1", amount, budgets, Facts(f"{name}{n}")) for n in range(STREAMS)),
        return_exceptions=True,
    )
    refused = [one for one in answers if isinstance(one, Refused)]
    tickets = [(n, one) for n, one in enumerate(answers) if not isinstance(one, BaseException)]
    assert len(refused) + len(tickets) == STREAMS
    return tickets, refused


async def flushed(ledgers):
    for ledger in ledgers:
        async with asyncio.timeout(20):
            while ledger.group.backlog:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("zone", NIGHTS)
async def test_b18_streams_across_midnight(zone, at_night):
    midnight = begins(zone, NIGHTS[zone])
    day = budget("key:k", STREAMS * 10, Window.parse("day", zone))
    ledgers, time = await at_night(midnight - 1_000)
    before, refused = await many(ledgers, "a", [day])
    assert len(before) == STREAMS and not refused
    assert (await many(ledgers, "b", [day]))[1], "this day is full"
    time.set(midnight - 1)
    with pytest.raises(Refused):
        await ledgers[0].hold("c:1", 10, [day], Facts("c"))
    time.set(midnight)
    # every worker may spend the new day's money at once, while the old day's calls still run
    after, refused = await many(ledgers, "d", [day])
    assert len(after) == STREAMS and not refused
    for name, tickets, truth in (("a", before, 10), ("d", after, 7)):
        for n, ticket in tickets:
            assert ticket.id.startswith(name)
            ledgers[n % WORKERS].settle(ticket, POSTED, truth, basis="usage")
    await flushed(ledgers)
    home = ledgers[0].home
    rows = await home.rows("SELECT start, posted, pending FROM budget_account ORDER BY start")
    assert [row[1:] for row in rows] == [(STREAMS * 10, 0), (STREAMS * 7, 0)]
    assert rows[1][0] == midnight
    assert (await verify(home)).problems == []


async def test_b18_a_manual_reset_is_seen_by_all_workers_at_once(at_night):
    ledgers, _ = await at_night(begins("UTC", "2026-05-05"))
    month = budget("team:t", STREAMS * 10, Window.parse("month"))
    before, _ = await many(ledgers, "a", [month])
    with pytest.raises(Refused):
        await ledgers[1].hold("b:1", 10, [month], Facts("b"))
    await ledgers[0].group.ask(Reset(month.id), 5)
    after, refused = await many(ledgers, "c", [month])
    assert not refused
    for n, ticket in (*before, *after):
        ledgers[n % WORKERS].settle(ticket, POSTED, 10, basis="usage")
    await flushed(ledgers)
    assert (await accounts(ledgers[0].home))[month.id] == (2 * STREAMS * 10, 0, 0)


async def test_b18_negative_control_a_period_that_waits_for_a_job(at_night, monkeypatch):
    """Were yesterday's period left running until somebody resets it, the new day's calls would be refused."""
    midnight = begins("UTC", "2026-05-05")
    day = budget("key:k", STREAMS * 10, Window.parse("day"))
    ledgers, time = await at_night(midnight - 1_000)
    monkeypatch.setattr(window, "_aligned", lambda *_: Period(midnight - 86_400_000, midnight + 86_400_000, 0))
    before, _ = await many(ledgers, "a", [day])
    time.set(midnight)
    _, refused = await many(ledgers, "d", [day])
    assert len(before) == len(refused) == STREAMS


@pytest.mark.parametrize("zone", NIGHTS)
@pytest.mark.parametrize("span", ["hour", "day", "week", "month", "year", "6h", "3d", "15m", "36h", "100000s"])
def test_periods_leave_no_gap_and_do_not_overlap(zone, span):
    made = Window.parse(span, zone)
    at = begins(zone, NIGHTS[zone]) - 3 * 86_400_000
    end = at + 6 * 86_400_000
    while at < end:
        period = made.period(at)
        assert period.start <= at < period.end
        assert made.period(period.end - 1) == period
        assert made.period(period.end).start == period.end
        if span in {"36h", "100000s"}:
            assert period.end - period.start == made.length, "no shorter one, in which as much may be spent"
        at = max(period.end, at + 600_000)


@pytest.mark.parametrize("span", ["60s", "61s", "97m", "24h", "1000s"])
def test_a_rolling_window_is_no_shorter_than_it_says(span):
    made = Window.parse(f"rolling {span}")
    for now in range(1_772_323_200_000, 1_772_323_300_000, 7):
        assert made.period(now).since <= now - made.length


async def test_a_rolling_window_counts_all_its_slices_spent_or_held(make_home, monkeypatch):
    home, began = make_home(), 1_795_350_600_000
    time = Time(home, monkeypatch, began)
    if isinstance(home, SqliteHome):
        home.clock = time.clock()
    await home.open()
    hour = budget("key:k", 100, Window.parse("rolling 1h"))

    async def tried(hold, amount, minute):
        time.set(began + minute * 60_000)
        return await do(home, reserve(hold, amount, hour, now=time.at))

    for hold, amount, minute in (("a:1", 30, 0), ("b:1", 40, 10)):
        await tried(hold, amount, minute)
        await do(home, post(hold, amount))
    await tried("c:1", 20, 20)
    short = await tried("d:1", 11, 60)
    assert (short.posted, short.pending, short.held_only) == (70, 20, True), "a part of minute 0 is of this hour"
    # it is told to come back when enough has left the window: the first minute's 30, or the 40 behind it, too
    assert [(await tried(f"e{n}:1", n, 60)).resets - began for n in (60, 61)] == [61 * 60_000, 71 * 60_000]
    assert (await tried("f:1", 41, 61)).free == 40
    assert isinstance(await tried("g:1", 40, 61), Admitted)
    await home.aclose()


@pytest.mark.parametrize("by", [3 * 3600, -3 * 3600])
async def test_a_clock_that_jumps_begins_no_period(tmp_path, by):
    """The first call in it was refused, and opened it for all others."""
    lease = Lease(Resources())
    await migrate(lease.store(f"sqlite:///{tmp_path}/book.db"), LEDGER)
    off = [0.0]
    home = SqliteHome(tmp_path / "book.db", clock=Clock(wall=lambda: 1_795_350_600.0 + off[0], boot=lambda: 0.0))
    await home.open()
    hourly, ever = budget("key:k", window=Window.parse("hour")), budget("team:t")

    async def tried(hold, *budgets):
        return await do(home, reserve(hold, 10, *budgets, now=await now_of(home)))

    assert isinstance(await tried("r1:1", hourly), Admitted)
    off[0] = by
    assert [await tried(f"r{n}:1", hourly, ever) for n in (2, 3)] == [ClockJump(by)] * 2
    assert isinstance(await tried("r4:1", ever), Admitted), "all time has no periods"
    assert len(await home.rows("SELECT id FROM budget_account")) == 2
    off[0] = 0
    assert isinstance(await tried("r4:2", hourly), Admitted), "set back"
    await home.aclose()
    home = SqliteHome(tmp_path / "book.db", clock=Clock(wall=lambda: 1_795_350_600.0 + by, boot=lambda: 0.0))
    await home.open()
    assert isinstance(await tried("r5:1", hourly), Admitted), "started anew"
    await home.aclose()
    await lease.release()


@pytest.mark.parametrize("text", ["1M", "3 M", "rolling 1M", " 1M "])
def test_what_may_be_months_or_minutes_is_neither(text):
    """Who wrote 1M for a month had a budget that began anew each minute."""
    with pytest.raises(ValueError, match="1mo for a month"):
        Window.parse(text)
    assert Window.parse("30D").name == Window.parse("1MO").name == "month"
