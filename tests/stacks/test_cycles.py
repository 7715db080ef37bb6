"""A call that is over goes with its last reader, and a connection that is gone: the cyclic collector, which stops the world, finds nothing of it.

It runs after 50,000 new objects: hundreds of prompts would wait for it, and those of refused calls may be as large as any.
"""

import asyncio
import gc
from contextlib import contextmanager

import orjson
import pytest
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gwcore import call as module
from gwcore.call import Attempt, Call
from gwcore.detached import Detached
from gwcore.dispatch import Dispatch
from gwcore.errors import BadRequest
from gwcore.gateway import Gateway
from gwcore.ids import new_id
from gwcore.reply import Reply
from gwcore.server.protocol import EdgeLimits, EdgeProtocol, edge_protocol
from gwcore.testing import fakes
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream, chat_stream
from gwcore.translate import Translation
from gwcore.wire.transport import Request
from tests.stacks.raw import connect, exchange, read_response, request_bytes

STACK = """gwcore: 1
stores: {{hot: 'memory:'}}
upstreams:
  up: {{provider: openai-compatible, base_url: '{}/v1', prices: {{m: {{input: $1/M, output: $1/M}}}}}}
server: {{open: true}}
stack:
  - ratelimit: {{store: hot, rules: [{{per: global, requests: 100M/min, tokens: 1000M/min}}]}}
  - fallback: {{deadline: 60s}}
watch: [prometheus: {{}}]
"""
IDLE = "gwcore: 1\nupstreams: {demo: {provider: demo}}\nserver: {open: true}\nstack: []\n"
LIMITS = EdgeLimits(header_timeout=0.1)
ASKS = b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
SLOW = b"GET /readyz HTTP/1.1\r\nhost: a\r\n"
ANSWERS = {
    "whole": Answer(
        body=b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}'
    ),
    "stream": Answer(body=chat_stream("a", "b", usage=(1, 1))),
}
FAILURES = {
    "refused": Answer(status=400, body=b'{"error": {"message": "no"}}'),
    "refused on every try": Answer(status=500, body=b"{}"),
    "cut": Answer(body=chat_stream("a", "b"), cut_after=300),
    "not HTTP": Answer(raw=b"no"),
}


