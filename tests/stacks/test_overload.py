"""More calls than a worker serves in time: the next are refused early, in their dialect, and nothing else is."""

import asyncio
import gzip
import json
import math
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from gwcore import load
from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.stacks.raw import connect, exchange, read_response, request_bytes
from tests.stacks.test_keys_limits_money import ADMIN, CHAT, ok

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
ADDRESSES = {
    "openai.chat": CHAT,
    "anthropic.messages": "/v1/messages",
    "openai.responses": "/v1/responses",
    "google": "/v1beta/models/m:generateContent",
}


def text(url, folder, server):
    return json.dumps(
        {
            "gwcore": 1,
            "stores": {"book": f"sqlite:///{folder}/book.db"},
            "upstreams": {"u": {"provider": "openai-compatible", "base_url": f"{url}/v1"}},
            "models": {"m": "u/m"},
            "stack": [{"auth": {"admin_key": ADMIN, "store": "book"}}],
            "watch": [{"prometheus": {}}],
            "server": server,
        },
        indent=1,
    )


@asynccontextmanager
async def world(folder, **server):
    async with FakeUpstream() as up:
        up.default = ok("m")
        gateway = Gateway(text(up.url, folder, server), serve_admin=True)
        async with running(gateway) as url:
            yield gateway, up, url


async def ask(url, path=CHAT, body=BODY):
    return await exchange(url, "POST", path, body, [("authorization", f"Bearer {ADMIN}")])


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("most", [2, None], ids=["", "control: no limit"])
async def test_calls_over_the_limit_are_refused_and_those_under_way_are_not(tmp_path, most):
    async with world(tmp_path, max_inflight=most) as (gateway, up, url):
        up.script(*[replace(ok("m"), delay_head=1.0)] * 2)
        two = [asyncio.create_task(ask(url)) for _ in range(2)]
        await until(lambda: len(up.requests) == 2)
        seen = await ask(url)
        assert (seen.status, len(up.requests)) == ((200, 3) if most is None else (503, 2))
        assert (await exchange(url, "GET", "/readyz")).status == 200
        assert (await exchange(url, "GET", "/health")).status == 200
        key = await exchange(url, "POST", "/key/generate", b"{}", [("authorization", f"Bearer {ADMIN}")])
        assert key.status == 200
        assert [one.status for one in await asyncio.gather(*two)] == [200, 200]
        assert (await ask(url)).status == 200
        assert gateway.load.inflight == gateway.stack.inflight == 0


@pytest.mark.parametrize("path", ADDRESSES.values(), ids=ADDRESSES)
async def test_the_refusal_is_in_the_client_s_dialect_and_says_when_to_come_again(tmp_path, path):
    async with world(tmp_path) as (gateway, up, url):
        gateway.load.stop()
        gateway.load.late = True
        seen = await ask(url, path)
        assert (seen.status, seen.headers["retry-after"]) == (503, "1") and seen.headers["x-gwcore-request-id"]
        error = json.loads(seen.body)["error"]
        assert "more calls than it can serve" in error["message"] and not up.requests
        assert "overloaded" in json.dumps(error) or error["status"] == "UNAVAILABLE"
        page = await exchange(url, "GET", "/metrics", b"", [("authorization", f"Bearer {ADMIN}")])
        assert b'gwcore_shed_calls_total{reason="lag"} 1.0' in page.body
        assert b"gwcore_event_loop_lag_seconds" in page.body
        gateway.load.late = False
        assert (await ask(url)).status == 200


async def test_it_is_answered_before_the_body_is_there_and_the_connection_goes_on(tmp_path):
    async with world(tmp_path) as (gateway, _, url):
        gateway.load.stop()
        gateway.load.late = True
        reader, writer = await connect(url)
        whole = request_bytes(url, "POST", CHAT, BODY, [("authorization", f"Bearer {ADMIN}")])
        writer.write(whole[: -len(BODY)])
        assert (await asyncio.wait_for(read_response(reader), 10)).status == 503
        gateway.load.late = False
        writer.write(BODY + whole)
        assert (await asyncio.wait_for(read_response(reader), 10)).status == 200
        writer.close()


