import logging
import traceback

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gwcore.errors import BadRequest
from gwcore.wire.document import MAX_DEPTH, parse

UNIQUE = frozenset({"model", "stream", "max_tokens"})


def refusal(raw: bytes, **options) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(raw, unique=UNIQUE, **options)
    assert caught.value.status == 400
    return caught.value


def nested(depth: int, opener: bytes = b"[", closer: bytes = b"]") -> bytes:
    """An object of this many levels, itself included."""
    return b'{"model":"m","a":' + opener * (depth - 1) + b"1" * (opener != b"[") + closer * (depth - 1) + b"}"


def test_an_object_is_what_orjson_reads():
    raw = '{"model": "m", "messages": [{"content": "h\\u00e9 é \\ud83d\\ude00 \\u0000"}], "n": 12345678901234567890}'.encode()
    assert parse(raw, unique=UNIQUE) == orjson.loads(raw)
    assert parse(b" {} \n", unique=UNIQUE) == {}


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"1", b"null", b"true", b'[{"model":"m"}]'])
def test_anything_but_an_object_is_refused(raw):
    assert "JSON object" in refusal(raw).message


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the body is empty"),
        (b'{"a":SECRET}', "line 1, column 6"),
        (b'{\n "a": 1\n "b": 2}', "line 3, column 2"),
        (b'{"a":"SECRET', "line 1"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a":NaN}', "line 1, column 6"),
        (b'{"a":-Infinity}', "line 1"),
        (b'{"a":1e400}', "line 1"),
        (b'{"a":' + b"9" * 5000 + b"}", "line 1"),
        (b'{"a":01}', "line 1"),
        (b'{"a":"\\ud800SECRET"}', "line 1"),
        (b'{"a":"\\udc00"}', "line 1"),
        (b'{"a":"\xed\xa0\x80SECRET"}', "not UTF-8"),
        (b'{"a":"SECRET\xff"}', "not UTF-8"),
        (b'{"a":"\xc0\xaf"}', "not UTF-8"),
        ('{"a":"SECRET"}'.encode("utf-16"), "not UTF-8"),
        ('{"a":"SECRET"}'.encode("utf-16-le"), "line 1"),
        ('{"a":"SECRET"}'.encode("utf-32"), "not UTF-8"),
        (b'{"a":"SECRET\x00"}', "line 1"),
        (b'{"a":"x\nSECRET"}', "line 1"),
        (b"{}\x00", "line 1, column 3"),
        (b'{}{"a":"SECRET"}', "line 1, column 3"),
        (b"{'a':1}", "line 1"),
        (b'{"a":1}//SECRET', "line 1"),
        (b'{"a":undefined}', "line 1"),
    ],
)
def test_what_parsers_disagree_about_is_refused(raw, message, caplog):
    error = refusal(raw)
    assert message in error.message
    try:
        raise error
    except BadRequest:
        logging.getLogger("test").exception("refused")
    assert "SECRET" not in error.message + "".join(traceback.format_exception(error)) + caplog.text
    assert error.__context__ is None, "the parser's error would keep the body"


@pytest.mark.parametrize(
    ("opener", "closer", "inside"),
    [(b"[", b"]", 0), (b'{"a":', b"}", 0), (b'[{"b":1},', b"]", 1), (b"[[],", b"]", 1), (b'{"b":[{}],"a":', b"}", 2)],
)
def test_the_depth_is_bounded_exactly(opener, closer, inside):
    for size in (0, 100_000):
        filler = b'{"filler":"' + b"[" * size + b'",'
        parse(filler + nested(MAX_DEPTH - inside, opener, closer)[1:], unique=UNIQUE)
        assert "64 levels" in refusal(filler + nested(MAX_DEPTH + 1 - inside, opener, closer)[1:]).message


