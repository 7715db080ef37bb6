"""In a host's process: its lifespan and the gateway's, further lives, other event loops."""

import asyncio
from contextlib import asynccontextmanager

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gwcore.catalog import Catalog
from gwcore.gateway import Gateway
from gwcore.plugin import Plugin
from gwcore.testing.server import running

STACK = "gwcore: 1\nupstreams: {demo: {provider: demo}}\nstack: []\n"
BODY = {"model": "demo/demo", "messages": [{"role": "user", "content": "Hello!"}]}


async def lived(app):
    """What an application says when it is led through its lifespan."""
    said = []
    heard = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive():
        return next(heard)

    async def send(message):
        said.append((message["type"].removeprefix("lifespan."), getattr(app, "stack", None) is not None))

    await app({"type": "lifespan", "state": {}}, receive, send)
    return said


async def test_what_stands_behind_starts_after_and_stops_before():
    order = []

    @asynccontextmanager
    async def life(_app):
        order.append(("up", gateway.stack is not None))
        yield {"pool": "open"}
        order.append(("down", gateway.stack is not None))

    async def own(request):
        return PlainTextResponse(request.state.pool)

    gateway = Gateway(STACK, fallthrough=Starlette(routes=[Route("/own", own)], lifespan=life))
    async with running(gateway) as url, httpx2.AsyncClient() as http:
        assert (await http.get(f"{url}/own")).text == "open"
        assert (await http.post(f"{url}/v1/chat/completions", json=BODY)).status_code == 200
    assert order == [("up", True), ("down", True)]
    assert gateway.stack is None


async def knows_none(scope, _receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def answers_anything(_scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def says_nothing(_scope, _receive, _send):
    return


async def leaves_early(_scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})


@pytest.mark.parametrize("behind", [None, knows_none, answers_anything, says_nothing, leaves_early])
async def test_an_application_without_a_lifespan_stands_behind_all_the_same(behind):
    gateway = Gateway(STACK, fallthrough=behind)
    assert await lived(gateway) == [("startup.complete", True), ("shutdown.complete", False)]


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("start", [("startup.failed", False)]),
        ("stop", [("startup.complete", True), ("shutdown.failed", False)]),
    ],
)
async def test_what_fails_behind_is_told_and_the_gateway_stops(when, said):
    @asynccontextmanager
    async def life(_app):
        if when == "start":
            raise OSError
        yield
        raise OSError

    assert await lived(Gateway(STACK, fallthrough=Starlette(lifespan=life))) == said


async def test_what_ends_without_a_word_is_told():
    async def dies(_scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise OSError

    said = await lived(Gateway(STACK, fallthrough=dies))
    assert said == [("startup.complete", True), ("shutdown.failed", False)]


async def test_what_breaks_behind_while_both_serve_does_not_end_the_gateway():
    """A background task of the host's that fails, in a task group of its lifespan."""
    stop, said = asyncio.Event(), []
    heard = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    @asynccontextmanager
    async def life(_app):
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            yield

    async def fails():
        raise OSError

    async def receive():
        if said:
            await stop.wait()
        return next(heard)

    async def send(message):
        said.append(message["type"])

    gateway = Gateway(STACK, fallthrough=Starlette(lifespan=life))
    serving = asyncio.create_task(gateway({"type": "lifespan", "state": {}}, receive, send))
    while not said:
        await asyncio.sleep(0.01)
    for _ in range(100):
        await asyncio.sleep(0)
    assert gateway.stack is not None and not gateway.state.draining
    stop.set()
    await serving
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.failed"] and gateway.stack is None


async def test_what_stops_without_a_word_is_not_waited_for():
    async def mute(_scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()

    said = await lived(Gateway(STACK, fallthrough=mute))
    assert said == [("startup.complete", True), ("shutdown.complete", False)]


async def test_a_plugin_that_cannot_start_is_told_to_any_server():
    class Fails(Plugin):
        """Its author forgot what it returns."""

        name = "fails"

        def client_routes(self):
            return None

    class Offer:
        def gwcore_plugins(self):
            return [Fails]

    gateway = Gateway(STACK.replace("[]", "[{fails: {}}]"), catalog=Catalog(Offer()))
    said = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        said.append(message)

    with pytest.raises(TypeError, match="not iterable"):  # its text is for the server's log
        await gateway({"type": "lifespan"}, receive, send)
    assert said == [{"type": "lifespan.startup.failed", "message": "cannot start: TypeError"}]


def test_it_lives_again_after_a_stop():
    gateway = Gateway(STACK)

    async def life():
        async with running(gateway) as url, httpx2.AsyncClient() as http:
            assert (await http.post(f"{url}/v1/chat/completions", json=BODY)).status_code == 200
            return (await http.get(f"{url}/health/readiness")).status_code, (
                await http.get(f"{url}/health")
            ).status_code

    assert [asyncio.run(life()) for _ in range(2)] == [(200, 200)] * 2


def test_it_serves_in_the_loop_where_it_started():
    gateway = Gateway(STACK)

    async def asked(asgi):
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(asgi), base_url="http://host") as http:
            return (await http.post("/v1/chat/completions", json=BODY)).status_code

    with asyncio.Runner() as home:
        assert home.run(asked(gateway)) == 200
        for asgi in (gateway, gateway.admin):
            with pytest.raises(RuntimeError, match="started in another event loop"):
                asyncio.run(asked(asgi))
        with pytest.raises(RuntimeError, match="started in another event loop"):
            asyncio.run(gateway.startup())
        assert home.run(asked(gateway)) == 200
        home.run(gateway.shutdown())
