"""The gateway as an ASGI application: a call's life, mounts, lifespan, reload, errors."""

import asyncio
import json
import threading
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from gwcore import stackfile
from gwcore.call import Call
from gwcore.catalog import Catalog
from gwcore.detached import Detached
from gwcore.errors import AssemblyError
from gwcore.gateway import Gateway
from gwcore.hookspecs import hookimpl
from gwcore.plugin import NoConfig, Plugin
from gwcore.stack import Stack
from gwcore.testing.fakes import FakeDialect, FakeProvider
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.stacks.raw import connect, exchange, request_bytes

BODY = b'{"model": "up/m", "messages": []}'
STREAM = b'{"model": "up/m", "stream": true}'
SSE = [("content-type", "text/event-stream")]


class Watcher(Plugin):
    """Remembers what the taps were told."""

    name = "watcher"
    told: list = []

    @hookimpl
    def call_started(self, call):
        self.told.append(("started", call.id))

    @hookimpl
    def attempt_failed(self, attempt):
        self.told.append(("failed", type(attempt.error).__name__))

    @hookimpl
    def call_ended(self, call, outcome):
        self.told.append(("ended", outcome.status, outcome.cancelled, type(outcome.error).__name__))
        raise ValueError("a tap that raises must not break the call")


class Boom(Plugin):
    name = "boom"

    def call_layer(self, inner):
        async def boom(call: Call):
            raise RuntimeError("secret-canary in an exception")

        return boom


class Forgets(Plugin):
    name = "forgets"

    def call_layer(self, inner):
        async def forgets(call: Call):
            from gwcore.call import Outcome

            return Outcome(200)

        return forgets


class Broken(Plugin):
    name = "broken"
    Config = NoConfig

    def lifespan(self):
        raise RuntimeError("cannot start")


class Installed:
    """What a distribution's module would offer."""

    @hookimpl
    def gwcore_plugins(self):
        return [Watcher, Boom, Forgets, Broken]

    @hookimpl
    def gwcore_dialects(self):
        return [FakeDialect()]

    @hookimpl
    def gwcore_providers(self):
        return [FakeProvider()]


def catalog():
    return Catalog(Installed())


def stack(url, entries="", *, server="", watch="[watcher]"):
    return (
        f'gwcore: 1\nupstreams:\n  up: {{provider: fake, base_url: "{url}", api_key: up-secret-canary, '
        f"timeout: {{connect: 1s, first_byte: 2s, idle: 2s}}}}\n"
        f"stack: [{entries}]\nwatch: {watch}\nserver: {{{server}}}\n"
    )


@pytest.fixture
async def upstream():
    async with FakeUpstream() as up:
        yield up


@pytest.fixture(autouse=True)
def told():
    Watcher.told = []
    return Watcher.told


@pytest.fixture(params=[True, False], ids=["edge", "uvicorn"])
async def url(request, upstream):
    async with running(Gateway(stack(upstream.url), catalog=catalog()), edge=request.param) as url:
        yield url


async def test_json_goes_through_with_the_gateways_headers(url, upstream, told):
    upstream.script(
        Answer(body=b'{"answer": 1}', headers=[("content-type", "application/json"), ("set-cookie", "a=b")])
    )
    seen = await exchange(
        url,
        "POST",
        "/v1/fake?x=1&key=secret",
        BODY,
        [("authorization", "Bearer mine"), ("fake-a", "1"), ("cookie", "c")],
    )
    assert (seen.status, seen.body) == (200, b'{"answer": 1}')
    assert seen.headers["x-gwcore-upstream"] == "up" and seen.headers["x-gwcore-attempts"] == "1"
    assert float(seen.headers["x-gwcore-overhead-ms"]) >= 0 and "gwcore;dur=" in seen.headers["server-timing"]
    assert "set-cookie" not in seen.headers
    got = upstream.requests[0]
    sent = {
        k.lower(): v for k, v in ((a.decode(), b.decode()) if isinstance(a, bytes) else (a, b) for a, b in got.headers)
    }
    assert got.target == "/up?x=1"
    assert json.loads(got.body)["model"] == "m" and got.body == BODY.replace(b"up/m", b"m")
    assert sent["authorization"] == "Bearer up-secret-canary" and sent["fake-a"] == "1" and "cookie" not in sent
    assert [kind for kind, *_ in told] == ["started", "ended"]


