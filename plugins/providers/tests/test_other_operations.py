"""What is billed by other units than chat's tokens: pieces, seconds, characters, searches (pains B17)."""

import json

import pytest

from gwcore.usage import Usage
from gwcore_providers import gwcore_dialects
from gwcore_providers import meter as meters
from gwcore_providers.usage import anthropic_usage, bedrock_usage, gemini_usage, openai_usage

DIALECTS = {dialect.name: dialect for dialect in gwcore_dialects()}
CHAT, RESPONSES, GEMINI = (DIALECTS[name] for name in ("openai.chat", "openai.responses", "gemini.generate"))


def read(operation, reply, request=None, dialect=CHAT):
    meter = dialect.meter(operation, request or {}, stream=False)
    meter.whole(json.dumps(reply).encode())
    return meter.usage


@pytest.mark.parametrize(
    ("operation", "reply", "request_", "usage"),
    [
        ("image_generation", {"data": [{}, {}]}, {}, Usage(fees={"image": 2})),
        ("image_generation", {"data": [{}]}, {"quality": "hd", "size": "1792x1024"}, Usage(fees={"image/hd/1792x1024": 1})),
        ("image_edit", {"data": [{}]}, None, Usage(fees={"image": 1})),
        ("image_generation", {"data": [{}], "usage": {"cost_in_usd_ticks": 700_000_000}}, {}, Usage(fees={"image": 1}, reported=70_000_000)),
        (
            "image_generation",
            {"data": [{}], "usage": {"input_tokens": 50, "output_tokens": 4_160, "total_tokens": 4_210, "input_tokens_details": {"image_tokens": 40}}},
            {},
            Usage(input=10, image_in=40, image_out=4_160),
        ),
        ("transcription", {"text": "x", "usage": {"type": "duration", "seconds": 8.3}}, None, Usage(fees={"audio_seconds": 9})),
        ("transcription", {"text": "x", "duration": 8.0, "segments": []}, None, Usage(fees={"audio_seconds": 8})),
        ("transcription", {"text": "x"}, None, None),
        ("rerank", {"results": [], "meta": {"billed_units": {"search_units": 3}}}, {}, Usage(fees={"rerank": 3})),
        ("rerank", {"data": [], "usage": {"total_tokens": 26}}, {}, Usage(input=26)),
        ("embeddings", {"data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}}, {}, Usage(input=8)),
        ("moderations", {"results": []}, {}, Usage(fees={"moderation": 1})),
        ("chat", {"usage": {"prompt_tokens": 5, "completion_tokens": 2}}, {"web_search_options": {}}, Usage(input=5, output=2, fees={"web_search": 1})),
        ("chat", {"usage": None}, {}, None),
        ("chat", {"usage": {"prompt_tokens": True, "completion_tokens": -4, "total_tokens": "9"}}, {}, Usage()),
    ],
)  # fmt: skip
def test_units(operation, reply, request_, usage):
    assert read(operation, reply, request_) == usage


def test_speech_is_billed_by_what_was_asked_for():
    meter = CHAT.meter("speech", {"input": "háček"}, stream=False)
    assert meter.feed(b"mp3") == b"mp3" and meter.finish() == b""
    assert meter.usage == Usage(fees={"characters": 5})


def test_server_tools_of_responses_are_counted_from_the_output():
    searched = {"type": "web_search_call", "action": {"type": "search"}}
    opened = {"type": "web_search_call", "action": {"type": "open_page"}}
    runs = [{"type": "code_interpreter_call", "container_id": name} for name in ("a", "b", "a")]
    output = [
        searched,
        searched,
        opened,
        *runs,
        {"type": "file_search_call"},
        {"type": "mcp_call"},
        {"type": "message"},
        "?",
    ]
    usage = read("chat", {"usage": {"input_tokens": 1}, "output": output}, dialect=RESPONSES)
    assert usage.fees == {"web_search": 2, "code_execution": 2, "file_search": 1}


@pytest.mark.parametrize(("model", "searches"), [("gemini-2.5-flash", 1), ("gemini-3-pro-preview", 2), (None, 2)])
def test_grounding_is_billed_per_prompt_or_per_query(model, searches):
    grounded = {"candidates": [{"groundingMetadata": {"webSearchQueries": ["a", "b", "a", ""]}}], "modelVersion": model}
    reply = {**grounded, "usageMetadata": {"promptTokenCount": 1, "totalTokenCount": 1}}
    assert read("chat", reply, dialect=GEMINI).fees == {"web_search": searches}


def test_realtime_style_details_keep_cached_audio_apart():
    details = {
        "text_tokens": 40,
        "audio_tokens": 60,
        "cached_tokens": 30,
        "cached_tokens_details": {"text_tokens": 10, "audio_tokens": 20},
    }
    usage = read("chat", {"usage": {"input_tokens": 100, "output_tokens": 5, "input_token_details": details}})
    assert (usage.input, usage.cache_read, usage.audio_in, usage.audio_cache_read, usage.total_in) == (
        30,
        10,
        40,
        20,
        100,
    )


@pytest.mark.parametrize("reply", [b"not json", b"[1, null]", b"null", b'"x"', b'{"usage": 5}', b'{"usage": []}'])
def test_what_is_no_usage_is_none(reply):
    meter = CHAT.meter("chat", {}, stream=False)
    meter.whole(reply)
    assert meter.usage is None


def test_byok_adds_what_the_vendor_bills():
    usage = {"prompt_tokens": 1, "cost": 0.0005, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.01}}
    assert read("chat", {"usage": usage}).reported == 10_500_000
    assert read("chat", {"usage": {**usage, "is_byok": False}}).reported == 500_000
    assert read("chat", {"usage": {"prompt_tokens": 1, "cost": 1e-10}}).reported == 1  # rounded up, never to nothing


def test_a_part_of_a_nano_dollar_is_one():
    assert openai_usage({"prompt_tokens": 1, "cost_in_usd_ticks": 11}).reported == 2


def test_what_is_written_into_the_cache_for_an_hour_is_not_written_for_minutes_too():
    written = {"cacheWriteInputTokens": 10, "cacheDetails": [{"ttl": "1h", "inputTokens": 4}]}
    found = bedrock_usage({"inputTokens": 1, **written})
    assert (found.input, found.cache_write_5m, found.cache_write_1h, found.total_in) == (1, 6, 4, 11)


@pytest.mark.parametrize(("kind", "exact"), [("compaction", True), ("advisor_message", False)])
def test_every_round_beside_the_message_is_paid_and_what_another_model_said_has_no_price_here(kind, exact):
    rounds = [{"type": "message", "input_tokens": 5}, *[{"type": kind, "input_tokens": 7, "output_tokens": 2}] * 2]
    found = anthropic_usage({"input_tokens": 5, "output_tokens": 1, "iterations": rounds})
    assert (found.input, found.output, found.mismatch) == (19, 5, not exact)


def test_an_answer_from_the_united_states_is_of_a_tier_of_its_own():
    said = {"input_tokens": 1, "inference_geo": "us"}
    assert anthropic_usage(said).service_tier == "us"
    assert anthropic_usage({**said, "service_tier": "priority"}).service_tier == "priority+us"
    assert anthropic_usage({**said, "inference_geo": "global"}).service_tier is None


def test_more_from_the_cache_than_was_read_does_not_add_up():
    found = gemini_usage({"promptTokenCount": 1, "cachedContentTokenCount": 2, "candidatesTokenCount": 1})
    assert found.mismatch and found.total_in == 1


USED = {"prompt_tokens": 8, "total_tokens": 8}


@pytest.mark.parametrize(
    "reply",
    [
        {"usage": USED, "data": [{"embedding": [0.5]}], "model": "m"},
        {"data": [{"embedding": [0.5], "usage": {"prompt_tokens": 1, "total_tokens": 1}}], "usage": USED, "model": "m"},
        {"usage": USED, "data": [{"usage": {"prompt_tokens": 1, "total_tokens": 1}}]},
        {"usage": USED, "data": [{"object": 'of "usage": {"prompt_tokens": 1, "total_tokens": 1}}'}]},
        {"usage": USED, "object": "usage"},
        {"data": [], "usage": USED, "model": '"usage"'},
    ],
)
def test_the_usage_of_embeddings_is_that_of_the_outermost_object(reply):
    assert read("embeddings", reply) == Usage(input=8)


def test_numbers_before_the_usage_are_not_parsed(monkeypatch):
    parsed = []

    def loads(body, loads=meters.orjson.loads):
        parsed.append(len(body))
        return loads(body)

    monkeypatch.setattr(meters.orjson, "loads", loads)
    assert read("embeddings", {"data": [{"embedding": [0.5] * 100_000}], "usage": USED}) == Usage(input=8)
    assert parsed and sum(parsed) < 100
