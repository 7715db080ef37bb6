"""Two turns through a client of another dialect: what the vendor signed or sealed, and the ids of its calls, come back
to it byte for byte, although the client in between neither signed nor understands them."""

import json

import pytest
from openai.lib.streaming._deltas import accumulate_delta

from gwcore.chat import Reasoning, ToolCall, ToolResult
from gwcore.codec import Crossing
from gwcore_providers.crossing import seal
from gwcore_providers.gemini.thoughts import UNSIGNED
from tests.fidelity.corpus import CODECS, MISSING, SPECS, answers, requests
from tests.fidelity.oracle import UNREADABLE, reply_of
from tests.fidelity.relayed import REQUESTS, relayed, translation, whole
from tests.fidelity.table import MODELS
from tests.fidelity.validators import STREAMS, WHOLES

pytestmark = pytest.mark.skipif(not requests(), reason=MISSING)
PAIRS = [(a, b) for a in SPECS for b in SPECS if a != b]
# what each vendor's API is known to take back beyond its plainest form
QUIRKS = {"openai.chat": frozenset({"reasoning_details", "thought_signature", "custom_tools"})}
MODELS = {**MODELS, "openai.chat": "some-model"}


def next_request(client, got):
    """The client's second request: its first question, the answer as it came, a result for every call."""
    ids = got.ids
    if client == "openai.chat":
        results = [{"role": "tool", "tool_call_id": one, "content": f"result {at}"} for at, one in enumerate(ids)]
        return {"model": "m", "messages": [{"role": "user", "content": "hi"}, got.turn, *results]}
    if client == "openai.responses":
        kinds = [i["type"] for i in got.turn if i["type"] in ("function_call", "custom_tool_call")]
        results = [
            {"type": f"{kinds[at]}_output", "call_id": one, "output": f"result {at}"} for at, one in enumerate(ids)
        ]
        return {"model": "m", "input": [{"role": "user", "content": "hi"}, *got.turn, *results]}
    if client == "anthropic.messages":
        results = [{"type": "tool_result", "tool_use_id": one, "content": f"result {at}"} for at, one in enumerate(ids)]
        after = [{"role": "user", "content": results or "go on"}]
        return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}, got.turn, *after]}
    names = [part["functionCall"]["name"] for part in got.turn["parts"] if "functionCall" in part]
    results = [
        {"functionResponse": {"id": one, "name": name, "response": {"result": f"result {at}"}}}
        for at, (one, name) in enumerate(zip(ids, names, strict=True))
    ]
    after = {"role": "user", "parts": results or [{"text": "go on"}]}
    return {"contents": [{"role": "user", "parts": [{"text": "hi"}]}, got.turn, after]}


def sealed_of(parts, source):
    """What must come back: signed or sealed thoughts in order, ids and signatures of calls, which call each result is for."""
    out = []
    for part in parts:
        if isinstance(part, Reasoning) and (part.signature or part.encrypted) and part.dialect == source:
            # the words a signature is over; a summary beside a sealed thought is not
            out.append((part.text if part.signature else "", part.signature, part.encrypted, part.redacted))
        elif isinstance(part, ToolCall):
            # a call without a signature may get the word for one
            out.append((part.id, part.name, part.signature if part.signature != UNSIGNED else None))
    return out


def returned(record, source, client, *, stream, strip=None):
    """What the vendor gets back, read by its own codec."""
    body, _ = relayed(record, client, "random:4") if stream else whole(record, client)
    if stream:
        got = STREAMS[client](body) if client != "openai.chat" else _chat(body, record)
    else:
        got = WHOLES[client](json.loads(body))
    document = json.loads(json.dumps(next_request(client, got)))
    if strip:
        strip(document)
    request = CODECS[client].read_request(document, "m", stream=False)
    model = MODELS[source]
    written = CODECS[source].write_request(request, Crossing(model, "asked", QUIRKS.get(source, frozenset())))
    return CODECS[source].read_request(json.loads(json.dumps(written)), model, stream=False)


def _chat(body, record):
    return STREAMS["openai.chat"](body, usage=reply_of(record).usage is not None)


def signed(source):
    """Recorded answers that hold something sealed, or call tools; without parts that only their own vendor knows."""
    out = []
    for record in answers(source):
        if record["id"] in UNREADABLE or "stream_error" in record["tags"]:
            continue
        parts = reply_of(record).choices[0].parts if reply_of(record).choices else []
        if all(isinstance(part, Reasoning | ToolCall) or type(part).__name__ == "Text" for part in parts) and any(
            isinstance(part, ToolCall) or part.signature or part.encrypted
            for part in parts
            if isinstance(part, Reasoning | ToolCall)
        ):
            out.append(record)
    return out


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("source", "client"), PAIRS)
def test_signatures_and_ids_come_back_byte_for_byte(source, client, stream):
    wrong, records = [], signed(source)
    for record in records:
        before = sealed_of(reply_of(record).choices[0].parts, source)
        again = returned(record, source, client, stream=stream)
        after = sealed_of([part for message in again.messages for part in message.parts], source)
        if before != after:
            wrong.append((record["id"], [one for one in before if one not in after][:1], after[:1]))
            continue
        calls = [part.id for m in again.messages for part in m.parts if isinstance(part, ToolCall)]
        results = [part.id for m in again.messages for part in m.parts if isinstance(part, ToolResult)]
        if calls != results:
            wrong.append((record["id"], calls, results))
    assert len(records) > 10
    assert not wrong, (len(wrong), len(records), str(wrong[:3])[:700])


