"""Requests and streams nobody recorded: round trips, crossings and chunkings of what hypothesis makes up."""

import copy
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwcore.codec import Crossing
from gwcore.errors import BadRequest, Untranslatable
from gwcore.events import gather
from gwcore.translate import said
from gwcore.wire.sse import SseReader
from tests.fidelity.corpus import CODECS, SPECS
from tests.fidelity.facts import facts
from tests.fidelity.normal import normal
from tests.fidelity.table import MODELS, QUIRKS, fate
from tests.fidelity.test_settings import chat_chunk
from tests.fidelity.validators import STREAMS

WORDS = st.text(alphabet='aZ é日🙂"\\{}<>1.', max_size=20).map(lambda text: f"w{text}")
NAMES = st.sampled_from(["alpha", "beta_1", "get_weather", "x", "value", "input", "type"])
FEW = settings(max_examples=30)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(NAMES, JSONS, max_size=3)
SCHEMAS = st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.dictionaries(NAMES, st.just({"type": "string"}), max_size=3)}
)


@st.composite
def chat_requests(draw):
    """Conversations of OpenAI's chat: words, images, calls with results in their order, tools, settings."""
    tools = draw(st.lists(st.tuples(NAMES, WORDS, SCHEMAS), max_size=3, unique_by=lambda tool: tool[0]))
    messages, count = [], 0
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(WORDS)})
    for _ in range(draw(st.integers(1, 4))):
        content = draw(WORDS)
        if draw(st.booleans()):
            url = {"url": f"https://x.example/{draw(NAMES)}.png"}
            content = [{"type": "text", "text": content}, {"type": "image_url", "image_url": url}]
        messages.append({"role": "user", "content": content})
        calls = draw(st.lists(OBJECTS, max_size=3)) if tools else []
        turn = {"role": "assistant", "content": draw(WORDS) if draw(st.booleans()) or not calls else None}
        if calls:
            turn["tool_calls"] = []
        results = []
        for given_arguments in calls:
            call_id = f"call_{count}"
            count += 1
            body = {"name": tools[0][0], "arguments": json.dumps(given_arguments)}
            turn["tool_calls"].append({"id": call_id, "type": "function", "function": body})
            results.append({"role": "tool", "tool_call_id": call_id, "content": draw(WORDS)})
        messages += [turn, *results]
    messages.append({"role": "user", "content": draw(WORDS)})
    out = {"model": "m", "messages": messages}
    if tools:
        out["tools"] = [
            {"type": "function", "function": {"name": name, "description": words, "parameters": schema}}
            for name, words, schema in tools
        ]
        choice = draw(st.sampled_from([None, "auto", "none", "required"]))
        out |= {"tool_choice": choice} if choice else {}
    if draw(st.booleans()):
        out["max_tokens"] = draw(st.integers(16, 9_000))
    if draw(st.booleans()):
        out["stop"] = draw(st.lists(WORDS, min_size=1, max_size=3))
    if draw(st.booleans()):
        out["temperature"] = draw(st.sampled_from([0, 0.5, 1]))
    return out


@FEW
@given(chat_requests())
def test_a_request_comes_back_equal_in_its_own_dialect(document):
    request = CODECS["openai.chat"].read_request(copy.deepcopy(document), "m", stream=False)
    written = CODECS["openai.chat"].write_request(request, Crossing("m"))
    assert normal("openai.chat", written) == normal("openai.chat", document)


@pytest.mark.parametrize("target", [s for s in SPECS if s != "openai.chat"])
@FEW
@given(document=chat_requests())
def test_a_request_loses_nothing_on_its_way_and_back(target, document):
    """There, and back again, twice: what is written of what was read says the same, in both dialects."""
    chat, other = CODECS["openai.chat"], CODECS[target]
    request = chat.read_request(copy.deepcopy(document), "m", stream=False)
    before = facts(request)
    crossing = Crossing(MODELS[target], quirks=QUIRKS.get(target, frozenset()))
    written = json.loads(json.dumps(other.write_request(request, crossing)))
    there = other.read_request(copy.deepcopy(written), "m", stream=False)
    after = facts(there)
    assert not [fact for fact in (before - after) if fate(fact, after, crossing.dropped) == "lost"]
    # equal in its own dialect, too, whoever wrote it
    again = other.write_request(there, Crossing(MODELS[target]))
    assert normal(target, json.loads(json.dumps(again))) == normal(target, written)
    back = Crossing("m", quirks=QUIRKS["openai.chat"])
    home = chat.read_request(json.loads(json.dumps(chat.write_request(there, back))), "m", stream=False)
    gone = after - facts(home)
    assert not [fact for fact in gone if fate(fact, facts(home), back.dropped) == "lost"]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["role", "content", "type", "text", "messages", "input", "contents", "parts", "tools", "name", "function", "id",
         "tool_calls", "image_url", "source", "call_id", "output", "functionCall", "thinking", "reasoning", "max_tokens",
         "stop", "n", "metadata", "tool_choice", "system", "generationConfig", "response_format"]), inner, max_size=4),
    max_leaves=14,
)  # fmt: skip


