"""YAML with positions: what is read, where it stands, and what is refused without quoting it."""

import json
import warnings

import pytest

from gwcore.stackfile import Problem, StackErrors, load, quotes

TEXT = """\
gwcore: 1
stack:
  - auth: {store: book}
    when:
      models: [a, "b"]
  - cache
server: &s
  port: 1
other:
  <<: *s
  host: h
  again: *s
"""


def data(text):
    source = load(text + "\n")
    assert source.problems == []
    return source.data


@pytest.mark.parametrize(
    ("loc", "at"),
    [
        ((), (1, 1)),
        (("gwcore",), (1, 1)),
        (("stack",), (2, 1)),
        (("stack", 0), (3, 5)),
        (("stack", 0, "auth"), (3, 5)),
        (("stack", 0, "auth", "store"), (3, 12)),
        (("stack", 0, "when", "models", 1), (5, 19)),
        (("stack", 1), (6, 5)),
        (("stack", 1, "cache", "ttl"), (6, 5)),
        (("stack", 0, "auth", "missing"), (3, 5)),
        (("stack", 0, "list[int]", "when", "function-after[f(), str]"), (4, 5)),
        (("other", "port"), (8, 3)),
        (("other", "again"), (12, 3)),
        (("other", "again", "port"), (8, 3)),
        (("nothing", "at", "all"), (1, 1)),
    ],
)
def test_positions(loc, at):
    assert load(TEXT).position(loc) == at


def test_aliases_and_merges():
    assert data(TEXT)["other"] == {"host": "h", "port": 1, "again": {"port": 1}}
    assert data("a: &a {x: 1, y: 1}\nb: &b {x: 2}\nc:\n  <<: [*b, *a]\n  y: 3")["c"] == {"x": 2, "y": 3}


def test_scalars_of_yaml_1_2():
    written = "[yes, no, on, 12:30, 012, 0o14, 0x1f, 1e3, .inf, true, False, ~, null, '1', 2024-10-21, 1.10, -3, '']"
    becomes = ["yes", "no", "on", "12:30", 12, 12, 31, 1000.0, float("inf"), True, False, None, None]
    assert data(written) == [*becomes, "1", "2024-10-21", 1.1, -3, ""]
    assert data("1: a\ntrue: b\n~: c\non: d") == {"1": "a", "true": "b", "~": "c", "on": "d"}
    assert data("%YAML 1.1\n---\na: yes\nb: 12:30") == {"a": "yes", "b": "12:30"}
    assert data("a: |\n  one\n  two\n") == {"a": "one\ntwo\n"}


@pytest.mark.parametrize(
    ("text", "at", "message", "mend"),
    [
        ("a: 1\na: 2\n", (2, 1), "a: the key occurs twice, first in line 1", "keep one"),
        ("a:\n  b: {c: 1, c: 2}\n", (2, 13), "a.b.c: the key occurs twice", "keep one"),
        ("a: [1, 2\n", (1, 4), "expected", "brackets"),
        ("a:\n\t- b\n", (2, 1), "cannot start", "spaces"),
        ("a: b: c\n", (1, 5), "mapping values", "quotes"),
        ("a: @x\n", (1, 4), "cannot start", "quotes"),
        ("a: {b: ${X}}\n", (1, 9), "expected", '"${VAR}"'),
        ("a: [${X}]\n", (1, 6), "expected", '"${VAR}"'),
        ("a: 1\n---\nb: 2\n", (2, 1), "another document", "check"),
        ("a: *nothing\n", (1, 4), "undefined alias", "quotes"),
        ("a: !tag x\n", (1, 4), "a: YAML tags are not supported", "quotes"),
        ("a: !!python/object/apply:os.system [x]\n", (1, 4), "a: YAML tags are not supported", "remove"),
        ("a: !!set {x, y}\n", (1, 4), "a: YAML tags are not supported", "remove"),
        ('a: "x\\ud83d"\n', (1, 4), "a: half a character", "both"),
        ('a: {"\\ude00x": 1}\n', (1, 5), "a: half a character", "both"),
        ("? [a]\n: 1\n", (1, 3), "a key that is not text", "key: value"),
        ("a: 1\n<<: 5\n", (2, 1), "<< merges", "anchor"),
        ("ok: 1\nb: \a\n", (2, 4), "a character that YAML does not allow", "control"),
        ("\n# nothing\n", (1, 1), "is empty", "gwcore: 1"),
    ],
)
def test_refused(text, at, message, mend):
    problem = load(text).problems[0]
    assert (problem.line, problem.col) == at
    assert message in str(problem)
    assert mend in problem.mend


