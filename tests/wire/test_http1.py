"""Http1Transport: heads, framings, bodies, what is refused."""

import asyncio

import pytest

from gwcore.errors import BadRequest, Broken, Malformed, Unreachable, UpstreamTimeout
from gwcore.wire.connection import HIGH
from gwcore.wire.http1 import Http1Transport, build_head
from gwcore.wire.transport import Origin, Request
from tests.wire.http1_upstream import OK, answering, on_both_loops, read_all, until, upstream


@on_both_loops
async def test_request_and_answer():
    answer = (
        b"HTTP/1.1 201 Created\r\nX-B: 1\r\nx-a: \xff\xe9 \r\nX-B: 2\r\nSet-Cookie: a\r\nContent-Length: 5\r\n\r\nhello"
    )
    transport = Http1Transport()
    async with upstream(answering(answer, OK)) as server:
        given = [
            (b"x-one", b"1"),
            (b"connection", b"close"),
            (b"host", b"evil"),
            (b"content-length", b"9"),
            (b"te", b"x"),
        ]
        response = await transport.send(server.request(target="/v1/m?a=%20b", headers=given, body=b"{}"))
        assert (response.status, response.framed) == (201, True)
        assert response.headers == [
            (b"x-b", b"1"),
            (b"x-a", b"\xff\xe9"),
            (b"x-b", b"2"),
            (b"set-cookie", b"a"),
            (b"content-length", b"5"),
        ]
        assert await response.read() == b"hello"
        assert [await response.read(), await response.read()] == [b"", b""]
        response.close()
        response.close()
        again = await transport.send(server.request("GET"))
        assert await response.read() == b""
        assert await read_all(again) == b"ok"
        host = b"host: " + server.origin.authority.encode()
        assert server.requests == [
            (b"POST /v1/m?a=%20b HTTP/1.1\r\n" + host + b"\r\nx-one: 1\r\ncontent-length: 2\r\n\r\n", b"{}"),
            (b"GET /v1 HTTP/1.1\r\n" + host + b"\r\n\r\n", b""),
        ]
        assert (server.opened, transport.in_use) == (1, 0)
        await transport.aclose()
        await until(lambda: server.seen_closed == 1)
        with pytest.raises(Unreachable):
            await transport.send(server.request())


@pytest.mark.parametrize(
    ("answer", "status", "framed", "body"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;e=1\r\nabc\r\n1\r\nd\r\n0\r\nT: x\r\n\r\n",
            200,
            True,
            b"abcd",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", 200, False, b"to the end"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, True, b"x"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", 200, True, b"x"),
        (b"HTTP/1.1 204 No\r\n\r\n", 204, True, b""),
        (b"HTTP/1.1 304 No\r\nContent-Length: 7\r\n\r\n", 304, True, b""),
        (b"HTTP/1.1 100 C\r\nA: 1\r\n\r\nHTTP/1.1 103 E\r\n\r\n" + OK, 200, True, b"ok"),
        (b"HTTP/1.1 429\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b", 429, True, b"\x1f\x8b"),
    ],
)
@on_both_loops
async def test_framings(answer, status, framed, body):
    async def handle(server, reader, writer):
        await server.read_request(reader)
        writer.write(answer)

    transport = Http1Transport()
    async with upstream(handle) as server:
        response = await transport.send(server.request())
        assert (response.status, response.framed, transport.in_use <= 1) == (status, framed, True)
        assert await read_all(response) == body
        assert (b"a", b"1") not in response.headers
        assert transport.in_use == 0
    await transport.aclose()


@on_both_loops
async def test_head_has_no_body_and_keeps_the_connection():
    transport = Http1Transport()
    async with upstream(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", OK)) as server:
        response = await transport.send(server.request("HEAD"))
        assert (response.framed, await response.read()) == (True, b"")
        assert await read_all(await transport.send(server.request())) == b"ok"
        assert server.opened == 1
        await transport.aclose()


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Up\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nxyz",
        b"HTTP/1.1 103 E\r\n\r\n" * 17 + OK,
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: xxxxxxxxxxxxxxxxxxxx\r\n" * 5000 + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 2_000_000,
    ],
    ids=lambda a: a[9:50],
)
@on_both_loops
async def test_malformed(answer):
    transport = Http1Transport()
    async with upstream(answering(answer)) as server:
        with pytest.raises(Malformed) as failure:
            await transport.send(server.request())
        assert failure.value.sent
        assert transport.in_use == 0
        await until(lambda: server.seen_closed == 1)
    await transport.aclose()


