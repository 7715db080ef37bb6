"""Embeddings per input; completions and rerank whole."""

import asyncio
import json

import pytest
from cache_world import state, until, world
from test_cache_flight import aged

from gwcore.testing.upstream import Answer
from gwcore_cache.inputs import shares


def vector(text):
    return [float(len(text)), float(sum(map(ord, text)) % 97)]


def embedded(seen):
    """An upstream that embeds: a vector that depends on the text alone."""
    inputs = seen.document["input"]
    inputs = [inputs] if isinstance(inputs, str) else inputs
    data = [{"object": "embedding", "index": n, "embedding": vector(str(text))} for n, text in enumerate(inputs)]
    tokens = sum(len(str(text)) for text in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Answer(body=json.dumps({"object": "list", "model": "m", "data": data, "usage": usage}).encode())


async def embed(w, *inputs, **more):
    text, headers = inputs[0] if more.pop("single", False) else list(inputs), more.pop("headers", ())
    seen = await w.post("/v1/embeddings", {"model": "m", "input": text, **more}, headers)
    await w.settled()
    return seen


def vectors(seen):
    document = json.loads(seen.body)
    assert [item["index"] for item in document["data"]] == list(range(len(document["data"])))
    return [item["embedding"] for item in document["data"]]


async def test_only_what_nobody_has_sent_is_sent():
    async with world() as w:
        w.up.default = embedded
        one = await embed(w, "a", "bb", "ccc")
        assert (state(one), vectors(one)) == ("miss", [vector(t) for t in ("a", "bb", "ccc")])
        two = await embed(w, "dddd", "bb", "eeeee", "a")
        assert (state(two), two.headers["x-gwcore-cache-inputs"]) == ("miss", "2/4")
        assert vectors(two) == [vector(t) for t in ("dddd", "bb", "eeeee", "a")]
        assert json.loads(two.body)["usage"]["total_tokens"] == 9  # what was billed
        assert [seen.document["input"] for seen in w.up.requests] == [["a", "bb", "ccc"], ["dddd", "eeeee"]]
        three = await embed(w, "eeeee", "ccc", "eeeee")
        assert (state(three), vectors(three)) == ("hit", [vector(t) for t in ("eeeee", "ccc", "eeeee")])
        assert (w.asked, json.loads(three.body)["model"]) == (2, "m")


async def test_a_hit_names_its_share_of_the_tokens_and_of_the_money():
    async with world() as w:
        w.up.default = embedded
        await embed(w, "aaaa", "bbbb")
        seen = await embed(w, "bbbb", single=True)
        assert json.loads(seen.body)["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
        call, outcome = w.ended[-1]
        assert (outcome.cost.nano, call.cache.saved.nano, call.cache.usage.input) == (0, 4000, 4)


@pytest.mark.parametrize(
    "more", [{"dimensions": 2}, {"encoding_format": "base64"}, {"input_type": "query"}, {"x_new": 1}]
)
async def test_what_else_the_request_says_counts(more):
    async with world() as w:
        w.up.default = embedded
        await embed(w, "a")
        assert state(await embed(w, "a", **more)) == "miss"
        assert state(await embed(w, "a", **more)) == "hit"
        assert w.asked == 2


async def test_a_text_is_not_the_number_that_looks_like_it():
    async with world() as w:
        w.up.default = embedded
        assert state(await embed(w, "1")) == "miss"
        assert state(await embed(w, [1])) == "miss"
        assert state(await embed(w, 1, 2)) == "miss"  # tokens of one input
        assert state(await embed(w, 1, 2)) == "hit"
        assert w.asked == 3


async def test_a_hundred_at_once_ask_once():
    async with world() as w:

        def slowly(seen):
            return Answer(body=embedded(seen).body, delay_head=0.1)

        w.up.default = slowly
        seen = await asyncio.gather(
            *(w.post("/v1/embeddings", {"model": "m", "input": ["a", "b"]}) for _ in range(100))
        )
        assert {(one.status, str(vectors(one))) for one in seen} == {(200, str([vector("a"), vector("b")]))}
        assert w.asked == 1


async def test_the_leader_leaves():
    async with world() as w:
        w.up.script(Answer(delay_head=60))
        w.up.default = embedded
        leader = asyncio.create_task(w.post("/v1/embeddings", {"model": "m", "input": ["a"]}))
        await w.up.received()
        other = asyncio.create_task(w.post("/v1/embeddings", {"model": "m", "input": ["a"]}))
        await until(lambda: any(flight.waiters for flight in w.plugin.flights.values()))
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)
        assert vectors(await other) == [vector("a")]
        assert w.asked == 2


def nested(levels):
    return json.loads("[" * levels + "]" * levels)


@pytest.mark.parametrize(
    "bad",
    [
        {"object": "list", "data": []},
        {"object": "list", "data": [{"index": 7, "embedding": [1]}]},
        {"object": "list", "data": "x"},
        {"object": "list", "data": [{"index": {}, "embedding": [1]}]},
        {"object": "list", "data": [{"embedding": nested(300)}]},  # read, but too deep to be written again
        {"error": {"message": "no"}},
    ],
)
async def test_an_answer_that_does_not_fit_is_not_kept(bad):
    async with world() as w:
        w.up.script(Answer(body=json.dumps(bad).encode()))
        w.up.default = embedded
        first = await embed(w, "a")
        assert json.loads(first.body) == bad
        assert state(await embed(w, "a")) == "miss"
        # half of it is there: then no wrong half may be put beside it
        w.up.script(Answer(body=json.dumps(bad).encode()))
        assert (await embed(w, "a", "b")).status >= 500


async def test_stale_inputs_are_given_while_they_are_fetched_anew():
    async with world(cache={"ttl": 60, "stale_while_revalidate": "1h", "jitter": 0}) as w:
        w.up.default = embedded
        await embed(w, "a", "b")
        aged(w, 61)
        await embed(w, "b", headers=[("cache-control", "no-cache")])
        seen = await embed(w, "a", "b")
        assert (state(seen), vectors(seen)) == ("stale", [vector("a"), vector("b")])
        await until(lambda: w.plugin.counts["kept"] == 3)
        assert [one.document["input"] for one in w.up.requests] == [["a", "b"], ["b"], ["a"]]
        assert state(await embed(w, "a", "b")) == "hit"
        assert w.asked == 3


async def test_stale_inputs_are_better_than_the_upstreams_error():
    async with world(cache={"ttl": 60, "stale_if_error": "10m", "jitter": 0}) as w:
        w.up.script(embedded)
        w.up.default = Answer(500, body=b"{}", delay_head=0.1)
        await embed(w, "a", "b")
        aged(w, 120)
        many = await asyncio.gather(*(embed(w, "a", "b") for _ in range(10)))
        assert {(one.status, state(one), str(vectors(one))) for one in many} == {
            (200, "stale", str([vector("a"), vector("b")]))
        }
        assert w.asked == 2
        assert (await embed(w, "a", "c")).status == 500  # of c there is nothing
        aged(w, 600)
        assert (await embed(w, "a", "b")).status == 500


async def test_errors_pass():
    async with world() as w:
        w.up.script(Answer(429, body=b'{"error":{"message":"slow"}}'))
        w.up.default = embedded
        assert (await embed(w, "a")).status == 429
        assert (await embed(w, "a")).status == 200


async def test_wishes():
    async with world() as w:
        w.up.default = embedded
        only = [("cache-control", "only-if-cached")]
        assert (await w.post("/v1/embeddings", {"model": "m", "input": ["a"]}, only)).status == 504
        await embed(w, "a")
        assert (await w.post("/v1/embeddings", {"model": "m", "input": ["a"]}, only)).status == 200
        assert state(await embed(w, "a", cache={"no-cache": True})) == "miss"
        assert state(await embed(w, "a", cache={"no-store": True})) == "bypass"
        assert w.asked == 3


async def test_gemini_in_batches():
    def embeds(seen):
        texts = [one["content"]["parts"][0]["text"] for one in seen.document["requests"]]
        return Answer(body=json.dumps({"embeddings": [{"values": vector(text)} for text in texts]}).encode())

    def batch(*texts):
        content = [{"model": "models/m", "content": {"parts": [{"text": text}]}} for text in texts]
        return w.post("/v1beta/models/m:batchEmbedContents", {"requests": content})

    async with world(dialect="gemini.generate") as w:
        w.up.default = embeds
        await batch("a", "bb")
        await w.settled()
        seen = await batch("ccc", "a")
        assert [item["values"] for item in json.loads(seen.body)["embeddings"]] == [vector("ccc"), vector("a")]
        assert len(w.up.requests[1].document["requests"]) == 1


COMPLETION = {
    "id": "1",
    "object": "text_completion",
    "model": "m",
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
RERANK = {"id": "1", "model": "m", "results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 3}}


@pytest.mark.parametrize(
    ("path", "body", "answer", "kept"),
    [
        ("/v1/completions", {"prompt": "p"}, {**COMPLETION, "choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]}, True),
        ("/v1/completions", {"prompt": "p"}, {**COMPLETION, "choices": [{"index": 0, "text": "x", "finish_reason": "length"}]}, False),
        ("/v1/completions", {"prompt": "p"}, {**COMPLETION, "choices": []}, False),
        ("/v1/completions", {"prompt": "p", "n": 2}, {**COMPLETION, "choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]}, False),
        ("/v1/rerank", {"query": "q", "documents": ["a"]}, RERANK, True),
        ("/v1/rerank", {"query": "q", "documents": ["a"]}, {"error": {"message": "no"}}, False),
        ("/v1/moderations", {"input": "x"}, {"id": "1", "results": []}, False),
    ],
)  # fmt: skip
async def test_other_operations(path, body, answer, kept):
    async with world() as w:
        w.up.default = Answer(body=json.dumps(answer).encode())
        first = await w.post(path, {"model": "m", **body})
        await w.settled()
        second = await w.post(path, {"model": "m", **body})
        assert second.body == first.body
        assert w.asked == (1 if kept else 2)
        assert (state(second) == "hit") is kept


async def test_completions_as_streams():
    from gwcore.testing.upstream import sse

    def frame(text, finish=None):
        return {**COMPLETION, "usage": None, "choices": [{"index": 0, "text": text, "finish_reason": finish}]}

    async with world() as w:
        ask = {"model": "m", "prompt": "p", "stream": True}
        w.up.script(Answer(body=sse(frame("a"), frame("", "length"), "[DONE]")))
        w.up.default = Answer(body=sse(frame("a"), frame("", "stop"), "[DONE]"))
        for expected in ("miss", "miss", "hit"):
            assert state(await w.post("/v1/completions", ask)) == expected
            await w.settled()
        assert state(await w.post("/v1/completions", {**ask, "stream": False})) == "miss"


def test_shares_sum_to_the_whole():
    assert shares(10, [1, 1, 1]) == [3, 3, 4]
    assert shares(0, [5]) == [0]
    for total in range(50):
        split = shares(total, [3, 7, 1, 9])
        assert (sum(split), min(split) >= 0) == (total, True)