SAID = {
    "openai.chat": {"messages": [{"role": "user", "content": "hi"}]},
    "openai.responses": {"input": "hi"},
    "anthropic.messages": {"messages": [{"role": "user", "content": "hi"}]},
    "gemini.generate": {"contents": [{"parts": [{"text": "hi"}]}]},
}
KEYS = ["system", "tools", "tool_choice", "stop", "stop_sequences", "n", "max_tokens", "thinking", "reasoning", "generationConfig",
        "response_format", "metadata", "text", "toolConfig", "systemInstruction", "output_config", "include", "modalities",
        "reasoning_effort", "stream_options", "instructions", "parallel_tool_calls", "functions"]  # fmt: skip


@pytest.mark.parametrize("dialect", SPECS)
@given(settled=st.dictionaries(st.sampled_from(KEYS), ANY, max_size=3), turn=st.none() | ANY)
@settings(max_examples=120)
def test_no_document_breaks_a_reader(dialect, settled, turn):
    """Any JSON is read or refused by name; no other exception reaches the client as a fault of the gateway."""
    document = {**SAID[dialect], **settled}
    key = next(iter(SAID[dialect]))
    if isinstance(turn, dict) and isinstance(document[key], list):
        document[key] = [*document[key], turn, {"role": "user", **turn}, {"role": "assistant", **turn}]
    elif isinstance(turn, dict):
        document[key] = [turn, {"role": "user", **turn}]
    for target in SPECS:
        try:
            said(CODECS[dialect], CODECS[target], Crossing(MODELS[target], "m", request=copy.deepcopy(document)))
        except (Untranslatable, BadRequest):
            continue


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def chat_streams(draw):
    """What OpenAI's chat may stream: thought, words, calls in turns, usage, the end mark."""
    told = {"text": "", "reasoning": "", "calls": []}
    frames = [chat_chunk({"role": "assistant", "content": ""})]
    for piece in draw(st.lists(WORDS, max_size=4)):
        told["reasoning"] += piece
        frames.append(chat_chunk({"reasoning_content": piece}))
    for piece in draw(st.lists(WORDS, max_size=6)):
        told["text"] += piece
        frames.append(chat_chunk({"content": piece}))
    calls = draw(st.lists(st.tuples(NAMES, OBJECTS), max_size=3))
    queues = []
    for at, (name, given_arguments) in enumerate(calls):
        text = json.dumps(given_arguments)
        told["calls"].append((name, given_arguments))
        head = {"index": at, "id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": ""}}
        frames.append(chat_chunk({"tool_calls": [head]}))
        queues += [[at, text[i : i + 5]] for i in range(0, len(text), 5)]
    order = draw(st.permutations(range(len(queues))))
    left = {at: [text for which, text in queues if which == at] for at in range(len(calls))}
    for position in order:  # in turns, each call's own pieces in order
        at = queues[position][0]
        frames.append(chat_chunk({"tool_calls": [{"index": at, "function": {"arguments": left[at].pop(0)}}]}))
    frames.append(
        chat_chunk({}, "tool_calls" if calls else draw(st.sampled_from(["stop", "length", "content_filter"])))
    )
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    frames.append(
        b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":%s}\n\n'
        % json.dumps(usage).encode()
    )
    return b"".join([*frames, b"data: [DONE]\n\n"]), told


def read_all(body, cuts):
    reader, frames, events = CODECS["openai.chat"].reader(), SseReader(), []
    edges = [0, *sorted({cut % (len(body) + 1) for cut in cuts}), len(body)]
    for a, b in itertools.pairwise(edges):
        for frame in frames.feed(body[a:b]):
            events += reader.read(frame)
    return [*events, *reader.close()]


@FEW
@given(chat_streams(), st.lists(st.integers(0, 1 << 20), max_size=12))
def test_any_chunking_gives_the_same_events(stream, cuts):
    body, _ = stream
    assert read_all(body, cuts) == read_all(body, [])


@pytest.mark.parametrize("client", SPECS)
@FEW
@given(stream=chat_streams())
def test_any_stream_becomes_a_valid_one_that_says_the_same(client, stream):
    body, told = stream
    writer = CODECS[client].writer(Crossing("m", "asked", usage_wanted=True, input_tokens=3))
    out = b"".join(writer.write([event]) for event in read_all(body, [])) + writer.close()
    got = STREAMS[client](out).said
    assert (got.text, got.reasoning) == (told["text"], told["reasoning"])
    assert got.calls == [(name, given_arguments) for name, given_arguments in told["calls"]]
    whole = gather(read_all(body, []), "openai.chat")
    assert whole.usage is not None and whole.usage.total == 12