@pytest.mark.parametrize(
    "tail", [b"zz\r\n", b"3;" + b"x" * 300_000, b"0\r\nT: " + b"x" * 300_000], ids=["size", "extension", "trailer"]
)
@on_both_loops
async def test_malformed_inside_a_body(tail):
    transport = Http1Transport()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    async with upstream(answering([head, tail])) as server:
        response = await transport.send(server.request())
        assert await response.read() == b"a"
        for _ in range(2):
            with pytest.raises(Malformed):
                await response.read()
        assert transport.in_use == 0
    await transport.aclose()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
@on_both_loops
async def test_cut_inside_a_body(answer):
    async def handle(server, reader, writer):
        await server.read_request(reader)
        writer.write(answer)

    transport = Http1Transport()
    async with upstream(handle) as server:
        response = await transport.send(server.request())
        assert await response.read() == b"abc"
        for _ in range(2):
            with pytest.raises(Broken):
                await response.read()
        assert (transport.in_use, server.opened) == (0, 1)
    await transport.aclose()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nConte"])
@on_both_loops
async def test_closed_without_an_answer(answer):
    async def handle(server, reader, writer):
        await server.read_request(reader)
        writer.write(answer)

    transport = Http1Transport()
    async with upstream(handle) as server:
        with pytest.raises(Broken) as failure:
            await transport.send(server.request())
        assert failure.value.sent
        assert (transport.in_use, server.opened) == (0, 1)
    await transport.aclose()


@on_both_loops
async def test_timeouts():
    events = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    transport = Http1Transport()
    async with upstream(answering([])) as silent, upstream(answering(events)) as stalling:
        with pytest.raises(UpstreamTimeout) as failure:
            await transport.send(silent.request(first_byte=0.05))
        assert (failure.value.phase, failure.value.sent) == ("first_byte", True)
        with pytest.raises(UpstreamTimeout) as failure:
            await transport.send(silent.request(total=0.05))
        assert (failure.value.phase, failure.value.sent) == ("total", True)
        for limits, phase in [({"idle": 0.05}, "idle"), ({"total": 0.05}, "total")]:
            response = await transport.send(stalling.request(**limits))
            assert await response.read() == b"a"
            with pytest.raises(UpstreamTimeout) as failure:
                await response.read()
            assert (failure.value.phase, transport.in_use) == (phase, 0)
        await until(lambda: silent.seen_closed == stalling.seen_closed == 2)
    await transport.aclose()


@on_both_loops
async def test_a_slow_reader_is_not_the_upstreams_fault_but_total_is_total():
    events = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    transport = Http1Transport()
    async with upstream(answering([events, b"", b"1\r\nb\r\n0\r\n\r\n"])) as server:
        response = await transport.send(server.request(idle=0.05))
        assert await response.read() == b"a"
        await asyncio.sleep(0.15)
        assert await response.read() == b"b"
        assert await response.read() == b""
    async with upstream(answering(events)) as server:
        response = await transport.send(server.request(total=0.05))
        await until(lambda: server.seen_closed == 1)
        assert await response.read() == b"a"
        with pytest.raises(UpstreamTimeout):
            await response.read()
    await transport.aclose()


@on_both_loops
async def test_one_read_per_socket_read():
    chunks = b"".join(b"1\r\n%d\r\n" % n for n in range(10))
    transport = Http1Transport()
    async with upstream(
        answering([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunks, chunks, b"0\r\n\r\n"])
    ) as server:
        response = await transport.send(server.request())
        assert [await response.read() for _ in range(3)] == [b"0123456789", b"0123456789", b""]
    await transport.aclose()


