"""Http1Transport: the pool, stale connections, cancellation in every phase."""

import asyncio
import contextlib
import resource
import socket
from unittest import mock

import pytest
from structlog.testing import capture_logs

from gwcore.errors import Broken, Exhausted, Unreachable, UpstreamTimeout
from gwcore.wire import http1, pool
from gwcore.wire.http1 import Http1Transport
from gwcore.wire.transport import Origin, Request, Timeouts
from tests.wire.http1_upstream import OK, answering, on_both_loops, read_all, until, upstream

EVENTS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"


def slots(transport):
    return sum(pool.size for pool in transport._pools.values())


@on_both_loops
async def test_500_aborted_bodies():
    async def handle(server, reader, writer):
        await server.read_request(reader)
        writer.write(EVENTS)
        await server.until_closed(reader)

    transport = Http1Transport(max_per_origin=100)

    async def abort(server):
        response = await transport.send(server.request())
        assert await response.read() == b"a"
        response.close()
        with pytest.raises(Broken):
            await response.read()

    async with upstream(handle) as server:
        await asyncio.gather(*(abort(server) for _ in range(500)))
        assert (transport.in_use, slots(transport)) == (0, 0)
        await until(lambda: server.seen_closed == 500)
        assert (await transport.send(server.request())).status == 200
        assert transport.in_use == 1
        await transport.aclose()
        assert transport.in_use == 0


@on_both_loops
async def test_the_cap_queues_in_order():
    gate = asyncio.Event()

    async def handle(server, reader, writer):
        while True:
            await server.read_request(reader)
            await gate.wait()
            writer.write(OK)

    transport = Http1Transport(max_per_origin=3)
    async with upstream(handle) as server:
        tasks = []
        for n in range(30):
            tasks.append(asyncio.create_task(transport.send(server.request(target=f"/{n}"))))
            await asyncio.sleep(0)
        await until(lambda: len(server.requests) == 3)
        assert transport.in_use == server.opened == 3
        gate.set()
        answers = await asyncio.gather(*tasks)
        assert [await read_all(answer) for answer in answers] == [b"ok"] * 30
        order = [int(head.split()[1][1:]) for head, _ in server.requests]
        assert sorted(order[:3]) == [0, 1, 2]
        # What the pool hands out is in order; three sockets may then overtake one another by a place or two.
        assert all(abs(place - n) <= 2 for place, n in enumerate(order))
        assert (transport.in_use, slots(transport), server.opened) == (0, 3, 3)
        await transport.aclose()


