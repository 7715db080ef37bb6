"""Httpx2Transport: the same seam on httpx2."""

import asyncio
import sys
from unittest import mock

import httpx2
import pytest
import trustme

from gwcore.errors import (
    BadConfig,
    BadRequest,
    Broken,
    Malformed,
    Unreachable,
    UpstreamTimeout,
)
from gwcore.wire import httpx
from gwcore.wire.httpx import Httpx2Transport, named
from gwcore.wire.transport import Origin, Tls
from tests.wire.http1_upstream import OK, answering, on_both_loops, read_all, until, upstream
from tests.wire.test_http1_tls import server_context

EVENTS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"


def descendants(kind):
    return {kind, *(found for child in kind.__subclasses__() for found in descendants(child))}


@pytest.mark.parametrize("kind", sorted(descendants(httpx2.TransportError), key=lambda k: k.__name__))
def test_every_failure_of_httpx2_has_a_name(kind):
    ours = named(kind("http://user:secret@proxy"), "api.example", "first_byte")
    unsent = {"ConnectTimeout", "PoolTimeout", "ConnectError", "ProxyError", "UnsupportedProtocol"}
    assert type(ours) in {Unreachable, UpstreamTimeout, Malformed, Broken}
    assert ours.sent == (kind.__name__ not in unsent)
    assert isinstance(ours, UpstreamTimeout) == issubclass(kind, httpx2.TimeoutException)
    assert "secret" not in ours.message
    assert issubclass(kind, httpx._FAILURES)


def test_phases():
    assert named(httpx2.ConnectTimeout(""), "x", "idle").phase == "connect"
    assert named(httpx2.ReadTimeout(""), "x", "first_byte").phase == "first_byte"
    assert named(httpx2.WriteTimeout(""), "x", "first_byte").phase == "idle"


@on_both_loops
async def test_request_and_answer():
    answer = b"HTTP/1.1 201 Created\r\nX-B: 1\r\nx-a: 2\r\nX-B: 3\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b"
    transport = Httpx2Transport()
    async with upstream(answering(answer, OK)) as server:
        request = server.request(target="/v1/m%7e?a=%20b|c", headers=[(b"x-one", b"1"), (b"host", b"evil")], body=b"{}")
        response = await transport.send(request)
        assert (response.status, response.framed, transport.in_use) == (201, True, 1)
        assert response.headers[:3] == [(b"x-b", b"1"), (b"x-a", b"2"), (b"x-b", b"3")]
        assert [await response.read() for _ in range(3)] == [b"\x1f\x8b", b"", b""]
        response.close()
        assert await read_all(await transport.send(server.request("GET"))) == b"ok"
        (head, body), (second, _) = server.requests
        assert head.startswith(b"POST /v1/m%7e?a=%20b|c HTTP/1.1\r\n")
        assert sorted(head.lower().split(b"\r\n")[1:-2]) == [
            b"content-length: 2",
            b"host: " + server.origin.authority.encode(),
            b"x-one: 1",
        ]
        assert (body, b"content-length" in second.lower(), server.opened, transport.in_use) == (b"{}", False, 1, 0)
        await transport.aclose()
        await until(lambda: server.seen_closed == 1)
        with pytest.raises(Unreachable):
            await transport.send(server.request())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", Broken),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", Broken),
        (EVENTS, Broken),
        (b"SSH-2.0\r\n\r\n", Malformed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Malformed),
    ],
)
@on_both_loops
async def test_broken_and_malformed(answer, error):
    async def handle(server, reader, writer):
        await server.read_request(reader)
        writer.write(answer)

    transport = Httpx2Transport()
    async with upstream(handle) as server:
        with pytest.raises(error) as failure:
            await read_all(await transport.send(server.request()))
        assert failure.value.sent
        assert (transport.in_use, server.opened) == (0, 1)
        await transport.aclose()


@on_both_loops
async def test_close_delimited_is_not_framed():
    async def handle(server, reader, writer):
        await server.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nabc")

    transport = Httpx2Transport()
    async with upstream(handle) as server:
        response = await transport.send(server.request())
        assert (response.framed, await read_all(response)) == (False, b"abc")
    await transport.aclose()


@on_both_loops
async def test_timeouts():
    transport = Httpx2Transport()
    async with upstream(answering([])) as silent, upstream(answering(EVENTS)) as stalling:
        for limits, phase in [({"first_byte": 0.05}, "first_byte"), ({"total": 0.05}, "total")]:
            with pytest.raises(UpstreamTimeout) as failure:
                await transport.send(silent.request(**limits))
            assert (failure.value.phase, failure.value.sent) == (phase, True)
        for limits, phase in [({"idle": 0.05}, "idle"), ({"total": 0.1}, "total")]:
            response = await transport.send(stalling.request(**limits))
            assert await response.read() == b"a"
            for _ in range(2):
                with pytest.raises(UpstreamTimeout) as failure:
                    await response.read()
                assert (failure.value.phase, transport.in_use) == (phase, 0)
        await until(lambda: silent.seen_closed == stalling.seen_closed == 2)
        await transport.aclose()


