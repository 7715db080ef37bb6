"""References: what they become, and how each fails."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwcore.interpolate import interpolate

ENV = {"A": "one", "B": "${A}", "EMPTY": "", "_x9": "nine"}


def resolve(data, folder, env=ENV):
    return interpolate(data, env=env, folder=folder)


@pytest.mark.parametrize(
    ("written", "becomes"),
    [
        ("${A}", "one"),
        ("<${A}|${_x9}>", "<one|nine>"),
        ("${A:-two}", "one"),
        ("${NO:-two}", "two"),
        ("${NO:-}", ""),
        ("${EMPTY:-two}", "two"),
        ("${NO:-http://h:1/p?q=:-}", "http://h:1/p?q=:-"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$${A} ${A}", "${A} one"),
        ("${B}", "${A}"),
        ("$A and $ and $$ and {}", "$A and $ and $$ and {}"),
        ("${file:secret}", "from a file"),
        ("x${file:sub/deep}y", "xdeep\nery"),
    ],
)
def test_resolved(tmp_path, written, becomes):
    (tmp_path / "secret").write_text("from a file\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "deep").write_bytes(b"deep\ner\r\n")
    result = resolve(written, tmp_path)
    assert (result.data, result.faults) == (becomes, [])


def test_an_absolute_path(tmp_path):
    (tmp_path / "secret").write_text("s")
    assert resolve(f"${{file:{tmp_path}/secret}}", tmp_path / "elsewhere").data == "s"


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("${NO}", "the variable NO is not set"),
        ("${EMPTY}", "the variable EMPTY is empty"),
        ("${}", "an unknown form"),
        ("${9x}", "an unknown form"),
        ("${A-x}", "an unknown form"),
        ("${A:?x}", "an unknown form"),
        ("${vault:x}", "an unknown form"),
        ("${ A }", "an unknown form"),
        ("${A", "without a closing }"),
        ("${NO:-${A}}", "inside a"),
        ("${file:none}", "does not exist"),
        ("${file:}", "no regular file"),
        ("${file:.}", "no regular file"),
        ("${file:a\0b}", "file a\0b"),
        ("${file:void}", "is empty"),
        ("${file:binary}", "is not UTF-8"),
        ("${file:huge}", "is over 64 KiB"),
        ("${file:pipe}", "no regular file"),
    ],
)
def test_refused_with_a_mend(tmp_path, written, why):
    (tmp_path / "void").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "huge").write_bytes(b"x" * 65537)
    os.mkfifo(tmp_path / "pipe")
    result = resolve({"a": [1, written]}, tmp_path)
    [fault] = result.faults
    assert why in fault.message
    assert fault.mend
    assert fault.loc == ("a", 1)
    assert result.data == {"a": [1, written]}


def test_every_fault_is_found(tmp_path):
    result = resolve({"a": "${X}${Y}${A}", "${A}": {"b": ["${Z}"]}}, tmp_path)
    assert [fault.loc for fault in result.faults] == [("${A}",), ("a",), ("a",), ("${A}", "b", 0)]


def test_only_what_came_from_outside_is_hidden(tmp_path):
    (tmp_path / "f").write_text("filed")
    result = resolve(["${A}", "${NO:-localhost}", "${file:f}", "plain"], tmp_path)
    assert result.values == {"one", "filed"}
    assert "one" not in repr(result)


def test_what_is_no_text_stays(tmp_path):
    data = {"a": 1, "b": None, "c": [True, 1.5, {}], "d": []}
    assert resolve(data, tmp_path).data == data


@given(st.text(), st.text(min_size=1))
def test_a_value_is_put_in_as_it_is(tmp_path_factory, before, value):
    safe = before.replace("${", "").rstrip("$")
    result = resolve(f"{safe} ${{V}}", tmp_path_factory.getbasetemp(), {"V": value})
    assert "${" in safe or result.data == f"{safe} {value}"
