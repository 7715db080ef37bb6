"""Recorded answers, whole and streamed, read into what their digests say; at any chunking the same events."""

import pytest

from gwcore.chat import Reasoning, ToolCall
from gwcore.events import Finished, PartEnded, Started
from tests.fidelity.corpus import MISSING, SPECS, answers, requests, streamed
from tests.fidelity.oracle import UNREADABLE, differs, events_of, of_reply, reply_of

pytestmark = pytest.mark.skipif(not requests(), reason=MISSING)
LEAST = {"openai.chat": 175, "openai.responses": 90, "anthropic.messages": 90, "gemini.generate": 55}


def readable(dialect):
    return [r for r in answers(dialect) if r["id"] not in UNREADABLE]


@pytest.mark.parametrize("dialect", SPECS)
def test_a_recorded_answer_is_read_as_its_digest(dialect):
    records = readable(dialect)
    assert len(records) > LEAST[dialect]
    wrong = [(r["id"], found[0]) for r in records if (found := differs(r, of_reply(reply_of(r))))]
    assert not wrong, (len(wrong), str(wrong[:4])[:900])


def test_a_reader_that_loses_a_delta_is_caught(monkeypatch):
    """The negative control."""
    chosen = [r for r in readable("anthropic.messages") if streamed(r) and r["digest"].get("text")]
    for record in chosen:
        reply = reply_of(record)
        said = of_reply(reply)
        said.text = said.text[:-1]
        assert differs(record, said)
    assert len(chosen) > 15


FINISHES = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls",
    "content_filter": "content_filter", "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length",
    "tool_use": "tool_calls", "pause_turn": "pause", "refusal": "refusal", "STOP": "stop", "MAX_TOKENS": "length",
    "completed": "stop", "incomplete:max_output_tokens": "length", "incomplete:content_filter": "content_filter",
    "SAFETY": "content_filter", "model_context_window_exceeded": "context_window", "model_length": "context_window",
    "MALFORMED_FUNCTION_CALL": "error", "UNEXPECTED_TOOL_CALL": "error", "PROHIBITED_CONTENT": "content_filter", "IMAGE_SAFETY": "content_filter",
    "RECITATION": "content_filter", "failed": "error", "error": "error",
}  # fmt: skip


@pytest.mark.parametrize("dialect", SPECS)
def test_why_it_ended_is_what_the_vendor_said(dialect):
    wrong, seen = [], set()
    for record in readable(dialect):
        word = record["digest"].get("finish")
        if word is None or "stream_error" in record["tags"]:
            continue
        reply = reply_of(record)
        got, expected = reply.choices[0].finish.reason, FINISHES.get(word, "unknown")
        if expected == "stop" and any(isinstance(p, ToolCall) for p in reply.choices[0].parts):
            expected = "tool_calls"
        if expected == "stop" and word == "completed" and record["digest"].get("refusal"):
            expected = "refusal"
        seen.add(expected)
        if got != expected:
            wrong.append((record["id"], word, got))
    assert not wrong and len(seen) >= 3, (wrong[:8], seen)


@pytest.mark.parametrize("how", ["byte", "random:1", "random:2"])
@pytest.mark.parametrize("dialect", SPECS)
def test_any_chunking_gives_the_same_events(dialect, how):
    records = [r for r in readable(dialect) if streamed(r)]
    wrong = [r["id"] for r in records if len(str(r)) < 90_000 and events_of(r, how) != events_of(r)]
    assert len(records) > 20 and not wrong


@pytest.mark.parametrize("dialect", SPECS)
def test_events_keep_their_order(dialect):
    """Started once and first; no part goes on after its end; every choice ends once."""
    for record in readable(dialect):
        if not streamed(record):
            continue
        events = events_of(record)
        assert isinstance(events[0], Started) and sum(isinstance(e, Started) for e in events) == 1, record["id"]
        closed = set()
        for event in events:
            part = getattr(event, "part", None)
            assert part not in closed or part is None, (record["id"], event)
            if isinstance(event, PartEnded):
                closed.add(part)
        ends = [e.choice for e in events if isinstance(e, Finished)]
        assert len(ends) == len(set(ends)), record["id"]


def test_signatures_are_read_as_they_were_written():
    """Every signature and sealed thought of a recorded answer stands, byte for byte, in what is read of it."""
    checked = 0
    for record in answers():
        if record["id"] in UNREADABLE or not record["digest"].get("signatures"):
            continue
        body = str(record["response"].get("body"))
        for part in reply_of(record).choices[0].parts:
            if isinstance(part, Reasoning | ToolCall):
                for sealed in (part.signature, getattr(part, "encrypted", None)):
                    if sealed and "signature_delta" not in body:
                        assert sealed in body or sealed.replace("/", "\\/") in body, record["id"]
                        checked += 1
    assert checked > 40


def test_a_text_delta_is_not_shared_between_streams():
    """Readers keep nothing of one stream for the next (E15)."""
    records = [r for r in answers("openai.chat") if streamed(r) and r["id"] not in UNREADABLE][:25]
    alone = [repr(events_of(r)) for r in records]
    assert [repr(events_of(r)) for r in records] == alone
    assert any("TextDelta" in shown for shown in alone)
