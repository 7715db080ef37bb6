"""A value of a type that its dialect does not have there is named, whatever dialect it would be translated to."""

import pytest

from gwcore.codec import Crossing
from gwcore.errors import BadRequest
from gwcore.translate import SEARCHED, TRIES, said
from tests.fidelity.corpus import CODECS
from tests.fidelity.relayed import REQUESTS

TEXT = {"role": "user", "content": "hello"}
ODD = [
    ("openai.chat", {"temperature": "0.5"}, "temperature"),
    ("openai.chat", {"temperature": "0.5", "top_p": 1, "seed": 7, "user": "u"}, "temperature"),
    ("openai.chat", {"stop": 7}, "stop"),
    ("openai.chat", {"n": [1]}, "n"),
    ("openai.chat", {"service_tier": {}}, "service_tier"),
    ("openai.chat", {"messages": [TEXT, {"role": "user", "content": [{"type": []}]}, TEXT]}, "messages[1]"),
    ("openai.responses", {"include": 7}, "include"),
    ("openai.chat", {"messages": [{"role": "user", "content": [{"type": []}]}]}, "messages"),
]


def refusal(client, document):
    crossing = Crossing("claude-opus-4-6", "asked", request=document)
    with pytest.raises(BadRequest) as caught:
        said(CODECS[client], CODECS["anthropic.messages"], crossing)
    return caught.value.message


@pytest.mark.parametrize(("client", "odd", "where"), ODD)
def test_what_has_the_wrong_type_is_named(client, odd, where):
    assert refusal(client, {**REQUESTS[client], **odd}) == f"{where} has the wrong type, or a value inside it has"


def test_what_is_large_is_not_searched():
    """The search translates the request again without each part: nobody may make a worker do so for seconds."""
    odd = {**REQUESTS["openai.chat"], "temperature": "0.5"}
    for large in ({"user": "u" * SEARCHED}, {f"x{n}": 1 for n in range(TRIES)}):
        assert refusal("openai.chat", {**odd, **large}) == "a value of the request has the wrong type (TypeError)"


def test_two_values_of_a_wrong_type_have_no_name():
    message = refusal("openai.chat", {**REQUESTS["openai.chat"], "temperature": "0.5", "stop": 7})
    assert message == "a value of the request has the wrong type (TypeError)"
