import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gwcore.errors import Malformed
from gwcore.wire.sse import Frame, SseReader, encode


def read(*chunks: bytes, limit: int = 1 << 20) -> list[Frame]:
    reader = SseReader(limit)
    return [frame for chunk in chunks for frame in reader.feed(chunk)] + reader.close()


def seen(*chunks: bytes) -> list[tuple[str, bytes]]:
    return [(frame.event, frame.data) for frame in read(*chunks)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: x\n\n", [("", b"x")]),
        (b"data:x\n\n", [("", b"x")]),
        (b"data:  x \n\n", [("", b" x ")]),
        (b"data: x\r\n\r\n", [("", b"x")]),
        (b"data: x\r\rdata: y\r\r", [("", b"x"), ("", b"y")]),
        (b"data: x\r\n\ndata: y\n\r\n", [("", b"x"), ("", b"y")]),
        (b"\xef\xbb\xbfdata: x\n\ndata: y\n\n", [("", b"x"), ("", b"y")]),
        (b"data: x\n\n\xef\xbb\xbfdata: y\n\n", [("", b"x"), ("", b"")]),  # a BOM is one at the beginning only
        (b"data: a\ndata: b\ndata\ndata:\n\n", [("", b"a\nb\n\n")]),
        (b"event: ping\ndata: {}\n\n", [("ping", b"{}")]),
        (b"data: {}\nevent:ping\n\n", [("ping", b"{}")]),
        (b"event: a\nevent: b\ndata: x\n\n", [("b", b"x")]),
        (b"event: \xff\ndata: x\n\n", [("\ufffd", b"x")]),
        (b"event: ping\n\n", [("ping", b"")]),
        (b"id: 7\nretry: 10\ndata: x\n\n", [("", b"x")]),
        (b"data: x\nfoo: y\nDATA: z\n data: w\n\n", [("", b"x")]),
        (b": ping\ndata: x\n\n", [("", b"x")]),
        (b"\n\n\ndata: x\n\n", [("", b""), ("", b"x")]),
        (b"data: a\x0bb\x0cc\xc2\x85d\xe2\x80\xa8e\n\n", [("", b"a\x0bb\x0cc\xc2\x85d\xe2\x80\xa8e")]),
        (b"data: a:b: c\n\n", [("", b"a:b: c")]),
        (b"data: [DONE]", [("", b"[DONE]")]),
        (b"data: [DONE]\n", [("", b"[DONE]")]),
        (b"data: [DONE]\r\n\r", [("", b"[DONE]")]),
        (b"", []),
    ],
)
def test_fields(stream, events):
    assert seen(stream) == events


def test_comments_are_frames_of_their_own():
    frames = read(b": ping\n\nretry: 5\n\ndata: x\n\n: processing\r\n\r\n")
    assert [frame.comment for frame in frames] == [True, False, False, True]
    assert [frame.raw for frame in frames] == [b": ping\n\n", b"retry: 5\n\n", b"data: x\n\n", b": processing\r\n\r\n"]


def test_one_frame_can_be_dropped():
    stream = b": ping\n\nevent: a\r\ndata: 1\r\n\r\nevent: b\ndata:2\n\ndata: 3"
    kept = b"".join(frame.raw for frame in read(stream) if frame.data != b"2")
    assert kept == stream.replace(b"event: b\ndata:2\n\n", b"")


def test_a_frame_is_given_out_with_its_last_byte():
    reader = SseReader()
    assert reader.feed(b"data: x\n") == []
    assert [frame.data for frame in reader.feed(b"\ndata: y")] == [b"x"]
    assert reader.feed(b"\r\n\r") == []
    assert [frame.raw for frame in reader.feed(b"\n")] == [b"data: y\r\n\r\n"]
    assert reader.close() == []


def test_close_gives_the_rest_once():
    reader = SseReader()
    reader.feed(b"data: x")
    assert [frame.raw for frame in reader.close()] == [b"data: x"]
    assert reader.close() == []


LINES = st.sampled_from(
    [
        b"",
        b"data: x",
        b"data:y",
        b"data",
        b": c",
        b":",
        b"event: e",
        b"event",
        b"id: 1",
        b"\xef\xbb\xbf",
        b"data: \xf0\x9f\x98\x80",
        b"junk",
    ]
)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=12).map(
    lambda lines: b"".join(line + end for line, end in lines)
) | st.text("d\r\n:ae", max_size=30).map(str.encode)


def by_the_book(stream: bytes) -> list[tuple[str, bytes]]:
    """The standard's algorithm, line by line, for what is dispatched; an unfinished block counts as finished."""
    events, event, data = [], b"", None
    for line in [*re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf")), b""]:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            events += [] if data is None else [(event.decode(), b"\n".join(data))]
            event, data = b"", None
        elif name == b"data":
            data = [*(data or []), value]
        elif name == b"event":
            event = value
    return events


@given(STREAMS, st.lists(st.integers(0, 200), max_size=8))
@example(b"data: x\r\n\r\ndata: y\n\n", [8, 9, 10, 11])
@example(b"\r\n\r\rdata: x\r\r\n", [1, 2, 3])
def test_any_chunking_gives_the_same_frames(stream, cuts):
    whole = read(stream)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert read(*(stream[a:b] for a, b in itertools.pairwise(edges))) == whole
    assert read(*(stream[i : i + 1] for i in range(len(stream)))) == whole
    assert b"".join(frame.raw for frame in whole) == stream


@given(STREAMS)
def test_frames_with_data_are_what_the_standard_dispatches(stream):
    got = [(frame.event, frame.data) for frame in read(stream) if frame.data]
    assert got == [(event, data) for event, data in by_the_book(stream) if data]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_a_frame_may_fill_the_limit_but_not_pass_it(end):
    fits = b"data: " + b"x" * (100 - 6 - len(end)) + end
    assert read(*(fits[i : i + 7] for i in range(0, 100, 7)), limit=100)[0].raw == fits
    assert len(read(fits * 50, limit=100)) == 50
    for chunks in ([b"data: " + fits], [b"x" * 60] * 2):
        with pytest.raises(Malformed, match="over 100 bytes"):
            read(*chunks, limit=100)


@pytest.mark.parametrize("filler", [b"x", b"\r", b"x\n", b"\r\n:"])
def test_a_byte_is_searched_a_bounded_number_of_times(filler):
    searched = []

    class Probe(SseReader):
        def _end(self, data, start):
            searched.append(len(data) - start)
            return super()._end(data, start)

    reader = Probe()
    stream = b"data: " + filler * 5_000
    for i in range(len(stream)):
        reader.feed(stream[i : i + 1])
    assert sum(searched) <= len(stream) * 6


@given(st.binary(max_size=40), st.sampled_from([None, "", "message_stop"]))
def test_encode_is_read_back(data, event):
    (frame,) = read(encode(data, event))
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert (frame.event, frame.data) == (event or "", lines)


def test_encode_is_exact():
    assert encode(b"{}") == b"data: {}\n\n"
    assert encode(b"a\nb", "e") == b"event: e\ndata: a\ndata: b\n\n"
    with pytest.raises(ValueError, match="line end"):
        encode(b"", "a\ndata: forged")
