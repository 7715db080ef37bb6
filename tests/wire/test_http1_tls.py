"""Http1Transport and TLS: trust, names, cuts."""

import ssl

import pytest
import trustme

from gwcore.errors import Unreachable
from gwcore.wire.http1 import Http1Transport
from gwcore.wire.transport import Tls
from tests.wire.http1_upstream import OK, answering, on_both_loops, read_all, until, upstream


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    ca = trustme.CA()
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(file)
    return ca, str(file)


def server_context(ca, *names):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.parametrize(("host", "sni"), [("localhost", "localhost"), ("127.0.0.1", None)])
@on_both_loops
async def test_good(authority, host, sni):
    ca, file = authority
    context = server_context(ca, host)
    names = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    transport = Http1Transport(Tls(ca_file=file))
    async with upstream(answering(OK, OK), tls=context, host=host) as server:
        for _ in range(2):
            assert await read_all(await transport.send(server.request(body=bytes(3_000_000)))) == b"ok"
        assert (server.opened, names) == (1, [sni])
        assert transport.in_use == 0
        await transport.aclose()
        await until(lambda: server.seen_closed == 1)


@on_both_loops
async def test_close_in_the_body_closes_at_once(authority):
    ca, file = authority
    transport = Http1Transport(Tls(ca_file=file))
    events = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    async with upstream(answering(events), tls=server_context(ca, "127.0.0.1")) as server:
        response = await transport.send(server.request())
        assert await response.read() == b"a"
        response.close()
        assert transport.in_use == 0
        await until(lambda: server.seen_closed == 1)
    await transport.aclose()


@pytest.mark.parametrize(("name", "own"), [("localhost", False), ("other.example", True)])
@on_both_loops
async def test_wrong_authority_and_wrong_host(authority, name, own):
    ca, file = authority
    signer = ca if own else trustme.CA()
    transport = Http1Transport(Tls(ca_file=file))
    async with upstream(answering(OK), tls=server_context(signer, name), host="localhost") as server:
        with pytest.raises(Unreachable, match="certificate verify failed") as failure:
            await transport.send(server.request())
        assert not failure.value.sent
        assert (transport.in_use, server.requests) == (0, [])
        lenient = Http1Transport(Tls(verify=False))
        assert await read_all(await lenient.send(server.request())) == b"ok"
        await lenient.aclose()
    await transport.aclose()


@on_both_loops
async def test_the_systems_trust_store_does_not_know_it(authority):
    transport = Http1Transport()
    async with upstream(answering(OK), tls=server_context(authority[0], "localhost"), host="localhost") as server:
        with pytest.raises(Unreachable, match="certificate verify failed"):
            await transport.send(server.request())
    await transport.aclose()


@on_both_loops
async def test_not_tls_at_all(authority):
    async def handle(server, reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    transport = Http1Transport(Tls(ca_file=authority[1]))
    async with upstream(handle) as server:
        request = server.request()
        request.origin = type(request.origin)("https", "127.0.0.1", request.origin.port)
        with pytest.raises(Unreachable):
            await transport.send(request)
        assert transport.in_use == 0
    await transport.aclose()


def test_a_ca_file_that_is_not_there():
    with pytest.raises(OSError):
        Http1Transport(Tls(ca_file="/no/such/file"))
