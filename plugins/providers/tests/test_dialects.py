"""Every error in every dialect, the first frames of streams, usage out of bytes."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwcore import errors
from gwcore.codec import Crossing
from gwcore.dialect import InBandError
from gwcore.events import gather, spell
from gwcore.wire.document import parse
from gwcore.wire.sse import SseReader
from gwcore_providers import gwcore_dialects
from gwcore_providers.anthropic.messages import AnthropicMessages
from gwcore_providers.gemini.generate import GeminiGenerate
from gwcore_providers.openai.chat import OpenAIChat
from gwcore_providers.openai.responses import OpenAIResponses

DIALECTS = {dialect.name: dialect for dialect in gwcore_dialects() if dialect.routes}


def every_error():
    made = []
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.GatewayError):
            match kind.__name__:
                case "UpstreamTimeout":
                    made.append(kind("slow", phase="idle"))
                case "Refused":
                    made.append(kind("no", status=418))
                case "PluginFault":
                    made.append(kind("x"))
                case _:
                    made.append(kind("what to mend"))
    return made


@pytest.mark.parametrize("error", every_error(), ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("name", DIALECTS)
def test_every_error_has_a_form_in_every_dialect(name, error):
    dialect = DIALECTS[name]
    body = json.loads(dialect.error_body(error, "gw-1"))
    assert error.message in json.dumps(body) and "gw-1" in json.dumps(body)
    frames = SseReader().feed(dialect.error_event(error, "gw-1", "chat"))
    assert len(frames) == 1 and error.message in frames[0].data.decode()
    assert dialect.ended("chat", frames[0].raw) or name == "gemini.generate"
    assert b"[DONE]" not in frames[0].raw


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("openai.chat", "service_tier"),
        ("openai.chat", "tools"),
        ("openai.responses", "input"),
        ("openai.responses", "service_tier"),
        ("openai.responses", "tools"),
        ("anthropic.messages", "container"),
        ("anthropic.messages", "requests"),
        ("anthropic.messages", "tools"),
        ("gemini.generate", "tools"),
    ],
)
def test_what_costs_or_names_a_tenants_own_stands_once(name, key):
    """Held is the price of the second, and an upstream may read the first."""
    body = f'{{"model": "m", "{key}": 1, "x": 2, "{key}": 3}}'.encode()
    with pytest.raises(errors.BadRequest, match=f"'{key}' occurs 2 times"):
        parse(body, unique=DIALECTS[name].unique)


@pytest.mark.parametrize(("status", "word"), [(529, "UNAVAILABLE"), (503, "UNAVAILABLE"), (500, "INTERNAL")])
def test_an_overload_is_no_internal_error_in_googles_words(status, word):
    body = json.loads(DIALECTS["gemini.generate"].error_body(errors.Refused("Overloaded", status=status), "gw-1"))
    assert body["error"]["status"] == word


OPENINGS = [
    ("openai.chat", b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n', "wait"),
    ("openai.chat", b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', "go"),
    ("openai.chat", b'data:{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}\r\n\r\n', "go"),
    ("openai.chat", b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n', "wait"),
    ("openai.chat", b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n', "go"),
    ("openai.chat", b": OPENROUTER PROCESSING\n\n", "wait"),
    ("openai.chat", b'data: {"error":{"code":429,"message":"slow"}}\n\n', 429),
    ("openai.chat", b'data: {"error":{"type":"overloaded_error"}}\n\n', 529),
    ("openai.chat", b'data: {"error":{"message":"what"}}\n\n', 502),
    ("openai.chat", b"data: not json\n\n", "go"),
    ("openai.chat", b'data: {"choices":[{"del', "wait"),
    ("openai.chat", b"data: " + b"x" * 70_000, "go"),
    ("openai.responses", b'event: response.created\ndata: {"type":"response.created"}\n\n', "wait"),
    (
        "openai.responses",
        b'data: {"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded"}}}\n\n',
        429,
    ),
    ("openai.responses", b'data: {"type":"error","code":"server_error","message":"m"}\n\n', 500),
    ("openai.responses", b'data: {"type":"response.output_item.added"}\n\n', "go"),
    ("anthropic.messages", b'data: {"type":"message_start"}\n\ndata: {"type":"ping"}\n\n', "wait"),
    ("anthropic.messages", b'data: {"type":"content_block_start"}\n\n', "go"),
    ("anthropic.messages", b'data: {"type":"error","error":{"type":"overloaded_error"}}\n\n', 529),
    ("gemini.generate", b'data: {"candidates":[]}\n\n', "wait"),
    ("gemini.generate", b'data: {"candidates":[{"finishReason":"SAFETY"}]}\n\n', "go"),
    ("gemini.generate", b'data: {"error":{"code":503,"status":"UNAVAILABLE"}}\n\n', 503),
]


@pytest.mark.parametrize(("name", "buffer", "expected"), OPENINGS)
def test_openings(name, buffer, expected):
    verdict = DIALECTS[name].opening("chat", buffer)
    assert (verdict.status if isinstance(verdict, InBandError) else verdict) == expected


CHUNK = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'
USAGE = (
    b'data: {"id":"1","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":7,"total_tokens":17,'
    b'"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}}\n\n'
)
STREAM = CHUNK % b'a \\"usage\\" b' + CHUNK % b"c" + USAGE + b"data: [DONE]\n\n"


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_usage_is_read_and_hidden_at_any_chunking(cuts):
    meter = OpenAIChat().meter("chat", {"stream": True}, stream=True)
    edges = [0, *sorted(cuts), len(STREAM)]
    seen = b"".join(meter.feed(STREAM[a:b]) for a, b in itertools.pairwise(edges)) + meter.finish()
    assert seen == STREAM.replace(USAGE, b"")
    usage = meter.usage
    assert (usage.input, usage.cache_read, usage.output, usage.reasoning, usage.total) == (6, 4, 5, 2, 17)


def test_usage_that_was_asked_for_is_shown():
    meter = OpenAIChat().meter("chat", {"stream_options": {"include_usage": True}}, stream=True)
    assert meter.feed(STREAM) + meter.finish() == STREAM and meter.usage.total == 17


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"model":"m","stream":true}', {"include_usage": True}),
        (b'{"model":"m","stream_options":{"include_usage":false,"x":1}}', {"include_usage": True, "x": 1}),
        (b'{"model":"m","stream_options":null}', {"include_usage": True}),
    ],
)
def test_usage_is_demanded_by_splicing(raw, expected):
    changed = OpenAIChat().demand_usage("chat", raw, json.loads(raw))
    assert json.loads(changed) == {**json.loads(raw), "stream_options": expected}
    assert OpenAIChat().demand_usage("chat", changed, json.loads(changed)) is changed


WHOLE = [
    (OpenAIChat(), {"usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}}, (5, 0, 0, 3, 0)),
    (
        OpenAIResponses(),
        {"usage": {"input_tokens": 5, "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 1}}},
        (5, 0, 0, 2, 1),
    ),
    (
        AnthropicMessages(),
        {
            "usage": {
                "input_tokens": 5,
                "cache_read_input_tokens": 2,
                "cache_creation_input_tokens": 1,
                "output_tokens": 3,
            }
        },
        (5, 2, 1, 3, 0),
    ),
    (
        GeminiGenerate(),
        {
            "usageMetadata": {
                "promptTokenCount": 10,
                "candidatesTokenCount": 20,
                "thoughtsTokenCount": 100,
                "totalTokenCount": 130,
            }
        },
        (10, 0, 0, 20, 100),
    ),
]


@pytest.mark.parametrize(("dialect", "document", "expected"), WHOLE, ids=lambda v: getattr(v, "name", ""))
def test_usage_of_whole_replies(dialect, document, expected):
    meter = dialect.meter("chat", {}, stream=False)
    meter.whole(json.dumps(document).encode())
    usage = meter.usage
    assert (usage.input, usage.cache_read, usage.cache_write, usage.output, usage.reasoning) == expected


def test_anthropic_streams_merge_their_two_usages():
    meter = AnthropicMessages().meter("chat", {}, stream=True)
    meter.feed(
        b'data: {"type":"message_start","message":{"usage":{"input_tokens":9,"cache_read_input_tokens":4,"output_tokens":1}}}\n\n'
    )
    meter.feed(b'data: {"type":"message_delta","delta":{},"usage":{"output_tokens":12}}\n\n')
    assert (meter.usage.input, meter.usage.cache_read, meter.usage.output) == (9, 4, 12)


# ── what stands beside an answer's parts ─────────────────────────────────────────────────────────────────────────────

GROUNDED = {
    "candidates": [
        {
            "content": {"role": "model", "parts": [{"text": "hi"}]},
            "finishReason": "STOP",
            "urlContextMetadata": {"urlMetadata": [{"retrievedUrl": "https://a.example"}]},
        }
    ]
}
CONTAINED = {
    "id": "m", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn", "container": {"id": "c1"}, "usage": {"input_tokens": 1, "output_tokens": 1},
}  # fmt: skip


@pytest.mark.parametrize(
    ("dialect", "document", "name"),
    [(GeminiGenerate(), GROUNDED, "urlContextMetadata"), (AnthropicMessages(), CONTAINED, "container")],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_part_of_an_answer_is_not_written_as_one(dialect, document, name, stream):
    """Nor in the answer's own dialect, in which kept answers are told again."""
    crossing = Crossing("m", asked="m", stream=stream)
    reply = dialect.chat.read_reply(document)
    if stream:
        writer = dialect.chat.writer(crossing)
        said = writer.write(list(spell(reply))) + writer.close()
    else:
        said = json.dumps(dialect.chat.write_reply(reply, crossing)).encode()
    assert b'"hi"' in said and b"c1" not in said and b"a.example" not in said
    assert crossing.dropped == [name]


@pytest.mark.parametrize("status", ["queued", "in_progress", "completed"])
def test_what_comes_later_has_used_nothing_yet_that_anybody_knows(status):
    """``background``: a count of the first moment is not what it will have cost."""
    usage = {"input_tokens": 9, "output_tokens": 0, "total_tokens": 9}
    meter = OpenAIResponses().meter("chat", {}, stream=False)
    meter.whole(json.dumps({"id": "resp_1", "object": "response", "status": status, "usage": usage}).encode())
    assert (meter.usage is None) == (status != "completed")


def test_words_and_a_call_in_one_piece_are_in_the_order_of_a_whole_message():
    """Vendors send both at once, and some the whole message as one piece: the words are said before the call."""
    called = [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "get", "arguments": "{}"}}]
    delta = {"role": "assistant", "content": "let me", "tool_calls": called}
    chunk = {"id": "x", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": "tool_calls"}]}
    reader = OpenAIChat().chat.reader()
    frames = SseReader().feed(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())
    events = [event for frame in frames for event in reader.read(frame)]
    (choice,) = gather([*events, *reader.close()], "openai.chat").choices
    assert [type(part).__name__ for part in choice.parts] == ["Text", "ToolCall"]
