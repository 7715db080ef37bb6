"""Reports say what the ledger says, to the nano-dollar, and what each call did."""

import asyncio
import csv
import io
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from obs_world import STACK, ask, gateway, ok, plugin_of, streamed
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import DBAPIError
from test_prometheus import AUTH, ONE
from typer.testing import CliRunner

from gwcore.errors import StoreUnavailable
from gwcore.resources import Lease, Resources
from gwcore.sql import migrate, reading, writing
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore.units import exact_usd
from gwcore_observability import report
from gwcore_observability.call_table import CALL, MIGRATIONS
from gwcore_observability.request_log.cli import report as verbs

DAY = date(2026, 11, 18)
NOON = int(datetime(2026, 11, 18, 12, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    return f"sqlite:///{tmp_path}/book.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
async def book(url):
    lease = Lease(Resources())
    store = lease.store(url)
    await migrate(store, MIGRATIONS)
    yield store
    await lease.release()


def row(n, *, tried=("up/m",), **fields):
    attempts = [dict(zip(("upstream", "model"), one.split("/"), strict=True)) for one in tried]
    upstream, _, model = tried[-1].partition("/")
    return {
        "event": f"event-{n}", "id": f"gw-{n}", "ended": NOON + n, "state": "ok", "status": 200, "operation": "chat",
        "stream": False, "model": "fast", "served_model": model, "upstream": upstream, "micros": 1000 * (n + 1),
        "tokens_in": 11, "tokens_out": 7, "cost_nano": 23_000, "attempts": len(tried),
        "record": orjson.dumps({"attempts": attempts, "model": "nul \0 within"}).decode(), **fields,
    }  # fmt: skip


async def filled(book, *rows):
    async with writing(book, 30) as sql:
        await sql.execute(insert(CALL), [{"team_id": None, "key_id": None, "cache": None, **one} for one in rows])


async def made(book, by=("model",), day=DAY, **options):
    return await report.make(book, "daily", day, day, by, **options)


async def test_sums_are_whole_and_percentiles_are_durations_that_calls_had(book):
    huge = 9_007_199_254_740_993  # no float holds it
    await filled(
        book,
        *(row(n) for n in range(100)),
        row(200, micros=10**9, state="failed", cost_nano=huge),
        row(201, micros=10**9, state="refused", cost_nano=None, tokens_in=0, tokens_out=0),
        row(202, state="cancelled", cost_nano=None),
        row(203, cache="hit/shared", cost_nano=0),
    )
    found = await made(book)
    (line,) = found.lines
    assert line.spend_nano == found.total.spend_nano == huge + 100 * 23_000
    assert (line.p50, line.p95, line.p99) == (51_000, 96_000, 100_000)  # of 101 durations, the last 204 ms
    assert (line.calls, line.failed, line.refused, line.cancelled) == (104, 1, 1, 1)
    assert (line.cached, line.unpriced) == (1, 1)
    assert line.error_rate == pytest.approx(1 / 103)
    assert report.row_of(line, ("model",))["spend_usd"] == "9007199.257040993"


async def test_a_fallback_is_another_deployment_and_a_retry_is_none(book):
    await filled(
        book,
        row(0),
        row(1, tried=("up/m", "up/m")),
        row(2, tried=("up/m", "other/m")),
        row(3, tried=("up/m", "up/n"), team_id="t1"),
    )
    found = await made(book, ("team",))
    assert {line.names: (line.calls, line.fallbacks) for line in found.lines} == {(None,): (3, 1), ("t1",): (1, 1)}
    assert found.total.fallback_rate == 0.5


async def test_days_and_groups(book):
    await filled(
        book,
        row(0, ended=NOON - 12 * 3600_000),  # the first millisecond of the day
        row(1, ended=NOON - 12 * 3600_000 - 1),  # the last of the day before
        row(2, ended=NOON + 12 * 3600_000),  # the first of the day after
        row(3, key_id="one", model="=cmd()", cost_nano=1),
    )
    found = await made(book, ("model", "key"))
    assert [(line.names, line.spend_nano) for line in found.lines] == [(("fast", None), 23_000), (("=cmd()", "one"), 1)]
    rows = list(csv.DictReader(io.StringIO(report.as_csv(found))))
    assert [(one["model"], one["key"], one["spend_usd"]) for one in rows] == [
        ("fast", "", "0.000023000"),
        ("'=cmd()", "one", "0.000000001"),
    ]
    assert sum([(await made(book, day=DAY + timedelta(days=n))).total.calls for n in (-1, 0, 1)]) == 4
    empty = await made(book, day=DAY - timedelta(days=9))
    assert empty.lines == () and empty.total.calls == 0 and empty.total.p50 is None


async def test_what_reads_for_the_command_line_cannot_write(book):
    await filled(book, row(0))
    lease = Lease(Resources())
    mine = lease.store(book.url)
    await made(mine, read_only=True)
    with pytest.raises((DBAPIError, StoreUnavailable)):
        async with reading(mine) as sql:
            await sql.execute(text("DELETE FROM request_log"))
    await lease.release()
    async with reading(book) as sql:
        assert (await sql.execute(select(func.count()).select_from(CALL))).scalar() == 1


@pytest.mark.parametrize(
    ("span", "on", "first", "last"),
    [
        ("daily", None, "2026-11-20", "2026-11-20"),
        ("daily", "2026-11-03", "2026-11-03", "2026-11-03"),
        ("weekly", None, "2026-11-09", "2026-11-15"),
        ("weekly", "2026-11-16", "2026-11-16", "2026-11-22"),
        ("weekly", "2027-01-01", "2026-12-28", "2027-01-03"),
    ],
)
def test_the_days_of_a_report(span, on, first, last):
    day = None if on is None else date.fromisoformat(on)
    assert [d.isoformat() for d in report.days(span, day, date(2026, 11, 21))] == [first, last]


async def test_the_report_and_the_ledger_agree_to_the_nano_dollar(url, tmp_path):
    """Whole, streamed, failed, tried again, refused: through the gateway, and then the verb."""
    journal = f"journal: {tmp_path}/j"
    rules = "unpriced: allow_unmetered, rules: [{per: key, limit: $5}]"
    stack = AUTH + "  - fallback: {retry: {attempts: 3}}\n"
    stack += f'  - budget: {{store: book, mode: direct, patience: 5s, {journal}, {rules}}}\nstores: {{book: "{url}"}}\n'
    watch = "  - request_log: {}"
    answers = [ok(), streamed(), Answer(500, body=b"{}"), ok(), ok(usage=None), ok()]
    async with FakeUpstream(*answers) as up:
        up.default = ok()
        async with gateway(up, watch, stack=stack) as (address, made_):
            for stream in (False, True, False, False, False, False):
                await ask(address, headers=ONE, stream=stream, max_tokens=20)
            await ask(address)  # refused: nobody
            plugin = plugin_of(made_, "request_log")
            async with asyncio.timeout(10):
                while plugin.health()["sent"] < 7:
                    await asyncio.sleep(0.02)
            found = await report.make(plugin.store, "daily", *[datetime.now(UTC).date()] * 2, ("team",))
            async with reading(plugin.store) as sql:
                ledger = (
                    await sql.execute(text("SELECT sum(settled) FROM budget_hold WHERE basis = 'usage'"))
                ).scalar()
                every = (await sql.execute(text("SELECT basis, settled FROM budget_hold"))).all()
        assert found.total.spend_nano == int(ledger) > 0, every
        assert [line.names for line in found.lines] == [("t1",), (None,)]
        assert found.total.calls == 7 and found.total.refused == 1

        file = tmp_path / "stack.yaml"
        file.write_text(STACK.format(up=up.url, watch=watch, stack=stack))
        words = ["daily", "--stack", str(file), "--on", "today", "--by", "team,model"]
        done = await asyncio.to_thread(CliRunner().invoke, verbs, [*words, "--format", "json"])
        assert done.exit_code == 0, done.output
        said = orjson.loads(done.stdout)
        assert said["total"]["spend_usd"] == exact_usd(int(ledger)) and said["rows"][0]["team"] == "t1"
        done = await asyncio.to_thread(CliRunner().invoke, verbs, [*words, "--format", "csv"])
        assert done.stdout.startswith("team,model,calls,spend_usd,")
        done = await asyncio.to_thread(CliRunner().invoke, verbs, words, env={"COLUMNS": "200"})
        assert "total" in done.stdout and exact_usd(int(ledger)) in done.stdout


def test_what_cannot_be_reported_is_said_in_a_sentence(tmp_path):
    def said(*words):
        done = CliRunner().invoke(verbs, [*words])
        assert done.exit_code == 1 and "Traceback" not in done.output
        return done.stderr

    file = tmp_path / "stack.yaml"
    file.write_text(STACK.format(up="http://127.0.0.1:9", watch="  - access_log: {}", stack=""))
    assert "no such file" in said("daily", "--stack", str(tmp_path / "none.yaml"))
    assert "--by takes" in said("daily", "--stack", str(file), "--by", "moon")
    assert "--on takes" in said("weekly", "--stack", str(file), "--on", "soon")
    assert "watch has no request_log" in said("daily", "--stack", str(file))
    where = f'stores: {{rows: "sqlite:///{tmp_path}/none.db"}}\n'
    file.write_text(STACK.format(up="http://127.0.0.1:9", watch="  - request_log: {store: rows}", stack=where))
    assert "has no data yet" in said("daily", "--stack", str(file))
    assert not Path(tmp_path / "none.db").exists()
    (tmp_path / "none.db").touch()
    assert "no table of request_log" in said("daily", "--stack", str(file)) or time
