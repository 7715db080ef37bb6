"""The edge table of the design: what no stock ASGI server passes, each row on a raw socket."""

import asyncio
import re

import pytest

from gwcore.server import EdgeLimits, edge_protocol
from gwcore.testing.server import running

OK = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi"


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["path"] == "/slow":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(6):
            await asyncio.sleep(0.1)
            await send({"type": "http.response.body", "body": b"tick", "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    if scope["path"] == "/wait":
        left = asyncio.Event()
        scope["extensions"]["gwcore.disconnect"](left.set)
        await left.wait()
        app.left += 1
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


app.left = 0
QUICK = EdgeLimits(header_timeout=0.4, body_timeout=0.4, min_body_rate=1_000_000, max_connections=2500)
PATIENT = EdgeLimits(header_timeout=20, body_timeout=20)
"""Where it is not time that ends a request, a busy machine may take its time."""


async def raw(url, data, *, wait=5.0, pause=None):
    """What comes back until the server closes, or ``wait`` seconds."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        if pause is not None:
            await asyncio.sleep(pause[0])
            writer.write(pause[1])
        async with asyncio.timeout(wait):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


def head(*lines, body=b""):
    return b"\r\n".join((b"POST /x HTTP/1.1", *lines)) + b"\r\n\r\n" + body


CHUNKED = b"transfer-encoding: chunked"
TABLE = {
    "CL and TE": (head(b"host: a", b"content-length: 2", b"transfer-encoding: chunked", body=b"0\r\n\r\n"), 400),
    "two lengths": (head(b"host: a", b"content-length: 2", b"content-length: 3", body=b"hi!"), 400),
    "a list of lengths": (head(b"host: a", b"content-length: 3, 3", body=b"hi!"), 400),
    "signed length": (head(b"host: a", b"content-length: +2", body=b"hi"), 400),
    "length with underscore": (head(b"host: a", b"content-length: 0_2", body=b"hi"), 400),
    "xchunked": (head(b"host: a", b"transfer-encoding: xchunked", body=b"0\r\n\r\n"), 400),
    "identity, and chunked": (head(b"host: a", b"transfer-encoding: identity", CHUNKED, body=b"0\r\n\r\n"), 400),
    "gzip, chunked": (head(b"host: a", b"transfer-encoding: gzip, chunked", body=b"0\r\n\r\n"), 400),
    "chunked twice": (head(b"host: a", CHUNKED, CHUNKED, body=b"0\r\n\r\n"), 400),
    "no version": (b"POST /xHTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", 400),
    "version 2.0": (b"POST /x HTTP/2.0\r\nhost: a\r\ncontent-length: 0\r\n\r\n", 400),
    "NUL in a header": (head(b"host: a", b"x: a\0b", b"content-length: 0"), 400),
    "bare CR": (head(b"host: a", b"x: a\rb", b"content-length: 0"), 400),
    "folded line": (head(b"host: a", b"x: a\r\n b", b"content-length: 0"), 400),
    "bare LF": (b"POST /x HTTP/1.1\nhost: a\ncontent-length: 0\n\n", 400),
    "bad chunk size": (head(b"host: a", b"transfer-encoding: chunked", body=b"zz\r\nhi\r\n"), 400),
    "chunk size overflow": (head(b"host: a", b"transfer-encoding: chunked", body=b"f" * 17 + b"\r\nhi"), 400),
    "no host": (head(b"content-length: 0"), 400),
    "two hosts": (head(b"host: a", b"host: b", b"content-length: 0"), 400),
    "another host in the target": (b"POST http://b/x HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", 400),
    "70 kB header": (head(b"host: a", b"x: " + b"a" * 70_000, b"content-length: 0"), 431),
    "1000 headers": (head(b"host: a", *[b"x%d: 1" % n for n in range(1000)], b"content-length: 0"), 431),
    "many small headers, too many bytes": (head(b"host: a", *[b"x%d: " % n + b"a" * 900 for n in range(50)]), 431),
    "long target": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 431),
    "1000 trailers": (head(b"host: a", CHUNKED, body=b"0\r\n" + b"x: 1\r\n" * 1000 + b"\r\n"), 431),
    "another protocol, in an odd spelling": (
        head(b"host: a", b"connection: uPgRaDe", b"uPgRaDe: h2c", b"content-length: 0"),
        400,
    ),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 4, 400),
}


@pytest.mark.parametrize("row", TABLE)
async def test_the_edge_table(row):
    data, status = TABLE[row]
    async with running(app, protocol=edge_protocol(PATIENT)) as url:
        answer = await raw(url, data)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:100]
        assert answer.count(b"HTTP/1.1") == 1 and b"connection: close" in answer.lower()
        assert b"hi" in await raw(url, OK + b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("start", "pause"),
    [
        (b"", None),
        (b"POST /x HTTP/1.1\r\nhost: a\r\n", None),
        (b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhi", None),
        (OK, (0.1, b"POST /y HTTP/1.1\r\nho")),
    ],
    ids=["silent", "slow head", "slow body", "slow second head"],
)
async def test_slow_clients_are_closed(start, pause):
    async with running(app, protocol=edge_protocol(QUICK)) as url:
        answer = await raw(url, start, pause=pause, wait=4)
        assert b"408" in answer


async def test_a_long_stream_outlives_every_deadline():
    async with running(app, protocol=edge_protocol(QUICK)) as url:
        answer = await raw(url, b"GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert answer.count(b"tick") == 6 and answer.endswith(b"0\r\n\r\n")


async def test_pipelined_requests_are_answered_in_order():
    async with running(app, protocol=edge_protocol(PATIENT)) as url:
        second = b"POST /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 3\r\n\r\nyou"
        answer = await raw(url, OK + second)
        assert answer.index(b"\r\n\r\nhi") < answer.index(b"\r\n\r\nyou")


ENDLESS = {"a trailer": b"0\r\nx: ", "a chunk extension": b"1;x=", "the zeros of a chunk size": b"0"}


@pytest.mark.parametrize("what", ENDLESS)
async def test_what_the_parser_gathers_has_a_bound(what):
    """It would keep a trailer of any length, and copy it with each packet; nobody has said yet who sends it."""
    start = head(b"host: a", CHUNKED, b"connection: close", body=ENDLESS[what])
    end = b"\r\n\r\n" if what == "a trailer" else b"1\r\nh\r\n0\r\n\r\n"
    async with running(app, protocol=edge_protocol(PATIENT)) as url:
        assert (await raw(url, start, pause=(0.1, b"0" * 99_000))).startswith(b"HTTP/1.1 431 ")
    async with running(app, edge=False) as url:  # the control
        assert (await raw(url, start, pause=(0.1, b"0" * 99_000 + end))).startswith(b"HTTP/1.1 200 ")


async def named(scope, receive, send):
    """Says which headers there are once the body is read."""
    if scope["type"] == "lifespan":
        return
    while (await receive()).get("more_body"):
        pass
    said = b",".join(name for name, _ in scope["headers"]) + b";"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})


TRAILED = head(b"host: a", CHUNKED, b"connection: close", body=b"2\r\nhi\r\n0\r\nauthorization: Bearer x\r\n\r\n")


@pytest.mark.parametrize("at", [len(TRAILED), TRAILED.index(b"0\r\nauth")], ids=["at once", "later"])
async def test_a_trailer_is_no_header(at):
    """A proxy before us looked at the headers: their credentials, and the addresses that it vouches for."""
    async with running(named, lifespan="off", protocol=edge_protocol(PATIENT)) as url:
        answer = await raw(url, TRAILED[:at], pause=(0.1, TRAILED[at:]))
        assert answer.endswith(b"\r\n\r\nhost,transfer-encoding,connection;")


async def test_control_a_stock_server_takes_it_for_one():
    async with running(named, edge=False) as url:
        assert b"authorization;" in await raw(url, TRAILED)


OFFERS = [
    b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c",
    b"Upgrade: websocket\r\nConnection: upgrade",
    b"connection: upgrade\r\nUPGRADE : x".replace(b" :", b":"),
]
HIDDEN = b"GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n"


async def smuggled(url, offer):
    """How many requests the server saw in one whose body looks like another."""
    request = head(b"host: a", offer, b"content-length: %d" % len(HIDDEN))
    answer = await raw(url, request, pause=(0.1, HIDDEN + LAST))
    return answer.count(b"HTTP/1.1 200"), answer


LAST = b"POST /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi"


@pytest.mark.parametrize("offer", OFFERS)
async def test_an_offer_of_another_protocol_is_passed_over(offer):
    """Java's client makes one with each request; its body is a body, and no further request."""
    async with running(app, protocol=edge_protocol(PATIENT)) as url:
        seen, answer = await smuggled(url, offer)
        assert seen == 2 and HIDDEN in answer


async def test_control_a_stock_server_takes_the_body_for_a_request():
    async with running(app, edge=False) as url:
        seen, answer = await smuggled(url, OFFERS[0])
        assert seen == 3 and HIDDEN not in answer


async def early(scope, receive, send):
    """Answers before it has read the body."""
    if scope["type"] != "lifespan":
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("rest", "statuses"),
    [
        (b"", [b"401"]),
        (b"i" + b"POST /x HTTP/1.1\r\nho", [b"401", b"408"]),
        (b"i" + b"no HTTP\r\n\r\n", [b"401", b"400"]),
    ],
    ids=["its body does not come", "control: the next head does not", "control: the next is not HTTP"],
)
async def test_a_request_is_answered_once(rest, statuses):
    limits = EdgeLimits(header_timeout=2.5, body_timeout=2.5, min_body_rate=1_000_000)
    async with running(early, lifespan="off", protocol=edge_protocol(limits)) as url:
        answer = await raw(url, head(b"host: a", b"content-length: 2", body=b"h"), pause=(0.1, rest), wait=10)
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == statuses


async def test_a_client_that_leaves_is_told_once():
    app.left = 0
    async with running(app, protocol=edge_protocol(PATIENT)) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.sleep(0.1)
        writer.close()
        for _ in range(100):
            if app.left:
                break
            await asyncio.sleep(0.01)
    assert app.left == 1


async def test_2000_silent_connections_do_not_keep_a_client_out():
    limits = EdgeLimits(header_timeout=30, max_connections=2500)
    async with running(app, protocol=edge_protocol(limits)) as url:
        host, port = url.removeprefix("http://").split(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(2000)]
        assert b"hi" in await raw(url, OK.replace(b"host: a", b"host: a\r\nconnection: close"))
        for _, writer in silent:
            writer.transport.abort()
        await asyncio.sleep(0.05)


async def test_connections_over_the_cap_are_refused():
    async with running(app, protocol=edge_protocol(EdgeLimits(max_connections_per_ip=2))) as url:
        host, port = url.removeprefix("http://").split(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        await asyncio.sleep(0.05)
        answer = await raw(url, b"")
        assert answer.startswith(b"HTTP/1.1 503") and b"\r\nretry-after: 1\r\n" in answer
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