@on_both_loops
async def test_cancel_and_close_close_the_socket():
    async def handle(server, reader, writer):
        head, _ = await server.read_request(reader)
        if b"/body" in head:
            writer.write(EVENTS)
        await server.until_closed(reader)

    transport = Httpx2Transport()
    async with upstream(handle) as server:
        task = asyncio.create_task(transport.send(server.request()))
        await until(lambda: server.requests)
        assert transport.in_use == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert transport.in_use == 0
        response = await transport.send(server.request(target="/body"))
        assert await response.read() == b"a"
        task = asyncio.create_task(response.read())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        responses = [await transport.send(server.request(target="/body")) for _ in range(20)]
        for response in responses:
            response.close()
            response.close()
            with pytest.raises(Broken):
                await response.read()
        assert transport.in_use == 0
        await until(lambda: server.seen_closed == 22)
        left = await transport.send(server.request(target="/body"))
        await transport.aclose()
        await until(lambda: server.seen_closed == 23)
        with pytest.raises(Broken):
            await left.read()


@on_both_loops
async def test_unreachable():
    transport = Httpx2Transport()
    async with upstream(answering()) as server:
        request = server.request()
    with pytest.raises(Unreachable) as failure:
        await transport.send(request)
    assert (failure.value.sent, transport.in_use) == (False, 0)
    request.origin = Origin("http", "no.such.host.invalid", 80)
    with pytest.raises(Unreachable):
        await transport.send(request)
    request.headers = [(b"x-key", b"secret\r\nx: y")]
    with pytest.raises(BadRequest, match="x-key"):
        await transport.send(request)
    await transport.aclose()


@on_both_loops
async def test_through_a_proxy():
    async def handle(server, reader, writer):
        head, _ = await server.read_request(reader)
        writer.write(OK if b"GET http://api.example/v1" in head else b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
        await server.until_closed(reader)

    async with upstream(handle) as server:
        transport = Httpx2Transport(proxy=f"http://user:secret@{server.origin.authority}")
        request = server.request("GET")
        request.origin = Origin("http", "api.example", 80)
        assert await read_all(await transport.send(request)) == b"ok"
        assert b"Basic dXNlcjpzZWNyZXQ=" in server.requests[0][0]
        request.origin = Origin("https", "api.example", 443)
        with pytest.raises(Unreachable) as failure:
            await transport.send(request)
        assert "secret" not in str(failure.value)
        assert server.requests[1][0].startswith(b"CONNECT api.example:443")
        await transport.aclose()


@on_both_loops
async def test_tls(tmp_path_factory):
    ca, file = trustme.CA(), tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(file)
    transport = Httpx2Transport(tls=Tls(ca_file=str(file)))
    async with upstream(answering(OK), tls=server_context(ca, "localhost"), host="localhost") as server:
        assert await read_all(await transport.send(server.request())) == b"ok"
    for signer, name in [(trustme.CA(), "localhost"), (ca, "other.example")]:
        async with upstream(answering(OK), tls=server_context(signer, name), host="localhost") as server:
            with pytest.raises(Unreachable):
                await transport.send(server.request())
    await transport.aclose()


@pytest.mark.parametrize("proxy", ["secret", "ftp://secret@x", "http://u:secret@x:port", "socks5://secret@x"])
def test_a_proxy_that_is_none(proxy):
    with mock.patch.dict(sys.modules, {"socksio": None}), pytest.raises(BadConfig) as failure:
        Httpx2Transport(proxy=proxy)
    assert "secret" not in failure.value.message


def test_http2_needs_its_package():
    with mock.patch.object(httpx, "find_spec", return_value=None), pytest.raises(BadConfig, match="pip install"):
        Httpx2Transport(http2=True)


def test_the_environment_and_redirects_are_ignored(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    async def main():
        transport = Httpx2Transport()
        moved = b"HTTP/1.1 302 Moved\r\nLocation: /x\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
        async with upstream(answering(moved, OK)) as server:
            first = await transport.send(server.request())
            assert (first.status, await read_all(first)) == (302, b"")
            second = await transport.send(server.request())
            assert second.status == 200
            assert b"cookie" not in server.requests[-1][0].lower()
            second.close()
            await transport.aclose()

    asyncio.run(main())
