"""Bodies whose values have other types than their dialect gives them, from clients and from upstreams: a 4xx or a 502, never a 500."""

import json

import httpx2
import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream

EVENTS = [("content-type", "text/event-stream")]


def stack(url, provider, more=(), **options):
    upstream = {"provider": provider, "base_url": url, "api_key": "key-12345678", **options}
    return json.dumps({"gwcore": 1, "upstreams": {"up": upstream}, "stack": list(more)}) + "\n"


async def asked(path, body, *, provider="openai-compatible", answer=None, more=(), **options):
    async with FakeUpstream() as up:
        up.default = answer or Answer(body=b"{}")
        async with (
            running(Gateway(stack(up.url, provider, more, **options))) as url,
            httpx2.AsyncClient(base_url=url) as http,
        ):
            found = await http.post(path, json=body)
            return found.status_code, found.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1beta/models/m:embedContent", {"content": {"parts": [{"text": "x"}]}}),
        ("/v1beta/models/m:batchEmbedContents", {"requests": []}),
    ],
)
async def test_an_operation_that_is_spoken_to_upstreams_only_is_not_served_by_others(path, body):
    assert (await asked(path, body))[0] == 422


@pytest.mark.parametrize("value", [{}, [], {"a": 1}, [[]]])
@pytest.mark.parametrize("key", ["encoding_format", "dimensions", "input", "input_type", "truncate", "user"])
async def test_members_of_a_list_of_another_type(key, value):
    body = {"model": "m", "input": ["a"], key: value}
    assert (await asked("/v1/embeddings", body, provider="tei"))[0] in {200, 400, 422, 502}


@pytest.mark.parametrize("odd", [None, "x", [1], {}, [[[1]]]])
@pytest.mark.parametrize("form", ["float", "base64"])
async def test_a_vector_of_something_else_is_no_answer(odd, form):
    answer = Answer(body=json.dumps({"data": [{"index": 0, "embedding": [0.5, odd]}]}).encode())
    body = {"model": "m", "input": ["a"], "encoding_format": form}
    status, text = await asked("/v1/embeddings", body, provider="mistral", answer=answer)
    assert status in ({200, 502} if form == "float" else {502}) and "internal" not in text


@pytest.mark.parametrize("odd", [{"index": "x"}, {"index": None}, {"relevance_score": None}, {"relevance_score": "x"}])
async def test_a_rank_of_something_else_is_no_answer(odd):
    answer = Answer(body=json.dumps({"results": [{"index": 0, "relevance_score": 0.5, **odd}]}).encode())
    body = {"model": "m", "query": "q", "documents": ["a", "b"]}
    for provider in ("voyage", "cohere"):
        status, text = await asked("/v1/rerank", body, provider=provider, answer=answer)
        assert status == 502 and "internal" not in text, text


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


@pytest.mark.parametrize(
    "frames",
    [
        b'data: {"choices": [{"delta": {"content": [7]}}]}\n\ndata: [DONE]\n\n',
        b'data: {"choices": [7]}\n\ndata: [DONE]\n\n',
        b'data: {"choices": 7}\n\ndata: [DONE]\n\n',
        b'data: {"choices": [{"delta": {"tool_calls": [{"index": {}}]}}]}\n\ndata: [DONE]\n\n',
        b'data: {"choices": [{"delta": {"content": "hi"}, "index": "x"}]}',
    ],
)
async def test_events_of_another_shape_gathered_for_a_client_that_streams_not(frames):
    answer = Answer(headers=EVENTS, body=frames)
    status, text = await asked("/v1/messages", CHAT, provider="groq", answer=answer)
    assert status in {200, 502}, text


async def test_events_of_another_shape_are_passed_where_they_might_be_continued():
    frames = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: {"choices": [7]}\n\ndata: [DONE]\n\n'
    answer = Answer(headers=EVENTS, body=frames)
    more = [{"fallback": {"continuation": True}}]
    status, text = await asked("/v1/chat/completions", {**CHAT, "stream": True}, answer=answer, more=more)
    assert status == 200 and '{"choices": [7]}' in text and "internal" not in text


@pytest.mark.parametrize("ended", [False, True])
async def test_a_connection_that_breaks_between_two_events_of_a_dialect_for_upstreams_only(ended):
    """It was told as a fault of ours, and not counted as the upstream's."""
    frames = (
        b'event: message-start\ndata: {"type": "message-start", "id": "1"}\n\n'
        b'event: content-delta\ndata: {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "hi"}}}}\n\n'
    )
    if ended:
        frames += b'event: message-end\ndata: {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}\n\n'
    answer = Answer(headers=EVENTS, body=[frames, b": x"], cut_after=len(frames), framing="chunked")
    status, text = await asked(
        "/v1/chat/completions", {**CHAT, "stream": True}, provider="cohere", answer=answer, dialect="cohere.chat"
    )
    assert status == 200 and '"hi"' in text
    assert ("[DONE]" in text, "upstream_broken" in text) == (ended, not ended), text
