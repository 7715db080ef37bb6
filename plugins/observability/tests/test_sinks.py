"""webhook, access_log, request_log: one record for each route and ending, searchable, signed, on one line."""

import asyncio
import base64
import errno
import hashlib
import hmac
import os
import time
from email.utils import formatdate
from pathlib import Path

import httpx2
import orjson
import pytest
from obs_world import Place, ask, gateway, ok, plugin_of, streamed, webhook
from pydantic import ValidationError
from sqlalchemy import func, select, update
from test_prometheus import ADMIN, AUTH, ONE

from gwcore.gateway import Gateway
from gwcore.sql import reading, writing
from gwcore.testing.conformance import PluginConformance
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore.units import first_fault
from gwcore_observability.access_log import AccessLog, AccessLogSink
from gwcore_observability.call_table import CALL
from gwcore_observability.request_log.plugin import RequestLog
from gwcore_observability.settings import signing_key
from gwcore_observability.sink import Delivery, judge
from gwcore_observability.spill import Item
from gwcore_observability.webhook import Webhook, WebhookConfig

DOCS = Path(__file__).parent.parent / "docs"


class TestWebhook(PluginConformance):
    kind = Webhook
    config = {"url": "http://127.0.0.1:9/hook", "secret": "sign-me", "outbox": {"flush": 0}}
    readme = DOCS / "webhook.md"


class TestAccessLog(PluginConformance):
    kind = AccessLog
    config = {"to": "stderr", "content": "redacted"}
    readme = DOCS / "access_log.md"


class TestRequestLog(PluginConformance):
    kind = RequestLog
    config = {"retain": "1d", "outbox": {"flush": "1s"}}
    readme = DOCS / "request_log.md"


# ── webhook ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_webhooks_are_signed_as_the_specification_says(tmp_path):
    secret = base64.b64encode(b"0123456789abcdef").decode()
    async with FakeUpstream(ok()) as up, Place(Answer(503), Answer(204)) as place:
        settings = {"secret": f"whsec_{secret}", "headers": {"X-Token": "t0ken-value"}}
        async with gateway(up, webhook(place, tmp_path, **settings)) as (url, _):
            await ask(url)
            await place.received(2)
    first, second = place.requests
    for seen in (first, second):
        signed = f"{seen.header('webhook-id')}.{seen.header('webhook-timestamp')}.".encode() + seen.body
        digest = hmac.new(b"0123456789abcdef", signed, hashlib.sha256).digest()
        assert seen.header("webhook-signature") == "v1," + base64.b64encode(digest).decode()
        assert abs(int(seen.header("webhook-timestamp")) - time.time()) < 60
        assert seen.header("x-token") == "t0ken-value"
    assert first.header("webhook-id") == second.header("webhook-id") and first.body == second.body


# ── access log ───────────────────────────────────────────────────────────────────────────────────────────────────────


def lines(path):
    return [orjson.loads(line) for line in path.read_bytes().split(b"\n") if line]


async def logged(tmp_path, up, work):
    """The lines that ``work`` leaves."""
    to = tmp_path / "access.log"
    async with gateway(up, f"  - access_log: {{to: {to}}}") as (url, _):
        await work(url)
    return lines(to) if to.exists() else []


async def three(url):
    await ask(url, headers={"user-agent": "tester/1"})
    await ask(url)
    await ask(url, model=None)


async def test_one_line_per_call(tmp_path):
    async with FakeUpstream(ok(), Answer(500, body=b"{}")) as up:
        good, failed, refused = await logged(tmp_path, up, three)
    assert (good["event"], good["level"], good["status"], good["model"]) == ("call", "info", 200, "fast")
    assert good["cost_usd"] == "0.000023000" and good["tokens"] == {"input": 7, "cache_read": 4, "output": 7}
    assert good["user_agent"] == "tester/1" and good["upstream_id"] == "up-1" and good["timestamp"].endswith("Z")
    assert (failed["level"], failed["reason"], failed["failed"]) == ("error", "unavailable", ["up/m 500"])
    assert (refused["level"], refused["status"]) == ("warning", 400)


