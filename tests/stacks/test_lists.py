"""Embeddings and rerank across vendors (pains E14): the OpenAI SDK and Cohere's shape in front, any vendor behind."""

import array
import base64
import json
from urllib.parse import unquote

import httpx2
import openai
import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.stacks.raw import exchange

SERVICE = {"project": "p", "location": "us-east5"}
# provider → (further keys, model, address, most items of one request)
EMBED = {
    "voyage": ({"base_url": "/v1"}, "voyage-3.5", "/v1/embeddings", 128),
    "tei": ({}, "m", "/v1/embeddings", 32),
    "ollama": ({"num_ctx": 2048}, "nomic-embed-text", "/api/embed", 1000),
    "cohere": ({"base_url": "/compatibility/v1"}, "embed-v4.0", "/v2/embed", 96),
    "gemini": ({}, "gemini-embedding-001", "/v1beta/models/gemini-embedding-001:batchEmbedContents", 100),
    "vertex": (SERVICE, "text-embedding-005", "/v1/projects/p/locations/us-east5/publishers/google/models/text-embedding-005:predict", 250),
    "vertex ": (SERVICE, "gemini-embedding-2", "/v1/projects/p/locations/us-east5/publishers/google/models/gemini-embedding-2:embedContent", 1),
    "mistral": ({"base_url": "/v1"}, "mistral-embed", "/v1/embeddings", 1000),
    "openai": ({"base_url": "/v1"}, "text-embedding-3-small", "/v1/embeddings", 1000),
}  # fmt: skip


def vector(text):
    """Of a text that ends in its number; exact in 32 bits."""
    number = int(text.rpartition(" ")[2])
    return [number / 4, -number, 0.5]


def packed(numbers):
    return base64.b64encode(array.array("f", numbers).tobytes()).decode()


def texts_of(document):
    """What was sent, by any vendor's word."""
    if "requests" in document:
        return [one["content"]["parts"][0]["text"] for one in document["requests"]]
    if "content" in document:
        return [document["content"]["parts"][0]["text"]]
    if "instances" in document:
        return [one["content"] for one in document["instances"]]
    found = next(document[key] for key in ("input", "texts", "inputs") if key in document)
    return found if isinstance(found, list) else [found]


def embedded(provider):
    """A vendor that answers every text with its own vector, and counts two tokens for each."""

    def answer(seen):
        document = seen.document
        vectors = [vector(text) for text in texts_of(document)]
        tokens = 2 * len(vectors)
        if provider == "cohere":
            kind = document["embedding_types"][0]
            body = {"id": "e", "embeddings": {kind: [packed(v) if kind == "base64" else v for v in vectors]},
                    "meta": {"billed_units": {"input_tokens": tokens}}}  # fmt: skip
        elif provider == "ollama":
            body = {"model": "m", "embeddings": vectors, "prompt_eval_count": tokens}
        elif provider == "gemini":
            body = {"embeddings": [{"values": v} for v in vectors], "usageMetadata": {"promptTokenCount": tokens}}
        elif provider == "vertex ":
            body = {"embedding": {"values": vectors[0]}, "usageMetadata": {"promptTokenCount": tokens}}
        elif provider == "vertex":
            body = {"predictions": [{"embeddings": {"values": v, "statistics": {"token_count": 2}}} for v in vectors]}
        else:
            form = packed if document.get("encoding_format") == "base64" else list
            data = [{"object": "embedding", "index": at, "embedding": form(v)} for at, v in enumerate(vectors)]
            body = {
                "object": "list",
                "data": data[::-1],
                "model": "m",
                "usage": {"total_tokens": tokens, "prompt_tokens": tokens},
            }
        return Answer(body=json.dumps(body).encode())

    return answer


