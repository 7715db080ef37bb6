import asyncio
import contextlib
import math
import ssl
from urllib.parse import urlsplit

import orjson
import pytest
import trustme

from gwcore.testing.upstream import Answer, FakeUpstream, chat_stream, sse
from gwcore.wire.sse import SseReader

GET = b"GET /v1/x?y=1 HTTP/1.1\r\nHost: h\r\n\r\n"
LENGTH = b"content-type: application/json\r\ncontent-length: "


@contextlib.asynccontextmanager
async def connection(up, tls=None):
    address = urlsplit(up.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, ssl=tls)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


async def until_end(reader) -> tuple[bytes, str]:
    """What came, and how it ended."""
    got = b""
    while True:
        try:
            piece = await asyncio.wait_for(reader.read(65536), 5)
        except ConnectionResetError:
            return got, "reset"
        if not piece:
            return got, "closed"
        got += piece


async def ask(up, answer=None, request=GET) -> tuple[bytes, str]:
    if answer:
        up.script(answer)
    async with connection(up) as (reader, writer):
        writer.write(request)
        return await until_end(reader)


async def ask_open(up, answer, size, request=GET) -> tuple[bytes, bool]:
    """The first ``size`` bytes of an answer, and whether the connection is silent and open afterwards."""
    up.script(answer)
    async with connection(up) as (reader, writer):
        writer.write(request)
        got = await asyncio.wait_for(reader.readexactly(size), 5)
        try:
            more = await asyncio.wait_for(reader.read(1), 0.05)
        except TimeoutError:
            return got, True
        return got + more, False


async def test_requests_are_recorded_and_answered_in_order_over_one_connection():
    async with FakeUpstream(Answer(429, (("Retry-After", "7"), ("X", "1"), ("X", "2")), b"{}")) as up:
        up.script(lambda seen: Answer(529, body=seen.target.encode(), framing="length"))
        async with connection(up) as (reader, writer):
            writer.write(b"POST /a HTTP/1.1\r\nA: 1\r\na:2\r\nContent-Length: 9\r\n\r\n" + b'{"a":"b"}')
            first = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nX: 1\r\nX: 2\r\n" + LENGTH + b"2\r\n\r\n{}"
            assert await reader.readexactly(len(first)) == first
            writer.write(
                b"PUT /b?c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\nT: 1\r\n\r\n"[
                    : -0 or None
                ]
            )
            second = b"HTTP/1.1 529 Unassigned\r\n" + LENGTH + b"4\r\n\r\n/b?c"
            assert await reader.readexactly(len(second)) == second
            writer.write(GET)
            assert (await reader.readuntil(b"\r\n\r\n{}")).startswith(b"HTTP/1.1 200 OK\r\n")
        one, two, three = up.requests
        assert (one.method, one.target, one.document) == ("POST", "/a", {"a": "b"})
        assert one.headers == [("A", "1"), ("a", "2"), ("Content-Length", "9")]
        assert (one.header("A"), one.header("b")) == ("1", None)
        assert (two.method, two.target, two.body) == ("PUT", "/b?c", b"abc")
        assert one.at <= two.at <= three.at
        assert up.accepted == 1


async def test_expect_continue_is_granted():
    async with FakeUpstream() as up, connection(up) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"x")
        await reader.readuntil(b"{}")
        assert up.requests[0].body == b"x"


