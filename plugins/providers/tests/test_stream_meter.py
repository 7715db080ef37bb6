"""The meter of an event stream reads only frames that may hold usage: the same usage and the same bytes, however they are cut."""

from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwcore_providers.meter import StreamMeter
from gwcore_providers.openai.chat import OpenAIChat

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"a \\"usage\\":{ b"}}],"usage":null}\n\n'
LAST = b"data: " + orjson.dumps({"choices": [], "usage": USAGE}) + b"\n\n"
LINES = b'data: {"choices":[],"usage":\ndata: ' + orjson.dumps(USAGE) + b"\ndata: }\n\n"
DONE = b"data: [DONE]\n\n"


def fed(stream, cuts, *, wanted):
    options = {"stream_options": {"include_usage": True}} if wanted else {}
    meter = OpenAIChat().meter("chat", options, stream=True)
    assert isinstance(meter, StreamMeter)
    edges = [0, *sorted(cuts), len(stream)]
    out = b"".join(meter.feed(stream[a:b]) for a, b in pairwise(edges))
    return out + meter.finish(), meter.usage


@given(
    words=st.integers(0, 4),
    last=st.sampled_from([LAST, LINES]),
    end=st.sampled_from([b"\n", b"\r\n"]),
    cuts=st.lists(st.integers(0, 600), max_size=12),
    wanted=st.booleans(),
)
def test_however_a_stream_is_cut(words, last, end, cuts, wanted):
    before, after = (part.replace(b"\n", end) for part in (b": hello\n\n" + WORD * words, DONE))
    usage = last.replace(b"\n", end)
    stream = before + usage + after
    out, seen = fed(stream, [min(cut, len(stream)) for cut in cuts], wanted=wanted)
    assert out == (stream if wanted else before + after)
    assert seen is not None
    assert (seen.input, seen.output) == (7, 5)


def test_a_frame_without_usage_is_not_parsed(monkeypatch):
    def no(_data):
        pytest.fail("parsed")

    monkeypatch.setattr("gwcore_providers.meter.orjson.loads", no)
    out, seen = fed(WORD * 3 + DONE, [10, 100, 200], wanted=False)
    assert out == WORD * 3 + DONE
    assert seen is None
    with pytest.raises(pytest.fail.Exception):
        fed(LAST, [], wanted=False)
