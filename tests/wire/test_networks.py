"""What networks put between us and an upstream: IPv6, a CONNECT proxy, HTTP/2. Servers of our own on the loopback."""

import asyncio
import contextlib
import socket

import h2.config
import h2.connection
import h2.events
import pytest
import trustme

from gwcore.errors import Broken, Unreachable, UpstreamTimeout
from gwcore.wire.http1 import Http1Transport
from gwcore.wire.httpx import Httpx2Transport
from gwcore.wire.transport import Origin, Tls
from tests.wire.http1_upstream import OK, answering, on_both_loops, read_all, until, upstream
from tests.wire.test_http1_tls import server_context


def _has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    ca = trustme.CA()
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(file)
    return ca, str(file)


# ── IPv6 ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@ipv6
@pytest.mark.parametrize("kind", [Http1Transport, Httpx2Transport])
@on_both_loops
async def test_an_ipv6_address(kind):
    transport = kind()
    async with upstream(answering(OK, OK), listen="::1", host="::1") as server:
        assert Origin.of(f"http://[::1]:{server.origin.port}/v1") == server.origin
        for _ in range(2):
            assert await read_all(await transport.send(server.request(body=b"{}"))) == b"ok"
        assert b"host: [::1]:%d\r\n" % server.origin.port in server.requests[0][0].lower()
        assert server.opened == 1
        await transport.aclose()


@ipv6
@pytest.mark.parametrize("kind", [Http1Transport, Httpx2Transport])
@on_both_loops
async def test_an_ipv6_address_under_tls(kind, authority):
    ca, file = authority
    transport = kind(tls=Tls(ca_file=file))
    async with upstream(answering(OK), tls=server_context(ca, "::1"), listen="::1", host="::1") as server:
        assert await read_all(await transport.send(server.request())) == b"ok"
    async with upstream(answering(OK), tls=server_context(ca, "::2"), listen="::1", host="::1") as server:
        with pytest.raises(Unreachable):
            await transport.send(server.request())
    await transport.aclose()


# ── a proxy that tunnels ─────────────────────────────────────────────────────────────────────────────────────────────


async def _pipe(reader, writer, seen):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            seen.append(data)
            writer.write(data)
            await writer.drain()
    writer.close()


def tunnel(seen):
    """A handler that connects where CONNECT says, and keeps what passes."""

    async def handle(server, reader, writer):
        head, _ = await server.read_request(reader)
        host, port = head.split()[1].decode().rsplit(":", 1)
        there, back = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(_pipe(reader, back, seen), _pipe(there, writer, seen))
        finally:
            back.transport.abort()

    return handle


@on_both_loops
async def test_through_a_connect_proxy(authority):
    ca, file = authority
    seen = []
    async with (
        upstream(answering(OK, OK), tls=server_context(ca, "localhost"), host="localhost") as server,
        upstream(tunnel(seen)) as proxy,
    ):
        transport = Httpx2Transport(proxy=f"http://user:secret@{proxy.origin.authority}", tls=Tls(ca_file=file))
        for _ in range(2):
            request = server.request(
                headers=[(b"authorization", b"Bearer upstream-key")], body=b'{"prompt": "private"}'
            )
            assert await read_all(await transport.send(request)) == b"ok"
        assert (proxy.opened, server.opened) == (1, 1)  # the tunnel is kept
        [(connect, _)] = proxy.requests
        assert connect.startswith(b"CONNECT localhost:%d HTTP/1.1" % server.origin.port)
        assert b"Basic dXNlcjpzZWNyZXQ=" in connect and b"upstream-key" not in connect
        head, _ = server.requests[0]
        assert b"proxy-authorization" not in head.lower() and b"upstream-key" in head
        passed = b"".join(seen)
        assert len(passed) > 500 and b"upstream-key" not in passed and b"private" not in passed
        await transport.aclose()


@on_both_loops
async def test_a_connect_proxy_cannot_be_the_upstream(authority):
    """The certificate is that of the origin, not of whoever answers."""
    ca, file = authority
    async with (
        upstream(answering(OK), tls=server_context(ca, "other.example"), host="localhost") as server,
        upstream(tunnel([])) as proxy,
    ):
        transport = Httpx2Transport(proxy=f"http://{proxy.origin.authority}", tls=Tls(ca_file=file))
        with pytest.raises(Unreachable) as failure:
            await transport.send(server.request())
        assert not failure.value.sent and not server.requests
        await transport.aclose()


