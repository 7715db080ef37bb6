import gzip
import random
import subprocess
import sys
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwcore.errors import BadRequest, TooLarge, UnsupportedEncoding
from gwcore.wire import decode as decoding
from gwcore.wire.decode import decode

MB = 1024 * 1024


def deflate(data: bytes) -> bytes:
    return zlib.compress(data)


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def zstd(data: bytes) -> bytes:
    return decoding.zstd.compress(data)


def zstd_undeclared(data: bytes) -> bytes:
    compressor = decoding.zstd.ZstdCompressor()
    return compressor.compress(data) + compressor.flush()


CODERS = [
    ("gzip", gzip.compress),
    ("deflate", deflate),
    ("deflate", raw_deflate),
    ("zstd", zstd),
    ("zstd", zstd_undeclared),
]
SAMPLES = [b"x", b'{"model":"m"}' * 50_000, random.Random(1).randbytes(300_000), b"\0" * 900_000]


@pytest.mark.parametrize(("name", "coder"), CODERS)
@pytest.mark.parametrize("data", SAMPLES, ids=["byte", "json", "noise", "zeros"])
def test_each_encoding_is_taken_off(name, coder, data):
    assert decode(coder(data), name, limit=3 * MB) == data


def test_what_becomes_a_hundred_times_as_long_is_too_large():
    """16 kB of gzip stood for 16 MB of ``1,1,1``: a second of parsing, and a gigabyte."""
    bomb = gzip.compress(b"1," * 2 * MB)
    assert len(bomb) * 100 < 4 * MB
    with pytest.raises(TooLarge):
        decode(bomb, "gzip", limit=20 * MB)
    with pytest.raises(TooLarge):
        decode(gzip.compress(bomb), "gzip, gzip", limit=20 * MB)
    assert len(decode(gzip.compress(b"1," * 400_000), "gzip", limit=20 * MB)) == 800_000


@pytest.mark.parametrize("encodings", ["", "identity", " identity , Identity", ","])
def test_nothing_to_take_off(encodings):
    assert decode(b"{}", encodings, limit=2) == b"{}"


@pytest.mark.parametrize("encodings", ["gzip, zstd", "GZIP,identity,Zstd", "x-gzip ,zstd"])
def test_encodings_are_taken_off_last_first(encodings):
    assert decode(zstd(gzip.compress(b"{}")), encodings, limit=100) == b"{}"
    with pytest.raises(BadRequest, match="not valid zstd"):
        decode(gzip.compress(zstd(b"{}")), encodings, limit=100)


@pytest.mark.parametrize("encodings", ["br", "gzip, br", "compress", "gzip;q=1", "gzip gzip", "gzip, gzip, gzip"])
def test_other_encodings_and_towers_are_refused(encodings):
    with pytest.raises(UnsupportedEncoding) as caught:
        decode(gzip.compress(b"{}"), encodings, limit=100)
    assert caught.value.status == 415


@pytest.mark.parametrize("encodings", ["", "gzip", "deflate", "zstd", "gzip, zstd"])
def test_an_empty_body_stays_empty(encodings):
    assert decode(b"", encodings, limit=10) == b""


@pytest.mark.parametrize(("name", "coder"), CODERS)
def test_every_truncation_is_noticed(name, coder):
    whole = coder(b"some text, and some more text" * 20)
    for size in range(1, len(whole)):
        with pytest.raises(BadRequest, match=f"not valid {name}"):
            decode(whole[:size], name, limit=MB)


@pytest.mark.parametrize(("name", "coder"), CODERS)
def test_trailing_garbage_and_corruption_are_noticed(name, coder):
    whole = coder(b"some text")
    for body in (whole + b"garbage", whole + b"\0", b"garbage", b"\0" * 40, b"{}"):
        with pytest.raises(BadRequest):
            decode(body, name, limit=MB)


@pytest.mark.parametrize(("name", "coder"), [CODERS[0], *CODERS[3:]])
def test_members_may_follow_one_another(name, coder):
    assert decode(coder(b"a" * 100) + coder(b"") + coder(b"b"), name, limit=MB) == b"a" * 100 + b"b"


@pytest.mark.parametrize(("name", "coder"), [CODERS[0], CODERS[3]])
def test_a_flood_of_empty_members_is_refused(name, coder):
    assert decode(coder(b"") * 4_096, name, limit=MB) == b""
    with pytest.raises(BadRequest):
        decode(coder(b"") * 4_097, name, limit=MB)


@pytest.mark.parametrize(("name", "coder"), [("identity", bytes), *CODERS])
def test_the_limit_is_exact(name, coder):
    data = random.Random(2).randbytes(1_000) * 70
    body = coder(data)
    assert decode(body, name, limit=len(data)) == data
    with pytest.raises(TooLarge) as caught:
        decode(body, name, limit=len(data) - 1)
    assert caught.value.status == 413


def test_what_stands_between_two_layers_is_limited_too():
    body = gzip.compress(gzip.compress(b"\0" * 64 * MB))
    with pytest.raises(TooLarge):
        decode(body, "gzip, gzip", limit=10_000)


def bomb(size: int, *, declared: bool) -> bytes:
    if declared:
        return decoding.zstd.compress(b"\0" * size, level=1)
    compressor = decoding.zstd.ZstdCompressor(level=1)
    return b"".join(compressor.compress(b"\0" * MB) for _ in range(size // MB)) + compressor.flush()


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("zstd", bomb(256 * MB, declared=True)),
        ("zstd", bomb(256 * MB, declared=False)),
        ("gzip", gzip.compress(b"\0" * 64 * MB)),
        ("deflate", raw_deflate(b"\0" * 64 * MB)),
        ("zstd, gzip", gzip.compress(bomb(256 * MB, declared=False))),
    ],
    ids=["zstd-declared", "zstd-undeclared", "gzip", "deflate", "both"],
)
def test_a_bomb_stays_small(name, body):
    assert len(body) < 80_000
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            decode(body, name, limit=4 * MB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MB + MB, "the limit and one step"


def test_a_window_beyond_the_web_s_is_refused():
    compressor = decoding.zstd.ZstdCompressor(options={decoding.zstd.CompressionParameter.window_log: 27})
    body = compressor.compress(b"x" * 100) + compressor.flush()
    with pytest.raises(BadRequest):
        decode(body, "zstd", limit=MB)


def test_a_python_without_zstd_says_what_it_knows():
    """CPython is built without ``compression.zstd`` where its maker had no libzstd."""
    script = (
        "import sys; sys.modules |= dict.fromkeys(['compression.zstd', 'backports.zstd'])\n"
        "from gwcore.errors import UnsupportedEncoding\n"
        "from gwcore.wire.decode import decode\n"
        "try: decode(b'x', 'zstd', limit=9)\n"
        "except UnsupportedEncoding as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "none of gzip, x-gzip, deflate, or" in told


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", "zstd", "gzip, deflate", "zstd, gzip"]))
def test_garbage_is_refused_and_nothing_else_is_raised(body, encodings):
    try:
        result = decode(body, encodings, limit=10_000)
    except (BadRequest, TooLarge) as error:
        result = error
    assert isinstance(result, bytes) or result.__context__ is None
