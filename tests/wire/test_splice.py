import json

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gwcore.wire.splice import insert_top_level, remove_top_level, replace_top_level, suspects, top_level_spans

MODEL = frozenset({"model"})

# Keys and strings that look like what is searched for.
TRICKY = st.sampled_from(
    [
        "model",
        '"model"',
        '\\"model":',
        '"model":',
        "model\\",
        '{"model":1}',
        "}",
        "]",
        "[{",
        "",
        "\\",
        "mod",
        "é",
        "a/b",
        "\\u0065",
    ]
)
WORDS = TRICKY | st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
SPACE = st.sampled_from(["", " ", "\n", "\t\r\n  "])


@st.composite
def spelt(draw, word: str) -> str:
    """One of the ways to write a string in JSON."""
    how = draw(st.sampled_from(["plain", "ascii", "escapes"]))
    if how != "escapes":
        return json.dumps(word, ensure_ascii=how == "ascii")
    return (
        '"'
        + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 and draw(st.booleans()) else json.dumps(c)[1:-1] for c in word)
        + '"'
    )


@st.composite
def objects(draw) -> tuple[bytes, list[tuple[str, object]]]:
    """An object as text and as its members in order, duplicates among them."""
    members = draw(st.lists(st.tuples(WORDS, VALUES), max_size=5))
    parts = []
    for key, value in members:
        text = json.dumps(value, ensure_ascii=draw(st.booleans()), separators=(draw(SPACE) + ",", ":" + draw(SPACE)))
        parts.append(draw(SPACE) + draw(spelt(key)) + draw(SPACE) + ":" + draw(SPACE) + text + draw(SPACE))
    raw = (draw(SPACE) + "{" + (",".join(parts) or draw(SPACE)) + "}" + draw(SPACE)).encode("utf-8", "surrogatepass")
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        assume(False)  # a lone surrogate
    return raw, members


@given(objects(), st.sampled_from(["model", "mod", "n"]))
def test_spans_are_those_of_the_top_level_members(given_object, key):
    raw, members = given_object
    spans = top_level_spans(raw, frozenset({key, "max_tokens"}))
    wanted = [value for name, value in members if name == key]
    assert [json.loads(raw[start:end]) for start, end in spans.get(key, [])] == wanted
    assert (key in spans) == bool(wanted)
    assert "max_tokens" not in spans


@given(objects(), st.sampled_from([b'"other"', b"null", b'{"model":2}', b""]))
def test_only_the_value_changes(given_object, value):
    raw, _ = given_object
    spans = top_level_spans(raw, MODEL).get("model", [])
    if not spans:
        with pytest.raises(KeyError):
            replace_top_level(raw, "model", value)
        return
    changed = replace_top_level(raw, "model", value)
    edges = [0, *(edge for span in spans for edge in span), len(raw)]
    untouched = [raw[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    assert changed == value.join(untouched)
    if value:
        document = json.loads(raw)
        assert json.loads(changed) == document | {"model": json.loads(value)}


@given(objects())
def test_insertion_adds_one_member_in_front(given_object):
    raw, members = given_object
    assume(all(key != "x" for key, _ in members))
    changed = insert_top_level(raw, "x", b"[1]")
    assert json.loads(changed, object_pairs_hook=list)[0] == ["x", [1]] or json.loads(changed)["x"] == [1]
    assert json.loads(changed) == {"x": [1]} | json.loads(raw)
    added = len(b'"x":[1]') + bool(members)
    at = raw.index(b"{") + 1
    assert raw == changed[:at] + changed[at + added :]


@pytest.mark.parametrize(
    ("raw", "changed"),
    [
        (b'{"model":"a"}', b'{"model":X}'),
        (b' { "model" : "a" , "n" : 1 } ', b' { "model" : X , "n" : 1 } '),
        (b'{"messages":[{"a":1}],"model":"a","tools":[{}]}', b'{"messages":[{"a":1}],"model":X,"tools":[{}]}'),
        (b'{"metadata":{"model":"n"},"model":"a"}', b'{"metadata":{"model":"n"},"model":X}'),
        (b'{"model":"a","metadata":{"model":"n"}}', b'{"model":X,"metadata":{"model":"n"}}'),
        (b'{"user":"model","model":"a"}', b'{"user":"model","model":X}'),
        (b'{"text":"\\"model\\":1,\\"model\\":2","model":"a"}', b'{"text":"\\"model\\":1,\\"model\\":2","model":X}'),
        (b'{"x\\"model":1,"model":"a"}', b'{"x\\"model":1,"model":X}'),
        (b'{"x\\\\":1,"model":"a"}', b'{"x\\\\":1,"model":X}'),
        (b'{"model":"a\\"b"}', b'{"model":X}'),
        (b'{"model":"a\\\\"}', b'{"model":X}'),
        (b'{"model":{"a":["}"]},"b":1}', b'{"model":X,"b":1}'),
        (b'{"model":null}', b'{"model":X}'),
        (b'{"model":-1.5e3 ,"b":1}', b'{"model":X ,"b":1}'),
        (b'{"mod\\u0065l":"a"}', b'{"mod\\u0065l":X}'),
        (b'{"model":"a","\\u006dodel":"b"}', b'{"model":X,"\\u006dodel":X}'),
        (b'{"model":"a","model":["b"]}', b'{"model":X,"model":X}'),
        (b'{"model":"a",' + b'"t":["model",{"model":1}],' * 5 + b'"n":1}', b'{"model":X,' + b'"t":["model",{"model":1}],' * 5 + b'"n":1}'),
        (b'{"a":' + b"[" * 40 + b'{"model":1}' + b"]" * 40 + b',"model":"\\u006d"}', b'{"a":' + b"[" * 40 + b'{"model":1}' + b"]" * 40 + b',"model":X}'),
    ],
)  # fmt: skip
def test_replacing(raw, changed):
    assert replace_top_level(raw, "model", b"X") == changed


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b'{"x\\"model":1}',
        b'{"a":{"model":1}}',
        b'{"a":[{"model":1}]}',
        b'{"a":"model"}',
        b'{"a":"{\\"model\\":1}"}',
        b'{"Model":1}',
        b'{"a":{"mod\\u0065l":1},"mod\\\\u0065l":2}',
    ],
)
def test_what_is_not_a_top_level_key_is_not_found(raw):
    assert top_level_spans(raw, MODEL) == {}
    with pytest.raises(KeyError):
        replace_top_level(raw, "model", b"X")