# ── HTTP/2 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def speaking_h2(act):
    """A handler: ``await act(h2, stream, headers, flush)`` for each request; ``flush`` sends what h2 has to send."""

    async def handle(server, reader, writer):
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        connection = h2.connection.H2Connection(config)
        connection.initiate_connection()
        tasks, heads = [], {}

        def flush():
            writer.write(connection.data_to_send())

        flush()
        try:
            while data := await reader.read(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        heads[event.stream_id] = dict(event.headers)
                    elif isinstance(event, h2.events.StreamEnded):
                        server.requests.append(heads[event.stream_id])
                        tasks.append(
                            asyncio.create_task(act(connection, event.stream_id, heads[event.stream_id], flush))
                        )
                    elif isinstance(event, h2.events.StreamReset):
                        server.reset = event.stream_id
                flush()
        finally:
            server.seen_closed += 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return handle


@contextlib.asynccontextmanager
async def h2_upstream(authority, act):
    ca, file = authority
    context = server_context(ca, "localhost")
    context.set_alpn_protocols(["h2"])
    async with upstream(speaking_h2(act), tls=context, host="localhost") as server:
        transport = Httpx2Transport(http2=True, tls=Tls(ca_file=file))
        yield server, transport
        await transport.aclose()


async def says_ok(connection, stream, _head, flush):
    connection.send_headers(stream, [(b":status", b"201"), (b"x-a", b"1")])
    connection.send_data(stream, b"ok", end_stream=True)
    flush()


@on_both_loops
async def test_http2_request_and_answer(authority):
    async with h2_upstream(authority, says_ok) as (server, transport):
        request = server.request(target="/v1/m?a=1", headers=[(b"x-one", b"1"), (b"connection", b"close")], body=b"{}")
        response = await transport.send(request)
        assert (response.status, response.headers, await read_all(response)) == (201, [(b"x-a", b"1")], b"ok")
        [head] = server.requests
        assert head[b":path"] == b"/v1/m?a=1" and head[b":authority"] == server.origin.authority.encode()
        assert head[b"x-one"] == b"1" and b"connection" not in head


@on_both_loops
async def test_http2_calls_share_a_connection(authority):
    both = asyncio.Event()

    async def waits_for_both(connection, stream, head, flush):
        if stream > 1:
            both.set()
        await both.wait()
        await says_ok(connection, stream, head, flush)

    async with h2_upstream(authority, waits_for_both) as (server, transport):
        await read_all(await transport.send(server.request())) if both.set() else None
        both.clear()
        answers = await asyncio.gather(*(transport.send(server.request()) for _ in range(5)))
        assert [await read_all(answer) for answer in answers] == [b"ok"] * 5
        assert (server.opened, transport.in_use) == (1, 0)


@on_both_loops
async def test_http2_stream_on_arrival_and_cut(authority):
    go = asyncio.Event()

    async def streams(connection, stream, _head, flush):
        connection.send_headers(stream, [(b":status", b"200")])
        connection.send_data(stream, b"data: 1\n\n")
        flush()
        await go.wait()
        connection.reset_stream(stream, 2)
        flush()

    async with h2_upstream(authority, streams) as (server, transport):
        response = await transport.send(server.request())
        assert await response.read() == b"data: 1\n\n"  # before the rest is there
        go.set()
        with pytest.raises(Broken):
            await response.read()
        await until(lambda: transport.in_use == 0)


@on_both_loops
async def test_http2_close_keeps_the_connection(authority):
    async def never_ends(connection, stream, head, flush):
        if stream > 1:
            await says_ok(connection, stream, head, flush)
            return
        connection.send_headers(stream, [(b":status", b"200")])
        connection.send_data(stream, b"x")
        flush()

    async with h2_upstream(authority, never_ends) as (server, transport):
        response = await transport.send(server.request())
        assert await response.read() == b"x"
        response.close()
        await until(lambda: transport.in_use == 0)
        assert await read_all(await transport.send(server.request())) == b"ok"
        assert server.opened == 1


@on_both_loops
async def test_http2_timeout(authority):
    async def silent(*_):
        return

    async with h2_upstream(authority, silent) as (server, transport):
        with pytest.raises(UpstreamTimeout) as failure:
            await transport.send(server.request(first_byte=0.1))
        assert failure.value.phase == "first_byte"


@on_both_loops
async def test_http2_is_offered_and_http1_taken(authority):
    ca, file = authority
    async with upstream(answering(OK), tls=server_context(ca, "localhost"), host="localhost") as server:
        transport = Httpx2Transport(http2=True, tls=Tls(ca_file=file))
        assert await read_all(await transport.send(server.request())) == b"ok"
        await transport.aclose()
