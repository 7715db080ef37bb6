"""Http1Transport against any chunking of an answer, and against answers that are none."""

import asyncio

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gwcore.errors import GatewayError
from gwcore.wire.http1 import Http1Transport
from tests.wire.http1_upstream import read_all, upstream

ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 11\r\n\r\nhello world",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 No\r\nRetry-After: 1\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: \r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nT: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-Y:  a b\r\n\r\nhello\r\n\r\nworld",
    b"HTTP/1.0 500 Oh\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def exchange(request):
    """``exchange(pieces)``: what the transport makes of an upstream that writes these and closes."""
    answers = []

    async def handle(server, reader, writer):
        await server.read_request(reader)
        for piece in answers[-1]:
            writer.write(piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # lets the client read between two pieces

    with asyncio.Runner(loop_factory=request.param) as runner:
        complaints = []
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
        serving = upstream(handle)
        server = runner.run(serving.__aenter__())
        transport = Http1Transport()

        async def once(method):
            response = await transport.send(server.request(method, first_byte=2, idle=2))
            return response.status, response.headers, response.framed, await read_all(response)

        def run(pieces, method="POST"):
            answers.append(pieces)
            try:
                return runner.run(asyncio.wait_for(once(method), 5))
            finally:
                runner.run(gone())
                assert transport.in_use == 0
                assert not complaints

        async def gone():
            async with asyncio.timeout(1):
                while any(pool.size or pool.live for pool in transport._pools.values()):
                    await asyncio.sleep(0)

        yield run
        runner.run(transport.aclose())
        runner.run(serving.__aexit__(None, None, None))


FUZZ = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(data=st.data())
@FUZZ
def test_any_chunking_is_the_same_answer(exchange, data):
    answer = data.draw(st.sampled_from(ANSWERS))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(answer) - 1), max_size=12)))
    pieces = [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    assert exchange(pieces) == exchange([answer])


def test_byte_by_byte(exchange):
    for answer in ANSWERS:
        assert exchange([bytes([byte]) for byte in answer]) == exchange([answer])


@st.composite
def mutated(draw):
    answer = bytearray(draw(st.sampled_from(ANSWERS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(answer)))
        end = draw(st.integers(at, min(at + 8, len(answer))))
        answer[at:end] = draw(
            st.binary(max_size=8) | st.sampled_from([b"\r\n", b"\r\n\r\n", b":", b"0", b"f" * 17, b"\0"])
        )
    return bytes(answer)


@given(answer=mutated() | st.binary(max_size=200), method=st.sampled_from(["POST", "HEAD"]), cut=st.integers(0, 200))
@FUZZ
def test_anything_else_is_an_error_of_ours(exchange, answer, method, cut):
    """Never a hang, never a foreign exception, never a connection that stays."""
    try:
        status, headers, _, body = exchange([answer[:cut], answer[cut:]], method)
    except GatewayError:
        return
    assert 200 <= status <= 999
    assert all(name == name.lower() and b"\n" not in name + value for name, value in headers)
    assert len(body) <= len(answer)