def stack(up, provider, more, **extra):
    entry = {
        "provider": provider.strip(),
        "api_key": "key-12345678",
        **more,
        "base_url": up.url + more.get("base_url", ""),
        **extra,
    }
    return Gateway(json.dumps({"gwcore": 1, "upstreams": {"up": entry}, "models": {"*": "pass"}, "stack": []}) + "\n")


def client_of(url):
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
@pytest.mark.parametrize("provider", EMBED)
async def test_a_thousand_texts_come_back_whole_and_in_order(provider, encoding):
    """``None`` is what the SDK does unasked: base64 on the wire, numbers to its user."""
    more, model, path, most = EMBED[provider]
    many = 1000 if most > 1 else 60
    texts = [f"text number {at}" for at in range(many)]
    async with FakeUpstream() as up, running(stack(up, provider, more)) as url, client_of(url) as client:
        up.default = embedded(provider)
        given = {} if encoding is None else {"encoding_format": encoding}
        reply = await client.embeddings.create(model=f"up/{model}", input=texts, **given)
        seen = up.requests
    if provider == "openai":  # bytes that pass through, in the vendor's own order
        reply.data.sort(key=lambda one: one.index)
    vectors = [one.embedding for one in reply.data]
    if encoding == "base64":
        vectors = [list(array.array("f", base64.b64decode(one))) for one in vectors]
    assert vectors == [vector(text) for text in texts]
    assert [one.index for one in reply.data] == list(range(many))
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (2 * many, 2 * many)
    assert {unquote(one.target) for one in seen} == {path}
    sizes = [len(texts_of(one.document)) for one in seen]
    assert sum(sizes) == many and max(sizes) == min(most, many) and len(sizes) == -(-many // most)


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        ("voyage", {"output_dimension": 256, "input_type": "query", "encoding_format": "base64"}),
        ("mistral", {"output_dimension": 256, "encoding_format": "base64"}),
        ("tei", {"dimensions": 256, "encoding_format": "base64"}),
        ("ollama", {"dimensions": 256, "options": {"num_ctx": 2048}}),
        ("cohere", {"output_dimension": 256, "input_type": "search_query", "embedding_types": ["base64"]}),
    ],
)
async def test_knobs_in_each_vendors_words(provider, expected):
    more, model, _, _ = EMBED[provider]
    async with FakeUpstream() as up, running(stack(up, provider, more)) as url, client_of(url) as client:
        up.default = embedded(provider)
        raw = await client.embeddings.with_raw_response.create(
            model=f"up/{model}", input="text 1", dimensions=256, user="u", extra_body={"input_type": "search_query"}
        )
        (seen,) = up.requests
    document = seen.document
    assert {key: document[key] for key in document if key not in {"model", "input", "texts"}} == expected
    dropped = raw.headers.get("x-gwcore-dropped", "").split(", ")
    assert "user" in dropped and ("input_type" in dropped) is ("input_type" not in expected)