@pytest.mark.parametrize(
    ("framing", "wire"),
    [
        ("length", b"content-length: 5\r\n\r\nab---"),
        ("chunked", b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n3\r\n---\r\n0\r\n\r\n"),
        ("close", b"connection: close\r\n\r\nab---"),
    ],
)
async def test_framings(framing, wire):
    async with FakeUpstream() as up:
        answer = Answer(body=[b"ab", b"", b"---"], framing=framing, hang_up=framing != "close")
        got, end = await ask(up, answer)
        assert got == b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n" + wire
        assert end == "closed"


@pytest.mark.parametrize(("status", "method"), [(204, b"GET"), (304, b"GET"), (200, b"HEAD")])
async def test_no_body_where_none_may_be(status, method):
    async with FakeUpstream() as up:
        got, _ = await ask(up, Answer(status, body=b"x", hang_up=True), GET.replace(b"GET", method))
        assert got.endswith(b"\r\n\r\n")
        assert (b"content-length: 1" in got) == (method == b"HEAD")


async def test_pieces_are_cut_at_hostile_offsets():
    body = b"data: \xf0\x9f\x98\x80\n\n"
    assert Answer(body=body, split=[1]).pieces() == [bytes([byte]) for byte in body]
    assert Answer(body=[b"abc", b"defg"], split=(2, 3)).pieces() == [b"ab", b"cde", b"fg"]
    assert Answer(body=b"a,b", split=lambda whole: whole.split(b",")).pieces() == [b"a", b"b"]
    with pytest.raises(ValueError, match="at least one byte"):
        Answer(body=b"abc", split=(2, 0))
    async with FakeUpstream() as up:
        got, _ = await ask(up, Answer(body=b"abcde", split=(2,), framing="chunked", hang_up=True))
        assert got.endswith(b"\r\n\r\n2\r\nab\r\n2\r\ncd\r\n1\r\ne\r\n0\r\n\r\n")


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    ("framing", "cut", "tail"),
    [
        ("length", 0, b""),
        ("length", 3, b"abc"),
        ("chunked", 3, b"2\r\nab\r\n2\r\nc"),
        ("chunked", 4, b"2\r\nab\r\n2\r\ncd\r\n"),
        ("chunked", 5, b"2\r\nab\r\n2\r\ncd\r\n1\r\ne\r\n"),
        ("close", 1, b"a"),
    ],
)
async def test_a_cut_comes_after_exactly_so_many_bytes(reset, framing, cut, tail):
    async with FakeUpstream() as up:
        answer = Answer(body=b"abcde", split=(2,), framing=framing, cut_after=cut, reset=reset)
        got, end = await ask(up, answer)
        assert got.partition(b"\r\n\r\n")[2] == tail
        assert end == ("reset" if reset else "closed")
        assert up.requests[0].closed_at is None, "the client did not do it"


@pytest.mark.parametrize(
    ("answer", "got", "end"),
    [
        (Answer(reset=True), b"", "reset"),
        (Answer(raw=b""), b"", "closed"),
        (Answer(raw=b"220 smtp ready\r\n"), b"220 smtp ready\r\n", "closed"),
        (Answer(raw=b"HTTP/1.1 200", reset=True), b"HTTP/1.1 200", "reset"),
    ],
)
async def test_no_answer_at_all(answer, got, end):
    async with FakeUpstream() as up:
        assert await ask(up, answer) == (got, end)


@pytest.mark.parametrize(
    ("stall", "tail"), [(0, b""), (3, b"3\r\nabc\r\n"), (4, b"3\r\nabc\r\n3\r\nd"), (99, b"3\r\nabc\r\n3\r\ndef\r\n")]
)
async def test_a_stall_comes_after_exactly_so_many_bytes(stall, tail):
    async with FakeUpstream() as up:
        answer = Answer(body=[b"abc", b"def"], stall_after=stall)
        wire = answer.head(6) + tail
        assert await ask_open(up, answer, len(wire)) == (wire, True)
        await up.requests[0].gone()


async def test_a_head_can_be_withheld_for_ever():
    async with FakeUpstream() as up:
        assert await ask_open(up, Answer(delay_head=math.inf), 0) == (b"", True)
        await up.requests[0].gone()


async def test_delays_are_waited_for(monkeypatch):
    waited = []
    real = asyncio.sleep

    async def sleep(seconds):
        waited.append(seconds)
        await real(0)

    async with FakeUpstream() as up:
        monkeypatch.setattr(asyncio, "sleep", sleep)
        await ask(up, Answer(body=[b"a", b"b", b"c"], delay_head=3, delay_first=2, gap=1, hang_up=True))
    assert waited == [3, 2, 1, 1]


