"""Members of a request that an upstream reads and policy would not: other spellings, further models."""

import pytest

from gwcore.codec import Crossing
from gwcore.errors import BadRequest, Untranslatable
from gwcore.knobs import largest, saying
from gwcore.wire.transport import Request
from gwcore_providers.anthropic.codec import MessagesCodec
from gwcore_providers.compatible import provider_of
from gwcore_providers.gemini.codec import GeminiCodec
from gwcore_providers.gemini.generate import GeminiGenerate
from gwcore_providers.openai.chat import OpenAIChat
from gwcore_providers.openai.chat_codec import ChatCodec
from gwcore_providers.openai.responses_codec import ResponsesCodec
from gwcore_providers.usage import number


@pytest.mark.parametrize("outer", ["generationConfig", "generation_config"])
@pytest.mark.parametrize(
    ("n", "most"), [("candidateCount", "maxOutputTokens"), ("candidate_count", "max_output_tokens")]
)
def test_gemini_reads_either_spelling_at_each_level(outer, n, most):
    document = {outer: {n: 8, most: 9_000}}
    knobs = GeminiGenerate().knobs("chat", document, "m")
    assert largest(document, knobs["n"]) == 8
    assert largest(document, knobs["max_tokens"]) == 9_000
    assert saying(document, knobs["max_tokens"], 7) == {outer: {n: 8, most: 7}}


def test_a_chat_in_the_shape_of_responses_is_bounded_where_that_is_read():
    document = {"input": "hi", "max_tokens": 1, "max_output_tokens": 9_000}
    assert largest(document, OpenAIChat().knobs("chat", document, "m")["max_tokens"]) == 9_000
    chat = {"messages": [], "max_tokens": 1}
    assert largest(chat, OpenAIChat().knobs("chat", chat, "m")["max_tokens"]) == 1


def prepared(name, body):
    provider = provider_of(name)
    request = Request("POST", None, "/", [], body, None)
    provider.prepare(None, request, "openai.chat", "chat", stream=False)
    return request.body


@pytest.mark.parametrize(
    ("vendor", "body"),
    [
        ("openrouter", b'{"model": "a", "models": ["b"]}'),
        ("openrouter", b'{"model": "a", "\\u006dodels": ["b"]}'),
        ("vercel-gateway", b'{"model": "a", "providerOptions": {"gateway": {"models": ["b"]}}}'),
    ],
)
def test_a_request_names_no_further_models_to_a_router_of_others(vendor, body):
    with pytest.raises(BadRequest, match="models"):
        prepared(vendor, body)


def test_a_text_may_speak_of_models():
    body = b'{"model": "a", "messages": [{"role": "user", "content": "models \\u00e9"}]}'
    assert prepared("openrouter", body) == body


def test_a_form_is_not_read():
    """A recording may hold any bytes, those of an escape among them."""
    body = b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nRIFF\\u\x00 models\r\n--b--'
    assert prepared("vercel-gateway", body) == body


def test_what_nobody_can_have_used_is_no_count():
    assert number({"a": 2**64 - 1, "b": 3}, "a", "b") == 3
    assert number({"a": 1e300}, "a") == 0
    assert number({"a": 10**9}, "a") == 10**9


@pytest.mark.parametrize("writer", [MessagesCodec(), GeminiCodec(), ResponsesCodec()])
def test_an_answer_that_was_spoken_goes_to_nobody_else_without_its_words(writer):
    spoken = {"role": "assistant", "content": None, "audio": {"id": "audio_1"}}
    told = [{"role": "user", "content": "a"}, spoken, {"role": "user", "content": "b"}]
    request = ChatCodec().read_request({"model": "m", "messages": told}, "m", stream=False)
    with pytest.raises(Untranslatable, match=r"messages\.audio"):
        writer.write_request(request, Crossing("m"))
    spoken["content"] = "in words"
    crossing = Crossing("m")
    writer.write_request(ChatCodec().read_request({"model": "m", "messages": told}, "m", stream=False), crossing)
    assert "messages.audio" in crossing.dropped
