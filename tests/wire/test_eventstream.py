"""Event streams of AWS: any chunking gives equal messages; no damage goes unseen."""

import itertools
import struct
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwcore.errors import Broken, Malformed
from gwcore.wire import eventstream
from gwcore.wire.eventstream import EventStreamReader, Message, encode

NAMES = st.text(st.characters(codec="ascii", categories=("L", "N"), include_characters=":-"), min_size=1, max_size=20)
MESSAGES = st.lists(
    st.tuples(st.dictionaries(NAMES, st.text(max_size=30), max_size=4), st.binary(max_size=300)), max_size=6
)


def read(*chunks, limit=eventstream.LIMIT):
    reader = EventStreamReader(limit)
    messages = [message for chunk in chunks for message in reader.feed(chunk)]
    reader.close()
    return messages


def framed(headers: bytes, payload: bytes = b"") -> bytes:
    """A message with correct checksums around any header block."""
    lengths = struct.pack(">II", len(headers) + len(payload) + 16, len(headers))
    front = lengths + struct.pack(">I", crc32(lengths)) + headers + payload
    return front + struct.pack(">I", crc32(front))


# The vectors of the Smithy specification's reference implementations (awslabs/aws-c-event-stream, tests/event_stream_message_tests):
# an empty message, and a payload with one header.
PUBLISHED = [
    ("000000100000000005c248eb7d98c8ff", [Message({}, b"")]),
    (
        "0000003d0000002007fd83960c636f6e74656e742d747970650700106170706c69636174696f6e2f6a736f6e7b27666f6f273a27626172277d8d9c08b1",
        [Message({"content-type": "application/json"}, b"{'foo':'bar'}")],
    ),
]


@pytest.mark.parametrize(("stream", "messages"), PUBLISHED)
def test_published_messages(stream, messages):
    raw = bytes.fromhex(stream)
    assert read(raw) == messages
    assert b"".join(encode(m.headers, m.payload) for m in messages) == raw


@given(MESSAGES, st.data())
def test_any_chunking_gives_equal_messages(messages, data):
    stream = b"".join(encode(*message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    edges = [0, *cuts, len(stream)]
    chunks = [stream[a:b] for a, b in itertools.pairwise(edges)]
    assert read(*chunks) == read(stream) == [Message(*message) for message in messages]
    assert read(*(stream[i : i + 1] for i in range(len(stream)))) == read(stream)


@given(MESSAGES.filter(bool), st.data())
def test_no_damaged_byte_goes_unseen(messages, data):
    stream = bytearray(b"".join(encode(*message) for message in messages))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((Malformed, Broken)):
        read(bytes(stream))


def test_without_the_checksum_damage_would_pass(monkeypatch):
    """The control: what the checks above rest on is the checksum, and nothing else sees this byte."""
    stream = bytearray(encode({":event-type": "chunk"}, b"payload"))
    stream[-6] ^= 1
    with pytest.raises(Malformed):
        read(bytes(stream))
    (expected,) = struct.unpack(">I", stream[-4:])
    real = crc32
    monkeypatch.setattr(eventstream, "crc32", lambda raw: expected if len(raw) > 8 else real(raw))
    assert read(bytes(stream))[0].payload != b"payload"


@given(MESSAGES.filter(bool), st.data())
def test_a_cut_is_told(messages, data):
    stream = b"".join(encode(*message) for message in messages)
    ends = {0}
    for message in messages:
        ends.add(max(ends) + len(encode(*message)))
    at = data.draw(st.integers(0, len(stream) - 1).filter(lambda n: n not in ends))
    with pytest.raises(Broken):
        read(stream[:at])


@given(st.binary(max_size=200))
def test_garbage_is_malformed_or_incomplete(garbage):
    try:
        messages = read(garbage)
    except (Malformed, Broken):
        return
    assert (
        b"".join(framed(b"", m.payload) if not m.headers else encode(m.headers, m.payload) for m in messages) == garbage
    )


@given(st.binary(max_size=60))
def test_headers_that_fit_their_checksum_still_may_be_garbage(block):
    try:
        (message,) = read(framed(block))
    except Malformed:
        return
    assert message.payload == b""


@pytest.mark.parametrize(
    ("block", "value"),
    [
        (b"\x00", True),
        (b"\x01", False),
        (b"\x02\xff", -1),
        (b"\x03\x00\x02", 2),
        (b"\x04\xff\xff\xff\xfe", -2),
        (b"\x05" + (1 << 40).to_bytes(8), 1 << 40),
        (b"\x06\x00\x03abc", b"abc"),
        (b"\x07\x00\x02\xc3\xa9", "é"),
        (b"\x08" + (1_700_000_000_000).to_bytes(8), 1_700_000_000_000),
        (b"\x09" + bytes(range(16)), bytes(range(16))),
    ],
)
def test_every_type_of_header(block, value):
    (message,) = read(framed(b"\x01n" + block + b"\x01z\x00"))
    assert message.headers == {"n": value, "z": True} and type(message.headers["n"]) is type(value)
    assert message.text("n") == (value if isinstance(value, str) else "") and message.text("absent") == ""


@pytest.mark.parametrize(
    "block",
    [b"\x01n\x0a", b"\x01n\x07\x00\x05abc", b"\x05n", b"\x01n", b"\x01n\x07\x00", b"\x01n\x07\x00\x01\xff", b"\xff", b"\x01n\x00\x01n\x00"],
)  # fmt: skip
def test_broken_headers(block):
    with pytest.raises(Malformed):
        read(framed(block))


@pytest.mark.parametrize("lengths", [(15, 0), (16, 1), (20, 20), (0, 0), (2**32 - 1, 0)])
def test_impossible_lengths_are_told_from_the_prelude_alone(lengths):
    prelude = struct.pack(">II", *lengths)
    with pytest.raises(Malformed, match="impossible"):
        EventStreamReader().feed(prelude + struct.pack(">I", crc32(prelude)))


def test_the_cap_is_told_before_the_payload_is_there():
    message = encode({}, b"x" * 100)
    assert read(message, limit=len(message))
    with pytest.raises(Malformed):
        EventStreamReader(len(message) - 1).feed(message[:12])


def test_a_megabyte_in_single_bytes_is_linear():
    stream = encode({}, b"x" * 1_000_000)
    reader = EventStreamReader()
    found = [message for i in range(len(stream)) for message in reader.feed(stream[i : i + 1])]
    assert [len(m.payload) for m in found] == [1_000_000]
