"""A recorded request, read and written again in its own dialect, says the same."""

import copy

import pytest

from tests.fidelity.corpus import CODECS, MISSING, SPECS, crossing_for, read, requests
from tests.fidelity.normal import normal

pytestmark = pytest.mark.skipif(not requests(), reason=MISSING)
LEAST = {"openai.chat": 200, "openai.responses": 85, "anthropic.messages": 95, "gemini.generate": 65}


def differences(one, other, at=""):
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            if key not in one or key not in other:
                yield f"{at}.{key}", one.get(key), other.get(key)
            else:
                yield from differences(one[key], other[key], f"{at}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differences(a, b, f"{at}[{place}]")
    elif one != other:
        yield at, one, other


def again(record, dialect, write=None):
    """Where a recorded request and what is written of it differ."""
    written = (write or CODECS[dialect].write_request)(read(record), crossing_for(record))
    was = normal(dialect, copy.deepcopy(record["request"]["body"]))
    return list(differences(was, normal(dialect, copy.deepcopy(written))))


@pytest.mark.parametrize("dialect", SPECS)
def test_a_recorded_request_comes_back_equal(dialect):
    records = requests(dialect)
    assert len(records) > LEAST[dialect]
    wrong = [(r["id"], *found[0]) for r in records if (found := again(r, dialect))]
    assert not wrong, (len(wrong), [(one, at, str(a)[:90], str(b)[:90]) for one, at, a, b in wrong[:6]])


@pytest.mark.parametrize("dialect", SPECS)
def test_a_writer_that_forgets_is_caught(dialect):
    """The negative control: without its last part, no request is equal."""

    def long(request):
        return [message for message in request.messages if len(message.parts) > 1]

    def forgetful(request, crossing):
        long(request)[-1].parts.pop()
        return CODECS[dialect].write_request(request, crossing)

    records = [r for r in requests(dialect) if long(read(r))]
    assert len(records) > 5 and not [r["id"] for r in records if not again(r, dialect, forgetful)]


@pytest.mark.parametrize("dialect", SPECS)
def test_reading_leaves_the_document_as_it_was(dialect):
    """Requests share nothing (E15), and a second attempt reads what the first one read."""
    for record in requests(dialect)[:80]:
        document = copy.deepcopy(record["request"]["body"])
        first = CODECS[dialect].read_request(document, "m", stream=False)
        CODECS[dialect].write_request(first, crossing_for(record))
        assert document == record["request"]["body"]
