"""Recorded answers of every dialect, as clients of every other dialect get them: valid, complete, counted right."""

import json
import re
from collections import Counter

import pytest

from gwcore.events import Started, ToolCallDelta
from gwcore.usage import Usage
from tests.fidelity.corpus import CODECS, DIALECTS, MISSING, NAMES, SPECS, answers, recorded_body, requests, streamed
from tests.fidelity.oracle import UNREADABLE, differs, reply_of
from tests.fidelity.relayed import relayed, translation, whole
from tests.fidelity.validators import STREAMS, WHOLES, frames_of

pytestmark = pytest.mark.skipif(not requests(), reason=MISSING)
PAIRS = [(a, b) for a in SPECS for b in SPECS if a != b]
NO_FIELD = {"anthropic.messages", "gemini.generate"}
"""Dialects without a field for why a model declined: the words are text, and the stop reason says what they are."""


def readable(dialect):
    return [r for r in answers(dialect) if r["id"] not in UNREADABLE and "stream_error" not in r["tags"]]


def wrong_in(record, client, said):
    found = differs(record, said)
    if client in NO_FIELD and record["digest"].get("refusal"):
        found = [one for one in found if one[0] != "refusal" and one[1] != record["digest"]["refusal"]]
    return found


def metered(record):
    """Whether the upstream said what it took, in a way the first event of a stream cannot lack."""
    return reply_of(record).usage is not None


def read_stream(record, client, how):
    body, way = relayed(record, client, how)
    if client == "openai.chat":
        return STREAMS[client](body, usage=metered(record)), way
    return STREAMS[client](body), way


@pytest.mark.parametrize("how", ["whole", "byte", "random:3"])
@pytest.mark.parametrize(("source", "client"), PAIRS)
def test_a_streaming_client_reads_the_digest(source, client, how):
    records = readable(source)
    if how == "byte":  # one letter at a time takes long: streams of usual length
        records = [r for r in records if streamed(r) and len(recorded_body(r)) < 20_000]
    wrong = []
    for record in records:
        got, _ = read_stream(record, client, how)
        if found := wrong_in(record, client, got.said):
            wrong.append((record["id"], found[0]))
    assert len(records) > 15
    assert not wrong, (len(wrong), str(wrong[:4])[:800])


@pytest.mark.parametrize(("source", "client"), PAIRS)
def test_any_chunking_gives_the_same_bytes(source, client):
    records = [r for r in readable(source) if streamed(r)][:40]
    for record in records:
        clean = [_stripped(relayed(record, client, how)[0]) for how in ("whole", "random:5", "random:6")]
        assert clean[0] == clean[1] == clean[2], record["id"]
    assert len(records) > 15


def _stripped(body):
    """Without the seconds of the clock."""
    return re.sub(rb'"(created|created_at|completed_at)":\d+', b"", body)


@pytest.mark.parametrize(("source", "client"), PAIRS)
def test_a_client_without_a_stream_reads_the_digest(source, client):
    wrong = []
    for record in readable(source):
        body, _ = whole(record, client)
        got = WHOLES[client](json.loads(body))
        if found := wrong_in(record, client, got.said):
            wrong.append((record["id"], found[0]))
    assert not wrong, (len(wrong), str(wrong[:4])[:800])


@pytest.mark.parametrize("source", [s for s in SPECS if s != "openai.chat"])
def test_usage_that_no_client_asked_for_is_no_chunk(source):
    """Every chunk then has a choice, and usage is known all the same (D9, B5)."""
    for record in readable(source)[:30]:
        body, way = relayed(record, "openai.chat", usage=False)
        STREAMS["openai.chat"](body, usage=False)
        assert (way.meter.usage is not None) == metered(record)


# ── why it ended ─────────────────────────────────────────────────────────────────────────────────────────────────────

# canonical reason → the word of each client dialect; what is incomplete is never told as complete
WORDS = {
    "openai.chat": {
        "stop": {"stop"}, "length": {"length"}, "context_window": {"length"}, "tool_calls": {"tool_calls"},
        "content_filter": {"content_filter"}, "refusal": {"content_filter"}, "pause": {"length"}, "error": {"length"},
        "unknown": {"length"},
    },
    "openai.responses": {
        "stop": {"completed"}, "tool_calls": {"completed"}, "refusal": {"completed", "incomplete:content_filter"},
        "length": {"incomplete:max_output_tokens"}, "context_window": {"incomplete:max_output_tokens"},
        "content_filter": {"incomplete:content_filter"}, "pause": {"incomplete:None"}, "error": {"failed"},
        "unknown": {"incomplete:None"},
    },
    "anthropic.messages": {
        "stop": {"end_turn", "stop_sequence"}, "length": {"max_tokens"}, "tool_calls": {"tool_use"},
        "context_window": {"model_context_window_exceeded"}, "content_filter": {"refusal"}, "refusal": {"refusal"},
        "pause": {"pause_turn"}, "error": {"max_tokens"}, "unknown": {"max_tokens"},
    },
    "gemini.generate": {
        "stop": {"STOP"}, "tool_calls": {"STOP"}, "length": {"MAX_TOKENS"}, "context_window": {"MAX_TOKENS"},
        "content_filter": {"SAFETY"}, "refusal": {"SAFETY"}, "pause": {"OTHER"}, "error": {"OTHER"},
        "unknown": {"OTHER"},
    },
}  # fmt: skip


