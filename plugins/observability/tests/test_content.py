"""Content: off unless asked for, per sink and per key; without personal data where redacted; media as a size."""

import base64
import os

import orjson
import pytest
from obs_world import CHAT, Place, ask, gateway, ok, streamed, webhook

from gwcore.redact import Redactor
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_observability.content import Captured, Reader

KEYS = """stack:
  - auth:
      admin_key: "0f8d2c6e4b1a97532468ace013579bdf"
      keys:
        plain: {secret: "sk-one-7f3a9c1e5b8d2046af1390bcde57"}
        open: {secret: "sk-two-7f3a9c1e5b8d2046af1390bcde58", policies: {webhook: {content: full}}}
        team: {secret: "sk-thr-7f3a9c1e5b8d2046af1390bcde59", team: t}
        shut: {secret: "sk-fou-7f3a9c1e5b8d2046af1390bcde5a", team: t, policies: {webhook: {content: "off"}}}
      teams: {t: {policies: {webhook: {content: redacted}}}}
"""
SECRETS = {
    "plain": "sk-one-7f3a9c1e5b8d2046af1390bcde57",
    "open": "sk-two-7f3a9c1e5b8d2046af1390bcde58",
    "team": "sk-thr-7f3a9c1e5b8d2046af1390bcde59",
    "shut": "sk-fou-7f3a9c1e5b8d2046af1390bcde5a",
}


def read(document, level="redacted", limit=1 << 20, **reader):
    raw = 1000
    captured = Captured(level, document, raw, None, False, "m", "chat", None)
    return Reader(Redactor(["known-secret-value"]), limit=limit, **reader).read(captured)


async def test_the_sink_says_and_the_narrowest_policy_says_otherwise(tmp_path):
    async with FakeUpstream() as up, Place() as place:
        up.default = ok()
        async with gateway(up, webhook(place, tmp_path), stack=KEYS) as (url, _):
            for name, secret in SECRETS.items():
                answer = await ask(url, "mail me: ann@example.org", headers={"authorization": f"Bearer {secret}"})
                assert answer.status_code == 200, answer.text
            await place.until(4)
    told = {record["key"]: record.get("content") for record in place.records}
    assert told["plain"] is None and told["shut"] is None
    assert told["open"]["request"]["messages"][0]["content"] == "mail me: ann@example.org"
    assert told["open"]["response"]["choices"][0]["message"]["content"] == "hello"
    assert told["team"]["request"]["messages"][0]["content"] == "mail me: [email]"


@pytest.mark.parametrize("level", ["redacted", "full"])
async def test_a_stream_is_told_as_the_answer_it_amounts_to(tmp_path, level):
    async with FakeUpstream() as up, Place() as place:
        up.default = streamed()
        async with gateway(up, webhook(place, tmp_path, content=level)) as (url, _):
            await ask(url, stream=True)
            await place.until(1)
    (record,) = place.records
    assert record["content"]["response"]["choices"][0]["message"]["content"] == "hello"
    assert record["content"]["truncated"] is False


async def test_an_error_and_a_cut_stream_have_content_too(tmp_path):
    async with FakeUpstream(Answer(400, body=b'{"error": {"message": "no"}}')) as up, Place() as place:
        up.default = Answer(body=streamed().body, cut_after=400)
        async with gateway(up, webhook(place, tmp_path, content="full")) as (url, _):
            await ask(url)
            await ask(url, stream=True)
            await place.until(2)
    refused, cut = place.records
    assert refused["content"]["response"] == {"error": {"message": "no"}}
    assert "hel" in orjson.dumps(cut["content"]["response"]).decode()


@pytest.mark.parametrize(
    "odd", [b'{"choices": [[]]}', b'{"choices": [{"index": 0, "delta": []}]}', b'{"choices": [7]}']
)
async def test_an_event_of_another_shape_costs_no_content(tmp_path, odd):
    body = streamed().body
    async with FakeUpstream() as up, Place() as place:
        up.default = Answer(body=[body[0], b"data: " + odd + b"\n\n", *body[1:]])
        async with gateway(up, webhook(place, tmp_path, content="full")) as (url, _):
            await ask(url, "what was asked", stream=True)
            await place.until(1)
    (record,) = place.records
    assert record["content"]["request"]["messages"][0]["content"] == "what was asked"
    assert "lo" in orjson.dumps(record["content"]["response"]).decode()


def test_personal_data_goes_and_the_rest_stays():
    text = (
        "ann.b@example.co.uk, +49 170 1234567, 4111 1111 1111 1111, 123-45-6789, DE89 3704 0044 0532 0130 00, 10.1.2.3, "
        "order 12345 of 2026-11-21 costs 1,299.00; v3.11.7"
    )
    said = read({"m": text}).request["m"]
    assert said == ("[email], [phone], [card], [ssn], [iban], [ip], order 12345 of 2026-11-21 costs 1,299.00; v3.11.7")
    assert read({"m": text}, "full").request["m"] == text
    assert read({"m": "ticket ABC-123"}, patterns=["ABC-\\d+"]).request["m"] == "ticket [pii]"


@pytest.mark.parametrize("level", ["redacted", "full"])
def test_secrets_go_at_every_level(level):
    said = orjson.dumps(
        read({"a": ["known-secret-value", {"b": "Bearer abcdefghijkl"}], "sk-keyname12345": 1}, level).request
    )
    assert said == b'{"a":["[redacted]",{"b":"[redacted]"}],"[redacted]":1}'


def test_media_are_a_size(tmp_path):
    picture = base64.b64encode(os.urandom(10_000_000)).decode()
    content = read(
        {
            "url": f"data:image/png;base64,{picture}",
            "source": {"type": "base64", "data": picture},
            "embedding": [0.5] * 1536,
            "text": "see the picture",
        },
        "full",
    )
    said = orjson.dumps(content.request)
    assert len(said) < 300 and b"see the picture" in said and b"image/png" in said and b"1536 numbers" in said


def test_long_content_is_cut_and_says_so():
    content = read({"a": "word " * 1000, "b": "more"}, limit=1024)
    assert content.truncated and len(content.request["a"]) == 1023 and "more" not in content.request.values()
    assert not read({"a": "short"}).truncated
    secret = "x" * 1018 + "known-secret-value"
    assert "known" not in read({"a": secret}, limit=1024).request["a"]  # not even half of it


def test_a_deep_document_ends():
    deep = []
    for _ in range(5000):
        deep = [deep]
    assert read({"a": deep}).truncated


async def test_off_keeps_nothing_of_the_answer(tmp_path):
    async with FakeUpstream() as up, Place() as place:
        up.default = ok()
        async with gateway(up, webhook(place, tmp_path)) as (url, made):
            seen = []
            tap = made.stack.taps.call_ended[0][1]

            def watch(call, outcome):
                seen.append(call.reply.copy)
                tap(call, outcome)

            made.stack.taps = type(made.stack.taps)(call_ended=(("x", watch),))
            await ask(url)
            await place.until(1)
    assert seen == [None] and CHAT["choices"][0]["message"]["content"] not in orjson.dumps(place.records).decode()


async def test_an_error_is_told_alike_whether_a_stream_was_asked_for_or_not(tmp_path):
    said = {"error": {"message": "no", "type": "x", "code": None}}
    async with FakeUpstream() as up, Place() as place:
        up.default = Answer(400, body=orjson.dumps(said))
        async with gateway(up, webhook(place, tmp_path, content="full")) as (url, _):
            for stream in (False, True):
                await ask(url, stream=stream)
            await place.until(2)
    assert [record["content"]["response"] for record in place.records] == [said, said]
