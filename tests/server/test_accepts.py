"""A busy worker accepts newcomers as fast as it serves those that are connected."""

import asyncio
import subprocess
import sys

import pytest

from gwcore.server import run

SERVER = """
import sys, time
from gwcore.server import EdgeLimits, run

run.ACCEPTS = int(sys.argv[1])

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    time.sleep(0.01)  # as a loop that has much to do
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})

run.serve(lambda: app, host="127.0.0.1", port=0, limits=EdgeLimits(), on_ready=lambda url: print(url, flush=True))
"""
NEWCOMERS = 40
TRIES = 3  # while we are stopped, the server's loop has turns without our question


async def ask(reader, writer):
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert b" 200 " in await reader.readuntil(b"\r\n\r\nok")


async def turns_until_all_are_served(port):
    """One connection asks again and again, which is once per turn of the server's loop, until all others have an answer."""
    hot, others = await asyncio.open_connection("127.0.0.1", port), []

    async def newcomer():
        others.append(await asyncio.open_connection("127.0.0.1", port))
        await ask(*others[-1])

    await ask(*hot)
    waiting, turns = asyncio.gather(*(newcomer() for _ in range(NEWCOMERS))), 0
    while not waiting.done():
        await ask(*hot)
        turns += 1
    await waiting
    for _, writer in (hot, *others):
        writer.close()
    return turns


@pytest.mark.parametrize("accepts", [None, 1], ids=["", "control: one a turn, as libuv does"])
def test_newcomers_of_a_busy_worker(accepts):
    command = [sys.executable, "-c", SERVER, str(accepts or run.ACCEPTS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = int(server.stdout.readline().rpartition(":")[2])
            turns = [asyncio.run(turns_until_all_are_served(port)) for _ in range(TRIES)]
        finally:
            server.terminate()
    assert max(turns) < NEWCOMERS / 2 if accepts is None else max(turns) > NEWCOMERS / 2
