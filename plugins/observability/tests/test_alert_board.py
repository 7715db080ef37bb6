"""What is told, when, and by whom."""

import asyncio
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alerts_world import Slack, alerts
from obs_serving import Serving
from obs_world import STACK, ask, gateway, ok
from pydantic import ValidationError
from sqlalchemy import insert
from test_report import row

from gwcore.call import Attempt
from gwcore.errors import BudgetExceeded, BudgetReserved, Refused
from gwcore.ports import Sample
from gwcore.resources import Lease, Resources
from gwcore.sql import migrate, writing
from gwcore.testing.conformance import PluginConformance
from gwcore.testing.fakes import build, call, release
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_observability.alerts.board import MOST, Board
from gwcore_observability.alerts.claims import Claims, FileClaims, RedisClaims
from gwcore_observability.alerts.findings import Finding
from gwcore_observability.alerts.plugin import Alerts
from gwcore_observability.alerts.reporting import Calendar, told
from gwcore_observability.alerts.seen import MOST as NAMES
from gwcore_observability.alerts.seen import STALE, Fails, Refusals, Seen, Window
from gwcore_observability.alerts.settings import AlertsConfig, ReportsConfig
from gwcore_observability.alerts.shown import budgets, exhausted, upstreams
from gwcore_observability.call_table import CALL, MIGRATIONS

DOWN = Finding("upstream", "upstream/a", "a is down", over="a has recovered")


class TestAlerts(PluginConformance):
    kind = Alerts
    config = {
        "to": {
            "chat": {"slack": "http://127.0.0.1:9/x"},
            "ops": {"webhook": "http://127.0.0.1:9/y", "secret": "sign-me"},
        },
        "reports": {"by": ["team"]},
        "outbox": {"flush": 0, "folder": None},
    }
    readme = Path(__file__).parent.parent / "docs/alerts.md"


def states(told_):
    return [(alert.state, alert.title) for alert in told_]


async def looks(board, *turns, remind=100.0, settle=10.0):
    """What is told at each of (second, findings)."""
    return [states(await board.look(found, now, remind, settle)) for now, found in turns]


async def test_a_subject_is_told_once_reminded_of_and_told_to_be_over():
    said = await looks(
        Board(Claims()),
        (1, [DOWN]), (2, [DOWN]), (100, [DOWN]), (101, [DOWN]), (105, []), (106, [DOWN]), (115, []), (116, []), (120, []),
    )  # fmt: skip
    assert said == [
        [("firing", "a is down")], [], [], [("reminder", "a is down")], [], [], [], [("over", "a has recovered")], [],
    ]  # fmt: skip


async def test_worse_is_told_at_once_and_better_is_not():
    def budget(step):
        return Finding("budget", "b", f"step {step}", step=step)

    said = await looks(
        Board(Claims()),
        (1, [budget(1)]),
        (2, [budget(2)]),
        (3, [budget(1)]),
        (4, [budget(2)]),
        (5, [budget(3)]),
        (50, []),
    )
    assert said == [[("firing", "step 1")], [("firing", "step 2")], [], [], [("firing", "step 3")], []]


async def test_doubt_keeps_what_was_told_and_tells_nothing():
    doubt = Finding("upstream", "upstream/a", "?", doubtful=True)
    said = await looks(Board(Claims()), (1, [doubt]), (2, [DOWN]), (50, [doubt]), (55, []), (60, []))
    assert said == [[], [("firing", "a is down")], [], [], [("over", "a has recovered")]]


async def test_what_comes_back_is_told_anew():
    said = await looks(Board(Claims()), (1, [DOWN]), (20, []), (21, [DOWN]), (40, []), (60, []), (61, [DOWN]))
    assert [state for one in said for state, _ in one] == ["firing", "over", "firing", "over", "firing"]


async def test_subjects_are_bounded():
    board = Board(Claims())
    found = [Finding("slow", f"slow/{n}", "slow") for n in range(2 * MOST)]
    assert len(await board.look(found, 1, 100, 10)) == MOST
    window = Window(10, lambda: 0.0)
    for n in range(3 * NAMES):
        window.add(f"up/{n}", hit=True)
    sums = list(window.sums())
    assert len(sums) == NAMES + 1 and sum(hits for *_, hits, _ in sums) == 3 * NAMES


