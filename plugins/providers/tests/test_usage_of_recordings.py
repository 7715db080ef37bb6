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


@pytest.mark.skipif(not FILE.is_file(), reason="GWCORE_RECORDINGS is unset: usage of recorded traffic was NOT tested")
@pytest.mark.parametrize("size", [1 << 20, 333])
def test_output_and_total_input_equal_the_digest(size):
    records = chats()
    assert len(records) > 300
    wrong = []
    for record in records:
        usage, wanted = metered(record, size), record["digest"]["usage"]
        if usage is None:
            wrong.append((record["id"], record["provider"], "no usage", wanted))
            continue
        total_in = usage.total_in
        total_out = usage.total_out
        want_in = wanted.get("input") or 0
        beside = (wanted.get("cached") or 0) + (wanted.get("cache_write") or 0)
        want_out = wanted.get("output") or 0
        if usage.total == wanted.get("total"):
            continue  # the vendor's own sum; the digest's input leaves out what Google counts for tool use
        if total_in not in (want_in, want_in + beside) or total_out not in (
            want_out,
            want_out + (wanted.get("reasoning") or 0),
        ):
            wrong.append((record["id"], record["provider"], usage, wanted))
    assert not wrong, (len(wrong), len(records), wrong[:6])
