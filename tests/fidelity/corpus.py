"""Recorded chat exchanges, and what else the tests of translation share."""

import base64
import copy
import gzip
import json
import random
from functools import cache

from gwcore.codec import Crossing
from gwcore_providers import gwcore_dialects
from tests.conftest import RECORDINGS

NAMES = {
    "openai-chat": "openai.chat",
    "openai-responses": "openai.responses",
    "anthropic-messages": "anthropic.messages",
    "gemini-generate": "gemini.generate",
}
SPECS = {name: spec for spec, name in NAMES.items()}
ENDPOINTS = {
    "chat.completions", "openai-compat:chat.completions", "responses", "messages", "rawPredict",
    "generateContent", "streamGenerateContent",
}  # fmt: skip
DIALECTS = {d.name: d for d in gwcore_dialects() if d.name in SPECS}
CODECS = {name: dialect.chat for name, dialect in DIALECTS.items()}
MISSING = "GWCORE_RECORDINGS is unset: translation of recorded traffic was NOT tested"


@cache
def chats():
    """Every recorded exchange of the four dialects' chat operation; empty without recordings."""
    found = []
    for name in ("dev.jsonl.gz", "supplement.jsonl.gz"):
        if (RECORDINGS / name).is_file():
            with gzip.open(RECORDINGS / name, "rt", encoding="utf-8") as lines:
                found += [json.loads(line) for line in lines]
    return [r for r in found if r["dialect"] in NAMES and r["endpoint"] in ENDPOINTS]


def requests(dialect=None):
    """Those with a request, of one dialect or all."""
    return [
        r
        for r in chats()
        if isinstance((r["request"] or {}).get("body"), dict) and dialect in (None, NAMES[r["dialect"]])
    ]


def answers(dialect=None):
    """Those that were answered, of one dialect or all."""
    return [r for r in chats() if r["response"]["status"] < 400 and dialect in (None, NAMES[r["dialect"]])]


def recorded_body(record):
    response = record["response"]
    return base64.b64decode(response["body_b64"]) if "body_b64" in response else response.get("body", "").encode()


def streamed(record):
    return recorded_body(record)[:512].lstrip().startswith((b"data:", b"event:", b":"))


def read(record, dialect=None):
    """The recorded request in canonical form."""
    document = copy.deepcopy(record["request"]["body"])
    return CODECS[dialect or NAMES[record["dialect"]]].read_request(
        document, document.get("model") or record["model"] or "m", stream=bool(record["stream"])
    )


def crossing_for(record, model=None, **more):
    model = model or record["request"]["body"].get("model") or record["model"] or "m"
    return Crossing(model, "asked", stream=bool(record["stream"]), **more)


def split(body, how):
    """``body`` in pieces: ``whole``, ``byte`` or ``random:SEED``."""
    if how == "whole":
        return [body]
    if how == "byte":
        return [body[at : at + 1] for at in range(len(body))]
    rng, out, at = random.Random(int(how.partition(":")[2])), [], 0
    while at < len(body):
        step = rng.randint(1, 90)
        out.append(body[at : at + step])
        at += step
    return out
