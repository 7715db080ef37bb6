"""Reload under load: no request fails, on kept and on fresh connections, whole and streamed, on two workers."""

import asyncio
import contextlib
import json
import os
import signal

import pytest

from tests.stacks.raw import connect, exchange, read_response, request_bytes
from tests.test_cli import GOOD, Serving

CHAT = "/v1/chat/completions"
RELOADS = 5


def body(*, stream):
    return json.dumps({"model": "house", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).encode()


def whole(seen, *, stream):
    end = b"data: [DONE]\n\n" if stream else b"}"
    return seen.status == 200 and seen.whole and seen.body.endswith(end)


async def keeps(url, over, done, failed, *, stream):
    """Requests on one connection until ``over``, or until an answer says that it is the connection's last."""
    while not over.is_set():
        reader, writer = await connect(url)
        last = False
        try:
            while not last and not over.is_set():
                writer.write(request_bytes(url, "POST", CHAT, body(stream=stream)))
                seen = await read_response(reader)
                (done if whole(seen, stream=stream) else failed).append(seen)
                last = seen.headers.get("connection") == "close"
        except (OSError, asyncio.IncompleteReadError) as error:
            failed.append(error)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def reconnects(url, over, done, failed, *, stream):
    """A connection for each request until ``over``."""
    while not over.is_set():
        try:
            seen = await exchange(url, "POST", CHAT, body(stream=stream))
            (done if whole(seen, stream=stream) else failed).append(seen)
        except (OSError, asyncio.IncompleteReadError) as error:
            failed.append(error)


async def reloaded(url, name):
    """Until ten answers in turn, so with high odds of both workers, know the model."""
    knew = 0
    async with asyncio.timeout(30):
        while knew < 10:
            try:
                models = json.loads((await exchange(url, "GET", "/health")).body)["models"]
            except (OSError, asyncio.IncompleteReadError):
                models = []
            knew = knew + 1 if name in models else 0


async def under_load(file, disturb):
    """Answers that were whole, and all else, while ``disturb`` runs against two loaded workers."""
    file.write_text(GOOD)
    with Serving(file, "--workers", "2") as gateway:
        over, done, failed = asyncio.Event(), [], []
        clients = [
            asyncio.create_task(client(gateway.url, over, done, failed, stream=stream))
            for client in (keeps, keeps, reconnects)
            for stream in (True, False)
        ]
        await disturb(gateway, file, done)
        over.set()
        await asyncio.gather(*clients)
    return done, failed


@pytest.mark.timeout(120)
async def test_no_request_fails_while_two_workers_reload(tmp_path):
    async def reload(gateway, file, _done):
        for n in range(RELOADS):
            file.write_text(GOOD.replace("house: demo/demo", f"house: demo/demo\n  round-{n}: demo/demo"))
            gateway.process.send_signal(signal.SIGHUP)
            await reloaded(gateway.url, f"round-{n}")

    done, failed = await under_load(tmp_path / "stack.yaml", reload)
    assert not failed
    assert len(done) > RELOADS


async def test_the_load_notices_workers_that_end(tmp_path):
    """Negative control: a restart is no reload."""

    async def restart(gateway, _file, done):
        while len(done) < 10:
            await asyncio.sleep(0.01)
        for pid in gateway.workers():
            os.kill(pid, signal.SIGKILL)
        await reloaded(gateway.url, "house")

    _, failed = await under_load(tmp_path / "stack.yaml", restart)
    assert failed
