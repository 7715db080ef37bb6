"""What a request refers to is found in its outline as in all its bytes, however long its texts are and whatever is in them."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwcore.testing import fakes
from gwcore_budget import references
from gwcore_budget.bound import sent
from gwcore_budget.references import outline, pictures, unseen

PARTS = (
    '"',
    "\\",
    "file",
    "file_id",
    "fileData",
    "video_url",
    "image_url",
    "document",
    ": {",
    ",",
    "\n",
    "é",
    "a" * 70,
)
TEXTS = st.lists(st.sampled_from(PARTS), max_size=6).map("".join)
DOCUMENTS = st.dictionaries(
    TEXTS,
    st.recursive(
        TEXTS | st.integers(0, 9), lambda below: st.lists(below) | st.dictionaries(TEXTS, below), max_leaves=20
    ),
)


def agree(document):
    raw = orjson.dumps(document)
    whole, found = raw.decode("latin-1"), outline(raw).decode("latin-1")
    assert unseen(document, whole) is unseen(document, found)
    assert pictures(document, whole) == pictures(document, found)


@pytest.fixture
def cut(monkeypatch):
    monkeypatch.setattr(references, "_LARGE", 0)
    monkeypatch.setattr(references, "_CUT", 40)
    monkeypatch.setattr(references, "_ENDS", 15)


def test_what_is_cut_refers_to_nothing(cut):
    given(DOCUMENTS)(agree)()


def test_a_mark_that_is_cut_is_not_found(cut, monkeypatch):
    """The control."""
    agree({"content": [{"type": "document"}]})
    monkeypatch.setattr(references, "_ENDS", 2)
    monkeypatch.setattr(references, "_CUT", 4)
    with pytest.raises(AssertionError):
        agree({"content": [{"type": "document"}]})


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, 'print("file")\n' * 60_000, "data:image/png;base64," + "Ab3+" * 250_000]
)
def test_of_long_texts_little_is_left_to_search(text):
    call = fakes.call(text, tools=[{"type": "function", "function": {"name": "f"}}])
    size, found = sent(call)
    assert size == len(call.raw) > 700_000 and len(found) < 1_000


def test_of_a_picture_by_address_everything_counts(monkeypatch):
    part = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    call = fakes.call("x" * 100_000)
    call.edit()["messages"].append({"role": "user", "content": [part]})
    size, found = sent(call)
    assert size == len(orjson.dumps(call.document)) and pictures(call.document, found) == 2 and len(found) < 1_000


def test_marks_in_escaped_letters_are_found_in_a_large_request():
    call = fakes.call("x" * 100_000)
    call.document["messages"].append({"role": "user", "content": [{"type": "document", "source": {"file_id": "f"}}]})
    call.raw = (
        orjson.dumps(call.document)
        .replace(b'"document"', b'"d\\u006fcument"')
        .replace(b'"file_id"', b'"f\\u0069le_id"')
    )
    assert unseen(call.document, sent(call)[1])
