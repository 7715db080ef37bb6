"""Recorded chat requests, and the vendors' specifications beside them."""

import gzip
import importlib.util
import json
import os
from pathlib import Path

import pytest

RECORDINGS = Path(os.environ.get("GWCORE_RECORDINGS") or "/nonexistent")
NAMES = {
    "openai-chat": "openai.chat", "openai-responses": "openai.responses", "anthropic-messages": "anthropic.messages",
    "gemini-generate": "gemini.generate",
}  # fmt: skip
CHATS = {"chat.completions", "responses", "messages", "generateContent", "streamGenerateContent", "rawPredict"}


def specification():
    """The checker; the test is skipped where there is none."""
    if not (RECORDINGS / "speccheck.py").is_file():
        pytest.skip("GWCORE_RECORDINGS is unset: the vendors' specifications were NOT consulted")
    found = importlib.util.spec_from_file_location("speccheck", RECORDINGS / "speccheck.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.Spec()


def recorded():
    """Requests of client dialects that their vendor accepted."""
    with gzip.open(RECORDINGS / "dev.jsonl.gz", "rt") as lines:
        records = [json.loads(line) for line in lines]
    good = (r for r in records if r["dialect"] in NAMES and r["endpoint"] in CHATS and r["response"]["status"] < 400)
    return [r for r in good if "body" in (r["request"] or {})]