LARGE = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 100_000}]}).encode()


@pytest.mark.parametrize("room", ["150kB", None], ids=["", "control: no limit"])
async def test_large_bodies_over_the_memory_wait_and_are_refused_before_they_are_sent(tmp_path, monkeypatch, room):
    monkeypatch.setattr(load, "PATIENCE", 0.05)
    async with world(tmp_path, body_memory=room) as (gateway, up, url):
        held = asyncio.Event()
        up.script(replace(ok("m"), delay_head=held))
        first = asyncio.create_task(ask(url, body=LARGE))
        await until(lambda: up.requests)
        assert gateway.load.bodies == len(LARGE)
        reader, writer = await connect(url)
        whole = request_bytes(url, "POST", CHAT, LARGE, [("authorization", f"Bearer {ADMIN}")])
        writer.write(whole[: -len(LARGE)])
        if room is None:
            writer.write(LARGE)
        seen = await asyncio.wait_for(read_response(reader), 10)
        writer.close()
        assert seen.status == (503 if room else 200)
        if room:
            assert seen.headers["retry-after"] == "1" and "memory" in json.loads(seen.body)["error"]["message"]
        assert (await ask(url)).status == 200  # a small one
        page = await exchange(url, "GET", "/metrics", b"", [("authorization", f"Bearer {ADMIN}")])
        assert b'gwcore_shed_calls_total{reason="memory"} %d.0' % (room is not None) in page.body
        assert b"gwcore_body_bytes %d.0" % len(LARGE) in page.body
        monkeypatch.setattr(load, "PATIENCE", 10.0)
        third = asyncio.create_task(ask(url, body=LARGE))
        await until(lambda: gateway.load.inflight == 2 if room else third.done())
        sent = len(up.requests)
        await asyncio.sleep(0.1)
        assert len(up.requests) == sent and third.done() is (room is None)
        held.set()
        assert [(await one).status for one in (first, third)] == [200, 200]


ENDS = {
    "served": (LARGE, []),
    "no JSON": (b"x" * 100_000, []),
    "compressed": (gzip.compress(LARGE), [("content-encoding", "gzip")]),
    "chunked": (b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE), [("transfer-encoding", "chunked")]),
    "too large": (b"", [("content-length", "30000000")]),
    "cut": (LARGE[:50_000], [("content-length", str(len(LARGE)))]),
    "no key": (LARGE, [("authorization", "Bearer no")]),
}


@pytest.mark.parametrize("end", ENDS)
async def test_whatever_its_end_a_call_holds_no_memory_then(tmp_path, end):
    body, headers = ENDS[end]
    most = 0
    async with world(tmp_path) as (gateway, up, url):

        def served(_request):
            nonlocal most
            most = gateway.load.bodies
            return ok("m")

        up.default = served
        credential = [] if end == "no key" else [("authorization", f"Bearer {ADMIN}")]
        reader, writer = await connect(url)
        length = [] if "content-length" in dict(headers) else [("content-length", str(len(body)))]
        if end == "chunked":
            length = []
        head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in [*credential, *headers, *length])
        writer.write(head.encode() + b"\r\n" + body)
        if end == "cut":
            await until(lambda: gateway.load.bodies == len(LARGE))
            writer.close()
        else:
            assert (await asyncio.wait_for(read_response(reader), 10)).status in {200, 400, 401, 413}
        await until(lambda: gateway.load.inflight == 0)
        assert gateway.load.bodies == 0
        if end in {"served", "compressed", "chunked"}:
            assert most >= len(LARGE)
        writer.close()


async def test_what_runs_in_a_replaced_stack_counts(tmp_path):
    async with world(tmp_path, max_inflight=1) as (gateway, up, url):
        up.script(Answer(delay_head=math.inf))
        first = asyncio.create_task(ask(url))
        await until(lambda: up.requests)
        assert await gateway.reload()
        assert gateway.stack.inflight == 0 and (await ask(url)).status == 503
        first.cancel()
        await until(lambda: gateway.load.inflight == 0)
        assert (await ask(url)).status == 200