def test_inserting():
    assert insert_top_level(b"{}", "a", b"1") == b'{"a":1}'
    assert insert_top_level(b" { \n } ", "a", b"1") == b' {"a":1 \n } '
    assert insert_top_level(b'{"b":2}', 'a"', b"1") == b'{"a\\"":1,"b":2}'


@pytest.mark.parametrize("key", ["", "a b", 'a"', "é", "1a"])
def test_only_identifiers_can_be_spliced(key):
    with pytest.raises(ValueError, match="identifiers"):
        top_level_spans(b"{}", frozenset({key}))


@pytest.mark.parametrize(
    "filler",
    [
        b'"' + b"QUJD" * 1_000_000 + b'"',
        b'"' + b'\\"' * 2_000_000 + b'"',
        b'"' + b"\\\\" * 2_000_000 + b'"',
        b'"' + b'\\"model' * 500_000 + b'"',
        b"[" + b'"model",' * 500_000 + b"1]",
        b"[" + b"{}," * 1_000_000 + b"1]",
        b"[" * 60 + b'"a",' * 500_000 + b"1" + b"]" * 60,
    ],
)
def test_megabytes_are_walked(filler):
    raw = b'{"a":%b,"model":"m","b":{"model":1},"b":%b}' % (filler, filler)
    start = len(filler) + len(b'{"a":,"model":')
    assert top_level_spans(raw, MODEL) == {"model": [(start, start + 3)]}
    escaped = raw.replace(b',"model":"m"', b',"\\u006dodel":"m"')
    assert top_level_spans(escaped, MODEL) == {"model": [(start + 5, start + 8)]}


@given(objects())
def test_suspects_are_all_that_repeat(given_object):
    raw, members = given_object
    names = [name for name, _ in members]
    repeated = {name for name in ("model", "mod") if names.count(name) > 1}
    assert repeated <= suspects(raw, frozenset({"model", "mod"}))


def test_suspects_are_few():
    keys = frozenset({"model", "stream"})
    assert suspects(b'{"model":"m","stream":true,"text":"\\u003cb\\u003e \\u00e9 \\"model\\""}', keys) == frozenset()
    assert suspects(b'{"model":"m","stream":true,"x":{"model":1}}', keys) == {"model"}
    assert suspects(b'{"model":"m","x":"\\u0041"}', keys) == keys


@given(objects(), st.sampled_from([frozenset({"model"}), frozenset({"model", "mod"}), frozenset({"n"})]))
def test_removal_leaves_every_other_member_as_it_was(given_object, keys):
    raw, members = given_object
    changed = remove_top_level(raw, keys)
    kept = [(name, value) for name, value in members if name not in keys]
    assert json.loads(changed) == dict(kept)
    if len(kept) == len(members):
        assert changed == raw


@pytest.mark.parametrize(
    ("raw", "changed"),
    [
        (b'{"model":"a"}', b"{}"),
        (b' { "model" : "a" , "n" : 1 } ', b' { "n" : 1 } '),
        (b'{"n":1, "model":"a"}', b'{"n":1}'),
        (b'{"n":1,"model":"a","m":[{"model":2}]}', b'{"n":1,"m":[{"model":2}]}'),
        (b'{"a":"{\\"model\\":1,","model":{"x":"}"},"b":1.0e5}', b'{"a":"{\\"model\\":1,","b":1.0e5}'),
        (b'{"model":1,"n":2,"model":3}', b'{"n":2}'),
        (b'{"mod\\u0065l":"a","n":1}', b'{"n":1}'),
    ],
)
def test_removing(raw, changed):
    assert remove_top_level(raw, MODEL) == changed