@pytest.mark.parametrize(("level", "count"), [("debug", 3), ("warning", 2), ("error", 1), ("critical", 0)])
async def test_the_level_of_the_process_counts(tmp_path, monkeypatch, level, count):
    monkeypatch.setenv("GWCORE_LOG_LEVEL", level)
    async with FakeUpstream(ok(), Answer(500, body=b"{}")) as up:
        assert len(await logged(tmp_path, up, three)) == count


async def test_nothing_in_a_line_ends_it_or_moves_a_cursor(tmp_path):
    nasty = "a\r\nb\x1b[31m\x00\x85\u2028\u2029\x9b\x7f\ud7ff" + "x" * 1_000_000
    async with FakeUpstream() as up:
        up.default = ok()

        async def work(url):
            body = {
                "model": nasty.replace("\x00", ""),
                "messages": [],
                "metadata": {"session_id": nasty},
                "prompt_cache_key": nasty,
            }
            async with httpx2.AsyncClient(verify=False) as client:
                await client.post(f"{url}/v1/chat/completions", json=body)

        told = await logged(tmp_path, up, work)
    raw = (tmp_path / "access.log").read_text("utf-8")
    assert len(told) == 1 and len(raw.splitlines()) == 1 and len(raw) < 4096
    assert not [c for c in raw[:-1] if ord(c) < 32 or 0x7F <= ord(c) <= 0x9F or c in "\u2028\u2029"]
    assert told[0]["session"] == nasty.replace("\x00", "?")[:256]  # no store takes a NUL


async def test_a_file_that_is_rotated_away_is_begun_anew(tmp_path):
    to = tmp_path / "access.log"
    async with FakeUpstream() as up:
        up.default = ok()
        async with gateway(up, f"  - access_log: {{to: {to}}}") as (url, made):
            await ask(url)
            async with asyncio.timeout(5):
                while plugin_of(made, "access_log").health()["sent"] < 1:
                    await asyncio.sleep(0.01)
            to.rename(tmp_path / "old")
            await ask(url)
    assert len(lines(tmp_path / "old")) == len(lines(to)) == 1


# ── request log ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    return f"sqlite:///{tmp_path}/book.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def with_store(store, settings=""):
    return AUTH + f'stores: {{rows: "{store}"}}\n', f"  - request_log: {{store: rows, {settings}}}"


async def count(plugin):
    async with reading(plugin.store) as sql:
        return (await sql.execute(select(func.count()).select_from(CALL))).scalar()


async def rows(plugin, wanted):
    async with asyncio.timeout(10):
        while await count(plugin) < wanted:
            await asyncio.sleep(0.02)
    return await count(plugin)


async def get(url, path, headers=ADMIN):
    async with httpx2.AsyncClient(verify=False) as client:
        answer = await client.get(url + path, headers=headers)
    return answer.status_code, answer.json()