@pytest.mark.parametrize("client", SPECS)
def test_every_stop_reason_has_its_word(client):
    seen, wrong = Counter(), []
    for record in readable(None):
        if NAMES[record["dialect"]] == client:
            continue
        reason = reply_of(record).choices[0].finish.reason if reply_of(record).choices else "unknown"
        for got in (read_stream(record, client, "whole")[0], WHOLES[client](json.loads(whole(record, client)[0]))):
            if got.said.finish not in WORDS[client][reason]:
                wrong.append((record["id"], reason, got.said.finish))
        seen[reason] += 1
    assert not wrong, wrong[:6]
    assert {"stop", "length", "tool_calls", "unknown"} <= seen.keys()


# ── usage ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def buckets(client, usage):
    """(input, cached, written, output, reasoning) as a client of that dialect adds them up, all of the input in input."""
    if client == "openai.chat":
        prompt, out = usage["prompt_tokens_details"], usage["completion_tokens_details"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        return (usage["prompt_tokens"], prompt["cached_tokens"], prompt.get("cache_write_tokens", 0),
                usage["completion_tokens"], out["reasoning_tokens"])  # fmt: skip
    if client == "openai.responses":
        inner = usage["input_tokens_details"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        return (usage["input_tokens"], inner["cached_tokens"], inner["cache_write_tokens"], usage["output_tokens"],
                usage["output_tokens_details"]["reasoning_tokens"])  # fmt: skip
    if client == "anthropic.messages":
        read, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
        assert sum(usage["cache_creation"].values()) == written
        return usage["input_tokens"] + read + written, read, written, usage["output_tokens"], None
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["candidatesTokenCount"] + usage.get(
        "thoughtsTokenCount", 0
    )
    return (usage["promptTokenCount"], usage.get("cachedContentTokenCount", 0), None,
            usage["candidatesTokenCount"] + usage.get("thoughtsTokenCount", 0), usage.get("thoughtsTokenCount", 0))  # fmt: skip


def expected(client, usage: Usage):
    written = None if client == "gemini.generate" else usage.cache_write
    thought = None if client == "anthropic.messages" else usage.reasoning
    return usage.total_in, usage.cached, written, usage.total_out, thought


@pytest.mark.parametrize(("source", "client"), PAIRS)
def test_usage_reaches_the_client_in_its_own_buckets(source, client):
    """The upstream's bytes are metered by the passthrough's meter, which test_usage_of_recordings.py holds to the digest."""
    wrong, looked = [], 0
    for record in readable(source):
        usage = _of_bytes(record)
        if usage is None or not usage.total or usage.fees or usage.mismatch:
            continue
        looked += 1
        for got, way in (read_stream(record, client, "whole"), _read_whole(record, client)):
            if buckets(client, got.usage) != expected(client, usage) or way.meter.usage.total != usage.total:
                wrong.append((record["id"], buckets(client, got.usage), expected(client, usage)))
    assert looked > 30 and not wrong, (looked, len(wrong), wrong[:5])


def _read_whole(record, client):
    body, way = whole(record, client)
    return WHOLES[client](json.loads(body)), way


def _of_bytes(record):
    meter = DIALECTS[NAMES[record["dialect"]]].meter("chat", {}, stream=streamed(record))
    if streamed(record):
        meter.feed(recorded_body(record))
        meter.finish()
    else:
        meter.whole(recorded_body(record))
    return meter.usage


@pytest.mark.parametrize("source", [s for s in SPECS if s != "anthropic.messages"])
def test_an_anthropic_client_sees_its_context_from_the_first_event(source):
    """``message_start`` never says 0 (D14): it is an estimate where the upstream tells usage at the end."""
    for record in readable(source):
        got, _ = read_stream(record, "anthropic.messages", "whole")
        assert got.start["input_tokens"] + got.start["cache_read_input_tokens"] > 0, record["id"]


@pytest.mark.parametrize("client", [s for s in SPECS if s != "anthropic.messages"])
def test_a_stream_without_its_first_event_is_whole(client):
    """Some servers that imitate Anthropic's API leave ``message_start`` out."""
    seen = 0
    for record in readable("anthropic.messages"):
        first, block, rest = recorded_body(record).partition(b"event: content_block_start")
        if not (streamed(record) and block and b"message_start" in first):
            continue
        way = translation("anthropic.messages", client, stream=True, usage=False)
        stream = way.stream()
        out = stream.feed(block + rest) + stream.close()
        got = STREAMS[client](out, usage=False) if client == "openai.chat" else STREAMS[client](out)
        assert not stream.void and not wrong_in(record, client, got.said), record["id"]
        assert way.stream().gathered(block + rest).id
        seen += 1
    assert seen > 20


@pytest.mark.parametrize("client", SPECS)
def test_a_stream_that_begins_twice_begins_once(client, monkeypatch):
    source = "openai.chat" if client != "openai.chat" else "anthropic.messages"
    reader = type(CODECS[source].reader())
    read = reader.read
    again = lambda self, frame: [e for event in read(self, frame) for e in (event, Started("again", "m"))]  # noqa: E731
    monkeypatch.setattr(reader, "read", again)
    records = [r for r in readable(source) if streamed(r)]
    for record in records:
        got, _ = read_stream(record, client, "whole")
        assert not wrong_in(record, client, got.said), record["id"]
    assert records


# ── negative controls ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("source", "client"), PAIRS)
def test_a_reader_that_loses_arguments_is_caught(source, client, monkeypatch):
    """Half of a streamed call's deltas gone: either no valid stream, or not the digest."""
    made = CODECS[source].reader

    class Forgetful:
        def __init__(self):
            self.inner, self.count = made(), 0

        def _kept(self, events):
            out = []
            for event in events:
                self.count += isinstance(event, ToolCallDelta)
                if isinstance(event, ToolCallDelta) and self.count % 2:
                    continue
                out.append(event)
            return out

        def read(self, frame):
            return self._kept(self.inner.read(frame))

        def close(self):
            return self._kept(self.inner.close())

    monkeypatch.setattr(type(CODECS[source]), "reader", lambda self: Forgetful())
    chosen = [
        r
        for r in readable(source)
        if streamed(r) and len([c for c in r["digest"].get("tool_calls") or [] if len(str(c["arguments"])) > 9]) > 0
    ]
    if source == "gemini.generate":
        return  # its calls come whole
    caught = 0
    for record in chosen:
        try:
            got, _ = read_stream(record, client, "whole")
            caught += bool(wrong_in(record, client, got.said))
        except (AssertionError, json.JSONDecodeError):
            caught += 1
    assert chosen and caught > 0.5 * len(chosen)


@pytest.mark.parametrize("client", SPECS)
def test_validators_refuse_streams_that_no_vendor_sends(client):
    record = next(r for r in readable("openai.chat") if streamed(r) and r["digest"].get("tool_calls"))
    body = relayed(record, client)[0] if client != "openai.chat" else recorded_body(record)
    if client == "openai.chat":
        record = next(r for r in readable("anthropic.messages") if streamed(r) and r["digest"].get("tool_calls"))
        body = relayed(record, client)[0]
    cut = b"\r\n\r\n" if client == "gemini.generate" else b"\n\n"
    frames = body.split(cut)[:-1]
    STREAMS[client](body)
    broken = [frames[:-1], [*frames, frames[-1]]]
    if client != "gemini.generate":
        broken.append([*frames[:-2], frames[2], *frames[-2:]])  # something of the answer behind its end
    for bad in broken:
        with pytest.raises((AssertionError, KeyError, IndexError, TypeError, json.JSONDecodeError)):
            STREAMS[client](cut.join(bad) + cut)


def tokens_of(client, whole_reply):
    if client == "openai.chat":
        return [(t["token"], t["logprob"]) for t in whole_reply["choices"][0]["logprobs"]["content"]]
    if client == "openai.responses":
        pieces = [p for i in whole_reply["output"] if i["type"] == "message" for p in i["content"]]
        return [(t["token"], t["logprob"]) for piece in pieces for t in piece["logprobs"]]
    chosen = whole_reply["candidates"][0]["logprobsResult"]["chosenCandidates"]
    return [(t["token"], t["logProbability"]) for t in chosen]


@pytest.mark.parametrize("client", ["openai.chat", "openai.responses", "gemini.generate"])
def test_logprobs_reach_every_client_that_has_a_place_for_them(client):
    told = [r for r in readable(None) if r["digest"].get("logprobs") and NAMES[r["dialect"]] != client]
    chosen = [r for r in told if reply_of(r).choices[0].logprobs]
    thought = [r for r in told if b'"logprobs":{"reasoning_content"' in recorded_body(r)]
    assert len(chosen) + len(thought) >= len(told) - 1  # no dialect has a place for those of a thought; one says null
    for record in chosen:
        tokens = [(t["token"], t["logprob"]) for t in reply_of(record).choices[0].logprobs]
        assert tokens and tokens_of(client, json.loads(whole(record, client)[0])) == tokens, record["id"]
        if streamed(record) and client == "gemini.generate":
            chunks = [json.loads(f.data) for f in frames_of(relayed(record, client)[0])]
            told = [
                one["candidates"][0]["logprobsResult"] for one in chunks if "logprobsResult" in one["candidates"][0]
            ]
            assert sum(len(one["chosenCandidates"]) for one in told) == len(tokens)
    assert len(chosen) >= 4
