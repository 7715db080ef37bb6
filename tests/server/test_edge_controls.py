"""Negative controls of the edge table: for every row there is a server that answers otherwise than the row wants.

``stock`` is uvicorn as it comes, ``lenient`` our protocol on a parser told to be liberal, ``naive`` what one writes in an
afternoon: Python's ``int``, the last header wins, lines end at any line break.
"""

import asyncio

import pytest

from gwcore.server import edge_protocol
from gwcore.testing.server import running
from tests.server.test_edge import QUICK, TABLE, app

OURS = {
    "no host",
    "two hosts",
    "another host in the target",
    "70 kB header",
    "1000 headers",
    "many small headers, too many bytes",
    "long target",
    "1000 trailers",
    "another protocol, in an odd spelling",
    "identity, and chunked",
    "gzip, chunked",
    "no version",
    "version 2.0",
}
PARSERS = {"CL and TE", "NUL in a header", "folded line"}


class Lenient(edge_protocol(QUICK)):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_chunked_length=True,
            lenient_transfer_encoding=True,
        )


class Naive(asyncio.Protocol):
    def __init__(self, server_state, **_):
        self.open = server_state.connections  # uvicorn waits for these

    def connection_made(self, transport):
        self.transport = transport
        self.open.add(self)

    def connection_lost(self, exc):
        self.open.discard(self)

    def shutdown(self):
        self.transport.close()

    def data_received(self, data):
        head, _, body = data.partition(b"\r\n\r\n")
        headers = dict(line.partition(b": ")[::2] for line in head.splitlines()[1:])
        length = int(headers.get(b"content-length", b"0").split(b",")[-1])
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length + body[:length])
        self.transport.close()


def control(row):
    if row in OURS:
        return {"edge": False}
    return {"protocol": Lenient if row in PARSERS else Naive}


async def status_line(url, data):
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.readline(), 10)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("row", TABLE)
async def test_a_sloppier_server_fails_the_row(row):
    data, status = TABLE[row]
    async with running(app, **control(row)) as url:
        answer = await status_line(url, data)
        assert answer.startswith(b"HTTP/1.1 ") and not answer.startswith(b"HTTP/1.1 %d " % status)