async def test_calls_are_rows_that_can_be_searched(store):
    stack, watch = with_store(store, "content: redacted")
    async with (
        FakeUpstream(ok(), streamed(), Answer(500, body=b"{}")) as up,
        gateway(up, watch, stack=stack, admin=True) as (url, made),
    ):
        first = await ask(url, "needle in 100%_of it", headers={**ONE, "x-session-id": "s-7"})
        await ask(url, stream=True, headers=ONE)
        await ask(url, headers=ONE)
        await ask(url, headers={"authorization": "Bearer sk-nobody-knows-this-one"})
        plugin = plugin_of(made, "request_log")
        assert await rows(plugin, 4) == 4

        status, found = await get(url, "/logs")
        assert status == 200 and len(found["data"]) == 4 and found["before"] is None
        assert [row["ended"] for row in found["data"]] == sorted((r["ended"] for r in found["data"]), reverse=True)
        _, found = await get(url, "/logs?session=s-7")
        (row,) = found["data"]
        assert row["id"] == first.headers["x-gwcore-request-id"]
        assert (row["key_id"], row["team_id"], row["cost_nano"], row["tokens_in"]) == ("one", "t1", 23000, 11)
        for query, wanted in {
            "state=failed": 1, "status=500": 1, "status=401": 1, "key=one": 3, "key=two": 0, "since=2020-01-01": 4,
            "until=2020-01-01": 0, "q=needle": 1, "q=100%25_of": 1, "q=100X_of": 0, "team=t1&state=ok": 2, "model=fast": 4,
        }.items():  # fmt: skip
            assert len((await get(url, f"/logs?{query}"))[1]["data"]) == wanted, query
        _, page = await get(url, "/logs?limit=3")
        _, rest = await get(url, f"/logs?limit=3&before={page['before']}")
        assert len(page["data"]) == 3 and len(rest["data"]) == 1
        assert {r["id"] for r in page["data"]}.isdisjoint(r["id"] for r in rest["data"])
        assert (await get(url, "/logs?status=x"))[0] == 400 and (await get(url, "/logs?since=soon"))[0] == 400

        _, shown = await get(url, f"/logs/{row['id']}")
        assert shown["attempts"][0]["upstream"] == "up"
        assert shown["content"]["request"]["messages"][0]["content"] == "needle in 100%_of it"
        assert (await get(url, "/logs/gw-none"))[0] == 404


async def test_a_key_sees_its_own_calls_and_a_stranger_none(store):
    stack, watch = with_store(store)
    reads = 'routes: [llm_api_routes, "/logs*"]'
    two = f'two: {{secret: "sk-two-7f3a9c1e5b8d2046af1390bcde58", {reads}}}, '
    stack = stack.replace("keys: {one: {", f"keys: {{{two}one: {{{reads}, ")
    two = {"authorization": "Bearer sk-two-7f3a9c1e5b8d2046af1390bcde58"}
    async with FakeUpstream() as up:
        up.default = ok()
        async with gateway(up, watch, stack=stack, admin=True) as (url, made):
            mine = await ask(url, headers=ONE)
            await ask(url, headers=two)
            await rows(plugin_of(made, "request_log"), 2)
            _, found = await get(url, "/logs", two)
            assert [row["key_id"] for row in found["data"]] == ["two"]
            assert (await get(url, f"/logs/{mine.headers['x-gwcore-request-id']}", two))[0] == 404
            assert (await get(url, f"/logs/{mine.headers['x-gwcore-request-id']}", ONE))[0] == 200
            assert (await get(url, "/logs", {}))[0] == 401
            assert "content" not in str(found) or found["data"][0].get("content") is None


async def test_a_repeated_batch_is_the_same_rows_and_old_rows_go(store):
    stack, watch = with_store(store, "retain: 1d")
    async with FakeUpstream() as up:
        up.default = ok()
        async with gateway(up, watch, stack=stack) as (url, made):
            for _ in range(5):
                await ask(url, headers=ONE)
            plugin = plugin_of(made, "request_log")
            await rows(plugin, 5)
            async with reading(plugin.store) as sql:
                kept = [{str(k): v for k, v in row.items()} for row in (await sql.execute(select(CALL))).mappings()]
            sink = plugin.sink()
            from gwcore_observability.spill import Item

            for delivery in sink.pack([Item(row["event"], orjson.dumps(row)) for row in kept]):
                assert (await sink.send(delivery)).kind == "accepted"
            assert await count(plugin) == 5
            async with writing(plugin.store) as sql:
                long_ago = int((time.time() - 2 * 86400) * 1000)
                old = update(CALL).where(CALL.c.event.in_([row["event"] for row in kept[:3]]))
                await sql.execute(old.values(ended=long_ago))
            assert await plugin.sweep() == 3
            assert await count(plugin) == 2