async def test_google_s_words():
    for provider in ("gemini", "vertex"):
        more, model, _, _ = EMBED[provider]
        async with FakeUpstream() as up, running(stack(up, provider, more)) as url, client_of(url) as client:
            up.default = embedded(provider)
            await client.embeddings.create(
                model=f"up/{model}", input=["text 1"], dimensions=256, extra_body={"input_type": "document"}
            )
            (seen,) = up.requests
        if provider == "gemini":
            (one,) = seen.document["requests"]
            assert (one["model"], one["taskType"], one["outputDimensionality"]) == (
                f"models/{model}",
                "RETRIEVAL_DOCUMENT",
                256,
            )
        else:
            assert seen.document["instances"][0]["task_type"] == "RETRIEVAL_DOCUMENT"
            assert seen.document["parameters"] == {"outputDimensionality": 256}


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("batchEmbedContents", {"requests": [{"model": "models/search", "content": {}}, {"model": ["?"]}, {"content": {}}, "?"]}),
        ("embedContent", {"model": "models/search", "content": {"parts": [{"text": "a"}]}}),
        ("countTokens", {"generateContentRequest": {"model": "models/search", "contents": []}}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("base", ["", "/models/google"])
async def test_what_names_a_model_inside_as_google_s_sdks_do_names_the_target_s(verb, body, base):
    config = {
        "upstreams": {"up": {"provider": "gemini", "api_key": "key-12345678"}},
        "models": {"search": "up/gemini-embedding-001"},
    }
    async with FakeUpstream() as up:
        config["upstreams"]["up"]["base_url"] = up.url + base
        async with running(Gateway(json.dumps({"gwcore": 1, **config, "stack": []}) + "\n")) as url:
            raw = json.dumps(body).encode()
            seen = await exchange(
                url, "POST", f"/v1beta/models/search:{verb}", raw, [("content-type", "application/json")]
            )
            same = raw.replace(b"search", b"gemini-embedding-001").replace(b'["?"]', b'"models/gemini-embedding-001"')
            assert seen.status == 200 and up.requests[-1].target == f"{base}/v1beta/models/gemini-embedding-001:{verb}"
            assert up.requests[-1].document == json.loads(same)
            await exchange(url, "POST", f"/v1beta/models/search:{verb}", same, [("content-type", "application/json")])
            assert up.requests[-1].body == same


async def test_batches_keep_below_the_vendors_tokens():
    texts = [f"{'word ' * 2000}{at}" for at in range(60)]  # 10,001 bytes each, 2,500 tokens
    more, model, _, _ = EMBED["voyage"]
    async with FakeUpstream() as up, running(stack(up, "voyage", more)) as url, client_of(url) as client:
        up.default = embedded("voyage")
        reply = await client.embeddings.create(model=f"up/{model}", input=texts)
        sizes = [sum(len(text) for text in texts_of(one.document)) for one in up.requests]
    assert [one.embedding for one in reply.data] == [vector(text) for text in texts]
    assert len(sizes) == 3 and max(sizes) < 110_000 * 4


async def test_one_failing_batch_fails_the_call_once_with_the_vendors_words():
    """The others are given up; what was asked for is never half an answer."""
    more, model, _, _ = EMBED["voyage"]
    good = embedded("voyage")

    def answer(seen):
        if "text 200" in texts_of(seen.document):
            return Answer(429, body=b'{"detail":"too many tokens per minute"}', headers=[("retry-after", "7")])
        return good(seen)

    async with FakeUpstream() as up, running(stack(up, "voyage", more)) as url, client_of(url) as client:
        up.default = answer
        with pytest.raises(openai.RateLimitError, match="too many tokens per minute") as caught:
            await client.embeddings.create(model=f"up/{model}", input=[f"text {at}" for at in range(1000)])
        assert caught.value.response.headers["retry-after"] == "7"
        assert len(up.requests) < 8  # of eight


async def test_no_more_than_four_batches_are_asked_at_once():
    more, model, _, _ = EMBED["tei"]
    good, at_once, most = embedded("tei"), set(), []

    def answer(seen):
        at_once.add(id(seen))
        most.append(up.open)
        return Answer(body=good(seen).body, delay_head=0.02)

    async with FakeUpstream() as up, running(stack(up, "tei", more)) as url, client_of(url) as client:
        up.default = answer
        await client.embeddings.create(model=f"up/{model}", input=[f"text {at}" for at in range(640)])
        assert len(up.requests) == 20 and 1 < max(most) <= 4


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"data":[],"usage":{"total_tokens":1}}', "0 vectors"),
        (b'{"data":"x"}', "not one of"),
        (b"not json", "not JSON"),
        (b'{"data":[{"index":0,"embedding":"!!"}]}', "base64"),
    ],
)
async def test_an_answer_that_is_none_is_a_502(body, said):
    more, model, _, _ = EMBED["voyage"]
    async with (
        FakeUpstream(Answer(body=body)) as up,
        running(stack(up, "voyage", more)) as url,
        client_of(url) as client,
    ):
        with pytest.raises(openai.InternalServerError, match=said) as caught:
            await client.embeddings.create(model=f"up/{model}", input="text 1", encoding_format="float")
        assert caught.value.status_code == 502