def test_what_json_writes_is_read():
    """It writes a character beyond 16 bits as two escapes."""
    written = {"a \U0001f600": ["\U0001f600 b", "\ufeffc", "\U0001d54f"]}
    assert data(json.dumps(written) + "\n") == written


def test_a_whole_number_can_be_written():
    """A message about a longer one would fail; in decimal digits it has always been text."""
    assert data("a: 0x" + "f" * 6000 + "\n") == {"a": "0x" + "f" * 6000}


@pytest.mark.parametrize(
    "line", ["*canary77", "!canary77 x", "'canary77", "canary77: x: y", "{canary77: ${X}}", '"canary77" x', "[canary77"]
)
def test_what_is_refused_is_not_quoted(line):
    source = load(f"api_key: {line}\nother: 1\n")
    assert source.problems
    assert "canary77" not in "".join(map(str, source.problems)) + repr(source)


def test_an_anchor_used_twice_warns_nobody():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data("a: &x canary77\nb: &x 2\nc: *x") == {"a": "canary77", "b": 2, "c": 2}


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]\n",
        "a: &a {b: *a}\n",
        "a: &a\n  b: &b\n    <<: *a\n",
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)),
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 10)),
        "a: " + "[" * 5000 + "]" * 5000 + "\n",
    ],
)
def test_bombs(text):
    assert 1 <= len(load(text).problems) <= 2


def test_files(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_bytes(b"\xef\xbb\xbfgwcore: 1\r\nb: x\r\n")
    source = load(file)
    assert (source.data, source.folder, source.name) == ({"gwcore": 1, "b": "x"}, tmp_path, str(file))
    assert load(str(file)).position(("b",)) == (2, 1)
    file.write_bytes(b"\xff")
    assert "UTF-8" in load(file).problems[0].message
    assert "cannot be read: No such file" in load(tmp_path / "none.yaml").problems[0].message
    assert "cannot be read: Is a directory" in load(tmp_path).problems[0].message
    assert "cannot be read" in load("a\0b").problems[0].message


def test_a_problem_in_one_line():
    problem = Problem("stack.yaml", 7, 5, "stack.1.ratelimit.rpm", "is wrong", "mend it", "ratelimit")
    assert str(problem) == "stack.yaml:7:5: stack.1.ratelimit.rpm: is wrong. Mend: mend it"
    assert str(Problem("s", 1, 2, "", "is wrong")) == "s:1:2: is wrong"


def test_errors_are_sorted():
    late, early = Problem("s", 9, 1, "", "late"), Problem("s", 2, 8, "", "early")
    errors = StackErrors([late, early])
    assert errors.problems == [early, late]
    assert errors.message == "s:2:8: early\ns:9:1: late"


@pytest.mark.parametrize(
    ("secret", "message", "shown"),
    [
        ("sk-abcdefghij", "the key SK-ABCDEFGHIJ is bad", True),
        ("sk-abcdefghij", "it ends in cdefghij", True),
        ("sk-abcdefghij", "it begins with sk-abc", False),
        ("abcd", "it is abcd", True),
        ("abc", "it is abc", False),
        ("", "anything", False),
    ],
)
def test_quotes(secret, message, shown):
    assert quotes(secret, message) is shown
