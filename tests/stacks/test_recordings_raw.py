"""Recorded requests that are no JSON: forms with files, GET, DELETE. Both sides byte for byte, as in ``test_recordings``."""

import base64

import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore.wire.form import read_field, replace_field
from tests.stacks.raw import exchange
from tests.stacks.test_recordings import HOSTILE, recorded_body, split, stack_for

ENDPOINTS = {"audio.transcriptions", "audio.translations", "images.edits", "responses.retrieve"}

SKIPPED = {
    "a4e63854f5c64bf3": "the recording omits the form",
    "f1a9e7794a9df69d": "an edit that names no model, which the vendor takes as its first one: here it is a 400",
}


def raw_body(request):
    if "body_b64" in request:
        return base64.b64decode(request["body_b64"])
    return request.get("body_text", "").encode()


def chosen(recordings):
    found = [r for r in recordings if r["endpoint"] in ENDPOINTS and r["request"] and "body" not in r["request"]]
    return [r for r in found if r["id"] not in SKIPPED]


def form(request):
    return raw_body(request), request["headers"].get("content-type", "").encode()


def query_of(request):
    given = request["query"]
    pairs = given.items() if isinstance(given, dict) else given
    return "?" + "&".join(f"{k}={v}" for k, v in pairs) if given else ""


async def replay(url, upstream, record, how, body):
    request, response = record["request"], record["response"]
    upstream.default = Answer(
        status=response["status"],
        headers=[(k, v) for k, v in response["headers"].items() if k == "content-type"],
        body=split(recorded_body(record), how(recorded_body(record))),
    )
    kind = request["headers"].get("content-type")
    path = request["path"] + query_of(request)
    return await exchange(url, request["method"], path, body, [("content-type", kind)] if kind else [])


@pytest.mark.parametrize("how", range(len(HOSTILE)))
async def test_forms_and_bodiless_requests_are_byte_exact(recordings, how):
    records = chosen(recordings)
    assert len(records) == 7
    assert {r["request"]["method"] for r in records} == {"GET", "DELETE", "POST"}
    assert any(b"\xff" in raw_body(r["request"]) for r in records)  # binary, not only text
    async with FakeUpstream() as upstream, running(Gateway(stack_for(records[0], upstream.url))) as url:
        for record in records:
            request, body = record["request"], raw_body(record["request"])
            answer = await replay(url, upstream, record, HOSTILE[how], body)
            seen = upstream.requests[-1]
            assert (seen.method, seen.target) == (request["method"], request["path"] + query_of(request)), record["id"]
            assert seen.body == body, record["id"]
            assert seen.header("content-type") == request["headers"].get("content-type")
            assert (answer.status, answer.body) == (record["response"]["status"], recorded_body(record)), record["id"]


async def test_the_model_of_a_form_is_spliced_and_nothing_else(recordings):
    async with FakeUpstream() as upstream, running(Gateway(stack_for(chosen(recordings)[0], upstream.url))) as url:
        forms = [r for r in chosen(recordings) if r["request"]["method"] == "POST"]
        assert len(forms) == 4
        for record in forms:
            body, kind = form(record["request"])
            model = read_field(body, kind, b"model")
            answer = await replay(
                url, upstream, record, HOSTILE[0], replace_field(body, kind, b"model", b"up/" + model)
            )
            assert upstream.requests[-1].body == body, record["id"]
            assert answer.body == recorded_body(record)
