"""A raw upstream on a port, and a decorator that runs a test on both event loops."""

import asyncio
import contextlib
import inspect
import ssl

import pytest
import uvloop

from gwcore.wire.transport import Origin, Request, Timeouts


def on_both_loops(test):
    """Run an async test under asyncio and under uvloop; an exception in any callback fails it."""

    def run(factory, **arguments):
        with asyncio.Runner(loop_factory=factory) as runner:
            complaints = []
            runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
            runner.run(asyncio.wait_for(test(**arguments), 30))
            assert not complaints

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    run.pytestmark = getattr(test, "pytestmark", [])
    parameters = [inspect.Parameter("factory", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    run.__signature__ = inspect.Signature([*parameters, *inspect.signature(test).parameters.values()])
    loops = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("factory", loops, ids=["asyncio", "uvloop"])(run)


class Upstream:
    def __init__(self, port, scheme, host):
        self.origin = Origin(scheme, host, port)
        self.opened = 0
        self.seen_closed = 0
        self.requests = []

    def request(self, method="POST", target="/v1", headers=(), body=b"", **timeouts):
        return Request(method, self.origin, target, list(headers), body, Timeouts(**timeouts))

    async def read_request(self, reader):
        head = await reader.readuntil(b"\r\n\r\n")
        length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: ")]
        body = await reader.readexactly(int(length[0][16:])) if length else b""
        self.requests.append((head, body))
        return head, body

    async def until_closed(self, reader):
        """Wait until the gateway closes its end, and count that."""
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
        self.seen_closed += 1


@contextlib.asynccontextmanager
async def upstream(handle, *, tls=None, host="127.0.0.1", listen="127.0.0.1"):
    """``handle(server, reader, writer)`` serves each connection."""
    tasks = set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        server.opened += 1
        try:
            await handle(server, reader, writer)
            writer.close()
            await writer.wait_closed()
        except (OSError, EOFError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    listener = await asyncio.start_server(serve, listen, 0, ssl=tls, limit=2**20)
    server = Upstream(listener.sockets[0].getsockname()[1], "https" if tls else "http", host)
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()
        await asyncio.sleep(0.01)


def answering(*answers):
    """A handler: one answer (bytes, or a list of pieces) per request of a connection, then it waits for the close."""

    async def handle(server, reader, writer):
        for answer in answers:
            await server.read_request(reader)
            for piece in [answer] if isinstance(answer, bytes) else answer:
                writer.write(piece)
                await asyncio.sleep(0.001)
        await server.until_closed(reader)

    return handle


async def read_all(response):
    parts = []
    while chunk := await response.read():
        parts.append(chunk)
    response.close()
    return b"".join(parts)


async def until(condition):
    """Wait for something that must happen within a second."""
    async with asyncio.timeout(1):
        while not condition():
            await asyncio.sleep(0.001)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
