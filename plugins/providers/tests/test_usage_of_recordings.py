"""Usage metered from recorded bytes equals the recordings' own digest."""

import base64
import gzip
import json
import os
from pathlib import Path

import pytest

from gwcore_providers import gwcore_dialects

FILE = Path(os.environ.get("GWCORE_RECORDINGS") or "/nonexistent") / "dev.jsonl.gz"
DIALECTS = {dialect.name: dialect for dialect in gwcore_dialects()}
NAMES = {
    "openai-chat": "openai.chat",
    "openai-responses": "openai.responses",
    "anthropic-messages": "anthropic.messages",
    "gemini-generate": "gemini.generate",
}


def chats():
    if not FILE.is_file():
        return []
    with gzip.open(FILE, "rt") as lines:
        records = [json.loads(line) for line in lines]
    return [
        r
        for r in records
        if r["dialect"] in NAMES and r["response"]["status"] < 400 and (r["digest"].get("usage") or {}).get("output")
    ]


def metered(record, size):
    response = record["response"]
    body = base64.b64decode(response["body_b64"]) if "body_b64" in response else response.get("body", "").encode()
    stream = record["digest"].get("framing") == "sse"
    meter = DIALECTS[NAMES[record["dialect"]]].meter("chat", {}, stream=stream)
    if not stream:
        meter.whole(body)
    else:
        for at in range(0, len(body), size):
            meter.feed(body[at : at + size])
        meter.finish()
    return meter.usage


# the digest reads the top level, which leaves a compaction out
COMPACTED = {"accea4d31b615673", "7a14f396a8cee4cc"}
# more tokens from the cache than there were
OVERLAPPING = {"22b7945a147dec97": "cached"}


def differs(record, usage):
    """Where a reading is not the digest's; ``None`` where it is."""
    wanted = record["digest"]["usage"]
    if usage is None:
        return "no usage"
    for name, read in (("cached", usage.cached), ("cache_write", usage.cache_write), ("reasoning", usage.reasoning)):
        if OVERLAPPING.get(record["id"]) != name and (wanted.get(name) or 0) not in (0, read):
            return name
    if usage.total == wanted.get("total"):
        return None  # the vendor's own sum; the digest's input leaves out what Google counts for tool use
    beside = (wanted.get("cached") or 0) + (wanted.get("cache_write") or 0)
    if usage.total_in not in ((wanted.get("input") or 0), (wanted.get("input") or 0) + beside):
        return "input"
    out = wanted.get("output") or 0
    return None if usage.total_out in (out, out + (wanted.get("reasoning") or 0)) else "output"


@pytest.mark.skipif(not FILE.is_file(), reason="GWCORE_RECORDINGS is unset: usage of recorded traffic was NOT tested")
@pytest.mark.parametrize("size", [1 << 20, 333, 7])
def test_every_bucket_equals_the_digest(size):
    records = [record for record in chats() if record["id"] not in COMPACTED]
    assert len(records) > 390
    read = [(record, metered(record, size)) for record in records]
    wrong = [(record["id"], why, usage) for record, usage in read if (why := differs(record, usage))]
    assert not wrong, (len(wrong), wrong[:6])


@pytest.mark.skipif(not FILE.is_file(), reason="GWCORE_RECORDINGS is unset: usage of recorded traffic was NOT tested")
def test_buckets_sum_to_the_vendors_total_or_the_mismatch_is_flagged():
    read = [(record, metered(record, 1 << 20)) for record in chats()]
    totals = [(usage, record["digest"]["usage"].get("total")) for record, usage in read]
    assert [usage for usage, total in totals if total and usage.total != total and not usage.mismatch] == []
    assert sum(usage.mismatch for usage, _ in totals) < 12