@pytest.mark.parametrize("depth", [65, 1_000, 1_024, 1_025, 1_030, 5_000, 200_000])
@pytest.mark.parametrize("closer", [b"]", b""])
def test_any_depth_is_refused_without_recursion(depth, closer):
    message = refusal(nested(depth, b"[", closer)).message
    assert "nested" in message or not closer


def test_brackets_in_strings_and_side_by_side_are_no_depth():
    parse(orjson.dumps({"a": "[{" * 5_000, "b": [[[]]] * 5_000}), unique=UNIQUE)


def test_depth_is_an_option():
    parse(b'{"a":[1]}', unique=UNIQUE, max_depth=2)
    refusal(b'{"a":[[]]}', max_depth=2)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","model":"a"}',
        b'{"model": "a", "model": "a"}',
        b'{"model":"a","model":1.0e0}',
        b'{"model":"a","mod\\u0065l":"b"}',
        b'{"\\u006dodel":"a","\\u006Dodel":"b"}',
        b'{"x":{"model":1},"model":"a","y":["model"],"model" : "b"}',
        b'{"model":"a","x":"\\\\","model":"b"}',
        b'{"model":"a","x":"' + b"QUJD" * 100_000 + b'","model":"b"}',
        b'{"model":"a","x":[' + b'{"model":1},' * 1_000 + b'1],"model":"b"}',
    ],
)
def test_duplicates_of_unique_keys_are_refused_by_name(raw):
    assert "'model' occurs 2 times" in refusal(raw).message


@pytest.mark.parametrize(
    "raw",
    [
        b'{"user":1,"user":2,"model":"a"}',
        b'{"model":"a","metadata":{"model":"x","model":"y"}}',
        b'{"model":"model","user":"model","x":["model","model","model"]}',
        b'{"model":"a","x":"\\"model\\":1"}',
        b'{"model":"a","mod\\\\u0065l":"b"}',
    ],
)
def test_other_repetitions_are_none_of_our_business(raw):
    assert parse(raw, unique=UNIQUE) == orjson.loads(raw)


@pytest.mark.parametrize("key", ["Model", "MODEL", "Max_Tokens", "max_to\\u212aens", "\\u017ftream"])
def test_upstreams_that_read_any_case_get_no_second_opinion(key):
    """Go's encoding/json takes ``Model`` for ``model``, and the last one counts: what was permitted is not what is asked for."""
    for raw in (f'{{"model":"a","max_tokens":1,"{key}":9}}', f'{{ "{key}": 9, "model": "a"}}', f'{{"{key}":9}}'):
        assert "only in upper and lower case" in refusal(raw.encode()).message


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=15,
)


@given(st.dictionaries(st.text() | st.sampled_from(sorted(UNIQUE)), JSON))
def test_any_object_is_accepted(document):
    assume(all(key in UNIQUE or key.casefold() not in UNIQUE for key in document))
    assert parse(orjson.dumps(document), unique=UNIQUE) == document


@given(st.binary(max_size=60) | st.text('{}[]":,\\u0123 model', max_size=30).map(str.encode))
def test_garbage_is_refused_and_nothing_else_is_raised(raw):
    try:
        document = parse(raw, unique=UNIQUE)
    except BadRequest as error:
        document = error.message
    assert document.startswith("the ") if isinstance(document, str) else document == orjson.loads(raw)


def test_a_million_values_are_too_many():
    """What is parsed holds up all others: 16 MB of small values did for a second and more."""
    with pytest.raises(BadRequest, match="json_items"):
        parse(b'{"a":[' + b"1," * 1_000_001 + b"1]}", unique=UNIQUE)
    with pytest.raises(BadRequest, match="json_items"):
        parse(b'{"a":[' + b'{"a":[]},' * 400_000 + b"1]}", unique=UNIQUE)
    assert len(parse(b'{"a":[' + b"1," * 300_000 + b"1]}", unique=UNIQUE)["a"]) == 300_001
    assert parse(orjson.dumps({"a": "text of any length. " * 200_000}), unique=UNIQUE)
