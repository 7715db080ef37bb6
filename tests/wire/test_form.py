"""One field of a multipart body."""

from email import message_from_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gwcore.errors import BadRequest
from gwcore.wire.form import count_files, read_field, replace_field

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


def test_files_are_counted_by_what_stands_before_their_bytes():
    file = b'--XX\r\nContent-Disposition: form-data; name="f"; FileName="a"\r\n\r\nfilename=content-type\r\n'
    typed = b'--XX\r\nContent-Disposition: form-data; name="f"\r\nContent-Type: image/png\r\n\r\na\r\n'
    named = body((b"filename", b"1"), (b"n", b"filename"))  # a field so called is one, too
    assert count_files(file + typed + named, TYPE) == 3
    with pytest.raises(BadRequest, match="several parts"):
        count_files(typed.replace(b"image/png", b"Multipart/mixed; boundary=Y") + b"--XX--", TYPE)


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


@pytest.mark.parametrize("behind", [b"", b"\r\n", b"\n", b" \t\r\n", b"\r\nan epilogue"])
def test_the_last_line_may_end_in_many_ways(behind):
    assert read_field(body((b"model", b"a")).removesuffix(b"\r\n") + behind, TYPE, b"model") == b"a"


PIECES = (b"--XX", b"--", b"\r\n", b"\n", b"\r", b"a", b": ", b"Content-Disposition: form-data; name=model", b" ", b"XX", b'"', b";", b"--XX--\r\n",
          b"--XX\r\nContent-Disposition: form-data; name=model\r\n\r\nv\r\n", b"--XX\r\nX: y\r\n\r\n")  # fmt: skip


@given(st.binary(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join))
@example(b"--XX\r\nContent-Disposition:;name=model\r\n\r\n\r\n--XX--X")
def test_garbage_never_breaks(raw):
    """What is no form is refused; what is one is read by Python's own parser of mail as by ours."""
    try:
        found = read_field(raw, TYPE, b"model")
    except BadRequest:
        return
    assert replace_field(raw, TYPE, b"nothing-here", b"v") == raw
    assert others_read(TYPE, raw) == ([] if found is None else [found])


def others_read(kind, raw):
    """The fields called ``model`` as a tolerant parser reads them."""
    parsed = message_from_bytes(b"content-type: " + kind + b"\r\n\r\n" + raw)
    found = []
    for one in parsed.get_payload() if parsed.is_multipart() else ():
        named = one.get_param("name", header="content-disposition")
        if (named[2] if isinstance(named, tuple) else named) == "model":
            found.append(one.get_payload(decode=True))
    return found


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


MODEL = b'Content-Disposition: form-data; name="model"'
ALLOWED = part(MODEL, b"allowed")
END = b"--XX--\r\n"
OTHER = b"--YY\r\n" + MODEL + b"\r\n\r\nforbidden\r\n--YY--\r\n"
SMUGGLED = {
    "a second boundary": (TYPE + b"; boundary=YY", ALLOWED + END + OTHER),
    "a boundary in another parameter's name": (
        b"multipart/form-data; xboundary=YY; boundary=XX; boundary*0=Y",
        ALLOWED + END,
    ),
    "two content types": (TYPE + b", multipart/form-data; boundary=YY", ALLOWED + END + OTHER),
    "a folded header": (TYPE, part(b'Content-Disposition: form-data;\r\n name="model"', b"forbidden") + ALLOWED + END),
    "a blank before the colon": (TYPE, part(MODEL.replace(b":", b" :"), b"forbidden") + ALLOWED + END),
    "an encoded name": (
        TYPE,
        part(b"Content-Disposition: form-data; name*=utf-8''model", b"forbidden") + ALLOWED + END,
    ),
    "a name in pieces": (
        TYPE,
        part(b"Content-Disposition: form-data; name*0=mo; name*1=del", b"forbidden") + ALLOWED + END,
    ),
    "an escaped name": (TYPE, part(MODEL.replace(b"del", b"\\del"), b"forbidden") + ALLOWED + END),
    "a name in angles": (TYPE, part(b"Content-Disposition: form-data; name=<model>", b"forbidden") + ALLOWED + END),
    "two names": (TYPE, part(b"Content-Disposition: form-data; name=x; name=model", b"forbidden") + ALLOWED + END),
    "two dispositions": (
        TYPE,
        part(b"Content-Disposition: form-data; name=x\r\n" + MODEL, b"forbidden") + ALLOWED + END,
    ),
    "a delimiter that ends in a line feed": (TYPE, b"--XX\n" + MODEL + b"\r\n\r\nforbidden\r\n" + ALLOWED + END),
    "a header that ends in a line feed": (TYPE, b"--XX\r\nX: y\n" + MODEL + b"\r\n\r\nforbidden\r\n" + ALLOWED + END),
    "a delimiter behind a line feed": (TYPE, ALLOWED[:-2] + b"\n" + part(MODEL, b"forbidden") + END),
    "an encoded value": (TYPE, part(MODEL + b"\r\nContent-Transfer-Encoding: base64", b"Zm9yYmlkZGVu") + END),
    "a part behind the last": (TYPE, ALLOWED + END + part(MODEL, b"forbidden") + END),
    "a last part without an end": (TYPE, ALLOWED + part(MODEL, b"forbidden")),
    "a delimiter that is longer": (TYPE, ALLOWED[:-2] + b"\r\n--XXX\r\n" + END),
}


@pytest.mark.parametrize("what", SMUGGLED)
def test_what_another_parser_could_read_otherwise_is_refused(what):
    kind, raw = SMUGGLED[what]
    with pytest.raises(BadRequest):
        read_field(raw, kind, b"model")


def test_control_a_tolerant_parser_reads_what_is_refused():
    """Without the refusals these would be two models: one for the key's permission, one for the vendor."""
    assert sum(b"forbidden" in others_read(kind, raw) for kind, raw in SMUGGLED.values()) >= 7


@pytest.mark.parametrize(
    "kind",
    [
        b"multipart/form-data; boundary=----WebKitFormBoundaryXX",
        b'Multipart/Form-Data; charset=utf-8; boundary="----WebKitFormBoundaryXX"',
        b"multipart/form-data;boundary=----WebKitFormBoundaryXX;",
    ],
)
def test_bodies_as_browsers_write_them(kind):
    file = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a b.wav"\r\nContent-Type: audio/wav\r\n\r\n\r\n--\r\n\n\r\n'
    raw = (file + b"--B\r\n" + MODEL + b"\r\n\r\nm\r\n--B--\r\n").replace(b"--B", b"------WebKitFormBoundaryXX")
    assert read_field(raw, kind, b"model") == b"m"