@on_both_loops
async def test_idle_connections_are_used_newest_first_and_closed_in_time():
    async def handle(server, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                await server.read_request(reader)
                await asyncio.sleep(0.01)
                writer.write(OK)
        server.seen_closed += 1

    transport = Http1Transport(keepalive=0.2)
    async with upstream(handle) as server:
        await asyncio.gather(*(transport.send(server.request()) for _ in range(3)))
        (pool,) = transport._pools.values()
        newest = pool.idle[-1]
        await transport.send(server.request())
        assert (pool.idle[-1], server.opened) == (newest, 3)
        await until(lambda: server.seen_closed == 3)
        assert (pool.size, pool.idle) == (0, [])
        assert (await transport.send(server.request())).status == 200
        await transport.aclose()


@pytest.mark.parametrize("last_words", [b"", b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n"])
@on_both_loops
async def test_an_idle_connection_that_ends_or_speaks_leaves_the_pool_at_once(last_words):
    async def handle(server, reader, writer):
        await server.read_request(reader)
        writer.write(OK)
        await asyncio.sleep(0.02)
        writer.write(last_words)
        if last_words:
            await server.until_closed(reader)

    transport = Http1Transport()
    async with upstream(handle) as server:
        assert await read_all(await transport.send(server.request())) == b"ok"
        assert slots(transport) == 1
        await until(lambda: slots(transport) == 0)
        assert await read_all(await transport.send(server.request())) == b"ok"
        assert server.opened == 2
    await transport.aclose()


@on_both_loops
async def test_bytes_after_the_answer_are_nobodys():
    transport = Http1Transport()
    async with upstream(answering(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", OK)) as server:
        for opened in (1, 2):
            assert await read_all(await transport.send(server.request())) == b"ok"
            assert (server.opened, slots(transport)) == (opened, 0)
    await transport.aclose()


@on_both_loops
async def test_the_connection_is_free_before_the_body_is_read():
    transport = Http1Transport(max_per_origin=1)
    async with upstream(answering(OK, OK)) as server:
        first = await transport.send(server.request())
        second = await transport.send(server.request())
        assert [await read_all(first), await read_all(second)] == [b"ok", b"ok"]
        assert server.opened == 1
        await transport.aclose()


def stale(after=0.0, words=b"", first=OK):
    """The first connection answers once, then closes upon the next request."""

    async def handle(server, reader, writer):
        old = server.opened == 1
        await server.read_request(reader)
        writer.write(first)
        await server.read_request(reader)
        if old:
            await asyncio.sleep(after)
            writer.write(words)
            return
        writer.write(OK)

    return handle


@pytest.mark.parametrize("method", ["POST", "GET"])
@on_both_loops
async def test_stale_connection_is_replaced_once(method):
    transport = Http1Transport()
    async with upstream(stale()) as server:
        await read_all(await transport.send(server.request()))
        assert await read_all(await transport.send(server.request(method, body=b"{}"))) == b"ok"
        assert (server.opened, transport.in_use) == (2, 0)
        assert len(server.requests) == 3
        await transport.aclose()


@on_both_loops
async def test_stale_at_the_cap():
    transport = Http1Transport(max_per_origin=1)
    async with upstream(stale()) as server:
        await read_all(await transport.send(server.request()))
        assert await read_all(await transport.send(server.request())) == b"ok"
        assert (server.opened, transport.in_use, slots(transport)) == (2, 0, 1)
        await transport.aclose()


@on_both_loops
async def test_post_is_not_repeated_after_a_byte_of_an_answer():
    transport = Http1Transport()
    async with upstream(stale(words=b"H")) as server:
        await read_all(await transport.send(server.request()))
        with pytest.raises(Broken):
            await transport.send(server.request())
        assert (server.opened, transport.in_use, slots(transport)) == (1, 0, 0)
    await transport.aclose()


@pytest.mark.parametrize("method", ["POST", "GET"])
@on_both_loops
async def test_post_is_not_repeated_when_the_upstream_had_time_to_work_on_it(method):
    transport = Http1Transport()
    with mock.patch.object(http1, "STALE", 0.05):
        async with upstream(stale(after=0.2)) as server:
            await read_all(await transport.send(server.request()))
            if method == "GET":
                assert await read_all(await transport.send(server.request("GET"))) == b"ok"
            else:
                with pytest.raises(Broken):
                    await transport.send(server.request("POST"))
            assert server.opened == (2 if method == "GET" else 1)
            await transport.aclose()


@on_both_loops
async def test_twice_stale_is_broken():
    async def handle(server, reader, writer):
        await server.read_request(reader)
        if server.opened == 1:
            writer.write(OK)
            await server.read_request(reader)

    transport = Http1Transport()
    async with upstream(handle) as server:
        await read_all(await transport.send(server.request()))
        with pytest.raises(Broken):
            await transport.send(server.request())
        assert (server.opened, transport.in_use, slots(transport)) == (2, 0, 0)
    await transport.aclose()


async def cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@on_both_loops
async def test_cancel_while_waiting_for_the_head_and_in_the_body():
    async def handle(server, reader, writer):
        head, _ = await server.read_request(reader)
        if b"/body" in head:
            writer.write(EVENTS)
        await server.until_closed(reader)

    transport = Http1Transport()
    async with upstream(handle) as server:
        task = asyncio.create_task(transport.send(server.request()))
        await until(lambda: server.requests)
        assert transport.in_use == 1
        await cancelled(task)
        assert (transport.in_use, slots(transport)) == (0, 0)
        response = await transport.send(server.request(target="/body"))
        assert await response.read() == b"a"
        task = asyncio.create_task(response.read())
        await asyncio.sleep(0)
        await cancelled(task)
        assert (transport.in_use, slots(transport)) == (0, 0)
        with pytest.raises(Broken):
            await response.read()
        await until(lambda: server.seen_closed == 2)
    await transport.aclose()


@on_both_loops
async def test_cancel_in_an_upload():
    async def handle(server, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        server.requests.append(1)
        await asyncio.sleep(0.1)
        await server.until_closed(reader)

    transport = Http1Transport()
    async with upstream(handle) as server:
        task = asyncio.create_task(transport.send(server.request(body=bytes(40_000_000))))
        await until(lambda: server.requests)
        await cancelled(task)
        assert (transport.in_use, slots(transport)) == (0, 0)
        await until(lambda: server.seen_closed == 1)
    await transport.aclose()


@on_both_loops
async def test_cancel_while_waiting_for_a_slot():
    transport = Http1Transport(max_per_origin=1)
    async with upstream(answering(OK, OK, OK)) as server:
        held = await transport.send(server.request())
        pool = transport._pools[server.origin]
        conn = pool.take(0.0)  # keep the only slot
        tasks = [asyncio.create_task(transport.send(server.request())) for _ in range(3)]
        await asyncio.sleep(0)
        await cancelled(tasks[0])  # before it is served
        pool.put(conn)
        await cancelled(tasks[1])  # in the very tick in which it is served
        assert await read_all(await tasks[2]) == b"ok"
        assert (await read_all(held), server.opened, pool.size, transport.in_use) == (b"ok", 1, 1, 0)
        with pytest.raises(UpstreamTimeout) as failure:
            conn = pool.take(0.0)
            await transport.send(server.request(connect=0.05))
        assert (failure.value.phase, failure.value.sent) == ("connect", False)
        pool.put(conn)
        assert await read_all(await transport.send(server.request())) == b"ok"
        await transport.aclose()


@on_both_loops
async def test_a_slot_passed_on_by_a_closed_connection():
    transport = Http1Transport(max_per_origin=1)
    async with upstream(answering(EVENTS)) as server:
        held = await transport.send(server.request())
        tasks = [asyncio.create_task(transport.send(server.request())) for _ in range(3)]
        await asyncio.sleep(0)
        held.close()
        await cancelled(tasks[0])
        served = await tasks[1]
        assert (transport.in_use, slots(transport), server.opened) == (1, 1, 2)
        waiting = asyncio.ensure_future(tasks[2])
        await transport.aclose()
        with pytest.raises(Unreachable):
            await waiting
        assert await served.read() == b"a"
        with pytest.raises(Broken):
            await served.read()
        assert (transport.in_use, slots(transport)) == (0, 0)


@contextlib.contextmanager
def deaf():
    """A port whose backlog is full: a connect to it hangs."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@on_both_loops
async def test_connect_timeout_and_cancel(host):
    transport = Http1Transport()
    with deaf() as port:
        for limits, phase in [({"connect": 0.05}, "connect"), ({"total": 0.05}, "total")]:
            with pytest.raises(UpstreamTimeout) as failure:
                await transport.send(Request("GET", Origin("http", host, port), "/", [], timeouts=Timeouts(**limits)))
            assert (failure.value.phase, failure.value.sent) == (phase, False)
        task = asyncio.create_task(transport.send(Request("GET", Origin("http", host, port), "/", [])))
        await asyncio.sleep(0.05)
        await cancelled(task)
        assert (transport.in_use, slots(transport)) == (0, 0)
    await transport.aclose()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "no.such.host.invalid", "x" * 70 + ".invalid"])
@on_both_loops
async def test_unreachable(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    transport = Http1Transport()
    with pytest.raises(Unreachable) as failure:
        await transport.send(Request("POST", Origin("http", host, port), "/", []))
    assert not failure.value.sent
    assert (transport.in_use, slots(transport)) == (0, 0)
    await transport.aclose()


@pytest.mark.parametrize("first", ["dead", "deaf"])
@on_both_loops
async def test_a_dead_first_address_does_not_cost_the_timeout(first):
    loop = asyncio.get_running_loop()
    with deaf() as hanging:
        async with upstream(answering(OK)) as server:

            async def addresses(host, port, **_):
                tcp = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
                bad = ("127.0.0.1", hanging) if first == "deaf" else ("127.0.0.1", 1)
                return [(*tcp, bad), (*tcp, bad), (*tcp, ("127.0.0.1", server.origin.port))]

            proxy = mock.Mock(wraps=loop, getaddrinfo=addresses)
            with mock.patch.object(pool.asyncio, "get_running_loop", return_value=proxy):
                sock = await pool.dial("two.example", 80)
            sock.close()
            await until(lambda: server.opened == 1)
            # the losers are gone
            await until(lambda: not [t for t in asyncio.all_tasks() if t.get_coro().__name__ == "_connect"])


@contextlib.contextmanager
def no_more_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # those that are open stay open
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_files_that_cannot_be_opened_are_no_fault_of_the_upstream(host):
    """Its breaker would open for what this process lacks, and its log would say nothing of the reason."""
    async with upstream(answering(OK)) as server:
        transport, request = Http1Transport(), server.request()
        request.origin = Origin("http", host, request.origin.port)
        pool._told = -60.0
        with capture_logs() as said, no_more_files():
            for _ in range(2):
                with pytest.raises(Exhausted) as refused:
                    await transport.send(request)
        assert (refused.value.status, refused.value.retry_after, refused.value.sent) == (503, 1, False)
        assert [line["problem"] for line in said] == ["too many open files"]
        assert (await transport.send(request)).status == 200
        await transport.aclose()