async def test_a_stream_is_relayed_on_arrival(url, upstream):
    upstream.script(Answer(headers=SSE, body=[b"data: 1\n\n", b"data: 2\n\n", b"data: done\n\n"], gap=0.05))
    seen = await exchange(url, "POST", "/fake", STREAM)
    assert seen.chunks == [b"data: 1\n\n", b"data: 2\n\n", b"data: done\n\n"] and seen.whole


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (Answer(status=429, body=b'{"theirs": true}'), 429, None),
        (Answer(delay_head=5), 504, "upstream_timeout"),
        (Answer(body=b'{"a": 1, "b": 2}', cut_after=5), 502, "upstream_broken"),
    ],
)
async def test_failures_before_the_commit_have_a_true_status(url, upstream, answer, status, code, told):
    upstream.script(answer)
    seen = await exchange(url, "POST", "/fake", BODY)
    assert seen.status == status
    if code is None:
        assert seen.body == b'{"theirs": true}'
    else:
        assert json.loads(seen.body)["error"]["code"] == code
    assert told[-2][0] == "failed" and told[-1][0] == "ended"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(headers=SSE, body=[b"data: 1\n\n", b"data: done\n\n"], cut_after=9),
        Answer(headers=SSE, body=[b"data: 1\n\n", b"data: done\n\n"], stall_after=9),
        Answer(headers=SSE, body=[b"data: 1\n\n"]),
    ],
    ids=["cut", "stall", "ends-early"],
)
async def test_a_broken_stream_ends_with_an_error_event(url, upstream, answer, told):
    upstream.script(answer)
    seen = await exchange(url, "POST", "/fake", STREAM)
    assert seen.status == 200 and seen.body.startswith(b"data: 1\n\n") and b"done" not in seen.body
    assert json.loads(seen.body.split(b"data: ")[-1])["error"]["code"] in {"upstream_broken", "upstream_timeout"}
    assert seen.whole and told[-1][0] == "ended" and told[-1][3] != "NoneType"


@pytest.mark.parametrize("answer", [Answer(delay_head=30), Answer(headers=SSE, body=[b"data: 1\n\n", b"x"], gap=30)])
async def test_a_client_that_leaves_closes_the_upstream(upstream, answer, told):
    text = stack(upstream.url).replace("2s", "60s")
    async with running(Gateway(text, catalog=catalog())) as url:
        upstream.script(answer)
        reader, writer = await connect(url)
        writer.write(request_bytes(url, "POST", "/fake", STREAM))
        while not upstream.requests:
            await asyncio.sleep(0.01)
        if not answer.delay_head:
            await reader.readuntil(b"data: 1")
        writer.close()
        async with asyncio.timeout(20):
            while upstream.requests[0].closed_at is None or told[-1][0] != "ended":
                await asyncio.sleep(0.01)
        assert told[-1][2] is True


async def test_a_server_may_raise_where_a_client_has_left(upstream, told, capfd):
    """Servers of whoever mounts the gateway do so (ASGI, HTTP 2.4); ours discards what is sent."""
    upstream.script(Answer(headers=SSE, body=[b"data: 1\n\n", b"data: 2\n\n"], gap=30))
    gateway, gone = Gateway(stack(upstream.url).replace("2s", "60s"), catalog=catalog()), asyncio.Event()
    said = [{"type": "http.request", "body": STREAM, "more_body": False}]

    async def receive():
        if said:
            return said.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        gone.set()
        raise OSError("the connection is closed")

    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(STREAM))]
    scope = {"type": "http", "method": "POST", "path": "/fake", "query_string": b"", "headers": headers}
    async with gateway:
        async with asyncio.timeout(20):
            await gateway(scope, receive, send)
    assert told[-1][1:] == (200, True, "NoneType")
    assert "OSError" not in capfd.readouterr().err


@pytest.mark.parametrize("cancelled", [False, True], ids=["all of it", "control: all but the end"])
async def test_a_client_that_hangs_up_at_the_last_event_has_its_answer(upstream, told, cancelled):
    """As Codex does; its upstream may take a moment to close."""
    late = asyncio.Event()
    text = stack(upstream.url).replace("2s", "60s")
    async with running(Gateway(text, catalog=catalog())) as url:
        upstream.script(
            Answer(headers=SSE, body=[b"data: 1\n\n" if cancelled else b"data: done\n\n", b": bye\n\n"], gap=late)
        )
        reader, writer = await connect(url)
        writer.write(request_bytes(url, "POST", "/fake", STREAM))
        await reader.readuntil(b"data: 1\n\n" if cancelled else b"done\n\n")
        writer.close()
        await asyncio.sleep(0.2)
        late.set()
        async with asyncio.timeout(20):
            while told[-1][0] != "ended":
                await asyncio.sleep(0.01)
    assert told[-1][1:] == (200, cancelled, "NoneType")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_request"),
        (b'{"model": "up/a", "model": "up/b"}', 400, "invalid_request"),
        (b'{"messages": []}', 400, "invalid_request"),
        (b'{"model": "up/m", "stream": 1}', 400, "invalid_request"),
        (b'{"model": "up/m", "x": ' + b"[" * 70 + b"]" * 70 + b"}", 400, "invalid_request"),
    ],
)
async def test_bad_bodies_are_named(url, upstream, body, status, code):
    seen = await exchange(url, "POST", "/fake", body)
    assert (seen.status, json.loads(seen.body)["error"]["code"]) == (status, code)
    assert not upstream.requests