async def test_tokens_are_sent_where_they_are_taken_and_refused_by_name_elsewhere():
    more, model, _, _ = EMBED["voyage"]
    async with FakeUpstream() as up, running(stack(up, "voyage", more)) as url, client_of(url) as client:
        with pytest.raises(openai.UnprocessableEntityError, match="input as tokens"):
            await client.embeddings.create(model=f"up/{model}", input=[[1, 2], [3]])
        for bad in ([], "", [1.5], {"a": 1}):
            if bad != "":
                with pytest.raises(openai.BadRequestError, match="input must be"):
                    await client.embeddings.create(model=f"up/{model}", input=bad)
        assert not up.requests


# ── rerank ───────────────────────────────────────────────────────────────────────────────────────────────────────────

RANK = {
    "cohere": ({"base_url": "/compatibility/v1"}, "rerank-v3.5", "/v2/rerank"),
    "voyage": ({"base_url": "/v1"}, "rerank-2.5", "/v1/rerank"),
    "tei": ({}, "m", "/rerank"),
    "llamacpp": ({"base_url": "/v1"}, "bge", "/v1/rerank"),
    "fireworks": ({"base_url": "/v1"}, "qwen", "/v1/rerank"),
}


def ranked(provider):
    """A vendor that scores a document by the number at its end."""

    def answer(seen):
        document = seen.document
        texts = document.get("documents") or document.get("texts")
        found = sorted(((int(text.rpartition(" ")[2]) % 100 / 100, at) for at, text in enumerate(texts)), reverse=True)
        found = found[: document.get("top_n") or document.get("top_k") or len(found)]
        if provider == "tei":
            body = [{"index": at, "score": score} for score, at in found]
        else:
            key = "data" if provider in {"voyage", "fireworks"} else "results"
            body = {key: [{"index": at, "relevance_score": score} for score, at in found]}
            body |= (
                {"id": "r", "meta": {"billed_units": {"search_units": 1}}}
                if provider == "cohere"
                else {"usage": {"total_tokens": 9}}
            )
        return Answer(body=json.dumps(body).encode())

    return answer


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
@pytest.mark.parametrize("provider", RANK)
async def test_documents_are_ranked_whoever_ranks(provider, path):
    more, model, target = RANK[provider]
    documents = ["say 17", "say 99", {"text": "say 3"}, "say 42"]
    asked = {
        "model": f"up/{model}",
        "query": "q",
        "documents": documents,
        "top_n": 2,
        "return_documents": provider != "llamacpp",
    }
    async with FakeUpstream() as up, running(stack(up, provider, more)) as url, httpx2.AsyncClient() as client:
        up.default = ranked(provider)
        if provider == "llamacpp":  # what the vendor serves as the client asks passes as it is
            asked["documents"] = [one if isinstance(one, str) else one["text"] for one in documents]
        reply = await client.post(f"{url}{path}", json=asked)
        (seen,) = up.requests
    body = reply.json()
    assert reply.status_code == 200 and seen.target == target
    assert [(one["index"], one["relevance_score"]) for one in body["results"]] == [(1, 0.99), (3, 0.42)]
    if provider == "cohere":
        assert body["meta"]["billed_units"]["search_units"] == 1
    if provider in {"voyage", "fireworks"}:
        assert body["usage"]["total_tokens"] == 9
    if provider != "llamacpp":
        assert [one["document"]["text"] for one in body["results"]] == ["say 99", "say 42"]
        assert "return_documents" not in seen.document


