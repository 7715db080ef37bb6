"""Recorded embeddings and rankings through the readers: what the digest counts is there, and the usage."""

import gzip
import json
import os
from pathlib import Path

import pytest

from gwcore.lists import ListRequest, cut, merged, packed, unpacked
from gwcore_providers import gwcore_dialects

FILE = Path(os.environ.get("GWCORE_RECORDINGS") or "/nonexistent") / "dev.jsonl.gz"
LISTS = {dialect.name: dialect.lists for dialect in gwcore_dialects() if dialect.lists}
# dialect and endpoint of the recordings → ours and the operation
READ = {
    ("openai-embeddings", "embeddings"): ("openai.lists", "embeddings"),
    ("voyage-embeddings", "embeddings"): ("openai.lists", "embeddings"),
    ("tei-embed", "embeddings"): ("openai.lists", "embeddings"),
    ("tei-embed", "embed"): ("tei", "embeddings"),
    ("tei-other", "rerank"): ("tei", "rerank"),
    ("cohere-embed", "v2/embed"): ("cohere.chat", "embeddings"),
    ("gemini-embed", "batchEmbedContents"): ("gemini.generate", "embeddings"),
    ("gemini-embed", "embedContent"): ("vertex.predict", "embeddings"),
    ("ollama-embed", "api/embed"): ("ollama.chat", "embeddings"),
    ("rerank", "rerank"): ("openai.lists", "rerank"),
}


@pytest.mark.skipif(not FILE.is_file(), reason="GWCORE_RECORDINGS is unset: recorded embeddings were NOT tested")
def test_every_recorded_list_is_read_whole():
    with gzip.open(FILE, "rt") as lines, gzip.open(FILE.with_name("supplement.jsonl.gz"), "rt") as more:
        records = [json.loads(line) for line in (*lines, *more)]
    read, wrong = {}, []
    for record in records:
        if (place := READ.get((record["dialect"], record["endpoint"]))) is None or record["response"]["status"] >= 400:
            continue
        document = json.loads(record["response"]["body"])
        if place[0] == "cohere.chat" and not {"float", "base64"} & set(document["embeddings"]):
            continue  # numbers of eight bits, which no client of ours can ask for
        dialect, operation = place
        reply = LISTS[dialect][operation].read_reply(document)
        read[place] = read.get(place, 0) + 1
        digest = record["digest"]
        if operation == "embeddings":
            data = document.get("data") or [] if isinstance(document, dict) else document
            wanted = digest.get("embeddings") or {"n": len(data), "encoding": ""}
            if len(reply.vectors) != wanted["n"]:
                wrong.append((record["id"], len(reply.vectors), wanted))
            if wanted["encoding"] == "float" and {len(one) for one in reply.vectors} != {wanted["dims"]}:
                wrong.append((record["id"], "dims"))
        elif sorted(reply.ranks, key=lambda rank: -rank[1]) != reply.ranks:
            wrong.append((record["id"], reply.ranks))
        used = (digest.get("usage") or {}).get("input")
        if used and dialect != "tei" and (reply.usage is None or reply.usage.total_in != used):
            wrong.append((record["id"], reply.usage, used))
    assert not wrong, wrong[:4]
    assert set(read) == set(READ.values()) and sum(read.values()) > 45, read


def request(items, query=None):
    return ListRequest("embeddings", "openai.chat", "m", items, query=query)


@pytest.mark.parametrize(
    ("items", "most", "tokens", "sizes"),
    [
        (["a"] * 7, 3, None, [3, 3, 1]),
        (["a"] * 7, None, None, [7]),
        (["a" * 100] * 4, None, 90, [2, 2]),  # 41 tokens each, as estimated
        (["a" * 1000, "b", "c"], None, 90, [1, 2]),  # one that is too large goes alone
        ([[1, 2, 3]] * 5, None, 6, [2, 2, 1]),
        (["a"], 1, 1, [1]),
    ],
)
def test_cuts(items, most, tokens, sizes):
    parts = list(cut(request(items), most, tokens))
    assert [len(part.items) for part in parts] == sizes
    assert [item for part in parts for item in part.items] == items


def test_a_query_is_paid_for_every_document():
    assert len(list(cut(request(["d"] * 4, query="q" * 100), None, 100))) == 2


def test_ranks_of_batches_are_ranks_of_the_whole():
    parts = list(cut(request(["a"] * 5, query="q"), 2, None))
    replies = [
        type("R", (), {"vectors": [], "ranks": ranks, "id": "r"})
        for ranks in ([(1, 0.5), (0, 0.1)], [(0, 0.9)], [(0, 0.5)])
    ]
    assert merged(parts, replies, 3).ranks == [(2, 0.9), (1, 0.5), (4, 0.5)]


def test_packing_is_exact_for_what_has_32_bits():
    numbers = [0.5, -1.25, 3.0e38, 1e-30]
    assert unpacked(packed(unpacked(packed(numbers)))) == unpacked(packed(numbers))
    assert packed(packed(numbers)) == packed(numbers) and unpacked([1, 2]) == [1, 2]
    with pytest.raises(ValueError, match=r"base64|padding|padded"):
        unpacked("!!")
    with pytest.raises(ValueError, match="multiple"):
        unpacked("AAA=")