async def test_too_large(upstream):
    async with running(Gateway(stack(upstream.url, server="max_body: 1kB"), catalog=catalog())) as url:
        seen = await exchange(url, "POST", "/fake", b'{"model": "up/m", "x": "' + b"a" * 2000 + b'"}')
        assert seen.status == 413


async def test_what_is_not_served_says_so(url):
    assert (await exchange(url, "GET", "/nowhere")).status == 404
    seen = await exchange(url, "GET", "/fake")
    assert seen.status == 404 and b"takes POST" in seen.body


async def test_probes(url):
    health = json.loads((await exchange(url, "GET", "/health")).body)
    assert health["status"] == "healthy" and health["models"] == [] and health["config"]["config_reload_failed"] == 0
    assert (await exchange(url, "GET", "/health/liveliness")).status == 200
    assert (await exchange(url, "GET", "/health/readiness")).status == 200
    assert (await exchange(url, "HEAD", "/")).status == 200


@pytest.mark.parametrize("away", [True, False])
async def test_health_is_not_healthy_while_a_store_is_away(url, monkeypatch, away):
    """By its word, not by its status: every replica has that store, and none would be left to ask."""
    monkeypatch.setattr(
        "gwcore.stack.Stack.health", lambda _: {"sound": {"degraded": False}, "book": {"degraded": away}}
    )
    seen = await exchange(url, "GET", "/health")
    assert (seen.status, json.loads(seen.body)["status"]) == (200, "degraded" if away else "healthy")
    assert (await exchange(url, "GET", "/readyz")).status == 200


async def test_an_unnamed_exception_is_hidden(upstream, capfd):
    async with running(Gateway(stack(upstream.url, "boom"), catalog=catalog())) as url:
        seen = await exchange(url, "POST", "/fake", BODY)
    assert seen.status == 500 and json.loads(seen.body)["error"]["code"] == "internal_error"
    assert b"canary" not in seen.body and "canary" not in "".join(capfd.readouterr())


async def test_a_service_that_forgets_its_reply_is_a_fault(upstream):
    async with running(Gateway(stack(upstream.url, "forgets"), catalog=catalog())) as url:
        assert (await exchange(url, "POST", "/fake", BODY)).status == 500


async def test_keepalive_comments_fill_silence(upstream):
    text = stack(upstream.url, server="keepalive: 50ms").replace("2s", "60s")
    async with running(Gateway(text, catalog=catalog())) as url:
        upstream.script(Answer(headers=SSE, body=[b"data: 1\n\n", b"data: done\n\n"], delay_head=0.3, gap=0.3))
        seen = await exchange(url, "POST", "/fake", STREAM)
    assert seen.body.startswith(b": ping\n\n") and seen.body.replace(b": ping\n\n", b"") == b"data: 1\n\ndata: done\n\n"


@pytest.mark.parametrize("kind", ["application/json", "text/html"])
async def test_what_is_no_event_does_not_follow_comments(upstream, kind):
    """A client reads over what is no event: a proxy's page, or a document, was an empty answer that ended well."""
    text = stack(upstream.url, server="keepalive: 50ms").replace("2s", "60s")
    async with running(Gateway(text, catalog=catalog())) as url:
        upstream.script(Answer(headers=[("content-type", kind)], body=[b"{", b"}"], delay_head=0.3, gap=0.01))
        seen = await exchange(url, "POST", "/fake", STREAM)
    assert seen.body.startswith(b": ping\n\n") and b"upstream_malformed" in seen.body and b"{}" not in seen.body


@pytest.mark.parametrize("prefix", ["", "/a", "/a/b"])
@pytest.mark.parametrize("lifespan", [True, False])
async def test_mounted(upstream, prefix, lifespan):
    gateway = Gateway(stack(upstream.url), catalog=catalog())

    @asynccontextmanager
    async def enter(_app):
        async with gateway:
            yield

    host = Starlette(routes=[Mount(prefix or "/", gateway)], lifespan=enter if lifespan else None)
    upstream.script(Answer(body=b"{}"), Answer(body=b"{}"))
    async with running(host, edge=False) as url:
        assert (await exchange(url, "POST", f"{prefix}/v1/fake", BODY)).status == 200
        assert (await exchange(url, "GET", f"{prefix}/health")).status == 200
    if not lifespan:
        await gateway.shutdown()


