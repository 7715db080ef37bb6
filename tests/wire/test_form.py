"""One field of a multipart body."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwcore.errors import BadRequest
from gwcore.wire.form import read_field, replace_field

TYPE = b"multipart/form-data; boundary=XX"


def body(*fields, boundary=b"XX"):
    parts = [
        b"--" + boundary + b'\r\ncontent-disposition: form-data; name="' + name + b'"\r\n\r\n' + value + b"\r\n"
        for name, value in fields
    ]
    return b"".join(parts) + b"--" + boundary + b"--\r\n"


def test_read_and_replace_leave_the_rest_alone():
    raw = body((b"file", b"\x00--X\r\nmodel\r\n"), (b"model", b"whisper"), (b"x", b'name="model"'))
    assert read_field(raw, TYPE, b"model") == b"whisper"
    assert replace_field(raw, TYPE, b"model", b"w2") == raw.replace(b"whisper", b"w2")


def test_absent():
    raw = body((b"a", b"1"))
    assert read_field(raw, TYPE, b"model") is None
    assert replace_field(raw, TYPE, b"model", b"m") == raw


def test_twice_is_refused():
    with pytest.raises(BadRequest, match="more than once"):
        read_field(body((b"model", b"a"), (b"model", b"b")), TYPE, b"model")


@pytest.mark.parametrize("kind", [b"", b"multipart/form-data", b"multipart/form-data; boundary=" + b"x" * 71])
def test_no_boundary_is_refused(kind):
    with pytest.raises(BadRequest, match="boundary"):
        read_field(body((b"model", b"a")), kind, b"model")


def test_quoted_boundary():
    assert read_field(body((b"model", b"a"), boundary=b"a b"), b'multipart/form-data; boundary="a b"', b"model") == b"a"


def test_many_parts_are_refused():
    with pytest.raises(BadRequest, match="parts"):
        read_field(body(*[(b"a", b"")] * 1001), TYPE, b"model")


@given(st.binary(max_size=200))
def test_garbage_never_breaks(raw):
    read_field(raw, TYPE, b"model")
    assert replace_field(raw, TYPE, b"nothing-here", b"v") == raw


def part(disposition, value):
    return b"--XX\r\n" + disposition + b"\r\n\r\n" + value + b"\r\n"


@pytest.mark.parametrize(
    "disposition",
    [
        b"Content-Disposition: form-data; name=model",
        b'content-disposition:form-data;NAME = "model"',
        b'content-type: text/plain\r\ncontent-disposition: form-data; filename="a; name=file"; name=model',
        b'content-disposition: form-data; filename="a\\"; name=file"; name="model"',
    ],
)
def test_names_as_clients_write_them(disposition):
    assert read_field(part(disposition, b"m") + b"--XX--\r\n", TYPE, b"model") == b"m"


@pytest.mark.parametrize(
    "disposition",
    [
        b'content-disposition: form-data; name="file"; filename="a; name=model"',
        b"content-disposition: form-data; name=file; filename=\"x; name='model'; name=model\"",
        b'x: content-disposition: form-data; name="model"',
        b"content-disposition: form-data; name*=model",
        b"content-disposition: form-data",
        b"content-type: text/plain",
    ],
)
def test_what_names_another_field(disposition):
    assert read_field(part(disposition, b"m") + b"--XX--\r\n", TYPE, b"model") is None


def test_twice_in_two_ways_of_writing():
    raw = part(b"content-disposition: form-data; name=model", b"a") + body((b"model", b"b"))
    with pytest.raises(BadRequest, match="more than once"):
        read_field(raw, TYPE, b"model")
