"""A client that does not read its answer counts as gone once the write buffer was full for ``write_timeout``."""

import asyncio
import socket

import pytest
import uvloop

from gwcore.server import EdgeLimits, EdgeProtocol, edge_protocol
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, chat_stream
from tests.stacks.raw import request_bytes
from tests.stacks.test_keys_limits_money import CHAT, world

LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
SIZE = 16_000_000  # more than the sockets' own buffers hold
ENDLESS, ONCE = b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n", b"GET /once HTTP/1.1\r\nhost: a\r\n\r\n"


class App:
    """Answers with one big body, or with a stream that its client alone ends."""

    def __init__(self):
        self.begun = self.left = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % SIZE)]})
        if scope["path"] == "/once":
            await send({"type": "http.response.body", "body": b"x" * SIZE})
            return
        self.begun += 1
        gone = asyncio.Event()
        scope["extensions"]["gwcore.disconnect"](gone.set)
        await send({"type": "http.response.body", "body": b"x" * (SIZE - 1), "more_body": True})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})  # returns when the client has read
        await gone.wait()
        self.left += 1


async def until(condition, within=20.0):
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


async def connected(url, takes=4096):
    """A socket whose own buffer takes little."""
    host, port = url.removeprefix("http://").split(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, takes)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    return sock


async def unread(limits, within):
    app = App()
    async with running(app, lifespan="off", protocol=edge_protocol(limits)) as url:
        with await connected(url) as sock:
            await asyncio.get_running_loop().sock_sendall(sock, ENDLESS)
            await until(lambda: app.begun)
            await until(lambda: app.left, within)


@LOOPS
def test_a_client_that_does_not_read_is_gone(loop):
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(unread(EdgeLimits(write_timeout=0.2), 20))


def test_control_without_the_time_out_it_stays():
    with asyncio.Runner() as runner, pytest.raises(TimeoutError):
        runner.run(unread(EdgeLimits(write_timeout=60), 1.5))


async def slowly(rate):
    """How much a client gets that reads on, more slowly than the buffer empties within the time-out."""
    limits = EdgeLimits(write_timeout=2.5, min_body_rate=rate)
    loop, got = asyncio.get_running_loop(), 0
    async with running(App(), lifespan="off", protocol=edge_protocol(limits)) as url:
        with await connected(url, 200_000) as sock:
            await loop.sock_sendall(sock, ONCE)
            try:
                while got < SIZE and (piece := await loop.sock_recv(sock, 400_000)):
                    got += len(piece)
                    await asyncio.sleep(0.15)
            except ConnectionError:
                pass
    return got


@LOOPS
@pytest.mark.parametrize(("rate", "whole"), [(1, True), (10**9, False)], ids=["", "control: never fast enough"])
def test_a_client_that_reads_slowly_gets_all_of_it(loop, rate, whole):
    with asyncio.Runner(loop_factory=loop) as runner:
        assert (runner.run(slowly(rate)) >= SIZE) is whole


@pytest.mark.parametrize("noticed", [True, False], ids=["", "control: nobody looks"])
async def test_it_gives_back_what_its_call_held(tmp_path, monkeypatch, noticed):
    monkeypatch.setattr(EdgeProtocol, "limits", EdgeLimits(write_timeout=0.2))
    if not noticed:
        monkeypatch.setattr(EdgeProtocol, "unread", lambda *_: False)

    def held():
        samples = {s.name: s.value for p in w.gateway.stack.placed for s in p.plugin.metrics()}
        return w.gateway.stack.inflight, samples["gwcore_ratelimit_held"], samples["gwcore_budget_holds"]

    rules = {"rules": [{"per": "key", "parallel": 2}]}
    async with world(tmp_path, ratelimit=rules) as w:
        w.ups["a"].default = Answer(body=chat_stream(*["x" * 60_000] * (SIZE // 60_000)))
        key = await w.key(max_budget=5)
        body = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
        with await connected(w.url) as sock:
            request = request_bytes(w.url, "POST", CHAT, body, [("authorization", f"Bearer {key}")])
            await asyncio.get_running_loop().sock_sendall(sock, request)
            await until(lambda: held() == (1, 1, 1))
            try:
                await until(lambda: held() == (0, 0, 0), 20 if noticed else 1.5)
            except TimeoutError:
                assert not noticed, held()
            else:
                assert noticed


async def rest(ending, limits, within):
    """A client reads nearly all of its last answer, then no more: whether its connection goes."""
    loop, made = asyncio.get_running_loop(), []

    class Protocol(edge_protocol(limits)):
        def connection_made(self, transport):
            super().connection_made(transport)
            self.timeout_keep_alive = 0.2
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            made.append(self)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000000")]})
        await send({"type": "http.response.body", "body": b"x" * 999_999, "more_body": True})
        if ending != "broken":
            await send({"type": "http.response.body", "body": b"x"})

    async with running(app, lifespan="off", protocol=Protocol) as url:
        with await connected(url) as sock:
            close = b"connection: close\r\n" if ending == "close" else b""
            await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nhost: a\r\n%b\r\n" % close)
            await until(lambda: made)
            buffered = made[0].transport.get_write_buffer_size
            await loop.sock_recv(sock, 1)
            while buffered() > 16_000:
                await loop.sock_recv(sock, 2048 if buffered() < 200_000 else 65_536)
            assert buffered()
            await until(lambda: not made[0].connections, within)
            assert made[0] not in {*made[0].stalled, *made[0].waiting}


@LOOPS
@pytest.mark.parametrize("ending", ["close", "keep-alive", "broken"])
def test_a_client_that_does_not_read_the_rest_is_gone(loop, ending):
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(rest(ending, EdgeLimits(write_timeout=1.5), 20))


def test_control_without_the_time_out_the_rest_stays():
    with asyncio.Runner() as runner, pytest.raises(TimeoutError):
        runner.run(rest("close", EdgeLimits(write_timeout=60), 1.5))