async def test_a_long_list_is_ranked_in_batches_and_the_best_of_all_is_best():
    more, model, _ = RANK["tei"]
    documents = [f"say {at}" for at in range(100)]
    async with FakeUpstream() as up, running(stack(up, "tei", more)) as url, httpx2.AsyncClient() as client:
        up.default = ranked("tei")
        asked = {"model": f"up/{model}", "query": "q", "documents": documents, "top_n": 3}
        body = (await client.post(f"{url}/v2/rerank", json=asked)).json()
        assert len(up.requests) == 4
    assert [one["index"] for one in body["results"]] == [99, 98, 97]


async def test_keys_of_a_rerank_that_one_vendor_has_reach_it_and_others_are_told():
    asked = {"query": "q", "documents": ["say 1"], "max_tokens_per_doc": 500}
    for provider, named in (("cohere", None), ("tei", "max_tokens_per_doc")):
        more, model, _ = RANK[provider]
        async with FakeUpstream() as up, running(stack(up, provider, more)) as url, httpx2.AsyncClient() as client:
            up.default = ranked(provider)
            reply = await client.post(f"{url}/v2/rerank", json={**asked, "model": f"up/{model}"})
            (seen,) = up.requests
        assert seen.document.get("max_tokens_per_doc") == (None if named else 500)
        assert reply.headers.get("x-gwcore-dropped") == named


async def test_batches_cost_what_all_of_them_used():
    """Eight batches, 2,000 tokens at 0.06 dollars a million."""
    _, model, _, _ = EMBED["voyage"]
    async with FakeUpstream() as up:
        up.default = embedded("voyage")
        entry = {
            "provider": "voyage",
            "base_url": f"{up.url}/v1",
            "api_key": "key-12345678",
            "prices": {model: {"input": "$0.06/M"}},
        }
        whole = {
            "gwcore": 1,
            "server": {"cost": "stream"},
            "upstreams": {"up": entry},
            "models": {"*": "pass"},
            "stack": [],
        }
        async with running(Gateway(json.dumps(whole) + "\n")) as url, client_of(url) as client:
            raw = await client.embeddings.with_raw_response.create(
                model=f"up/{model}", input=[f"text {at}" for at in range(1000)]
            )
    assert raw.headers["x-gwcore-cost-usd"] == "0.000120000"


async def test_an_idempotency_key_is_not_shared_by_batches():
    more, model, _, _ = EMBED["tei"]
    for count, sent in ((10, "once"), (100, None)):
        async with FakeUpstream() as up, running(stack(up, "tei", more)) as url, client_of(url) as client:
            up.default = embedded("tei")
            texts = [f"text {at}" for at in range(count)]
            await client.embeddings.create(model=f"up/{model}", input=texts, extra_headers={"idempotency-key": "once"})
            assert {one.header("idempotency-key") for one in up.requests} == {sent}


async def test_a_router_tries_the_whole_list_elsewhere():
    """One batch of the first target fails; the second serves all of them, with vectors of one model only."""
    texts = [f"text {at}" for at in range(300)]
    good = embedded("voyage")

    def failing(seen):
        return Answer(503, body=b"{}") if "text 150" in texts_of(seen.document) else good(seen)

    async with FakeUpstream() as first, FakeUpstream() as second:
        first.default, second.default = failing, embedded("tei")
        whole = {
            "gwcore": 1,
            "upstreams": {
                "a": {"provider": "voyage", "base_url": f"{first.url}/v1", "api_key": "key-12345678"},
                "b": {"provider": "tei", "base_url": second.url},
            },
            "models": {"search": ["a/voyage-3.5", "b/m"]},
            "stack": [{"fallback": {}}],
        }
        async with running(Gateway(json.dumps(whole) + "\n")) as url, client_of(url) as client:
            raw = await client.embeddings.with_raw_response.create(model="search", input=texts)
    assert raw.headers["x-gwcore-upstream"] == "b"
    assert [one.embedding for one in raw.parse().data] == [vector(text) for text in texts]
    assert sum(len(texts_of(seen.document)) for seen in second.requests) == 300