def test_a_changed_signature_is_caught():
    """The negative control: one letter of a sealed thought was modified."""
    record = next(r for r in signed("anthropic.messages") if any("signature" in t for t in r["tags"]))
    before = sealed_of(reply_of(record).choices[0].parts, "anthropic.messages")

    def strip(document):
        for detail in document["messages"][1].get("reasoning_details", ()):
            detail["signature"] = detail["signature"][:-2] + "xx"

    again = returned(record, "anthropic.messages", "openai.chat", stream=False, strip=strip)
    assert before != sealed_of([p for m in again.messages for p in m.parts], "anthropic.messages")


@pytest.mark.parametrize("client", ["openai.chat", "anthropic.messages", "openai.responses"])
def test_geminis_signatures_survive_clients_that_drop_what_they_do_not_know(client):
    """A client that keeps no unknown field still sends back ids: the signature of a call is in them (E2)."""

    def strip(document):
        for message in document.get("messages") or ():
            if isinstance(message.get("content"), list):
                message["content"] = [b for b in message["content"] if b["type"] in ("text", "tool_use", "tool_result")]
            for key in ("reasoning_content", "reasoning_details", "refusal", "annotations"):
                message.pop(key, None)
            for call in message.get("tool_calls") or ():
                call.pop("extra_content", None)
        if "input" in document:
            document["input"] = [i for i in document["input"] if i.get("type") != "reasoning"]

    looked = 0
    for record in signed("gemini.generate"):
        calls = [p for p in reply_of(record).choices[0].parts if isinstance(p, ToolCall) and p.signature]
        again = returned(record, "gemini.generate", client, stream=False, strip=strip)
        back = {p.id: p.signature for m in again.messages for p in m.parts if isinstance(p, ToolCall)}
        for call in calls:
            looked += 1
            assert back[call.id] == call.signature
    assert looked >= 5


def litellms(record, *, stream):
    """The assistant's turn as LiteLLM's clients keep it: words, ``thinking_blocks`` and calls, put together by the SDK."""
    if stream:
        body, _ = relayed(record, "openai.chat", "random:4")
        turn = {}
        for line in body.split(b"\n"):
            if line.startswith(b"data: {") and (choices := json.loads(line[6:])["choices"]):
                delta = choices[0]["delta"]
                assert "thinking_blocks" not in delta or delta["reasoning_content"] is not None, (
                    "LiteLLM drops such chunks"
                )
                turn = accumulate_delta(turn, delta)
    else:
        turn = json.loads(whole(record, "openai.chat")[0])["choices"][0]["message"]
    return {
        name: turn[name] for name in ("content", "reasoning_content", "thinking_blocks", "tool_calls") if name in turn
    }


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("source", [dialect for dialect in SPECS if dialect != "openai.chat"])
def test_thoughts_come_back_in_litellms_form(source, stream, monkeypatch):
    """LiteLLM's own clients keep ``thinking_blocks`` of an answer, and nothing of OpenRouter's form."""
    thinking = {"type": "enabled", "budget_tokens": 2000}
    monkeypatch.setitem(REQUESTS, "openai.chat", {**REQUESTS["openai.chat"], "thinking": thinking})
    thoughts = 0
    for record in signed(source):
        before = sealed_of(reply_of(record).choices[0].parts, source)
        turn = {"role": "assistant", **litellms(record, stream=stream)}
        request = CODECS["openai.chat"].read_request({"model": "m", "messages": [turn]}, "m", stream=False)
        assert sealed_of(request.messages[0].parts, source) == before, record["id"]
        assert not request.messages[0].extra.get("thinking_blocks")
        thoughts += len(turn.get("thinking_blocks", ()))
    assert thoughts > 5


def test_litellms_proxy_as_an_upstream_keeps_its_thoughts(monkeypatch):
    """Its chunks have both forms of a thought's text, and the signature in ``thinking_blocks`` alone."""
    monkeypatch.setitem(REQUESTS, "openai.chat", {**REQUESTS["openai.chat"], "thinking": {"type": "enabled"}})
    for record in signed("anthropic.messages"):
        said = [part for part in reply_of(record).choices[0].parts if isinstance(part, Reasoning) and part.signature]
        frames = relayed(record, "openai.chat")[0].replace(b'"reasoning_details"', b'"not_there"')
        stream = translation("openai.chat", "anthropic.messages", stream=True).stream()
        got = STREAMS["anthropic.messages"](stream.feed(frames) + stream.close())
        blocks = [block for block in got.turn["content"] if block["type"] == "thinking"]
        assert [(one["thinking"], one["signature"]) for one in blocks] == [(one.text, one.signature) for one in said]


def test_who_does_not_ask_as_litellm_does_gets_no_second_copy_of_the_thoughts():
    record = next(r for r in signed("anthropic.messages") if any("signature" in t for t in r["tags"]))
    assert b"reasoning_details" in whole(record, "openai.chat")[0] + relayed(record, "openai.chat")[0]
    assert b"thinking_blocks" not in whole(record, "openai.chat")[0] + relayed(record, "openai.chat")[0]


@pytest.mark.parametrize(("source", "client"), PAIRS)
def test_what_is_sealed_is_never_shown_as_text(source, client):
    for record in signed(source):
        parts = reply_of(record).choices[0].parts
        secrets = [s for p in parts if isinstance(p, Reasoning) for s in (p.signature, p.encrypted) if s]
        got = WHOLES[client](json.loads(whole(record, client)[0]))
        for secret in secrets:
            assert secret[:40] not in got.said.text and secret[:40] not in got.said.reasoning
        assert "gw1." not in got.said.text


def test_a_seal_that_was_changed_is_refused_by_name():
    token = seal(Reasoning("thought", "sig", dialect="anthropic.messages"))
    document = {"model": "m", "input": [{"type": "reasoning", "summary": [], "encrypted_content": token[:-6] + "!!!!"}]}
    with pytest.raises(Exception, match="was modified"):
        CODECS["openai.responses"].read_request(document, "m", stream=False)
