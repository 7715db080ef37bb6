"""A stranger is refused by the head of a request: nobody reads, decodes or parses what he sends behind it."""

import asyncio
import gzip
import json
from urllib.parse import urlsplit

import pytest

LARGE = b"content-length: 1000000"
CHUNKED = b"transfer-encoding: chunked"


async def answered(url, key, *lines, body=b""):
    """The first line of the answer to a head, and to no more of a body than this; ``b""`` where none comes."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    head = [b"POST /v1/chat/completions HTTP/1.1", b"host: x", b"authorization: Bearer " + key.encode(), *lines]
    writer.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
    try:
        return await asyncio.wait_for(reader.readline(), 1)
    except TimeoutError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("line", [LARGE, CHUNKED])
async def test_a_stranger_is_refused_before_a_large_body_is_read(sqlite_api, line):
    assert b" 401 " in await answered(sqlite_api.url, "sk-nobody", line)


async def test_a_strangers_body_is_not_decoded(sqlite_api):
    bomb = gzip.compress(b"[" * 5_000_000)
    length = b"content-length: %d" % len(bomb)
    seen = await answered(sqlite_api.url, "sk-nobody", length, b"content-encoding: gzip", body=bomb)
    assert b" 401 " in seen


async def test_who_is_known_is_waited_for_and_let_in(sqlite_api, admin_key):
    assert await answered(sqlite_api.url, admin_key, LARGE) == b""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 300_000}]}).encode()
    for sent, *lines in ((body,), (gzip.compress(body), b"content-encoding: gzip")):
        length = b"content-length: %d" % len(sent)
        assert b" 200 " in await answered(sqlite_api.url, admin_key, length, *lines, body=sent)


async def test_control_without_the_door_the_stranger_is_waited_for(sqlite_api, monkeypatch):
    monkeypatch.setattr(sqlite_api.gateway.stack, "door", None)
    assert await answered(sqlite_api.url, "sk-nobody", LARGE) == b""
