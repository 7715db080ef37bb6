"""Each dialect's places for knobs, against its codec: what is said there is read under the same name."""

import pytest

from gwcore.knobs import saying
from gwcore_providers import gwcore_dialects

MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}
BODIES = {
    "openai.chat": MESSAGES,
    "openai.responses": {"input": "hi"},
    "anthropic.messages": {**MESSAGES, "max_tokens": 5},
    "gemini.generate": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
}
VALUES = {"stop": ["x"], "user": "u-1", "service_tier": "auto", "verbosity": "low"}
CHAT = [dialect for dialect in gwcore_dialects() if dialect.chat is not None and dialect.routes]
CASES = [(dialect, knob) for dialect in CHAT for knob in dialect.knobs("chat", {}, "m")]


def read(dialect, document):
    request = dialect.chat.read_request({"model": "m", **document}, "m", stream=False)
    return {"max_tokens": request.max_tokens, "n": request.n, "stop": request.stop, **request.knobs}


def test_all_chat_dialects_are_here():
    assert {dialect.name for dialect in CHAT} == set(BODIES)


@pytest.mark.parametrize(("dialect", "knob"), CASES, ids=lambda v: getattr(v, "name", v))
def test_the_codec_reads_what_is_said_there(dialect, knob):
    body, value = BODIES[dialect.name], VALUES.get(knob, 1)
    for place in dialect.knobs("chat", body, "m")[knob]:
        document = {**body, **saying(body, (place,), value)}
        assert read(dialect, document)[knob] == value, place
        assert read(dialect, body).get(knob) != value  # it was not said before


@pytest.mark.parametrize("dialect", CHAT, ids=lambda d: d.name)
def test_every_dialect_has_the_usual_knobs(dialect):
    assert {"max_tokens", "temperature", "top_p"} <= set(dialect.knobs("chat", BODIES[dialect.name], "m"))


def test_models_that_sample_as_they_like_have_no_place_for_it():
    for dialect in CHAT[:2]:
        assert "temperature" not in dialect.knobs("chat", {}, "gpt-5-mini")
        assert "temperature" in dialect.knobs("chat", {}, "gpt-4.1")
    chat = next(dialect for dialect in CHAT if dialect.name == "openai.chat")
    assert saying({}, chat.knobs("chat", {}, "gpt-5")["max_tokens"], 7) == {"max_completion_tokens": 7}
    assert saying({}, chat.knobs("chat", {}, "llama-3")["max_tokens"], 7) == {"max_tokens": 7}


def test_who_thinks_is_not_sampled():
    messages = next(dialect for dialect in CHAT if dialect.name == "anthropic.messages")
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    assert "temperature" not in messages.knobs("chat", thinking, "m")
    assert "temperature" in messages.knobs("chat", {"thinking": {"type": "disabled"}}, "m")