async def test_what_a_server_waited_is_of_the_time_to_drain(upstream, monkeypatch):
    """A worker that took it twice, or three times, was killed by who supervises it."""
    now, waited = [1000.0], []

    def clock():
        now[0] += 1
        return now[0]

    async def wait(_self, timeout):
        waited.append(timeout)

    gateway = Gateway(stack(upstream.url), catalog=catalog())
    await gateway.startup()
    monkeypatch.setattr("gwcore.gateway.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("gwcore.stack.time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(Detached, "drain", wait)
    gateway.drain()
    now[0] += 25
    gateway.drain()  # a second signal, or the lifespan's end
    await gateway.shutdown()
    assert waited == [4.0]  # five seconds left, of which the calls had one


async def test_calls_that_are_cut_at_the_end_of_a_drain_have_time_to_end(upstream, monkeypatch):
    waited = []

    async def wait(_self, timeout):
        waited.append(timeout)

    gateway = Gateway(stack(upstream.url), catalog=catalog())
    await gateway.startup()
    monkeypatch.setattr(Stack, "drain", wait)
    gateway.drain()
    monkeypatch.setattr("gwcore.gateway.time", SimpleNamespace(monotonic=lambda: time.monotonic() + 100))
    running_stack = gateway.stack
    await gateway.shutdown()
    assert waited == [2.0]
    monkeypatch.undo()
    await running_stack.drain(1)


async def test_fallthrough_takes_the_rest(upstream):
    async def hello(_request):
        return PlainTextResponse("host")

    gateway = Gateway(stack(upstream.url), catalog=catalog(), fallthrough=Starlette(routes=[Route("/hello", hello)]))
    upstream.script(Answer(body=b"{}"))
    async with running(gateway) as url:
        assert (await exchange(url, "GET", "/hello")).body == b"host"
        assert (await exchange(url, "POST", "/fake", BODY)).status == 200


async def test_a_file_is_read_beside_the_calls(upstream, monkeypatch):
    """One with thousands of keys takes seconds: whoever calls meanwhile must not wait for them."""
    readers, reading = [], stackfile._parse
    monkeypatch.setattr(stackfile, "_parse", lambda source: readers.append(threading.get_ident()) or reading(source))
    checks = []
    gateway = Gateway(stack(upstream.url), catalog=catalog(), check=lambda: checks.append(threading.get_ident()))
    async with gateway:
        assert await gateway.reload() is True
    assert len(readers) == 2 and len(checks) == 1
    assert threading.get_ident() not in {*readers, *checks}


async def test_reload_swaps_or_changes_nothing(upstream, tmp_path, told):
    file = tmp_path / "stack.yaml"
    file.write_text(stack(upstream.url))
    gateway = Gateway(file, catalog=catalog())
    upstream.script(*(Answer(body=b"{}") for _ in range(3)))
    async with running(gateway) as url:
        pool = gateway.stack.upstreams["up"].transport
        for broken in ("nonsense: [", "gwcore: 1\nstack: [no_such]\n", stack(upstream.url, "broken")):
            file.write_text(broken)
            assert await gateway.reload() is False
            health = json.loads((await exchange(url, "GET", "/health")).body)["config"]
            assert health["config_reload_failed"] == 1 and health["generation"] == 1
            assert (await exchange(url, "POST", "/fake", BODY)).status == 200
        file.write_text(stack(upstream.url) + "models: {fast: up/m}\n")
        assert await gateway.reload() is True
        health = json.loads((await exchange(url, "GET", "/health")).body)
        assert health["models"] == ["fast"] and health["config"]["config_reload_failed"] == 0
        assert gateway.stack.upstreams["up"].transport is pool
    assert not gateway.resources.open


async def test_a_bad_file_does_not_start():
    with pytest.raises(AssemblyError):
        async with Gateway("gwcore: 1\nstack: [no_such]\n", catalog=catalog()):
            pass


@pytest.mark.parametrize("headers", [[("x-gwcore-timeout", "100ms")], []], ids=["", "control: no deadline"])
async def test_a_client_says_how_long_it_waits_for_the_beginning_of_its_answer(url, upstream, headers):
    upstream.script(Answer(body=b"{}", delay_head=0.3))
    seen = await exchange(url, "POST", "/fake", BODY, headers)
    if headers:
        assert (seen.status, json.loads(seen.body)["error"]["code"]) == (504, "upstream_timeout")
        await asyncio.wait_for(upstream.requests[0].gone(), 5)
    else:
        assert seen.status == 200
    upstream.script(Answer(body=[b"data: %d\n\n" % n for n in range(4)], headers=SSE, gap=0.08))
    assert b"data: 3" in (await exchange(url, "POST", "/fake", STREAM, headers)).body


@pytest.mark.parametrize("wait", ["soon", "0", "-1s", pytest.param(f"{'9' * 308}s" * 2, id="overflow")])
async def test_a_wait_that_is_no_duration_is_named(url, upstream, wait):
    seen = await exchange(url, "POST", "/fake", BODY, [("x-gwcore-timeout", wait)])
    assert seen.status == 400 and b"x-gwcore-timeout" in seen.body and not upstream.requests
