"""Upstreams that answer unlike most, read by the official SDKs: streams with ends of their own, halves, errors as a 200."""

import gzip
import json
from contextlib import asynccontextmanager

import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.stacks.raw import exchange
from tests.stacks.sdk_marks import SDK_WARNINGS

pytestmark = [pytest.mark.timeout(60), *SDK_WARNINGS]

STACK = """\
gwcore: 1
upstreams:
  up: {{provider: openai-compatible, base_url: "{up}/v1"}}
  claude: {{provider: anthropic, base_url: "{claude}"}}
  gem: {{provider: gemini, base_url: "{claude}"}}
stack: [{stack}]
watch: [{watch}]
"""
HELLO = [{"role": "user", "content": "hi"}]
ASK = json.dumps({"model": "up/m", "messages": HELLO}).encode()
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
EVENTS = [("content-type", "text/event-stream")]
WHOLE = {
    **CHUNK,
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
}


def frames(*documents, newline="\n"):
    return [f"data: {json.dumps(one)}{newline}{newline}".encode() for one in documents]


def said(text, finish=None):
    return {**CHUNK, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


@asynccontextmanager
async def serving(stack="", watch="prometheus"):
    async with FakeUpstream() as up, FakeUpstream() as claude:
        text = STACK.format(up=up.url, claude=claude.url, stack=stack, watch=watch)
        async with (
            running(Gateway(text)) as url,
            AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client,
        ):
            yield up, claude, url, client


# ── streams that do not end like a chat ──────────────────────────────────────────────────────────────────────────────

# as OpenAI's specification shows them: no [DONE]
MEDIA = {
    "images.generate": ("image_generation.partial_image", "image_generation.completed", "b64_json"),
    "images.edit": ("image_edit.partial_image", "image_edit.completed", "b64_json"),
    "audio.transcriptions.create": ("transcript.text.delta", "transcript.text.done", "text"),
}
FILE = ("a.bin", b"\0\1", "application/octet-stream")
ARGUMENTS = {
    "images.generate": {"prompt": "x"},
    "images.edit": {"prompt": "x", "image": FILE},
    "audio.transcriptions.create": {"file": FILE},
}


def media(method):
    first, last, member = MEDIA[method]
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    # the last event's name stands far before its end, and usage is not always there
    return [
        frames({"type": first, "delta": "x", "b64_json": "A"}, {"type": last, "usage": usage, member: "A" * 9000}),
        frames({"type": first, "delta": "x", "b64_json": "A"}, {"type": last, member: "A" * 9000}),
    ]


def called(client, method, **more):
    for name in method.split("."):
        client = getattr(client, name)
    return client(model="up/m", stream=True, **ARGUMENTS[method], **more)


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("method", MEDIA)
async def test_images_and_transcripts_stream_to_their_end(method, done):
    async with serving() as (up, _, _, client):
        for body in media(method):
            up.script(Answer(body=body + ([b"data: [DONE]\n\n"] if done else [])))
            assert [event.type async for event in await called(client, method)] == [*MEDIA[method][:2]]


async def test_speech_streams_to_its_end():
    async with serving() as (up, _, _, client):
        body = frames({"type": "speech.audio.delta", "audio": "AAAA"}, {"type": "speech.audio.done"})
        up.script(Answer(body=body))
        speech = client.audio.speech.with_streaming_response
        async with speech.create(model="up/m", voice="alloy", input="hi", stream_format="sse") as answer:
            assert await answer.read() == b"".join(body)


@pytest.mark.parametrize("told", [b": x-gwcore-cost-usd 0.001\n\n", b":\r\n\r\n: ping\r\n\r\n"])
async def test_comments_behind_the_last_event_are_no_cut(told):
    """As another gateway says what it cost, or a proxy that it is there."""
    async with serving() as (up, _, _, client):
        body = frames({"type": "speech.audio.delta", "audio": "AAAA"}, {"type": "speech.audio.done"})
        speech = client.audio.speech.with_streaming_response
        for sent, whole in ((body, True), ([body[0][:-9]], False)):
            up.script(Answer(body=[*sent, told]))
            async with speech.create(model="up/m", voice="alloy", input="hi", stream_format="sse") as answer:
                assert (b"before the answer was complete" not in await answer.read()) is whole


@pytest.mark.parametrize("method", MEDIA)
async def test_one_that_is_cut_ends_with_an_error_event(method):
    async with serving() as (up, _, _, client):
        whole = b"".join(media(method)[0])
        for cut in (Answer(body=[whole[:-900]]), Answer(body=[whole], cut_after=len(whole) - 900)):
            up.script(cut)
            seen = []
            with pytest.raises(openai.APIError, match="ended"):
                async for event in await called(client, method):
                    seen.append(event.type)
            assert seen == [MEDIA[method][0]]


# ── a failure inside an event ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("watch", ["", "prometheus"])
@pytest.mark.parametrize("how", ["cut", "ended"])
async def test_half_an_event_does_not_swallow_the_error(how, watch, newline):
    body = b"".join(frames(said("Hel"), said("lo"), said("!"), newline=newline))
    at = len(body) - 20
    cut = {
        "cut": Answer(body=[body], cut_after=at, headers=EVENTS, split=[11]),
        "ended": Answer(body=[body[:at]], headers=EVENTS),
    }
    async with serving(watch=watch) as (up, _, _, client):
        up.script(cut[how])
        text = ""
        with pytest.raises(openai.APIError, match="ended"):
            async for chunk in await client.chat.completions.create(model="up/m", messages=HELLO, stream=True):
                text += chunk.choices[0].delta.content or ""
        assert text == "Hello"


async def test_what_follows_an_unfinished_last_line_is_a_line_of_its_own():
    """Some vendors omit the last newline; the comment that tells the cost comes behind it."""
    usage = {**CHUNK, "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
    async with FakeUpstream() as up:
        up.script(
            Answer(body=[b"".join(frames(said("Hi"), said("", "stop"), usage)) + b"data: [DONE]"], headers=EVENTS)
        )
        text = (
            f'gwcore: 1\nupstreams:\n  up: {{provider: vllm, base_url: "{up.url}/v1", prices: {{m: free}}}}\n'
            "stack: []\nserver: {cost: stream}\nwatch: [prometheus]\n"
        )
        async with running(Gateway(text)) as url:
            body = json.dumps(
                {"model": "up/m", "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
            )
            answer = await exchange(url, "POST", "/v1/chat/completions", body.encode())
    assert answer.body.endswith(b"data: [DONE]\n\n: x-gwcore-cost-usd 0.000000000\n\n")


@pytest.mark.parametrize("model", ["gem/m", "up/m"])
async def test_a_broken_list_of_googles_is_cut_and_holds_no_event(model):
    part = {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hel"}]}, "index": 0}]}
    async with serving() as (up, claude, url, _):
        up.script(Answer(body=frames(said("Hel"))))
        body = b"[" + json.dumps(part).encode()
        claude.script(Answer(body=[body], cut_after=len(body) - 4, headers=[("content-type", "application/json")]))
        ask = json.dumps({"contents": [{"parts": [{"text": "hi"}]}]}).encode()
        answer = await exchange(url, "POST", f"/v1beta/models/{model}:streamGenerateContent", ask)
    assert answer.status == 200 and answer.body.startswith(b"[") and b"data:" not in answer.body
    assert not answer.whole


async def test_what_is_cut_to_tell_of_a_failure_is_no_fault_in_the_log(caplog):
    """A traceback for each would quote what the upstream said, and hide those that are faults."""
    async with serving() as (up, _, url, _):
        up.script(Answer(body=frames(said("Hel"), {"error": {"message": "the prompt 'hunter2' is bad"}})))
        ask = json.dumps({"contents": [{"parts": [{"text": "hi"}]}]}).encode()
        answer = await exchange(url, "POST", "/v1beta/models/up/m:streamGenerateContent", ask)
    assert answer.status == 200 and not answer.whole
    assert "hunter2" not in caplog.text and "Exception in ASGI" not in caplog.text


@pytest.mark.parametrize("framing", ["chunked", "cut"])
async def test_a_stream_cut_inside_a_call_that_is_told_whole_has_a_true_status(framing):
    """Nothing has left of it: a 200 without a byte would be neither an answer nor an error, and no other target was asked."""
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a'}}
    begun = frames({**CHUNK, "choices": [{"index": 0, "delta": {"role": "assistant", "tool_calls": [call]}}]})
    size = len(b"".join(begun))
    async with serving() as (up, _, url, _):
        up.script(Answer(body=[*begun, b": x"], cut_after=size) if framing == "cut" else Answer(body=begun))
        ask = json.dumps({"contents": [{"parts": [{"text": "hi"}]}]}).encode()
        answer = await exchange(url, "POST", "/v1beta/models/up/m:streamGenerateContent", ask)
    assert answer.status == 502 and answer.whole and "error" in json.loads(answer.body)


async def test_a_stream_that_never_says_that_it_begins_is_json_for_a_client_of_googles():
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    async with serving() as (_, claude, url, _):
        claude.script(Answer(body=frames(block, delta, {"type": "message_stop"})))
        ask = json.dumps({"contents": [{"parts": [{"text": "hi"}]}]}).encode()
        answer = await exchange(url, "POST", "/v1beta/models/claude/m:streamGenerateContent", ask)
    assert answer.status == 200
    assert json.loads(answer.body)[0]["candidates"][0]["content"]["parts"] == [{"text": "Hel"}]


# ── a failure that says it is none ───────────────────────────────────────────────────────────────────────────────────

JSON = [("content-type", "application/json")]
QUOTA = {"error": {"message": "out of credits", "code": 402}, "user_id": "u"}
FAILURES = {
    "an error": (Answer(body=json.dumps(QUOTA).encode()), 402, "out of credits"),
    "an error in a string": (Answer(body=b'{"error": "model is loading"}'), 502, "model is loading"),
    "a web page": (Answer(body=b"<html>log in</html>", headers=[("content-type", "text/html")]), 502, "web page"),
    "nothing": (Answer(body=b"", headers=JSON), 502, "without any content"),
    "no content": (Answer(status=204, headers=JSON), 502, "without any content"),
    "a redirect": (Answer(status=307, body=b"{}", headers=[*JSON, ("location", "/v2/")]), 502, "answered 307"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", FAILURES)
async def test_a_failure_under_a_good_status_is_an_error_of_the_sdk(what, stream):
    answer, status, words = FAILURES[what]
    async with serving() as (up, _, url, client):
        up.script(answer, answer)
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="up/m", messages=HELLO, stream=stream)
        assert caught.value.status_code == status and words in caught.value.response.text
        async with AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as anthropic:
            with pytest.raises(Exception, match=words) as caught:
                await anthropic.messages.create(model="up/m", max_tokens=9, messages=HELLO, stream=stream)
        assert caught.value.status_code == status


@pytest.mark.parametrize("what", ["an error in a string", "a web page", "nothing", "a redirect"])
async def test_another_target_is_tried_after_it(what):
    async with serving("fallback: {retry: {attempts: 2}}") as (up, _, _, client):
        up.script(FAILURES[what][0], Answer(body=json.dumps(WHOLE).encode()))
        answer = await client.chat.completions.create(model="up/m", messages=HELLO)
        assert answer.choices[0].message.content == "Hello" and len(up.requests) == 2


@pytest.mark.parametrize("kind", ["application/json", "application/jsonl"])
async def test_a_file_of_errors_is_a_file(kind):
    """What a batch could not do is told in one: its errors are no failure of whoever hands it out."""
    line = b'{"custom_id": "a", "response": null, "error": {"code": "batch_expired", "message": "too late"}}\n'
    async with serving() as (up, _, _, client):
        up.script(Answer(body=line, headers=[("content-type", kind)]))
        assert (await client.files.content("file-1")).read() == line


@pytest.mark.parametrize("what", [name for name in FAILURES if name != "no content"])
async def test_moderations_need_name_no_model_to_fail(what):
    answer, status, words = FAILURES[what]
    async with serving() as (up, _, _, client):
        up.script(answer)
        with pytest.raises(openai.APIStatusError) as caught:
            await client.moderations.create(input="x")
        assert caught.value.status_code == status and words in caught.value.response.text


async def test_control_words_about_errors_are_an_answer():
    document = {"error": None, "warning": '{"error": {"code": 500}}', **WHOLE}
    async with serving() as (up, _, url, client):
        up.script(Answer(body=json.dumps(document).encode()))
        assert (await client.chat.completions.create(model="up/m", messages=HELLO)).choices[
            0
        ].message.content == "Hello"
        failed = {
            "id": "resp_1",
            "object": "response",
            "status": "failed",
            "error": {"code": "x", "message": "m"},
            "output": [],
        }
        up.script(Answer(body=json.dumps(failed).encode()))
        # one that failed is told as it is: it has an id, by which it can be asked for
        answer = await exchange(url, "POST", "/v1/responses", b'{"model": "up/m", "input": "hi"}')
        assert (answer.status, json.loads(answer.body)) == (200, failed)


# ── answers that are compressed though nobody asked for it ───────────────────────────────────────────────────────────

ZIPPED = [*JSON, ("content-encoding", "gzip")]


async def test_a_compressed_answer_is_translated():
    async with serving() as (up, _, url, _):
        up.script(Answer(body=gzip.compress(json.dumps(WHOLE).encode()), headers=ZIPPED))
        async with AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as anthropic:
            answer = await anthropic.messages.create(model="up/m", max_tokens=9, messages=HELLO)
        assert answer.content[0].text == "Hello"


async def test_a_compressed_error_is_read_and_quotes_no_credential():
    words = b'{"error": {"message": "your key vendor-key-123 is wrong", "code": "invalid_api_key"}}'
    async with FakeUpstream() as up:
        up.default = Answer(status=401, body=gzip.compress(words), headers=ZIPPED)
        text = f'upstreams: {{up: {{provider: openai-compatible, base_url: "{up.url}/v1", api_key: vendor-key-123}}}}'
        async with running(Gateway(f"gwcore: 1\n{text}\nstack: []\n")) as url:
            for path, body in (("/v1/chat/completions", ASK), ("/v1/messages", b'{"max_tokens": 9, ' + ASK[1:])):
                answer = await exchange(url, "POST", path, body)
                assert json.loads(answer.body)["error"]["message"] == "your key [redacted] is wrong"


# ── addresses that two vendors share ─────────────────────────────────────────────────────────────────────────────────


async def test_files_of_an_anthropic_client_go_to_anthropic_alone():
    async with serving() as (up, claude, url, client):
        claude.default = Answer(body=b'{"id": "file_1", "type": "file"}')
        up.default = Answer(body=b'{"id": "file-1", "object": "file"}')
        async with AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as anthropic:
            files = anthropic.beta.files
            await files.upload(file=("a.txt", b"words", "text/plain"))
            await files.retrieve_metadata("file_1")
            await files.download("file_1")
            await files.delete("file_1")
            await files.list()
        assert [(seen.method, seen.target.partition("?")[0]) for seen in claude.requests] == [
            ("POST", "/v1/files"),
            ("GET", "/v1/files/file_1"),
            ("GET", "/v1/files/file_1/content"),
            ("DELETE", "/v1/files/file_1"),
            ("GET", "/v1/files"),
        ]
        assert b"words" in claude.requests[0].body and not up.requests
        await client.files.retrieve("file-1")
        assert [seen.target for seen in up.requests] == ["/v1/files/file-1"]


async def test_one_model_is_told_to_an_anthropic_client_in_its_shape():
    text = "gwcore: 1\nupstreams: {demo: {provider: demo}}\nmodels: {house: demo/demo}\nstack: []\n"
    async with running(Gateway(text)) as url, AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as anthropic:
        model = await anthropic.models.retrieve("house")
        assert (model.id, model.type, model.display_name) == ("house", "model", "house")
        with pytest.raises(Exception, match="not_found_error"):
            await anthropic.models.retrieve("nothing")


async def test_edits_are_taken_as_a_document_too():
    """Images by address, as OpenAI's API takes them beside a form."""
    edit = {"model": "up/painter", "prompt": "x", "images": [{"image_url": "data:image/png;base64,AA"}]}
    async with serving() as (up, _, url, _):
        up.script(Answer(body=b'{"created": 1, "data": []}'))
        answer = await exchange(url, "POST", "/v1/images/edits", json.dumps(edit).encode())
        assert answer.status == 200
        assert up.requests[0].document == {**edit, "model": "painter"}