@on_both_loops
async def test_a_slow_reader_bounds_the_buffer():
    size = 30_000_000

    async def handle(server, reader, writer):
        await server.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        server.sent = 0
        while server.sent < size:
            writer.write(bytes(100_000))
            await writer.drain()
            server.sent += 100_000
        await server.until_closed(reader)

    transport = Http1Transport()
    async with upstream(handle) as server:
        response = await transport.send(server.request())
        sent = -1
        while sent != server.sent:  # until the pipe is full
            sent = server.sent
            await asyncio.sleep(0.05)
        assert sent < size
        assert response.size <= HIGH + 2**18
        total = 0
        while chunk := await response.read():
            assert len(chunk) <= HIGH + 2**18
            total += len(chunk)
        assert total == size
        assert (transport.in_use, server.opened) == (0, 1)
        await transport.aclose()


@on_both_loops
async def test_big_upload():
    body = bytes(range(256)) * 80_000
    transport = Http1Transport()
    async with upstream(answering(OK, OK)) as server:
        for _ in range(2):
            assert await read_all(await transport.send(server.request(body=body))) == b"ok"
        assert [sent for _, sent in server.requests] == [body, body]
        assert server.opened == 1
        await transport.aclose()


@on_both_loops
async def test_an_early_answer_stops_the_upload():
    async def handle(server, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await asyncio.sleep(0.01)
        await server.until_closed(reader)

    transport = Http1Transport()
    async with upstream(handle) as server:
        response = await transport.send(server.request(body=bytes(20_000_000)))
        assert (response.status, await read_all(response)) == (200, b"ok")
        await until(lambda: server.seen_closed == 1)
        assert transport.in_use == 0
    await transport.aclose()


@on_both_loops
async def test_a_stalled_upload_ends():
    async def handle(server, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(60)

    transport = Http1Transport()
    async with upstream(handle) as server:
        with pytest.raises(UpstreamTimeout) as failure:
            await transport.send(server.request(body=bytes(40_000_000), idle=0.1))
        assert (failure.value.phase, transport.in_use) == ("idle", 0)
    await transport.aclose()


@pytest.mark.parametrize(
    ("method", "target", "header", "named"),
    [
        ("POST", "/", (b"x-key", b"secret\r\nx: y"), "x-key"),
        ("POST", "/", (b"x-key", b"secret\n"), "x-key"),
        ("POST", "/", (b"x-key", b"secret\0"), "x-key"),
        ("POST", "/", (b"bad name", b"secret"), "bad name"),
        ("POST", "/", (b"", b"secret"), "header name"),
        ("POST", "/", (b"a\r\nb", b"secret"), "header name"),
        ("POST", "/a b", (b"a", b"b"), "target"),
        ("POST", "/a\r\nx: secret", (b"a", b"b"), "target"),
        ("POST", "secret.example/", (b"a", b"b"), "target"),
        ("POST", "/é", (b"a", b"b"), "target"),
        ("PO ST", "/", (b"a", b"b"), "method"),
    ],
)
async def test_what_cannot_stand_in_a_head_is_refused(method, target, header, named):
    with pytest.raises(BadRequest, match=named) as failure:
        await Http1Transport().send(Request(method, Origin("http", "127.0.0.1", 1), target, [header]))
    assert "secret" not in failure.value.message


@pytest.mark.parametrize("name", [b"Transfer-Encoding", b"CONTENT-LENGTH", b"Host", b"connection"])
def test_framing_is_the_transports_own_in_whatever_letters(name):
    head = build_head(Request("POST", Origin("http", "a", 80), "/", [(name, b"chunked"), (b"x", b"y")]))
    assert head == b"POST / HTTP/1.1\r\nhost: a\r\nx: y\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(("host", "sent"), [("bücher.example", b"xn--bcher-kva.example"), ("::1", b"[::1]")])
def test_host(host, sent):
    head = build_head(Request("GET", Origin("http", host, 80), "/", []))
    assert head == b"GET / HTTP/1.1\r\nhost: " + sent + b"\r\n\r\n"


@pytest.mark.parametrize("host", ["a b", "a\r\nb", "." * 70 + "ü"])
def test_host_refused(host):
    with pytest.raises(BadRequest, match="host"):
        build_head(Request("GET", Origin("http", host, 80), "/", []))
