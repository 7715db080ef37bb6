"""Reading a request from whatever ASGI server the gateway is mounted in: one message or many, with or without a length."""

import pytest

from gwcore.config import ServerConfig
from gwcore.dialect import Route
from gwcore.errors import BadRequest, TooLarge
from gwcore.ingest import ClientGone, ingest
from gwcore.load import Load
from gwcore.testing import fakes

LIMIT = 1024
SERVER = ServerConfig(max_body=LIMIT)


def body_of(size):
    empty = b'{"model":"fake/m","messages":[],"x":""}'
    return empty[:-2] + b"x" * (size - len(empty)) + empty[-2:]


async def read(*pieces, headers=(), route=None, query=b"", gone=False):
    """``gone``: the client leaves in place of the last piece."""
    call = fakes.call()
    call.query, call.model, call.asked = query, None, None
    if route is not None:
        call.route = route
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages[-1]["more_body"] = False
    if gone:
        messages[-1] = {"type": "http.disconnect"}
    left = iter(messages)

    async def receive():
        return next(left)

    await ingest(call, {"headers": list(headers)}, receive, SERVER, Load())
    return call


@pytest.mark.parametrize("parts", [1, 2, 5])
async def test_a_body_of_the_limit_is_read_and_one_byte_more_is_not(parts):
    def cut(body):
        step = -(-len(body) // parts)
        return [body[at : at + step] for at in range(0, len(body), step)]

    assert (await read(*cut(body_of(LIMIT)))).raw == body_of(LIMIT)
    with pytest.raises(TooLarge, match="max_body"):
        await read(*cut(body_of(LIMIT + 1)))


async def test_a_length_beyond_the_limit_is_refused_before_anything_is_read():
    with pytest.raises(TooLarge, match="1025"):
        await read(b"", headers=[(b"content-length", b"1025")], gone=True)
    assert (await read(body_of(LIMIT), headers=[(b"content-length", b"1024")])).document
    # an ASGI server may pass on what it does not understand itself
    assert (await read(body_of(100), headers=[(b"content-length", b"+1 2")])).document


@pytest.mark.parametrize("pieces", [1, 2])
async def test_a_client_that_leaves_has_asked_for_nothing(pieces):
    with pytest.raises(ClientGone):
        await read(*[b"{"] * pieces, gone=True)


async def test_one_credential_said_twice_is_one():
    bearer = b"Bearer sk-1"
    said = [(b"authorization", bearer), (b"x-api-key", b"sk-1"), (b"x-api-key", b""), (b"x-goog-api-key", b"sk-2")]
    assert (await read(body_of(100), headers=said)).credentials == ("sk-1", "sk-2")
    call = await read(body_of(100), headers=said, query=b"key=sk-2&key=sk-3&key=sk-3")
    assert call.credentials == ("sk-1", "sk-2", "sk-3")
    assert call.headers == []


async def test_identity_is_no_encoding_even_of_a_body_that_takes_none():
    raw = Route("POST", "/x", "x", body="raw", model="none")
    assert (await read(b"abc", headers=[(b"content-encoding", b" Identity ")], route=raw)).raw == b"abc"


async def test_a_model_that_may_be_left_out_is_read_where_it_is_there():
    optional = Route("POST", "/moderations", "moderations", model="optional")
    call = await read(b'{"input":"x"}', route=optional)
    assert call.model is None
    call = await read(b'{"input":"x","model":"fake/m"}', route=optional)
    assert call.model == call.asked == "fake/m"
    with pytest.raises(BadRequest, match="NUL"):
        await read(b'{"input":"x","model":"a\\u0000b"}', route=optional)