def test_a_window_forgets():
    now = [0.0]
    window = Window(10, lambda: now[0])
    for second in range(20):
        now[0] = float(second)
        window.add("a", hit=second % 2 == 0, call=f"call {second}")
    assert list(window.sums()) == [("a", 10, 5, ("", "call 18"))]
    now[0] = 100.0
    assert list(window.sums()) == []


# ── one of many ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["file", "redis"])
async def pair(request, tmp_path):
    """The claims of two workers."""
    if request.param == "file":
        two = [FileClaims(tmp_path / "claims") for _ in range(2)]
    else:
        two = [RedisClaims(request.getfixturevalue("redis_url")) for _ in range(2)]
    yield two
    for one in two:
        await one.aclose()


async def test_one_of_two_workers_tells_and_the_other_takes_over(pair):
    one, two = map(Board, pair)
    assert states(await one.look([DOWN], 1, 100, 10)) == [("firing", "a is down")]
    assert states(await two.look([DOWN], 1, 100, 10)) == []
    assert states(await one.look([], 20, 100, 10)) == [("over", "a has recovered")]
    assert states(await two.look([DOWN], 21, 100, 10)) == []  # it sees it a moment longer
    await one.look([], 40, 100, 10)
    assert states(await two.look([DOWN], 41, 100, 10)) == [("firing", "a is down")]
    await two.aclose()
    assert states(await one.look([DOWN], 42, 100, 10)) == [("firing", "a is down")]


async def test_two_that_do_not_agree_both_tell():
    one, two = Board(Claims()), Board(Claims())
    assert states(await one.look([DOWN], 1, 100, 10)) == states(await two.look([DOWN], 1, 100, 10)) != []


async def test_without_the_store_everybody_tells():
    claims = RedisClaims("redis://127.0.0.1:1")
    assert await claims.take("a") and await claims.take("a")
    await claims.aclose()