async def test_the_end_of_the_client_is_recorded_while_an_answer_streams():
    async with FakeUpstream(Answer(body=[b"x"] * 1_000_000, gap=0.001)) as up:
        async with connection(up) as (reader, writer):
            writer.write(GET)
            await up.received()
            await reader.readuntil(b"1\r\nx\r\n")
            assert up.open == 1
            assert up.requests[0].closed_at is None
        assert await up.requests[0].gone() >= up.requests[0].at


async def test_the_end_of_a_client_that_does_not_read_is_recorded():
    async with FakeUpstream(Answer(body=b"x" * 50_000_000)) as up:
        async with connection(up) as (_, writer):
            writer.write(GET)
            await up.received()
            writer.transport.abort()
        await up.requests[0].gone()


async def test_waiting_in_vain_times_out():
    async with FakeUpstream() as up:
        with pytest.raises(TimeoutError):
            await up.received(within=0.01)
        async with connection(up) as (reader, writer):
            writer.write(GET)
            await reader.readuntil(b"{}")
            with pytest.raises(TimeoutError):
                await up.requests[0].gone(within=0.01)


async def test_a_hang_up_is_unannounced():
    async with FakeUpstream() as up:
        got, end = await ask(up, Answer(body=b"{}", hang_up=True))
        assert b"connection" not in got.lower()
        assert end == "closed"


async def test_its_end_closes_connections_and_leaves_no_task():
    before = asyncio.all_tasks()
    async with contextlib.AsyncExitStack() as clients:
        async with FakeUpstream(Answer(delay_head=math.inf)) as up:
            reader, writer = await clients.enter_async_context(connection(up))
            await clients.enter_async_context(connection(up))
            writer.write(GET)
            await up.received()
        assert (await until_end(reader))[1] == "reset"
        assert up.open == 0
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
    assert up.requests[0].closed_at is None, "the client did not do it"


async def test_a_script_that_raises_fails_the_test():
    def script(seen):
        raise LookupError(seen.target)

    with pytest.raises(LookupError, match="/v1/x"):
        async with FakeUpstream(script) as up:
            assert await ask(up) == (b"", "closed")


@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.0\r\n\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
async def test_a_request_that_is_not_http_fails_the_test(request_):
    with pytest.raises(ValueError):
        async with FakeUpstream() as up:
            await ask(up, request=request_)


async def test_tls():
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    client = ssl.create_default_context()
    ca.configure_trust(client)
    async with FakeUpstream(tls=context) as up, connection(up, client) as (reader, writer):
        assert up.url.startswith("https://127.0.0.1:")
        writer.write(GET)
        assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 200 OK")


def test_sse_frames():
    assert sse("a", b"b", {"c": 1}, ("d", {"e": 2}), ("f", "g")) == [
        b"data: a\n\n",
        b"data: b\n\n",
        b'data: {"c":1}\n\n',
        b'event: d\ndata: {"e":2}\n\n',
        b"event: f\ndata: g\n\n",
    ]


def said(pieces) -> list[object]:
    """What each frame of a chat stream says."""
    reader = SseReader()
    frames = [frame.data for frame in reader.feed(b"".join(pieces))]
    assert reader.close() == []
    return [word(orjson.loads(data)) if data != b"[DONE]" else "done" for data in frames]


def word(chunk) -> object:
    if "usage" in chunk:
        return chunk["usage"]["total_tokens"]
    (choice,) = chunk["choices"]
    return choice["finish_reason"] or choice["delta"]["content"]


def test_chat_streams():
    assert said(chat_stream("Hel", "lo")) == ["", "Hel", "lo", "stop", 10, "done"]
    assert said(chat_stream("x", usage_first=True, done=False)) == ["", "x", 10, "stop"]
    assert said(chat_stream("x", usage=None, finish="length")) == ["", "x", "length", "done"]
    assert said(chat_stream("x", finish=None, usage=(1, 1))) == ["", "x", 2, "done"]