async def test_a_store_that_is_away_gets_its_rows_later(tmp_path):
    stack, watch = with_store(f"sqlite:///{tmp_path}/book.db", "outbox: {backoff: 100ms}")
    async with FakeUpstream() as up:
        up.default = ok()
        async with gateway(up, watch, stack=stack) as (url, made):
            plugin = plugin_of(made, "request_log")
            async with writing(plugin.store, 30):  # somebody holds the write lock
                for _ in range(5):
                    assert (await ask(url, headers=ONE)).status_code == 200
                await asyncio.sleep(0.6)
            assert await rows(plugin, 5) == 5
            assert plugin.health()["dropped"] == 0


def test_the_gateway_names_every_sink():
    """Each entry point loads alone."""
    from gwcore.catalog import Catalog

    names = {name: Catalog().plugin(name).name for name in ("access_log", "prometheus", "request_log", "webhook")}
    assert all(key == value for key, value in names.items())
    assert Gateway


@pytest.mark.parametrize("secret", ["whsec_", "whsec_###", "whsec_ab-_efgh", "whsec_abcde"])
def test_a_secret_that_is_none_is_refused_before_it_signs(secret):
    """It signed with an empty or another key, or ended the start with a traceback."""
    with pytest.raises(ValidationError) as refused:
        WebhookConfig(url="https://example.org", secret=secret)
    assert "cannot be used as a signing secret" in first_fault(refused.value) and "###" not in first_fault(
        refused.value
    )


def test_a_secret_may_end_its_line():
    assert signing_key(WebhookConfig(url="https://example.org", secret="whsec_YWJj\n").secret) == b"abc"


@pytest.mark.parametrize("url", ["https://ann:hidden@example.org/x", "https:///x"])
def test_an_address_that_no_sink_can_use_is_refused_by_check(url):
    with pytest.raises(ValidationError) as refused:
        WebhookConfig(url=url)
    assert "is not an http(s) URL" in first_fault(refused.value) and "hidden" not in first_fault(refused.value)


async def test_a_disk_that_fills_up_within_a_line_costs_no_line_and_doubles_none(tmp_path, monkeypatch):
    """Once it takes half of a batch, then nothing, then all."""
    to = tmp_path / "calls.log"
    sink = AccessLogSink(str(to))
    delivery = Delivery([Item(str(n), b'{"n":%d}\n' % n) for n in range(4)])
    write, room = os.write, [20, 0, 0]

    def full(descriptor, data):
        if room and not (left := room.pop(0)):
            raise OSError(errno.ENOSPC, "full")
        return write(descriptor, data[:left] if room else data)

    monkeypatch.setattr("gwcore_observability.access_log.os.write", full)
    verdict = await sink.send(delivery)
    assert verdict.again == {"2", "3"}
    rest = Delivery([item for item in delivery.items if item.id in verdict.again])
    with pytest.raises(OSError, match="full"):
        await sink.send(rest)
    assert (await sink.send(rest)).again == frozenset()
    assert to.read_text() == '{"n":0}\n{"n":1}\n{"n"\n{"n":2}\n{"n":3}\n'


async def test_sinks_that_hang_share_the_time_of_a_stop(tmp_path):
    hangs = [FakeUpstream(*[Answer(delay_head=60)] * 9) for _ in range(4)]
    async with FakeUpstream(ok()) as up, hangs[0], hangs[1], hangs[2], hangs[3]:
        watch = "\n".join(webhook(place, tmp_path, outbox={"flush": "2s"}) for place in hangs)
        async with gateway(up, watch) as (url, _):
            await ask(url)
            await asyncio.sleep(0.5)
            began = time.monotonic()
        assert time.monotonic() - began < 7


def test_a_sink_says_by_a_date_how_long_it_wants_to_be_left_alone():
    at = formatdate(time.time() + 100, usegmt=True).encode()
    assert 60 < judge(503, [(b"retry-after", at)]).after <= 100
    assert judge(503, [(b"retry-after", b"soon")]).after is None