def test_what_a_killed_worker_held_is_free(tmp_path):
    code = (
        "import asyncio, sys, pathlib; from gwcore_observability.alerts.claims import FileClaims\n"
        "claims = FileClaims(pathlib.Path(sys.argv[1])); print(asyncio.run(claims.take('a')), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "True\n"
        claims = FileClaims(tmp_path)
        assert not asyncio.run(claims.take("a")) and asyncio.run(claims.take("b"))
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert asyncio.run(claims.take("a"))
        asyncio.run(claims.aclose())


async def test_of_several_workers_one_tells(tmp_path):
    async with FakeUpstream() as up, Slack() as chat:
        up.default = Answer(500, body=b"{}")
        watch = alerts({"chat": {"slack": chat.url + "/x"}}, upstreams={"failures": 2}, errors=None)
        serving = Serving(STACK.format(up=up.url, stack="", watch=watch), tmp_path, "--workers", "2")
        await asyncio.to_thread(serving.__enter__)
        try:
            for _ in range(40):  # each on a connection of its own: both workers see some
                await ask(serving.url)
            await chat.until("Upstream up/m is down")
            await asyncio.sleep(0.5)
            assert len(chat.texts) == 1
        finally:
            await asyncio.to_thread(serving.__exit__)


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────────


def shown(name, value, **labels):
    return Sample(name, value, labels)


def test_budgets_by_their_samples():
    key = {"scope": "key", "id": "one", "window": "day"}
    config = AlertsConfig(to={"a": {"slack": "http://h/x"}}).budgets

    def found(*samples):
        return [(one.title, one.step) for one in budgets(samples, config)]

    def left(dollars):
        return shown("gwcore_budget_limit_usd", 10.0, **key), shown("gwcore_budget_remaining_usd", dollars, **key)

    assert found(*left(2.01)) == []
    assert found(*left(2.0)) == [("Budget of key one (day): 80 % spent", 1)]
    assert found(*left(-1.0)) == [("Budget of key one (day): exhausted", 2)]
    soft = shown("gwcore_budget_soft_remaining_usd", 0.0, **key)
    assert found(soft) == [("Budget of key one (day): soft limit reached", 1)]
    assert found(*left(2.0), soft) == [("Budget of key one (day): 80 % spent", 2)]
    assert found(shown("gwcore_budget_holds", 3)) == []


def test_budgets_by_their_refusals():
    now = [0.0]
    seen = Seen(AlertsConfig(to={"a": {"slack": "http://h/x"}}), lambda: now[0])
    headers = (
        ("x-gwcore-budget-scope", "team"),
        ("x-gwcore-budget-id", "t1"),
        ("x-gwcore-budget-window", "rolling 24h"),
    )
    seen.ended(call(), BudgetExceeded("no", headers=headers))
    seen.ended(call(), BudgetExceeded("no price"))  # of no budget
    seen.ended(call(), BudgetReserved("wait", headers=headers))  # worth coming back
    (found,) = exhausted(seen.exhausted())
    assert (found.subject, found.facts["refused"]) == ("budget/team/t1/rolling 24h", 1)
    now[0] = 601.0
    assert list(exhausted(seen.exhausted())) == []


def test_deployments_by_their_samples():
    config = AlertsConfig(to={"a": {"slack": "http://h/x"}}).upstreams

    def found(state, failures, fails=None):
        labels = {"upstream": "up", "model": "m", "key": "0"}
        samples = [
            shown("gwcore_deployment_state", state, **labels),
            shown("gwcore_deployment_failures", failures, **labels),
        ]
        return [one.doubtful for one in upstreams(samples, fails or {}, config)]

    assert found(2, 5) == [False]
    assert found(2, 0) == [True]  # at its limits, or told when to come back
    assert found(1, 5) == [True]  # on probation
    assert found(0, 3) == []
    assert found(0, 0, {"up/m": Fails(99, "timeout")}) == []  # the router knows better
    assert found(0, 0, {"up/n": Fails(99, "timeout")}) == [False]


async def test_what_nobody_asks_any_more_is_forgotten_without_a_word():
    now = [0.0]
    config = AlertsConfig(to={"a": {"slack": "http://h/x"}}, upstreams={"failures": 1})
    seen = Seen(config, lambda: now[0])
    seen.fails["up/m"] = Fails(3, "timeout", 0.0)
    board = Board(Claims())
    said = []
    for hour in (0.0, 0.9, 1.1, 1.9, 2.1, 2.2):
        now[0] = hour * STALE
        said.append(await board.look(upstreams([], seen.failing(), config.upstreams), 1 + now[0], 1e9, 10))
    assert [states(one) for one in said] == [[("firing", "Upstream up/m is down")], [], [], [], [], []]
    assert board.active() == {}


async def test_calls_that_end_during_a_look_do_not_disturb_it():
    plugin = build(Alerts, {**TestAlerts.config, "upstreams": {"failures": 1}})

    class Busy(Claims):
        async def take(self, subject):
            plugin.seen.fails[f"{subject}-and-another"] = Fails(1, "timeout", plugin.seen._clock())
            return True

    plugin.board = Board(Busy())
    plugin.seen.fails["up/m"] = Fails(1, "timeout", plugin.seen._clock())
    await plugin.look(1.0)
    assert plugin.board.active() == {"upstream": 1}
    with pytest.raises(RuntimeError):  # what would happen if it looked while it asks
        await plugin.board.look(plugin.findings(), 2.0, 1e9, 1e9)
    await release(plugin)


def test_who_is_asked_too_much_is_not_down():
    seen = Seen(AlertsConfig(to={"a": {"slack": "http://h/x"}}, errors={"least": 3}))
    for _ in range(5):
        made = call()
        attempt = Attempt(made, made.targets[0])
        attempt.error = Refused("slow down", status=429)
        seen.started(made)
        seen.ended(made)
    assert seen.failing() == {}
    (found,) = seen.findings()
    assert (found.kind, found.facts["last"], found.facts["failed"]) == ("errors", "rate_limited", 5)


def test_a_stream_that_goes_on_does_not_hang():
    made = call(stream=True)
    seen = Seen(AlertsConfig(to={"a": {"slack": "http://h/x"}}, hanging={"after": 10}))
    seen.started(made)

    def hangs(sent, last, later):
        made.reply.sent, made.reply.last = sent, last
        made.started -= later
        seen._progress = {id_: (count, at - later) for id_, (count, at) in seen._progress.items()}
        return [one.kind for one in seen.findings()]

    assert hangs(0, b"", 9) == []
    assert hangs(0, b"", 2) == ["hanging"]  # not a byte
    assert hangs(5, b"data", 5) == []
    assert hangs(9, b"data", 9) == []
    assert hangs(13, made.dialect.keepalive, 9) == []
    assert hangs(17, made.dialect.keepalive, 2) == ["hanging"]
    assert hangs(21, b"data", 1) == []
    seen.ended(made)
    assert hangs(21, b"data", 100) == []


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────

MAIL = {"host": "mx.example.org", "sender": "a@example.org", "to": ["b@example.org"]}


@pytest.mark.parametrize(
    "to",
    [
        {},
        {"slack": "https://h/x", "webhook": "https://h/y"},
        {"slack": "ftp://h/x"},
        {"slack": "https://h/x", "secret": "s"},
        {"email": {**MAIL, "to": ["b@example.org\r\nBcc: c@example.org"]}},
        {"email": {**MAIL, "username": "a"}},
        {"email": {**MAIL, "username": "a", "password": "canary-pw", "security": "none"}},
        {"slack": "https://h/x", "kinds": ["everything"]},
    ],
)
def test_destinations_that_are_refused(to):
    with pytest.raises(ValidationError) as caught:
        AlertsConfig(to={"one": to})
    assert "canary-pw" not in str([error["msg"] for error in caught.value.errors()])
    assert AlertsConfig(to={"one": {"email": MAIL}})


# ── reports ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def at(*moment):
    return datetime(*moment, tzinfo=UTC).timestamp()


def test_when_reports_are_due():
    calendar = Calendar(ReportsConfig(at="08:30"), at(2026, 11, 21, 12))  # a Saturday
    assert calendar.due(at(2026, 11, 22, 8, 29)) == []
    assert calendar.due(at(2026, 11, 22, 8, 30)) == ["daily"]
    calendar.done("daily", at(2026, 11, 22, 8, 30))
    assert calendar.due(at(2026, 11, 22, 23)) == []
    assert sorted(calendar.due(at(2026, 11, 23, 8, 30))) == ["daily", "weekly"]
    assert calendar.late("weekly", at(2026, 11, 23, 9, 31)) and not calendar.late("weekly", at(2026, 11, 23, 9, 29))


async def test_a_report_is_told_as_lines(tmp_path):
    lease = Lease(Resources())
    store = lease.store(f"sqlite:///{tmp_path}/book.db")
    await migrate(store, MIGRATIONS)
    async with writing(store, 30) as sql:
        await sql.execute(insert(CALL), [row(n, model=f"m{n}\x1b[2J", cost_nano=10**9 * n) for n in range(4)])
    alert = await told(store, "daily", ReportsConfig(lines=2), at(2026, 11, 19, 0, 15))
    await lease.release()
    assert alert.title == "Daily spend report, 2026-11-18" and alert.facts["spend_usd"] == "6.000000000"
    lines = alert.text.splitlines()
    assert lines[1].startswith("m3?[2J") and "$3.00" in lines[1] and "(2 more)" in lines[-1] and "$6.00" in lines[-2]


async def test_reports_come_at_their_moment_and_once(tmp_path, monkeypatch):
    """The plugin's own loop, with a calendar whose moment is near."""
    later = iter((0.2, 86_400, 86_400, 86_400))
    monkeypatch.setattr(Calendar, "_next", lambda _self, _span, now: now + next(later))
    async with FakeUpstream() as up, Slack() as chat:
        up.default = ok()
        stack = f'stores: {{rows: "sqlite:///{tmp_path}/book.db"}}\n'
        watch = alerts({"chat": {"slack": chat.url + "/x"}}, reports={"store": "rows", "weekly": False})
        async with gateway(up, watch, stack=stack):
            (report,) = await chat.until("Daily spend report")
            await asyncio.sleep(0.2)
            assert len(chat.texts) == 1 and "```" in report and "total" in report


@pytest.mark.parametrize(("spent", "title"), [
    ("0.00", "Budget of key k1 (month): requests are refused that may cost more than is left"),
    ("0.49", "Budget of key k1 (month): exhausted, requests are refused"),
])  # fmt: skip
def test_a_dear_request_is_not_told_as_a_budget_that_is_spent(spent, title):
    said = {"scope": "key", "id": "k1", "window": "month", "limit-usd": "0.50", "spent-usd": spent}
    (found,) = exhausted({"k1": Refusals(said, 1, 0.0, "gw-1")})
    assert found.title == title