@contextmanager
def left_to_the_collector(kinds):
    """The objects of these kinds that only the collector can free, in a list that is filled at the end of the block."""
    found = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found += [one for one in gc.garbage if isinstance(one, kinds)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def circles(answer, stream, model="up/m"):
    """Objects of calls that only the collector can free."""
    body = orjson.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": "x"}]})
    async with FakeUpstream() as up:
        up.default = answer
        async with running(Gateway(STACK.format(up.url), env={})) as url:
            with left_to_the_collector(Call | Reply | Attempt | Exception) as found:
                for _ in range(5):
                    await exchange(url, "POST", "/v1/chat/completions", body)
            return found


@pytest.mark.parametrize("kind", ANSWERS)
async def test_a_call_that_is_over_is_in_no_circle(kind):
    assert await circles(ANSWERS[kind], kind == "stream") == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("kind", FAILURES)
async def test_a_call_that_failed_is_in_no_circle(kind, stream):
    assert await circles(FAILURES[kind], stream) == []
    assert await circles(FAILURES[kind], stream, "nobody") == []  # refused before it is sent


async def test_the_circles_of_a_call_that_nobody_cuts_are_found(monkeypatch):
    monkeypatch.setattr(Call, "part", lambda _self, _outcome: None)
    assert await circles(ANSWERS["whole"], stream=False)


@pytest.mark.parametrize("kind", FAILURES)
async def test_the_circles_of_an_error_that_keeps_its_frames_are_found(monkeypatch, kind):
    monkeypatch.setattr(module, "leave_frames", lambda _error: None)
    assert any(isinstance(one, Call) for one in await circles(FAILURES[kind], stream=True))


@pytest.mark.parametrize("cut", [True, False], ids=["", "control"])
async def test_a_call_without_a_client_is_in_no_circle(monkeypatch, cut):
    if not cut:
        monkeypatch.setattr(module, "leave_frames", lambda _error: None)

    async def service(call):
        raise BadRequest(call.id)

    with left_to_the_collector(Call | Exception) as found:
        await Detached().call(fakes.call(), service)
    assert (found == []) is cut


async def left_behind(protocol):
    """Connections of clients that only the collector can free: one that asked and left, one that never finished its head."""
    async with running(Gateway(IDLE, env={}), protocol=protocol) as url:
        with left_to_the_collector(EdgeProtocol) as found:
            for head in (ASKS, SLOW):
                reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
                writer.write(head)
                await reader.read()
                writer.close()
            await asyncio.sleep(0.05)
        return found


def test_a_connection_that_is_gone_is_in_no_circle():
    assert uvloop.run(left_behind(edge_protocol(LIMITS))) == []


def test_the_circles_of_a_connection_that_nobody_cuts_are_found(monkeypatch):
    protocol = edge_protocol(LIMITS)
    monkeypatch.setattr(protocol, "connection_lost", HttpToolsProtocol.connection_lost)
    assert uvloop.run(left_behind(protocol))


async def kept(protocol):
    """Calls that connections keep which wait for their next request."""
    prompt = new_id()  # other tests leave calls, too
    async with FakeUpstream() as up:
        up.default = ANSWERS["whole"]
        async with running(Gateway(STACK.format(up.url), env={}), protocol=protocol) as url:
            reader, writer = await connect(url)
            for model in ("up/m", "nobody"):  # the second is refused
                body = orjson.dumps({"model": model, "messages": [{"role": "user", "content": prompt}]})
                writer.write(request_bytes(url, "POST", "/v1/chat/completions", body))
                await asyncio.wait_for(read_response(reader), 10)
                await asyncio.sleep(0.05)
                if found := [one for one in gc.get_objects() if isinstance(one, Call) and prompt.encode() in one.raw]:
                    break
            writer.close()
            return len(found)


def test_an_idle_connection_keeps_no_call():
    assert uvloop.run(kept(edge_protocol(LIMITS))) == 0


def test_the_call_of_an_idle_connection_that_keeps_it_is_found(monkeypatch):
    """The control: what tells a call that its client left has the call."""
    protocol, told = edge_protocol(LIMITS), []
    register = protocol._register
    monkeypatch.setattr(protocol, "_register", lambda self, left: (told.append(left), register(self, left)))
    assert uvloop.run(kept(protocol)) == 1


async def held_while_streaming(path):
    """What holds the body of the upstream's request while its answer streams."""
    prompt = new_id()
    asked = {"model": "up/m", "stream": True, "max_tokens": 9, "messages": [{"role": "user", "content": prompt}]}
    async with FakeUpstream() as up:
        said = chat_stream("a", "b")
        up.default = Answer(body=said, stall_after=len(b"".join(said)) - 20)
        async with running(Gateway(STACK.format(up.url), env={})) as url:
            reader, writer = await connect(url)
            writer.write(request_bytes(url, "POST", path, orjson.dumps(asked)))
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            kinds = [one for one in gc.get_objects() if isinstance(one, Request | Translation)]
            writer.close()
            return [one for one in kinds if prompt.encode() in one.body]


PATHS = pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"], ids=["own dialect", "translated"])


@PATHS
async def test_a_request_that_is_sent_is_not_held_while_its_answer_streams(path):
    assert await held_while_streaming(path) == []


@PATHS
async def test_a_request_that_a_frame_holds_while_its_answer_streams_is_found(monkeypatch, path):
    """The control."""
    frames, ask = [], Dispatch._ask
    monkeypatch.setattr(Dispatch, "_ask", lambda self, *given: (frames.append(given), ask(self, *given))[1])
    assert len(await held_while_streaming(path)) == 1
